"""``gateway billing``: periods closed, statements approved, shown, checked and adjusted."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gateway.cli import billing_arguments as arguments
from gateway.cli.billing_tables import closed as closed_row
from gateway.cli.billing_tables import print_state, show_closed, show_list, show_one
from gateway.cli.options import print_json, read_settings, settings_options
from gateway.cli.simulate import lint, simulate
from gateway.errors import ConfigurationProblems

if TYPE_CHECKING:
    from gateway.cli.options import Command
    from gateway.statements import Statements

EXIT_WAITS = 1


@click.group(short_help="Statements: closed, approved, shown, checked, adjusted; plans tried.")
def billing() -> None:
    """Statements and prices. Reads and writes the database directly, beside gateways that serve.

    \b
    Example:
      gateway billing close --period 2026-10
    """


for _command in (simulate, lint):
    billing.add_command(_command)


def _output_option(command: Command) -> Command:
    return click.option(
        "--format",
        "output",
        type=click.Choice(["table", "json"]),
        default="table",
        show_default=True,
        help="What to print.",
    )(command)


_BY = click.option("--by", help="Who does it, for the audit log.  [default: your login name]")


@billing.command(short_help="Close the periods that are over.")
@click.option("--tenant", help="Only this tenant.  [default: all]")
@click.option("--period", metavar="YYYY-MM", help="Up to this month, and none after it.  [default: all that are over]")
@click.option(
    "--lost", metavar="SOURCE", multiple=True, help="Give up a source of usage that will never tell more. Repeatable."
)
@_BY
@settings_options
@_output_option
@click.pass_context
def close(
    ctx: click.Context,
    *,
    tenant: str | None,
    period: str | None,
    lost: tuple[str, ...],
    by: str | None,
    config: Path | None,
    assignments: tuple[str, ...],
    output: str,
) -> None:
    """Make the drafts of the periods that are over, and final statements of those that nothing stands against.

    serve does the same by itself, unless billing.schedule is off. A period stays open while usage is not complete,
    reconciliation found a difference, billing.grace_seconds are not over, or billing.approval asks for a person. Exit
    code 1 if any does, or if the --period is not over everywhere.

    Months before the catalog first told of a tenant are never closed unasked. --period asks for exactly that one, where
    the catalog says that the tenant had a plan in it.

    \b
    Example:
      gateway billing close --tenant acme --period 2026-10
    """
    from gateway.cli.usage import tell_progress

    actor, until = arguments.who(by), arguments.month(period)
    with _statements(config, assignments) as (statements, now):
        arguments.check_tenant(statements, tenant)
        running = [] if until is None else arguments.not_over(statements, until, tenant=tenant, now=now)
        for source in lost:
            if not statements.ledger.give_up(source, by=actor, at=_at(now)):
                raise ConfigurationProblems([f"--lost {source}: there is no live source of this name"])
        closed: list[dict[str, Any]] = []
        for one in statements.closing.run(now=now, tenant=tenant, until=until):
            closed.append(closed_row(one))
            tell_progress(f"{len(closed)} periods; {one.tenant} {one.period.label}")
        tell_progress("")
    if output == "json":
        print_json({"periods": closed})
    else:
        show_closed([one for one in closed if one["outcome"] != "empty"])
    if running:
        click.echo(f"gateway: {until} is not over where these are: {', '.join(running)}", err=True)
    if running or any(one["outcome"] not in ("final", "empty") for one in closed):
        ctx.exit(EXIT_WAITS)


@billing.command(short_help="Approve a draft.")
@click.argument("statement")
@_BY
@settings_options
@_output_option
def approve(*, statement: str, by: str | None, config: Path | None, assignments: tuple[str, ...], output: str) -> None:
    """Approve the draft STATEMENT (its id) as it stands: the next close makes it final, once the grace is over.

    If what it asks for changes before that, say by late usage or an adjustment, it has to be approved again.

    \b
    Example:
      gateway billing approve s3f9c2d41b7a85e60c1d2f3a4
    """
    actor = arguments.who(by)
    with _statements(config, assignments) as (statements, now):
        kept = statements.store.approve(statement, by=actor, now=int(now))
    print_state(kept, output)


@billing.command(short_help="Show statements, or one of them in any form.")
@click.argument("reference", metavar="[NUMBER]", required=False)
@click.option("--tenant", help="List only this tenant's.")
@click.option("--limit", type=click.IntRange(1, 1000), default=100, show_default=True, help="List at most so many.")
@click.option(
    "--format",
    "output",
    type=click.Choice(["table", *arguments.FORMS]),
    help="What to print; csv, html and pdf are of one statement.  [default: what --output ends in, else table]",
)
@click.option(
    "--output", "file", type=click.Path(path_type=Path, dir_okay=False), help="Write there, not to the terminal."
)
@settings_options
def statement(
    *,
    reference: str | None,
    tenant: str | None,
    limit: int,
    output: str | None,
    file: Path | None,
    config: Path | None,
    assignments: tuple[str, ...],
) -> None:
    """Show the statement NUMBER (or the id of a draft); without it, list the newest.

    The same statement gives the same bytes each time.

    \b
    Example:
      gateway billing statement ST-000012 --format pdf --output acme-2026-10.pdf
    """
    form = arguments.form_of(output, file)
    if reference is None and (form not in ("table", "json") or file is not None):
        raise click.UsageError(f"--format {form} and --output are of one statement: name its NUMBER")
    with _statements(config, assignments) as (statements, _):
        if reference is None:
            arguments.check_tenant(statements, tenant)
            show_list(statements.store.page(tenant=tenant, limit=limit), form)
            return
        kept = statements.store.find(reference, tenant=tenant)
    if form == "table":
        show_one(kept)
        return
    from gateway.billing.office import spell

    content = spell(kept.shown(), form)
    if file is None:
        click.echo(content, nl=False)
    else:
        file.write_bytes(content)


@billing.command(short_help="Recompute every statement and compare.")
@click.option("--tenant", help="Only this tenant's.  [default: all]")
@settings_options
@_output_option
@click.pass_context
def verify(
    ctx: click.Context, *, tenant: str | None, config: Path | None, assignments: tuple[str, ...], output: str
) -> None:
    """Check that statements are what was sealed, each standing on the one before, their numbers without gaps; that
    rating gives the same lines again; and that the ledger holds the usage that was billed.

    Exit code 1 if anything does not add up. Usage that was told late is found, too, until the next statement corrects
    it.

    \b
    Example:
      gateway billing verify --tenant acme
    """
    with _statements(config, assignments) as (statements, _):
        arguments.check_tenant(statements, tenant)
        verdict = statements.proof.verify(tenant=tenant)
    if output == "json":
        findings = [{"statement": one.statement, "kind": one.kind, "told": one.told} for one in verdict.findings]
        print_json({"checked": verdict.checked, "findings": findings})
    else:
        for one in verdict.findings:
            click.echo(f"{one.statement}: {one.kind}: {one.told}")
        click.echo(f"{verdict.checked} statements checked, {len(verdict.findings) or 'nothing'} found")
    if verdict.findings:
        ctx.exit(EXIT_WAITS)


@billing.command(short_help="Put a credit or a debit on a tenant's next statement.")
@click.option("--tenant", help="Whose next statement.")
@click.option("--amount", help="Before tax, in the currency of the tenant's plan; below 0 for a credit.")
@click.option("--name", help="What the line is called.")
@click.option("--credit", "credited", metavar="NUMBER", help="Instead of the three: take this final statement back.")
@click.option("--reason", required=True, help="Why; the tenant reads it.")
@_BY
@settings_options
@_output_option
def adjust(
    *,
    tenant: str | None,
    amount: str | None,
    name: str | None,
    credited: str | None,
    reason: str,
    by: str | None,
    config: Path | None,
    assignments: tuple[str, ...],
    output: str,
) -> None:
    """Add a line to the tenant's next statement; final ones never change. It bears the tax of the tenant's plan.

    With --credit a final statement is marked as credited, and the next one takes back all its lines, those asked in
    advance included; what is to be charged instead is a line of its own.

    \b
    Example:
      gateway billing adjust --tenant acme --amount -25.00 --name Goodwill --reason "outage of 3 October"
    """
    actor, why = arguments.who(by), arguments.text("--reason", reason)
    with _statements(config, assignments) as (statements, now):
        if credited is not None:
            if tenant is not None or amount is not None or name is not None:
                raise click.UsageError("--credit goes without --tenant, --amount and --name")
            made = statements.store.credit(credited, reason=why, by=actor, now=int(now))
        else:
            if tenant is None or amount is None or name is None:
                raise click.UsageError("--tenant, --amount and --name belong together")
            arguments.check_tenant(statements, tenant)
            title, worth = arguments.text("--name", name), arguments.amount(amount)
            made = statements.store.adjust(tenant=tenant, name=title, reason=why, amount=worth, by=actor, now=int(now))
    told = {
        "number": made.number,
        "tenant": made.tenant,
        "name": made.name,
        "reason": made.reason,
        "amount": None if made.credited else format(made.amount, "f"),
        "credits": made.credited,
        "by": made.made_by,
    }
    if output == "json":
        print_json(told)
    else:
        click.echo(f"adjustment {made.number}: {made.name}, on the next statement of {made.tenant}")


# ---- what they share -------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _statements(config: Path | None, assignments: tuple[str, ...]) -> Iterator[tuple[Statements, float]]:
    settings = read_settings(config, assignments)
    from gateway.clock import SystemClock
    from gateway.config.adapters import database as open_database
    from gateway.database.faults import at_start
    from gateway.database.schema import Schema
    from gateway.statements import Statements

    clock = SystemClock()
    with contextlib.closing(open_database(settings)) as database:
        with at_start():
            Schema(database).require(may_upgrade=False)
        yield Statements.of(settings, database, clock=clock), clock.now()


def _at(now: float) -> str:
    from gateway.units import format_rfc3339

    return format_rfc3339(round(now * 1000))

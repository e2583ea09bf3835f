"""``gateway billing simulate`` and ``gateway billing lint``: plans looked at before anybody is charged by them."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from gateway.cli.options import format_option, print_json, read_settings, settings_options

if TYPE_CHECKING:
    from decimal import Decimal

    from gateway.billing.period import Period
    from gateway.billing.rows import Ledger
    from gateway.billing.simulate import Comparison
    from gateway.billing.terms import Term
    from gateway.model import Plan
    from gateway.usage import Usage, UsageKey

MOST_DAYS = 3_660
"""Of every month each tenant's usage is read and rated twice: longer stretches are mistakes."""


@click.command(short_help="What recorded usage would cost under a plan not yet published.")
@click.option(
    "--plan",
    "file",
    required=True,
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="A catalog file with the plans to try, one revision of each, or one plan.",
)
@click.option("--from", "start", metavar="MOMENT", help="A month, a day or a time.  [default: the last whole month]")
@click.option("--to", "end", metavar="MOMENT", help="A month, a day or a time, itself left out.  [default: as --from]")
@click.option("--tenant", help="Only this tenant.  [default: all whom the plans concern]")
@settings_options
@format_option
@click.pass_context
def simulate(
    ctx: click.Context,
    *,
    file: Path,
    start: str | None,
    end: str | None,
    tenant: str | None,
    config: Path | None,
    assignments: tuple[str, ...],
    output: str,
) -> None:
    """Rate recorded usage twice: as it was, and with the plans of a file in the place of those of the same names.

    A plan of a name that nobody has is tried for every tenant, in the place of all its plans; it has to be alone.

    Changes nothing. Months and days are those of each tenant. Totals are with tax and before credit; flat amounts count
    for the stretch itself, which is ten years at most. Exit code 1 if a tenant could not be rated.

    \b
    Example:
      gateway billing simulate --plan pro-next.yaml --from 2026-09 --to 2026-11
    """
    from gateway.billing.inforce import terms_of
    from gateway.billing.rating import RatingRefused
    from gateway.billing.store import StatementStore
    from gateway.cli.usage import books, tell_progress

    if (start is None) != (end is None):
        raise click.UsageError("--from and --to belong together")
    plans = _plans(file)
    with books(config, assignments) as opened:
        if tenant is not None:
            opened.check_tenant(tenant)
        revisions, held = StatementStore(opened.database).history(tenants=None if tenant is None else [tenant])
        known = {name for name, _ in revisions.plans}
        for_all = _for_all(file, plans, known)
        found: list[Comparison] = []
        refused: list[str] = []
        names = sorted({*held, *opened.ledger.tenants()}) if tenant is None else [tenant]
        for number, name in enumerate(names):
            tell_progress(f"{number} of {len(names)} tenants; {name}")
            zone = str(opened.zone(name))
            try:
                one = compare(
                    opened.ledger,
                    tenant=name,
                    period=_period(start, end, zone=zone, now=opened.now),
                    terms=terms_of(held.get(name, ()), revisions, zone=zone),
                    published=revisions.plans,
                    replacing=plans,
                    for_all=for_all,
                )
            except RatingRefused as error:
                refused.append(f"tenant {name}: {error}")
                continue
            if one is not None:
                found.append(one)
        tell_progress("")
    if output == "json":
        tried = [
            {"plan": name, "revision": plan.revision, "in_place_of": _place_of(name, known, for_all)}
            for name, plan in sorted(plans.items())
        ]
        print_json({"plans": tried, "tenants": [one.to_dict() for one in found], "refused": refused})
    else:
        _show(found)
    for line in _told(plans, known, for_all, is_anybody=bool(found or refused)):
        click.echo(line, err=True)
    for line in refused:
        click.echo(f"gateway: {line}", err=True)
    if refused:
        ctx.exit(1)


@click.command(short_help="Prices that look like mistakes.")
@click.argument(
    "files", metavar="FILE...", nargs=-1, required=True, type=click.Path(path_type=Path, exists=True, dir_okay=False)
)
@settings_options
@format_option
@click.pass_context
def lint(
    ctx: click.Context, *, files: tuple[Path, ...], config: Path | None, assignments: tuple[str, ...], output: str
) -> None:
    """Look at the prices in catalog files: cliffs, tiers never reached, zeros, bounds. Reads no database.

    Exit code 1 if there is any doubt.

    \b
    Example:
      gateway billing lint catalog.yaml
    """
    settings = read_settings(config, assignments)
    from gateway.billing.linter import lint_plans
    from gateway.catalog.file import load_catalog

    catalog = load_catalog(*files, issuers=settings.auth.issuer_names())
    doubts = lint_plans(catalog.plans)
    if output == "json":
        print_json(
            {
                "doubts": [
                    {
                        "plan": one.plan,
                        "revision": one.revision,
                        "charge": one.charge or None,
                        "tier": one.tier,
                        "text": one.text,
                        "line": one.line(catalog.places),
                    }
                    for one in doubts
                ]
            }
        )
    else:
        for one in doubts:
            click.echo(one.line(catalog.places))
        if not doubts:
            click.echo(f"{len(catalog.plans)} plans: nothing doubtful")
    if doubts:
        ctx.exit(1)


def compare(
    ledger: Ledger,
    *,
    tenant: str,
    period: Period,
    terms: Sequence[Term],
    published: Mapping[tuple[str, int], Plan],
    replacing: Mapping[str, Plan],
    for_all: Plan | None = None,
) -> Comparison | None:
    """A tenant's bills under both, month by month; None where the plans to try do not concern it in that time.

    ``for_all`` is tried in the place of each plan that it had or used.
    """
    from gateway.billing.simulate import simulate

    rows = list(_rows(ledger, tenant=tenant, period=period))
    in_force = {
        term.plan.name for term in terms if term.start < period.end and (term.end is None or period.start < term.end)
    }
    had = in_force | {key.plan for key, _ in rows}
    if for_all is not None:
        replacing = dict.fromkeys(had, for_all)
    if not replacing.keys() & had:
        return None
    return simulate(rows, tenant=tenant, period=period, terms=terms, published=published, replacing=replacing)


def _rows(ledger: Ledger, *, tenant: str, period: Period) -> Iterator[tuple[UsageKey, Usage]]:
    """A tenant's usage, brought together by month: what a month has in memory does not grow with its length."""
    from gateway.billing.rows import gather

    for month in period.months():
        start, end = max(month.start, period.start), min(month.end, period.end)
        yield from gather(ledger.rows(tenant=tenant, start=start, end=end), start=start).items()


def _for_all(file: Path, plans: Mapping[str, Plan], known: Collection[str]) -> Plan | None:
    """The plan that is tried for everybody: the only one there is, of a name that nobody has. Raises
    ConfigurationProblems for several of such names and no other."""
    if plans.keys() & set(known):
        return None
    if len(plans) > 1:
        from gateway.errors import ConfigurationProblems

        names = ", ".join(sorted(plans))
        what = f"{file}: plans {names}; nobody has a plan of one of these names"
        raise ConfigurationProblems([f"{what}: put the one to try for every tenant into a file of its own"])
    return next(iter(plans.values()))


def _place_of(name: str, known: Collection[str], for_all: Plan | None) -> str:
    return "all" if for_all is not None else "own" if name in known else "none"


def _told(
    plans: Mapping[str, Plan], known: Collection[str], for_all: Plan | None, *, is_anybody: bool
) -> Iterator[str]:
    """What was compared, where the table alone does not say it."""
    if for_all is not None:
        yield f"nobody has a plan {for_all.name}: compared as if it were in the place of all plans of each tenant"
    else:
        for name in sorted(plans.keys() - set(known)):
            yield f"nobody has a plan {name}: not compared; in a file of its own it is tried for every tenant"
    if not is_anybody:
        names = ", ".join(sorted(plans))
        yield (
            "no tenant had a plan or usage in that time"
            if for_all is not None
            else (f"no tenant had one of these plans, or usage under it, in that time: {names}")
        )


def _plans(file: Path) -> dict[str, Plan]:
    from gateway.billing.linter import lint_plans
    from gateway.catalog.file import load_catalog
    from gateway.errors import ConfigurationProblems

    catalog = load_catalog(file, takes_bare_plans=True)
    plans = {plan.name: plan for plan in catalog.plans}
    if len(plans) < len(catalog.plans) or not plans:
        raise ConfigurationProblems(
            [f"{file}: plans to try, one revision of each; there is none, or a name comes twice"]
        )
    for doubt in lint_plans(catalog.plans):
        click.echo(f"warning: {doubt.line(catalog.places)}", err=True)
    return plans


def _period(start: str | None, end: str | None, *, zone: str, now: float) -> Period:
    from gateway.billing.period import Period

    if start is None or end is None:
        return Period.holding(now, zone=zone).previous()
    try:
        found = Period.between(start, end, zone=zone)
    except ValueError as error:
        raise click.UsageError(f"--from {start} --to {end}: {error}") from None
    if found.seconds > MOST_DAYS * 86_400:
        raise click.UsageError(
            f"--from {start} --to {end}: {found.seconds // 86_400} days; allowed: at most {MOST_DAYS}, ten years"
        )
    return found


def _show(found: Sequence[Comparison]) -> None:
    """A line for each tenant, then the sum of each currency in which the plans were before and stay."""
    from gateway.billing.money import ZERO, format_amount
    from gateway.cli.usage import print_table

    lines = []
    sums: dict[str, list[Decimal]] = {}
    for one in found:
        told = one.to_dict()
        before, after = told["before"], told["after"]
        currency = before["currency"] if one.difference is not None else f"{before['currency']} → {after['currency']}"
        lines.append([one.tenant, currency, before["total"], after["total"], told["difference"] or "-"])
        if one.difference is not None:
            known = sums.setdefault(currency, [ZERO, ZERO, ZERO])
            sums[currency] = [
                was + more for was, more in zip(known, (one.before, one.after, one.difference), strict=True)
            ]
    lines += [["all", currency, *map(format_amount, amounts)] for currency, amounts in sorted(sums.items())]
    print_table(["tenant", "currency", "before", "after", "difference"], lines, numbers=3)

"""``gateway usage rollup`` and ``reconcile``: what serve does by itself, now and by hand."""

from __future__ import annotations

import getpass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click

from gateway.cli.options import format_option, print_json, settings_options
from gateway.cli.usage import Books, books, print_table, tell_progress
from gateway.errors import ConfigurationProblems
from gateway.units import format_rfc3339

if TYPE_CHECKING:
    from gateway.metering.chores import UsageChores
    from gateway.metering.drifts import FoundDrift

EXIT_DRIFT = 1
_DAY = 86_400


def _chores(found: Books) -> UsageChores:
    from gateway.metering.chores import UsageChores

    kept = found.settings.metering
    return UsageChores(
        found.database,
        zone=found.zone,
        hours_after_days=kept.rollup_hours_after_days,
        days_after_days=kept.rollup_days_after_days,
        audit_days=kept.audit_days,
    )


@click.command(short_help="Keep old usage in longer stretches, and forget old evidence.")
@settings_options
@format_option
def rollup(*, config: Path | None, assignments: tuple[str, ...], output: str) -> None:
    """Put old usage together: by the hour after metering.rollup_hours_after_days, by the day of the tenant's zone after
    metering.rollup_days_after_days; and forget evidence older than metering.audit_days.

    No total changes. serve does the same by itself, every few minutes; what is not complete yet is left alone.

    \b
    Example:
      gateway usage rollup
    """
    with books(config, assignments) as found:
        chores = _chores(found)
        while chores.roll_up(now=found.now):
            tell_progress(f"{chores.rolling.removed} cells fewer")
        while chores.purge(now=found.now):
            tell_progress("forgetting old evidence")
        tell_progress("")
        removed = chores.rolling.removed
    if output == "json":
        print_json({"cells_fewer": removed})
    else:
        click.echo(f"{removed} cells fewer" if removed else "nothing to do")


@click.command(short_help="Compare usage with the evidence of deliveries; settle differences.")
@click.option("--tenant", help="Whose.  [default: everybody's]")
@click.option("--day", type=click.DateTime(["%Y-%m-%d"]), help="Look at this day of UTC again.  [default: show only]")
@click.option("--settle", type=int, metavar="NUMBER", help="Let this difference pass; statements wait for it no more.")
@click.option("--reason", help="Why; goes into the audit log.")
@settings_options
@format_option
@click.pass_context
def reconcile(
    context: click.Context,
    *,
    tenant: str | None,
    day: datetime | None,
    settle: int | None,
    reason: str | None,
    config: Path | None,
    assignments: tuple[str, ...],
    output: str,
) -> None:
    """Show the differences between usage and the evidence of it that stand. Exit code 1 if there are any.

    No statement over the time of one becomes final until it is settled. serve compares each day by itself when it is
    over; --day does it again now.

    \b
    Example:
      gateway usage reconcile --settle 3 --reason "a test tool wrote the evidence twice"
    """
    if (settle is None) != (reason is None):
        raise click.UsageError("--settle and --reason go together")
    with books(config, assignments) as found:
        if tenant is not None:
            found.check_tenant(tenant)
        from gateway.metering.drifts import Drifts

        drifts = Drifts(found.database)
        if settle is not None and reason is not None:
            at = format_rfc3339(round(found.now * 1000))
            if not drifts.settle(settle, by=f"cli:{getpass.getuser()}", reason=reason, at=at, now=found.now):
                raise ConfigurationProblems([f"--settle {settle}: no difference of this number stands"])
        if day is not None:
            start = int(day.replace(tzinfo=UTC).timestamp())
            _chores(found).reconcile_period(start=start, end=start + _DAY, now=found.now, tenant=tenant)
        standing = drifts.standing(tenant=tenant, start=0, end=int(found.now) + _DAY)
    if output == "json":
        print_json({"drifts": [_members(one) for one in standing]})
    elif standing:
        lines = [[str(value) for value in _members(one).values()] for one in standing]
        print_table(list(_members(standing[0])), lines, numbers=3)
    else:
        click.echo("no difference stands")
    context.exit(EXIT_DRIFT if standing else 0)


def _members(one: FoundDrift) -> dict[str, object]:
    drift = one.drift
    return {
        "number": one.number,
        "kind": drift.kind,
        "from": format_rfc3339(drift.start * 1000),
        "to": format_rfc3339(drift.end * 1000),
        "tenant": drift.whom.tenant or "(all)",
        "application": drift.whom.application,
        "stream": drift.whom.stream,
        "protocol": drift.whom.transport,
        "source": drift.whom.source,
        "metered_records": drift.metered,
        "least_records": drift.least,
        "most_records": drift.most,
    }

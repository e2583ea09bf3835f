"""``gateway usage``: what was delivered, to whom, shown, handed on and proved; straight out of the database."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from zoneinfo import ZoneInfo

import click

from gateway.cli.options import Command, print_json, read_settings, settings_options
from gateway.errors import ConfigurationProblems
from gateway.usage import MEASURES

if TYPE_CHECKING:
    from gateway.catalog.catalog import Catalog
    from gateway.config import Settings
    from gateway.database.database import Database
    from gateway.metering.audit import Delivery
    from gateway.metering.audit_store import AuditStore
    from gateway.metering.ledger import Ledger
    from gateway.metering.question import Question
    from gateway.metering.report import Row

TABLE_ROWS: Final = 1000
"""Rows whose widths a table's columns are made for; what comes later may stand out."""

_MOMENT = "RFC 3339 time, or a day as YYYY-MM-DD in the tenant's zone"


@dataclass(frozen=True, slots=True)
class Books:
    """The database as these commands see it."""

    settings: Settings
    database: Database
    catalog: Catalog
    ledger: Ledger
    now: float

    def zone(self, tenant: str | None) -> ZoneInfo:
        """The clock that a tenant's days go by; UTC for all of them together, and for one that was removed."""
        found = None if tenant is None else self.catalog.tenant(tenant)
        return ZoneInfo("UTC" if found is None else found.time_zone)

    def check_tenant(self, tenant: str) -> None:
        """Raises ConfigurationProblems for a name that neither the catalog nor the ledger has."""
        if self.catalog.tenant(tenant) is None and tenant not in self.ledger.tenants():
            known = ", ".join(one.name for one in self.catalog.tenants) or "none"
            raise ConfigurationProblems([f"--tenant {tenant!r}: there is no such tenant; known: {known}"])

    def check_stream(self, stream: str, *, evidence: AuditStore, tenant: str) -> None:
        """Raises ConfigurationProblems for one that neither products nor ledger have, nor the evidence of the
        tenant."""
        known = {*self.ledger.streams(), *(name for product in self.catalog.products for name in product.streams)}
        if stream not in known and not evidence.is_known(tenant=tenant, stream=stream):
            names = ", ".join(sorted(known)) or "none"
            raise ConfigurationProblems([f"--stream {stream!r}: there is no such stream; known: {names}"])


@click.group(short_help="What was delivered: shown, exported, proved.")
def usage() -> None:
    """What was delivered, to whom: tables, events for other programs, evidence, upkeep. Reads the database directly.

    \b
    Example:
      gateway usage show --tenant acme --from 2026-11-01 --granularity day
    """


def _output_option(command: Command) -> Command:
    return click.option(
        "--format",
        "output",
        type=click.Choice(["table", "json", "csv"]),
        default="table",
        show_default=True,
        help="What to print.",
    )(command)


@usage.command(short_help="Show what was delivered, added up.")
@click.option("--tenant", help="Whose.  [default: all tenants, in days of UTC]")
@click.option("--from", "start", help=f"{_MOMENT}.  [default: the beginning of the month]")
@click.option("--to", "end", help=f"{_MOMENT}; before it.  [default: now]")
@click.option(
    "--by", help="What to group by: some of tenant,stream,transport,application,plan; or none.  [default: all]"
)
@click.option("--granularity", help="15m, hour, day or month.  [default: day]")
@settings_options
@_output_option
def show(
    *,
    tenant: str | None,
    start: str | None,
    end: str | None,
    by: str | None,
    granularity: str | None,
    config: Path | None,
    assignments: tuple[str, ...],
    output: str,
) -> None:
    """Show what was delivered: a row for each stretch of time and what it is grouped by.

    Stretches are those of the tenant's zone, and only whole ones: what is begun is taken in. Usage of test applications
    stands apart, as not billable. Numbers are of records, bytes, seconds or requests, as the columns' names say; a unit
    is begun 64 KiB of a record. Above the rows stands up to when they are complete.

    \b
    Example:
      gateway usage show --tenant acme --from 2026-11-01 --to 2026-12-01 --by stream --format csv
    """
    with books(config, assignments) as found:
        if tenant is not None:
            found.check_tenant(tenant)
        given = {"from": start, "to": end, "by": by, "granularity": granularity}
        question = ask(given, found, tenant)
        complete_until = found.ledger.complete_until(now=found.now) or None
        rows = read_rows(found, question, tenant)
        _SHOWN[output](rows, question, complete_until, tenant)


def ask(given: dict[str, str | None], found: Books, tenant: str | None) -> Question:
    """The question that the options make. Raises ConfigurationProblems."""
    from gateway.errors import BadRequest
    from gateway.metering.question import OPERATOR_GROUPS, parse_question

    zone = found.zone(tenant)
    groups = OPERATOR_GROUPS if tenant is None else tuple(one for one in OPERATOR_GROUPS if one != "tenant")
    spelt = {"by": ",".join(groups)} | {name: value for name, value in given.items() if value is not None}
    for name in ("from", "to"):
        if name in spelt:
            spelt[name] = _moment(spelt[name], zone)
    try:
        return parse_question(spelt, zone=zone, now=found.now, groups=OPERATOR_GROUPS)
    except BadRequest as error:
        raise ConfigurationProblems([f"--{error.detail}"]) from error


def _moment(text: str, zone: ZoneInfo) -> str:
    """A day becomes the moment it begins."""
    from gateway.metering.grain import spell

    try:
        day = date.fromisoformat(text)
    except ValueError:
        return text
    return spell(int(datetime(day.year, day.month, day.day, tzinfo=zone).timestamp()), zone)


def read_rows(
    found: Books, question: Question, tenant: str | None, *, measures: tuple[str, ...] = MEASURES
) -> Iterator[Row]:
    """Every row, page by page: memory is bounded by the page."""
    from dataclasses import replace

    from gateway.metering.question import MOST_ROWS, parse_next
    from gateway.metering.report import read_page

    question = replace(question, limit=MOST_ROWS)
    while True:
        page = read_page(found.ledger, question, tenant=tenant, measures=measures)
        yield from page.rows
        if page.next is None:
            return
        question = replace(question, after=parse_next(page.next, question.by))


def _show_json(rows: Iterator[Row], question: Question, complete_until: int | None, tenant: str | None) -> None:
    from gateway.metering.report import Page, document

    told = document(Page(list(rows)), question, complete_until=complete_until, measures=MEASURES)
    print_json({"tenant": tenant, **told})


def _show_csv(rows: Iterator[Row], question: Question, complete_until: int | None, tenant: str | None) -> None:
    from gateway.metering.report import csv_header, csv_rows

    _write(csv_header(question, measures=MEASURES))
    for row in rows:
        _write(csv_rows([row], question, measures=MEASURES))


def _show_table(rows: Iterator[Row], question: Question, complete_until: int | None, tenant: str | None) -> None:
    from gateway.metering.grain import spell
    from gateway.metering.report import UNITS, members

    zone = question.grain.zone
    whole = "unknown" if complete_until is None else spell(complete_until, zone)
    click.echo(f"usage of {tenant or 'all tenants'}, {spell(question.start, zone)} to {spell(question.end, zone)}")
    click.echo(f"complete until {whole}; times of {zone.key}")
    found = list(rows)
    measures = tuple(name for name in MEASURES if name in _ALWAYS or any(getattr(one.usage, name) for one in found))
    if "units" in measures:
        click.echo(f"units: {UNITS['units']}")
    lines = (
        [str(value).lower() if isinstance(value, bool) else str(value) for value in one.values()]
        for one in (members(row, question, measures=measures) for row in found)
    )
    named = [one for name in question.by for one in ((name, "revision") if name == "plan" else (name,))]
    print_table(["from", "to", *named, "billable", *measures], lines, numbers=len(measures))


_ALWAYS: Final = ("records", "bytes")
"""Columns that a table has also where they are all zero."""

_SHOWN: Final[dict[str, Callable[..., None]]] = {"json": _show_json, "csv": _show_csv, "table": _show_table}


@usage.command(short_help="Which offsets went to whom, when, by which protocol and session.")
@click.option("--tenant", required=True, help="To whom.")
@click.option("--stream", required=True, help="Of which stream.")
@click.option("--day", required=True, type=click.DateTime(["%Y-%m-%d"]), help="A day of the tenant's zone.")
@settings_options
@_output_option
def audit(
    *,
    tenant: str,
    stream: str,
    day: datetime,
    config: Path | None,
    assignments: tuple[str, ...],
    output: str,
) -> None:
    """Show which offsets of a stream's topic were delivered to a tenant on a day: the answer to a dispute.

    A line is a stretch of one read, a minute at most: its application, session and protocol, the offsets it went
    through by partition (half-open), and what became of them: delivered, left out by the partner's filter, hidden by a
    row filter. What is left are offsets without a record, such as the markers of transactions. Stretches that reach
    into the day or out of it are shown whole. Kept for metering.audit_days.

    \b
    Example:
      gateway usage audit --tenant acme --stream flights --day 2026-11-23
    """
    from gateway.metering.audit_store import AuditStore
    from gateway.metering.report import csv_lines

    if not _FIRST_YEAR <= day.year <= _LAST_YEAR:
        raise ConfigurationProblems([f"--day {day.date()}: a day of the years {_FIRST_YEAR} to {_LAST_YEAR} is needed"])
    with books(config, assignments) as found:
        found.check_tenant(tenant)
        zone = found.zone(tenant)
        start, end = _day(day.date(), zone)
        evidence = AuditStore(found.database)
        found.check_stream(stream, evidence=evidence, tenant=tenant)
        deliveries = evidence.read(tenant=tenant, stream=stream, start=start, end=end)
        if output == "json":
            shown = [dict(zip(_AUDIT_MEMBERS, _evidence(one, zone), strict=True)) for one in deliveries]
            print_json({"tenant": tenant, "stream": stream, "day": day.date().isoformat(), "deliveries": shown})
        elif output == "csv":
            _write(csv_lines([_AUDIT_MEMBERS]))
            for one in deliveries:
                _write(csv_lines([_evidence(one, zone)]))
        else:
            click.echo(f"deliveries of {stream} to {tenant} on {day.date()} ({zone.key}); offsets from-to, half-open")
            print_table(
                list(_AUDIT_MEMBERS), ([str(value) for value in _evidence(one, zone)] for one in deliveries), numbers=0
            )


_FIRST_YEAR, _LAST_YEAR = 1971, 9998
_AUDIT_MEMBERS: Final = (
    "began",
    "ended",
    "application",
    "session",
    "protocol",
    "offsets",
    "records",
    "bytes",
    "filtered_records",
    "hidden_records",
    "other_offsets",
)


def _evidence(one: Delivery, zone: ZoneInfo) -> list[Any]:
    times = (
        datetime.fromtimestamp(moment / 1000, zone).isoformat(timespec="milliseconds")
        for moment in (one.began, one.ended)
    )
    rest = one.span - one.records - one.filtered - one.hidden
    who = (one.application, one.session, one.transport, one.moved)
    return [*times, *who, one.records, one.bytes, one.filtered, one.hidden, rest]


def _day(day: date, zone: ZoneInfo) -> tuple[int, int]:
    following = day + timedelta(days=1)
    start, end = (int(datetime(one.year, one.month, one.day, tzinfo=zone).timestamp()) for one in (day, following))
    return start, end


@contextlib.contextmanager
def books(config: Path | None, assignments: tuple[str, ...]) -> Iterator[Books]:
    """The database open, its schema looked at."""
    settings = read_settings(config, assignments)
    from gateway.catalog.store import Store
    from gateway.clock import SystemClock
    from gateway.config.adapters import database as open_database
    from gateway.database.faults import at_start
    from gateway.database.schema import Schema
    from gateway.metering.ledger import Ledger

    with contextlib.closing(open_database(settings)) as database:
        with at_start():
            Schema(database).require(may_upgrade=False)
            _, catalog = Store(database).load_catalog(settings.auth.issuer_names())
        yield Books(settings, database, catalog, Ledger(database), SystemClock().now())


def print_table(names: list[str], lines: Iterable[list[str]], *, numbers: int) -> None:
    """Columns side by side, the last ``numbers`` of them to the right."""
    lines = iter(lines)
    first = [line for _, line in zip(range(TABLE_ROWS), lines, strict=False)]
    widths = [max(map(len, column)) for column in zip(names, *first, strict=True)]
    texts = len(names) - numbers

    def spelt(line: list[str]) -> str:
        cells = [
            cell.ljust(width) if at < texts else cell.rjust(width)
            for at, (cell, width) in enumerate(zip(line, widths, strict=True))
        ]
        return "  ".join(cells).rstrip()

    click.echo(spelt(names))
    for line in first:
        click.echo(spelt(line))
    for line in lines:
        click.echo(spelt(line))
    if not first:
        click.echo("nothing")


def _write(text: str) -> None:
    # As it is: click would turn the ends of CSV's lines into the platform's.
    click.echo(text.encode(), nl=False)


def tell_progress(text: str) -> None:
    """A line that the next one replaces, for people who wait."""
    if sys.stderr.isatty():
        click.echo(f"\r\x1b[K{text}", nl=False, err=True)

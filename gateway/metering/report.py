"""Usage as people and programs read it: cells put together into rows, rows into pages, pages into JSON and CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from operator import add
from typing import Any, Final, NamedTuple, Protocol

from gateway.metering.grain import Granularity, spell
from gateway.metering.question import Place, Question, spell_next
from gateway.usage import MEASURES, Usage, UsageKey

Cells = Iterable[tuple[UsageKey, int, Usage]]
"""What the ledger holds: whose, for how many seconds from ``key.bucket`` on, how much."""


class UsageSource(Protocol):
    """The ledger, as those see it who ask."""

    def cells(self, *, tenant: str | None, start: int, end: int) -> Cells:
        """What begins within these epoch seconds, of one tenant or of all."""
        ...

    def extent(self, *, tenant: str | None) -> tuple[int, int] | None:
        """When the first and the last cell begin; None: there are none."""
        ...

    def complete_until(self, *, now: float) -> int:
        """Up to when nothing is missing; 0: that cannot be said."""
        ...


UNITS: Final = {
    "records": "live records",
    "bytes": "bytes of data of live records, as sent",
    "units": "begun 64 KiB of data, counted for each record, live and replayed",
    "connection_seconds": "seconds that reads were open",
    "requests": "requests over HTTP pull",
    "replayed_records": "records that were older than 15 minutes when the read began",
    "replayed_bytes": "bytes of data of replayed records, as sent",
    "filtered_records": "records that your own filter left out; never priced",
    "hidden_records": "records that a row filter hid; for the operator alone, never priced",
}
"""What each number is a number of."""

PARTNER_MEASURES: Final = tuple(name for name in MEASURES if name != "hidden_records")
"""What a row filter hides would tell a partner how much others have."""

_WINDOW_SECONDS: Final[dict[Granularity, int]] = {
    "15m": 86_400,
    "hour": 86_400,
    "day": 8 * 86_400,
    "month": 27 * 86_400,
}
"""How much is looked at in one go, at least: what lies in memory is bounded whatever is asked for."""

_MANY_WINDOWS: Final = 40


class Row(NamedTuple):
    """One row: ``about`` are the values that ``by`` names, in its order (a plan's is its name and revision)."""

    start: int
    end: int
    about: tuple[str, ...]
    is_billable: bool
    usage: Usage

    @property
    def place(self) -> Place:
        """Where it stands in the order of rows."""
        return Place(self.start, self.end, self.about, not self.is_billable)


@dataclass(frozen=True, slots=True)
class Page:
    """Rows in their order; ``next`` is where the page after it goes on, None where there is none."""

    rows: list[Row]
    next: str | None = None


def group(cells: Cells, question: Question, *, measures: tuple[str, ...] = MEASURES) -> list[Row]:
    """Put cells together, in the order of ``Row.place``.

    A cell counts where it begins. One that is longer than the stretch asked for (old usage is kept by the hour and the
    day) is a row of its own length. Rows without any of ``measures`` are left out; what is not priced stands alone.
    """
    grain, by = question.grain, question.by
    spans: dict[int, tuple[int, int]] = {}
    sums: dict[tuple[int, int, tuple[Any, ...], bool], list[int]] = {}
    for key, seconds, usage in cells:
        bucket = key.bucket
        span = spans.get(bucket)
        if span is None:
            start = grain.start(bucket)
            span = spans[bucket] = (start, grain.end(start))
        if seconds > span[1] - span[0]:
            span = (bucket, bucket + seconds)
        # A plan's revision beside its name, so that it sorts as a number.
        about = tuple([(key.plan, f"{key.revision:09d}") if name == "plan" else getattr(key, name) for name in by])
        at = (*span, about, key.is_billable)
        known = sums.get(at)
        if known is None:
            sums[at] = list(usage)
        else:
            known[:] = map(add, known, usage)
    rows = [
        Row(start, end, _flat(about), is_billable, Usage(*found))
        for (start, end, about, is_billable), found in sums.items()
    ]
    counted = [row for row in rows if any(getattr(row.usage, name) for name in measures)]
    return sorted(counted, key=lambda row: row.place)


def _flat(about: tuple[Any, ...]) -> tuple[str, ...]:
    return tuple(one for value in about for one in (value if isinstance(value, tuple) else (value,)))


def read_page(
    source: UsageSource, question: Question, *, tenant: str | None, measures: tuple[str, ...] = MEASURES
) -> Page:
    """The rows from ``question.after`` on, ``question.limit`` of them (None: all)."""
    rows: list[Row] = []
    for start, end in _windows(question, lambda: source.extent(tenant=tenant)):
        found = group(source.cells(tenant=tenant, start=start, end=end), question, measures=measures)
        rows += [row for row in found if question.after is None or row.place > question.after]
        if question.limit is not None and len(rows) > question.limit:
            rows = rows[: question.limit]
            return Page(rows, spell_next(rows[-1].place))
    return Page(rows)


def _windows(question: Question, extent: Callable[[], tuple[int, int] | None]) -> Iterator[tuple[int, int]]:
    grain, end, window = question.grain, question.end, _WINDOW_SECONDS[question.grain.granularity]
    at = question.start if question.after is None else max(question.start, grain.start(question.after.start))
    if end - at > _MANY_WINDOWS * window:
        # Thousands of years may be asked for.
        there = extent()
        if there is None:
            return
        at, end = max(at, grain.start(there[0])), min(end, grain.end(there[1]))
    while at < end:
        until = min(end, grain.ceil(at + window))
        if until <= at:
            # Where calendars end nothing comes after it.
            return
        yield at, until
        at = until


def members(row: Row, question: Question, *, measures: tuple[str, ...] = PARTNER_MEASURES) -> dict[str, Any]:
    """A row as a JSON object."""
    zone = question.grain.zone
    found: dict[str, Any] = {"from": spell(row.start, zone), "to": spell(row.end, zone)}
    values = iter(row.about)
    for name in question.by:
        found[name] = next(values)
        if name == "plan":
            found["revision"] = int(next(values))
    found["billable"] = row.is_billable
    return found | {name: getattr(row.usage, name) for name in measures}


def document(
    page: Page, question: Question, *, complete_until: int | None, measures: tuple[str, ...] = PARTNER_MEASURES
) -> dict[str, Any]:
    """A page as one JSON object. Quantities are whole numbers; ``units`` says of what."""
    zone = question.grain.zone
    told: dict[str, Any] = {
        "complete_until": None if complete_until is None else spell(complete_until, zone),
        "from": spell(question.start, zone),
        "to": spell(question.end, zone),
        "time_zone": zone.key,
        "granularity": question.grain.granularity,
        "by": list(question.by),
        "units": {name: UNITS[name] for name in measures},
        "rows": [members(row, question, measures=measures) for row in page.rows],
    }
    return told if page.next is None else told | {"next": page.next}


def csv_header(question: Question, *, measures: tuple[str, ...] = PARTNER_MEASURES) -> str:
    """The first line: the columns are a row's members in JSON, in their order."""
    named = [column for name in question.by for column in ((name, "revision") if name == "plan" else (name,))]
    return csv_lines([["from", "to", *named, "billable", *measures]])


def csv_rows(rows: Iterable[Row], question: Question, *, measures: tuple[str, ...] = PARTNER_MEASURES) -> str:
    """A line for each row, under ``csv_header``."""
    return csv_lines(list(members(row, question, measures=measures).values()) for row in rows)


def csv_lines(lines: Iterable[Iterable[object]]) -> str:
    """RFC 4180; text that a spreadsheet would take for a formula gets an apostrophe before it."""
    written = io.StringIO()
    csv.writer(written, lineterminator="\r\n").writerows([_cell(one) for one in line] for line in lines)
    return written.getvalue()


def _cell(value: object) -> object:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str) and value.startswith(("=", "+", "-", "@", "\t", "\r")):
        return "'" + value
    return value

"""A month closes: every tenant's usage of it added up, rated, written down as a final statement, and verified."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from gateway.metering.tables import CELLS, LINES, SOURCES, STATE
from gateway.usage import MEASURES
from loadtests.table import Row
from tests.parts.billing import HOUR, JULY, Desk, example

TENANTS, LINES_A_TENANT = 2000, 20
MOST_SECONDS = 300
MOST_GROWTH_MIB = 64
"""What memory may grow by while closing: it must not grow with the number of tenants."""

_ROWS_AT_ONCE = 50_000


def run(_: object, *, quick: bool) -> list[Row]:
    """2 000 tenants with 20 cells in each hour of a month, on SQLite; Kafka has no part in it."""
    tenants = 40 if quick else TENANTS
    with tempfile.TemporaryDirectory() as folder:
        desk = Desk(f"sqlite:///{folder}/gateway.db", Path(folder), catalog=_catalog(tenants))
        try:
            cells = _fill(desk, tenants)
            return _close(desk, tenants, cells)
        finally:
            desk.database.close()


def _catalog(tenants: int) -> dict[str, Any]:
    catalog = example()
    (acme,) = catalog["tenants"]
    many = [{**acme, "name": f"tenant-{number:04d}", "applications": []} for number in range(tenants)]
    return {**catalog, "tenants": many}


def _fill(desk: Desk, tenants: int) -> int:
    """Put the month into the ledger's tables, the way it looks after it was rolled up to hours."""
    streams = ("flights", "earthquakes")
    transports = ("sse", "ws", "pull", "ndjson")
    hours = range(JULY.start, JULY.end, HOUR)
    with desk.database.for_changes() as database, database.writing() as connection:
        connection.execute(
            SOURCES.insert().values(
                id=1, source="node-1", state="ended", node="", started_at=0, complete_through=JULY.end, sequence=1
            )
        )
        connection.execute(sa.update(STATE).values(rolled_until=JULY.end))
        lines = [
            {
                "id": tenant * LINES_A_TENANT + line + 1,
                "tenant": f"tenant-{tenant:04d}",
                "application": f"application-{line // 8}",
                "stream": streams[line % 2],
                "plan": "pro",
                "revision": 1,
                "transport": transports[line // 2 % 4],
                "is_billable": True,
            }
            for tenant in range(tenants)
            for line in range(LINES_A_TENANT)
        ]
        connection.execute(LINES.insert(), lines)
        names = ("line", "bucket", "source", "seconds", *MEASURES)
        statement = f"INSERT INTO usage_cells ({', '.join(names)}) VALUES ({', '.join('?' for _ in names)})"
        for rows in _cells(len(lines), hours):
            connection.exec_driver_sql(statement, rows)
        found = connection.execute(sa.select(sa.func.count()).select_from(CELLS)).scalar_one()
    return int(found)


def _cells(lines: int, hours: range) -> Iterator[list[tuple[int, ...]]]:
    rows: list[tuple[int, ...]] = []
    for line in range(1, lines + 1):
        rows += [(line, hour, 1, HOUR, 900 + line % 7, 500_000, 1000, HOUR, 0, 11, 5_500, 3, 0) for hour in hours]
        if len(rows) >= _ROWS_AT_ONCE:
            yield rows
            rows = []
    if rows:
        yield rows


def _close(desk: Desk, tenants: int, cells: int) -> list[Row]:
    Path("/proc/self/clear_refs").write_text("5")
    before = _peak_mib()
    began, cpu = time.perf_counter(), time.process_time()
    desk.at(JULY.end + HOUR)
    outcomes = [one.outcome for one in desk.closing.run(now=desk.clock.now())]
    seconds, cpu = time.perf_counter() - began, time.process_time() - cpu
    growth = max(0.0, _peak_mib() - before)
    assert outcomes == ["final"] * tenants
    began = time.perf_counter()
    findings = desk.findings()
    verifying = time.perf_counter() - began
    assert findings == []
    about = f"{tenants:,} tenants, {cells:,} cells, SQLite"
    return [
        Row(
            f"a month closes: {about}",
            f"{seconds:.0f} s, {cpu:.0f} s of CPU",
            f"≤ {MOST_SECONDS} s",
            seconds <= MOST_SECONDS,
        ),
        Row(
            f"memory beyond what filling the ledger took: {about}",
            f"+{growth:.0f} MiB",
            f"≤ +{MOST_GROWTH_MIB} MiB",
            growth <= MOST_GROWTH_MIB,
        ),
        Row(f"all of it is verified: {about}", f"{verifying:.0f} s"),
    ]


def _peak_mib() -> float:
    """The most this process held since its peak was last forgotten (proc(5), clear_refs)."""
    (line,) = [one for one in Path("/proc/self/status").read_text().splitlines() if one.startswith("VmHWM")]
    return int(line.split()[1]) / 1024

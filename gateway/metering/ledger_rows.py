"""What the ledger holds, read: cells, rows and sums of usage. Whoever only asks needs no more than this."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from typing import Final

import sqlalchemy as sa

from gateway.database.database import Database
from gateway.metering.tables import CELLS, LINES, SOURCES
from gateway.usage import MEASURES, Usage, UsageKey

LINE: Final = ("tenant", "application", "stream", "plan", "revision", "transport", "is_billable")
"""What a line is named by: columns of its table, and the members of a key but for its bucket."""

ROWS_AT_ONCE: Final = 5000
_HALF_BITS: Final = 32


def halves(column: sa.ColumnElement[int]) -> tuple[sa.ColumnElement[int], sa.ColumnElement[int]]:
    """The sum of a column's whole numbers from 0 on, as two that ``joined`` puts together: a database would refuse the
    sum itself where it outgrows 64 bits, and nobody could read anything any more."""
    # Written out: Postgres knows no shift by a parameter of 64 bits.
    bits = sa.literal_column(str(_HALF_BITS), sa.Integer)
    high, low = column.bitwise_rshift(bits), column.bitwise_and(2**_HALF_BITS - 1)
    return sa.cast(sa.func.sum(high), sa.BigInteger), sa.cast(sa.func.sum(low), sa.BigInteger)


def joined(parts: Sequence[int]) -> Iterator[int]:
    """The sums that ``halves`` asked for, in their order."""
    for high, low in zip(parts[::2], parts[1::2], strict=True):
        yield (high << _HALF_BITS) + low


_SUMS: Final = tuple(half for name in MEASURES for half in halves(CELLS.c[name]))


class LedgerRows:
    """Usage in a database that has the ledger's tables. Every method blocks; safe to use from several threads."""

    def __init__(self, database: Database) -> None:
        self._reading = database.reading

    def cells(self, *, tenant: str | None, start: int, end: int) -> Iterator[tuple[UsageKey, int, Usage]]:
        """Usage that begins within ``start`` ≤ bucket < ``end`` (epoch seconds), of a tenant or of all: whose, for how
        many seconds from ``bucket`` on, how much over all sources. In the order of keys; memory does not grow with
        their number."""
        about = [LINES.c[name] for name in LINE]
        wanted = (
            sa.select(*about, CELLS.c.bucket, CELLS.c.seconds, *_SUMS)
            .join_from(LINES, CELLS, CELLS.c.line == LINES.c.id)
            .where(CELLS.c.bucket >= start, CELLS.c.bucket < end)
            .group_by(*about, CELLS.c.bucket, CELLS.c.seconds)
            .order_by(*about, CELLS.c.bucket, CELLS.c.seconds)
        )
        if tenant is not None:
            wanted = wanted.where(LINES.c.tenant == tenant)
        with self._reading() as connection:
            for row in connection.execution_options(yield_per=ROWS_AT_ONCE).execute(wanted):
                yield UsageKey(*row[:8]), row[8], Usage(*joined(row[9:]))

    def rows(self, *, tenant: str | None, start: int, end: int) -> Iterator[tuple[UsageKey, Usage]]:
        """``cells`` without their lengths, for those who add them up."""
        for key, _, usage in self.cells(tenant=tenant, start=start, end=end):
            yield key, usage

    def sums(self, *, tenant: str, start: int, end: int) -> Iterator[tuple[UsageKey, Usage]]:
        """A tenant's rows with their buckets added up, each under ``start``: for bills, which need no finer ones."""
        about = [LINES.c[name] for name in LINE]
        wanted = (
            sa.select(*about, *_SUMS)
            .join_from(LINES, CELLS, CELLS.c.line == LINES.c.id)
            .where(LINES.c.tenant == tenant, CELLS.c.bucket >= start, CELLS.c.bucket < end)
            .group_by(*about)
            .order_by(*about)
        )
        with self._reading() as connection:
            for row in connection.execute(wanted):
                yield UsageKey._make((*row[:7], start)), Usage(*joined(row[7:]))

    def extent(self, *, tenant: str | None) -> tuple[int, int] | None:
        """When the first and the last cell begin, of a tenant or of all; None: there are none."""
        wanted = sa.select(sa.func.min(CELLS.c.bucket), sa.func.max(CELLS.c.bucket))
        if tenant is not None:
            wanted = wanted.join_from(LINES, CELLS, CELLS.c.line == LINES.c.id).where(LINES.c.tenant == tenant)
        with self._reading() as connection:
            first, last = connection.execute(wanted).one()
        return None if first is None else (int(first), int(last))

    def tenants(self) -> list[str]:
        """All that have usage, whether the catalog knows them or not."""
        wanted = sa.select(LINES.c.tenant).distinct().order_by(LINES.c.tenant)
        with self._reading() as connection:
            return [row[0] for row in connection.execute(wanted)]

    def streams(self) -> list[str]:
        """All that there is usage of, whether there are contracts of them or not."""
        wanted = sa.select(LINES.c.stream).distinct().order_by(LINES.c.stream)
        with self._reading() as connection:
            return [row[0] for row in connection.execute(wanted)]

    def digest(self) -> str:
        """SHA-256 over all cells by source, in their order: the same for two ledgers that say the same."""
        said = hashlib.sha256()
        about = [LINES.c[name] for name in LINE]
        wanted = (
            sa.select(*about, CELLS.c.bucket, SOURCES.c.source, CELLS.c.seconds, *(CELLS.c[name] for name in MEASURES))
            .join_from(CELLS, LINES, CELLS.c.line == LINES.c.id)
            .join(SOURCES, CELLS.c.source == SOURCES.c.id)
            .order_by(*about, CELLS.c.bucket, SOURCES.c.source)
        )
        with self._reading() as connection:
            for row in connection.execution_options(yield_per=ROWS_AT_ONCE).execute(wanted):
                said.update(repr(tuple(row)).encode())
        return said.hexdigest()

"""Cells of the ledger that no process can have written: another beginning, another length, a count below 0."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import sqlalchemy as sa

from gateway.database.database import Database
from gateway.metering.tables import CELLS, LINES, STATE
from gateway.usage import BUCKET_SECONDS, MEASURES

MOST: Final = 20
"""So many are told; where there are more, more is wrong than a list could help with."""

_LONGEST_SECONDS: Final = 26 * 3600
"""A day on which clocks change, and some more."""


def misfits(database: Database, *, tenant: str | None = None) -> Iterator[str]:
    """Lines for people, of a tenant or of all; blocks."""
    cells, lines = CELLS.c, LINES.c
    with database.reading() as connection:
        rolled_until = connection.execute(sa.select(STATE.c.rolled_until).where(STATE.c.id == 1)).scalar() or 0
        wrong = sa.or_(
            cells.bucket % BUCKET_SECONDS != 0,
            cells.seconds % BUCKET_SECONDS != 0,
            cells.seconds < BUCKET_SECONDS,
            cells.seconds > _LONGEST_SECONDS,
            # Only what is older was ever put together.
            sa.and_(cells.bucket >= rolled_until, cells.seconds != BUCKET_SECONDS),
            *(cells[name] < 0 for name in MEASURES),
        )
        query = sa.select(lines.tenant, lines.stream, cells.bucket, cells.seconds)
        query = query.select_from(CELLS.join(LINES, lines.id == cells.line)).where(wrong)
        if tenant is not None:
            query = query.where(lines.tenant == tenant)
        query = query.order_by(lines.tenant, cells.bucket, lines.stream).limit(MOST)
        for name, stream, bucket, seconds in connection.execute(query).all():
            yield f"a cell of {name}, stream {stream}, at {bucket} for {seconds} s is none that a process wrote"

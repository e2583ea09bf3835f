"""A bounded number of threads for one database's blocking work, so that a frozen one holds up nothing else."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, TypeVar

from gateway.database.database import Database
from gateway.database.faults import BUSY, DatabaseUnavailable

T = TypeVar("T")


class Workers:
    """As many threads as the database may have connections: what comes on top waits for its turn, within a bound."""

    def __init__(self, database: Database) -> None:
        bounds = database.bounds
        self._database = database
        self._threads = ThreadPoolExecutor(bounds.pool_size, thread_name_prefix="database")
        # A thread's turn, a first look at a connection that proves dead, a new one, the work itself.
        self._turn_seconds = bounds.pool_seconds + bounds.connect_seconds + 2 * bounds.statement_seconds + 2

    async def run(self, work: Callable[..., T], /, *arguments: Any, **named: Any) -> T:
        """What ``work`` returns or raises. Raises DatabaseUnavailable where it has not ended in time.

        Work whose caller was cancelled before its turn never begins; work that has begun goes on unheard.
        """
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(self._turn_seconds):
                return await loop.run_in_executor(self._threads, partial(work, *arguments, **named))
        except TimeoutError:
            raise DatabaseUnavailable(BUSY, place=self._database.place) from None

    async def close(self) -> None:
        """End what waits, then the threads, then the connections."""
        await asyncio.to_thread(self._database.close)
        await asyncio.to_thread(partial(self._threads.shutdown, cancel_futures=True))

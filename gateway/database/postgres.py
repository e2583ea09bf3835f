"""Connections to Postgres whose every wait has an end, also when the server is frozen and says nothing at all."""

from __future__ import annotations

from collections.abc import Callable, Generator
from time import monotonic
from typing import Any, Final, TypeVar

import psycopg

T = TypeVar("T")
GRACE_SECONDS: Final = 1.0
"""How much later than the server's own time-out ours comes, so that the server's is the one that speaks."""

_IDLE_IN_TRANSACTION_SECONDS: Final = 30


class BoundedConnection(psycopg.Connection[Any]):
    """A connection that breaks itself when an answer takes too long, or when ``is_closing`` says that nobody waits."""

    answer_seconds = 60.0
    is_closing: Callable[[], bool] = staticmethod(lambda: False)

    def wait(self, gen: Generator[Any, Any, T], *args: Any, **kwargs: Any) -> T:
        """As the driver waits; raises OperationalError, with the connection broken, where it took too long.

        The driver wakes every tenth of a second while nothing comes, to look for signals: the clock is looked at then.
        """
        return super().wait(self._bounded(gen), *args, **kwargs)

    def _bounded(self, gen: Generator[Any, Any, T]) -> Generator[Any, Any, T]:
        overdue_at = monotonic() + self.answer_seconds
        try:
            wanted = next(gen)
            while True:
                ready = yield wanted
                if not ready and (monotonic() > overdue_at or self.is_closing()):
                    # What comes later would be taken for the answer to another question.
                    self.pgconn.finish()
                    raise psycopg.OperationalError("timeout: no answer from the server")
                wanted = gen.send(ready)
        except StopIteration as ended:
            value: T = ended.value
            return value


def connect(
    conninfo: str = "", *, statement_seconds: float, is_closing: Callable[[], bool], **parameters: Any
) -> BoundedConnection:
    """A connection whose statements end after ``statement_seconds``, by the server's clock and by ours."""
    connection = BoundedConnection.connect(conninfo, **parameters)
    try:
        connection.answer_seconds = statement_seconds + GRACE_SECONDS
        connection.is_closing = is_closing
        connection.autocommit = True
        # Said by a statement and not as a start-up parameter, which connection poolers refuse. A node that is frozen
        # within a transaction would hold its locks for ever, hence the second.
        connection.execute(
            f"SET statement_timeout = {int(statement_seconds * 1000)};"
            f" SET idle_in_transaction_session_timeout = '{_IDLE_IN_TRANSACTION_SECONDS}s'"
        )
        connection.autocommit = False
    except BaseException:
        connection.close()
        raise
    return connection

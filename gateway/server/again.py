"""A request that came before on the same connection, and how it is answered without being served once more."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable
from http import HTTPStatus
from typing import Final

from gateway.ports import Answer, AnswerAgain

_STATUS_LINES: Final = {one.value: f"HTTP/1.1 {one.value} {one.phrase}".encode("ascii") for one in HTTPStatus}

EVERY_SECONDS: Final = 0.001
"""Between two answers that may wait: they take a tenth of the loop's time at most, however many ask."""

_NOT_THE_HEAD_ALONE: Final = frozenset({b"content-length", b"transfer-encoding", b"expect"})


class Again:
    """The head of a GET request, and who answers for the next one that has the same.

    ``received``: the bytes that it came as, where those were all that came at once: the same again need not be parsed.
    """

    __slots__ = ("_answer", "_headers", "_url", "is_spent", "received")

    def __init__(
        self, url: bytes, headers: list[tuple[bytes, bytes]], answer: AnswerAgain, *, received: bytes | None
    ) -> None:
        self._url = url
        self._headers = headers
        self._answer = answer
        self.received = received
        self.is_spent = False
        """Whether it has answered to what was received last: of many requests that come at once the others queue up as
        requests do, and the loop is not held for all of them."""

    def is_of(self, url: bytes, headers: list[tuple[bytes, bytes]]) -> bool:
        """Whether a GET request with this head is the same one."""
        return url == self._url and headers == self._headers

    def answer(self) -> Callable[[], Answer] | None:
        """What to say to it; None: it has to be served."""
        if self.is_spent:
            return None
        self.is_spent = True
        return self._answer()


class Lane:
    """Answers that nobody needs at once, one after the other, with the loop free for others between them.

    Whoever is alone is answered at once. There is at most one of each connection, which bounds the line.
    """

    __slots__ = ("_free_at", "_timer", "_waiting")

    def __init__(self) -> None:
        self._waiting: deque[Callable[[], None]] = deque()
        self._timer: asyncio.TimerHandle | None = None
        self._free_at = 0.0

    def put(self, answer: Callable[[], None]) -> None:
        """Call ``answer`` in its turn."""
        if not self._waiting and time.monotonic() >= self._free_at:
            # No timer for whoever is alone: it would wake a loop that has nothing to do.
            self._call(answer)
            return
        self._waiting.append(answer)
        self._arm()

    def _call(self, answer: Callable[[], None]) -> None:
        try:
            answer()
        finally:
            self._free_at = time.monotonic() + EVERY_SECONDS

    def _arm(self) -> None:
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(EVERY_SECONDS, self._next)

    def _next(self) -> None:
        self._timer = None
        answer = self._waiting.popleft()
        if self._waiting:
            self._arm()
        self._call(answer)


def is_head_alone(headers: list[tuple[bytes, bytes]]) -> bool:
    """Whether a request with these headers consists of nothing else."""
    return all(name not in _NOT_THE_HEAD_ALONE for name, _ in headers)


def encode_answer(
    status: int,
    headers: list[tuple[bytes, bytes]],
    body: bytes,
    *,
    default_headers: list[tuple[bytes, bytes]],
) -> bytes:
    """A whole HTTP/1.1 answer, whose headers say how long its body is."""
    lines = [_STATUS_LINES[status]]
    lines += [b"%b: %b" % header for header in default_headers]
    lines += [b"%b: %b" % header for header in headers]
    return b"\r\n".join([*lines, b"", body])

"""Spans as those see them who only tell what happened; who collects them, if anybody does, is decided at the top."""

from __future__ import annotations

from contextvars import ContextVar
from typing import Protocol


class Span(Protocol):
    """One thing that takes time. All calls are cheap, never wait, and after ``end`` do nothing."""

    def child(self, name: str) -> Span:
        """A part of this one, begun now; it may outlive its parent."""
        ...

    def note(self, name: str, value: str | int | float, /) -> None:
        """Say something about it: names, counts and codes. Never a token, cursor, ticket or payload."""
        ...

    def end(self, code: str = "") -> None:
        """It is over now; ``code`` is that of the error which ended it."""
        ...


current_span: ContextVar[Span | None] = ContextVar("current_span", default=None)
"""The span of the request that this task works for. None: nobody collects, or it was not sampled."""

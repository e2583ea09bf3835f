"""The encoded views of one log: made for the first reader of a shape, counted, kept for a while after the last."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Final, TypeVar, cast

from gateway.hub.log import TopicLog
from gateway.hub.view import View

T = TypeVar("T")
VIEW_LINGER_SECONDS: Final = 30.0
RESTING_VIEWS: Final = 8
"""So many views without readers a log; the one that rests longest is let go first."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """A shape of records, whatever log they are in: equal keys stand for views that could be one."""

    key: Hashable
    make: Callable[[Views], View]


class Views:
    """One log and its views by key."""

    __slots__ = ("_by_key", "_resting", "_shared", "log")

    def __init__(self, log: TopicLog) -> None:
        self.log = log
        self._by_key: dict[Hashable, View] = {}
        self._resting: dict[Hashable, asyncio.TimerHandle] = {}
        self._shared: dict[Hashable, object] = {}

    def take(self, recipe: Recipe) -> View:
        """The view of this recipe, with one more reader. Give it back with ``release``."""
        view = self._by_key.get(recipe.key)
        if view is None:
            view = self._by_key[recipe.key] = recipe.make(self)
        resting = self._resting.pop(recipe.key, None)
        if resting is not None:
            resting.cancel()
        view.readers += 1
        return view

    def release(self, recipe: Recipe) -> None:
        """One reader less. Without any the view rests for a while: who pulls comes back for the next page of it."""
        key = recipe.key
        view = self._by_key[key]
        view.readers -= 1
        if not view.readers:
            self._resting[key] = asyncio.get_running_loop().call_later(VIEW_LINGER_SECONDS, self._drop, key)
            if len(self._resting) > RESTING_VIEWS:
                self._drop(next(iter(self._resting)))

    def _drop(self, key: Hashable) -> None:
        self._resting.pop(key).cancel()
        self._by_key.pop(key).close()

    def shared(self, key: Hashable, make: Callable[[], T]) -> T:
        """Something derived from the log that several views use (a field index), made once."""
        if key not in self._shared:
            self._shared[key] = make()
        return cast(T, self._shared[key])

    @property
    def bytes(self) -> int:
        """What is encoded now."""
        return sum(view.bytes for view in self._by_key.values())

    @property
    def count(self) -> int:
        """Views with readers."""
        return len(self._by_key) - len(self._resting)

    def trim_idle(self) -> None:
        """Let go of encoded bytes that nobody asked for since the last call; they are made again when needed."""
        for view in self._by_key.values():
            view.trim_if_idle()

    def close(self) -> None:
        """Let go of the views that rest. For a log that nobody reads any more."""
        for key in list(self._resting):
            self._drop(key)

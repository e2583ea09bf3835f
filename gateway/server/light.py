"""Stand-ins for what makes an idle connection heavy: an empty deque takes 620 bytes, and a connection had several."""

from __future__ import annotations

import asyncio
from typing import Generic, TypeVar

from uvicorn.protocols.http.flow_control import FlowControl

T = TypeVar("T")


class LightEvent(asyncio.Event):
    """An event whose waiters are kept in a list: there is one at most, most of the time."""

    def __init__(self) -> None:
        super().__init__()
        self._waiters = []  # type: ignore[assignment]  # append, remove and iteration are all that is asked of it


class LightFlow(FlowControl):
    """uvicorn's flow control on a light event."""

    def __init__(self, transport: asyncio.Transport) -> None:
        super().__init__(transport)
        self._is_writable_event = LightEvent()
        self._is_writable_event.set()


class LightPipeline(list[T], Generic[T]):
    """The few requests that wait for their turn; taken by ``pop()``, as from a deque."""

    def appendleft(self, waiting: T) -> None:
        self.insert(0, waiting)


class LightQueue(Generic[T]):
    """The part of ``asyncio.Queue`` that a connection needs, for queues that are short and mostly empty."""

    __slots__ = ("_items", "_news")

    def __init__(self) -> None:
        self._items: list[T] = []
        self._news = LightEvent()

    def put_nowait(self, item: T) -> None:
        self._items.append(item)
        self._news.set()

    async def get(self) -> T:
        """Wait for an item. Cancelled, it has taken none."""
        while not self._items:
            self._news.clear()
            await self._news.wait()
        return self._items.pop(0)

    def qsize(self) -> int:
        return len(self._items)

    def empty(self) -> bool:
        return not self._items

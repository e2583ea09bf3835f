"""HTTP pull: a page of records and the cursor of the next one. Stateless: any node serves any page."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable
from typing import Any, Final

import msgspec
from starlette.types import Receive, Scope, Send

from gateway.errors import QuotaExceeded
from gateway.hub.pump import TURN_SECONDS
from gateway.model import Grant, Transport
from gateway.subscription.budget import Budget
from gateway.subscription.page_read import PageRead
from gateway.subscription.request import ReadRequest
from gateway.subscription.shape import Shape
from gateway.transport.gate import Gate
from gateway.usage import Usage

TRANSPORT: Transport = "pull"
MEDIA_TYPE = "application/json"
REPLAY_SECONDS: Final = 5.0
"""How long a page waits for the first record of a replay. A filter that finds none by then gives an empty page, with
a cursor behind what was looked at."""

FULLER_SECONDS: Final = 0.25
"""How long a page that has records waits for a replay to fill it."""


async def serve(gate: Gate, scope: Scope, receive: Receive, send: Send) -> None:
    """Answer one read."""
    grant, request, shape = await gate.admit(scope, transport=TRANSPORT)
    with gate.counted(scope, grant, transport=TRANSPORT) as budget:
        page = _Page(request, budget)
        async with gate.open(scope, grant, request, shape, transport=TRANSPORT) as opening:
            headers = gate.stream_headers(opening, grant, shape)
            read = PageRead(gate.registry, opening, grant, shape, limit=request.limit)
            budget.begin(opening.vector)
            try:
                is_heard = await page.fill(read, draining=gate.registry.draining, receive=receive)
                gate.check_still_granted(grant, transport=TRANSPORT)
                body = page.body(read, grant, shape)
            finally:
                budget.forget(read)
                read.close()
        headers += [
            (b"content-type", b"application/json"),
            (b"cache-control", b"no-store"),
            (b"content-length", b"%d" % len(body)),
        ]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})
        if is_heard:
            # After the server took it, as on every protocol: what was not sent is not counted.
            budget.deliver(page.usage)
            budget.settle(read.reading, now=gate.now())
        scope["state"]["access_fields"].update(records=budget.tally.records, bytes=budget.tally.bytes)


class _Page:
    """One answer as it fills."""

    def __init__(self, request: ReadRequest, budget: Budget) -> None:
        self._request = request
        self._budget = budget
        self._parts: list[bytes] = []
        self._bytes = 0
        self._gaps: list[dict[str, Any]] = []
        self._throttled_ms = 0
        self._is_over = False
        self.records = 0
        self.usage = Usage()

    async def fill(self, read: PageRead, *, draining: asyncio.Event, receive: Receive) -> bool:
        """Take what is there; wait for the first record as long as the request says, unless this node is stopped.

        False: the client has gone meanwhile.
        """
        client = _Client(receive, read.wake)
        try:
            return await self._fill(read, client, draining=draining)
        finally:
            await client.close()

    async def _fill(self, read: PageRead, client: _Client, *, draining: asyncio.Event) -> bool:
        loop = asyncio.get_running_loop()
        began = loop.time()
        patience = began + self._request.wait_seconds
        replay_patience = began + REPLAY_SECONDS
        while True:
            await self._take(read)
            if read.reading.failed is not None:
                raise read.reading.failed
            is_held = self._budget.is_held(read.reading) and not self._full()
            hindrance = self._budget.hindrance() if is_held else None
            if hindrance is not None:
                self._throttled_ms = hindrance.resume_in_ms
                if self.records:
                    # A shorter page, which says when there may be more.
                    return True
            if self._full() or (self.records and read.reading.more and not is_held):
                # Of what is there already, the next record would be too much.
                return True
            if read.reading.mode != "replay" and (self.records or self._gaps) and not is_held:
                return True
            if self.records and loop.time() - began >= FULLER_SECONDS:
                # A replay that finds little (a narrow filter) gives what it has found.
                return True
            deadline = patience
            if self.records:
                deadline = began + FULLER_SECONDS
            elif read.reading.mode == "replay" or is_held:
                # A page has at least one record where there is one: the plan's rate gives it soon.
                deadline = max(patience, replay_patience)
            if draining.is_set() or loop.time() >= deadline:
                if read.reading.stalled is not None and not self._gaps and not self.records:
                    raise read.reading.stalled
                return True
            if is_held:
                self._budget.wait(read)
            client.hear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout_at(deadline):
                    await read.wait(is_held=is_held)
            if client.is_gone:
                return False

    def _full(self) -> bool:
        return self._is_over or self.records >= self._request.limit or self._bytes >= self._request.max_bytes

    async def _take(self, read: PageRead) -> None:
        turn_ends = time.monotonic() + TURN_SECONDS
        while self.records < self._request.limit:
            room = self._request.max_bytes - self._bytes
            if room <= 0:
                return
            try:
                piece = self._budget.take_page(
                    read.reading,
                    max_records=self._request.limit - self.records,
                    max_bytes=room,
                    at_least_one=not self._parts,
                )
            except QuotaExceeded:
                if not self.records:
                    raise
                # What was within the quota is given; the next request is told of its end.
                self._is_over = True
                return
            if piece is None:
                return
            if piece.body:
                self._parts.append(piece.body)
                self._bytes += len(piece.body)
            self.records += piece.records
            self.usage += self._budget.reserve(piece)
            if piece.gap is not None:
                self._gaps.append({"before": self.records, **piece.gap.data()})
            if time.monotonic() > turn_ends:
                # A narrow filter may look through the whole log: others live on this loop too.
                await asyncio.sleep(0)
                turn_ends = time.monotonic() + TURN_SECONDS

    def body(self, read: PageRead, grant: Grant, shape: Shape) -> bytes:
        following = read.reading.next_time()
        tail: dict[str, Any] = {
            "next_cursor": read.cursor(),
            "behind_ms": 0 if following is None else max(0, int(time.time() * 1000) - following),
        }
        if grant.rows is None:
            # With a row filter the lag would tell the volume of others.
            tail["lag"] = read.reading.remaining(shape.shard)
        tail |= {"throttled_ms": self._throttled_ms, "gaps": self._gaps}
        records = b"".join(self._parts)[:-1]
        return b'{"records":[%b],%b' % (records, msgspec.json.encode(tail)[1:])


class _Client:
    """Who is answered, while something is waited for: ``on_gone`` is called when nobody hears the answer any more."""

    def __init__(self, receive: Receive, on_gone: Callable[[], None]) -> None:
        self._receive = receive
        self._on_gone = on_gone
        self._hearing: asyncio.Task[None] | None = None
        self.is_gone = False

    def hear(self) -> None:
        """Hear of it from now on, until ``close``."""
        if self._hearing is None:
            self._hearing = asyncio.get_running_loop().create_task(self._hear())

    async def _hear(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self.is_gone = True
        self._on_gone()

    async def close(self) -> None:
        """Hear nothing any more."""
        # Not kept: a task that was cancelled remembers where it stood, and that is here.
        hearing, self._hearing = self._hearing, None
        if hearing is not None:
            hearing.cancel()
            await asyncio.gather(hearing, return_exceptions=True)

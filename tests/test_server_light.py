"""The light stand-ins behave as what they stand in for, also where a later Python or uvicorn changes its own."""

from __future__ import annotations

import asyncio
import contextlib
import sys

from gateway.server.light import LightEvent, LightPipeline, LightQueue


async def test_an_event_wakes_all_who_wait_and_forgets_one_who_left() -> None:
    event = LightEvent()
    waiting = [asyncio.ensure_future(event.wait()) for _ in range(3)]
    await asyncio.sleep(0)
    assert not any(task.done() for task in waiting)
    waiting[1].cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await waiting[1]
    event.set()
    assert [await waiting[0], await waiting[2]] == [True, True]
    event.clear()
    assert not event.is_set()


async def test_a_queue_gives_items_in_order_and_waits_while_it_has_none() -> None:
    queue: LightQueue[int] = LightQueue()
    first = asyncio.ensure_future(queue.get())
    await asyncio.sleep(0)
    assert not first.done()
    queue.put_nowait(1)
    queue.put_nowait(2)
    assert await first == 1
    assert (queue.qsize(), queue.empty()) == (1, False)
    assert await queue.get() == 2
    assert queue.empty()


async def test_a_cancelled_get_takes_nothing() -> None:
    queue: LightQueue[int] = LightQueue()
    given_up = asyncio.ensure_future(queue.get())
    await asyncio.sleep(0)
    queue.put_nowait(1)
    given_up.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await given_up
    assert await queue.get() == 1


def test_a_pipeline_gives_the_request_that_waits_longest() -> None:
    pipeline: LightPipeline[int] = LightPipeline()
    pipeline.appendleft(1)
    pipeline.appendleft(2)
    assert [pipeline.pop(), pipeline.pop()] == [1, 2]


def test_they_are_light() -> None:
    held = vars(LightEvent())["_waiters"]
    assert sys.getsizeof(held) + sys.getsizeof(LightPipeline()) < 200

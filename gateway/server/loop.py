"""The event loop that a process of ours runs on."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Callable, Coroutine
from typing import Any, Literal, TypeVar

from gateway.errors import ConfigurationProblems

T = TypeVar("T")
COLLECT_EVERY = (20_000, 10, 10)
"""Allocations between two looks of the garbage collector at what is new (CPython's own number is 700), and how many of
those to a look at what is older."""

LoopName = Literal["auto", "uvloop", "asyncio"]


def loop_factory(loop: LoopName) -> Callable[[], asyncio.AbstractEventLoop]:
    """The named loop; ``auto`` is uvloop where it is installed. Raises ``ConfigurationProblems`` if it is not."""
    if loop == "asyncio":
        return asyncio.new_event_loop
    try:
        import uvloop
    except ImportError as error:
        if loop == "auto":
            return asyncio.new_event_loop
        raise ConfigurationProblems(["loop: uvloop is not installed; use asyncio or auto"]) from error
    return uvloop.new_event_loop


def run_loop(main: Coroutine[Any, Any, T], *, loop: LoopName = "auto") -> T:
    """Run ``main`` to its end on a new loop and return what it returns; like ``asyncio.run``, with the loop chosen."""
    with asyncio.Runner(loop_factory=loop_factory(loop)) as runner:
        return runner.run(main)


def settle_collector() -> None:
    """What is alive now is there to stay: the garbage collector passes over it from here on, and comes less often.

    For a process that has started. Everything on the way of a record is freed by its last reference; but the records
    of a thousand readers make so many new objects that CPython's defaults would look through all that every connection
    holds every few seconds, a tenth of a second at a time in which nobody gets anything.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(*COLLECT_EVERY)

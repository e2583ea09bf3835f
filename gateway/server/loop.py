"""The event loop that a process of ours runs on."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, Literal, TypeVar

from gateway.errors import ConfigurationProblems

T = TypeVar("T")
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

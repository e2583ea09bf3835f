"""A process that serves until it is told to stop: signals, the exit code, the loop."""

from __future__ import annotations

import asyncio
import logging
import math
import os
import signal
import threading
import time
from collections.abc import Callable
from typing import Final

from gateway import __version__
from gateway.app import Gateway
from gateway.config import Settings
from gateway.observability.logs import configure_logging, event
from gateway.server.loop import run_loop, settle_collector

log = logging.getLogger("gateway.app")


LEAVE_SECONDS: Final = 2.0
"""What a process may take to go when all is closed: threads that wait for a name server would be waited for."""

FORCED_EXIT: Final = 1


class Backstop:
    """Ends the process when its time is over, whatever keeps it: a loop that hangs, or a thread. It does so from a
    thread of its own, and as a crash would: nothing else gets a word."""

    def __init__(self) -> None:
        self._timer: threading.Timer | None = None
        self._at = math.inf

    def set(self, seconds: float, last: Callable[[], int]) -> None:
        """So long from now, and never later than was said before, ``last`` is called and gives the exit code."""
        if self._timer is not None:
            self._timer.cancel()
        now = time.monotonic()
        self._at = min(self._at, now + seconds)
        self._timer = threading.Timer(max(0.0, self._at - now), lambda: os._exit(last()))
        self._timer.daemon = True
        self._timer.start()


async def run(settings: Settings, backstop: Backstop) -> int:
    """Serve until SIGTERM or SIGINT, then drain; a second signal ends the process at once. Returns the exit code.

    ``backstop`` is set when the signal comes. Raises ConfigurationProblems where it cannot come up.
    """
    gateway = Gateway(settings)
    loop = asyncio.get_running_loop()
    stopping = asyncio.Event()
    reloads: set[asyncio.Task[list[str]]] = set()

    def stop() -> None:
        if stopping.is_set():
            # Asked twice: whoever sent it does not want to wait for the drain.
            for number in (signal.SIGTERM, signal.SIGINT):
                loop.remove_signal_handler(number)
            signal.raise_signal(signal.SIGTERM)
            # Still here: the kernel spares the first process of a container what a signal does by default.
            os._exit(128 + signal.SIGTERM)
        stopping.set()
        backstop.set(gateway.stop_seconds, forced)

    def forced() -> int:
        waiting_for = gateway.waiting_for or "the event loop"
        event(log, logging.ERROR, "stop_forced", waiting_for=waiting_for, seconds=gateway.stop_seconds)
        return FORCED_EXIT

    def reload() -> None:
        task = loop.create_task(gateway.reload())
        reloads.add(task)
        task.add_done_callback(reloads.discard)

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop)
    # Before everything is up there is nothing to take anew, and the signal's default would end the process.
    loop.add_signal_handler(signal.SIGHUP, lambda: None)
    if not await _started(gateway, stopping):
        return 0
    settle_collector()
    loop.add_signal_handler(signal.SIGHUP, reload)
    event(log, logging.INFO, "serving", url=gateway.base_url, admin_port=gateway.admin_port, version=__version__)
    try:
        await stopping.wait()
    finally:
        await gateway.stop()
        backstop.set(LEAVE_SECONDS, lambda: 0)
    return 0


async def _started(gateway: Gateway, stopping: asyncio.Event) -> bool:
    """Whether it came up before it was told to stop: a start may wait for its database."""
    starting, told = asyncio.ensure_future(gateway.start()), asyncio.ensure_future(stopping.wait())
    await asyncio.wait({starting, told}, return_when=asyncio.FIRST_COMPLETED)
    told.cancel()
    if not starting.done():
        starting.cancel()
        await asyncio.wait({starting})
    if starting.cancelled():
        event(log, logging.INFO, "stopped")
        return False
    await starting
    return True


def serve(settings: Settings, log_format: str) -> int:
    """``gateway serve``: the exit code of a process that serves until it is told to stop."""
    configure_logging("text" if log_format == "text" else "json", level=settings.log.level.upper())
    return run_loop(run(settings, Backstop()))

"""Readers of a stream: the C client, started with its requests and asked for its counts."""

from __future__ import annotations

import json
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

from loadtests.machine import CLIENT_CORE, on_core, stand_back
from loadtests.native import program
from tests.parts.process import die_with_parent

Protocol = Literal["sse", "ws", "ndjson"]
_PATIENCE_SECONDS = 120.0


class WrongDelivery(Exception):
    """A reader lost, repeated or reordered a record, or its connection ended."""


def request(
    stream: str, token: str, *, protocol: Protocol = "sse", query: str = "", first: Sequence[int] | None = None
) -> bytes:
    """A request as it goes over the wire. ``first``: the sequence numbers that those who send it must see first."""
    mark = b"" if first is None else b"@%b\n" % ",".join(map(str, first)).encode()
    target = f"/v1/streams/{stream}/{protocol}" + (f"?{query}" if query else "")
    lines = [f"GET {target} HTTP/1.1", "Host: 127.0.0.1", f"Authorization: Bearer {token}"]
    if protocol == "ws":
        lines += ["Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13"]
        lines += ["Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==", "Sec-WebSocket-Protocol: gateway.v1"]
    return mark + "\r\n".join([*lines, "", ""]).encode()


def _stand_back() -> None:
    die_with_parent()
    stand_back()


class Readers:
    """``count`` connections to ``port``; every sequence number is checked from ``first`` on, by partition.

    ``pause_us``: microseconds between two looks at the sockets. ``most_unanswered``: how many requests wait for their
    answers at the same time; 0 for all of them at once. ``stands_back``: it runs when nobody else wants its core.
    """

    def __init__(
        self,
        port: int,
        *,
        count: int,
        requests: Sequence[bytes],
        first: Sequence[int],
        opens_per_second: float = 0,
        once: bool = False,
        pause_us: int = 0,
        most_unanswered: int = 64,
        tls: bool = False,
        stands_back: bool = False,
    ) -> None:
        self.count = count
        self._directory = tempfile.TemporaryDirectory(prefix="readers-")
        file = Path(self._directory.name) / "requests"
        file.write_bytes(b"".join(one + b"\0" for one in requests))
        opening = [opens_per_second, most_unanswered, "once" if once else "stay"]
        command = [program("readers", tls=tls), port, count, len(first), *opening, pause_us, file, *first]
        with on_core(CLIENT_CORE):
            self._process = subprocess.Popen(
                [str(part) for part in command],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                preexec_fn=_stand_back if stands_back else die_with_parent,
            )

    def __enter__(self) -> Readers:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            pipe.close()
        self._process.wait()
        self._directory.cleanup()

    def stats(self) -> dict[str, Any]:
        """Counts now. Raises WrongDelivery where anything was not as it must be."""
        now: dict[str, Any] = self._ask("stats")
        if now["faults"] or now["closed"]:
            raise WrongDelivery(f"{now['faults']} faults, {now['closed']} connections ended: {now}")
        return now

    def times(self) -> dict[str, list[float]]:
        """For each connection the milliseconds from connect to answer and to first record; 0 where it did not come."""
        answer: dict[str, list[float]] = self._ask("times")
        return answer

    def arrivals(self) -> list[tuple[int, int, float]]:
        """Each record that came since this was last asked: partition, sequence number and when, by the monotonic clock.

        The first time it is empty: from then on they are kept.
        """
        return [(partition, sequence, at) for partition, sequence, at in self._ask("arrivals")]

    def wait_open(self) -> None:
        """Until all are answered."""
        self.wait_until("to open", lambda now: now["established"] == self.count)

    def wait_done(self) -> None:
        """Until all have had their first record and are closed."""
        self.wait_until("for their first record", lambda now: now["done"] == self.count)

    def wait_for(self, vector: Sequence[int], *, pause_seconds: float = 0.01) -> None:
        """Until every reader has everything before ``vector``."""
        wanted = list(vector)
        self.wait_until("to catch up", lambda now: bool(now["low"] == wanted), pause_seconds=pause_seconds)

    def wait_until(self, what: str, holds: Callable[[dict[str, Any]], bool], *, pause_seconds: float = 0.01) -> None:
        """Until the counts are such. ``what`` completes "took too long"."""
        deadline = time.monotonic() + _PATIENCE_SECONDS
        while not holds(self.stats()):
            if time.monotonic() > deadline:
                raise WrongDelivery(f"readers took too long {what}: {self.stats()}")
            time.sleep(pause_seconds)

    def _ask(self, question: str) -> Any:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(question.encode() + b"\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise WrongDelivery(f"the readers ended with {self._process.wait()}")
        return json.loads(line)

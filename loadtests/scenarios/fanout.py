"""What one delivery costs when records come one at a time, beside the kernel's floor and the usual design."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Literal

from loadtests.machine import SERVER_CORE, cpu_seconds, on_core
from loadtests.native import program
from loadtests.readers import Protocol, Readers
from loadtests.stage import Stage, stage
from loadtests.table import Row, median, spread
from tests.parts.kafka import KafkaBroker
from tests.parts.process import die_with_parent

READERS = 500
PER_SECOND = 50
WARM_UP_RECORDS = 100
CALM_US = 1000
EAGER_US = 0

Pace = Literal["calm", "eager"]
_PAUSES: dict[Pace, int] = {"calm": CALM_US, "eager": EAGER_US}
Costs = dict[str, list[float]]


def run(running: KafkaBroker, *, quick: bool) -> list[Row]:
    """CPU per delivery of the server, in rounds that take every design in turn: only ratios within a round count.

    The clients look at their sockets every millisecond; beside it, for the floor and SSE, clients that wait at them,
    where every ``send()`` also pays for waking a sleeping neighbour.
    """
    records, rounds = (200, 1) if quick else (500, 5)
    costs: Costs = {}
    with stage(running, "fanout") as ready, tempfile.TemporaryDirectory() as directory:
        chunk = Path(directory) / "chunk"
        chunk.write_bytes(ready.one_chunk())
        for number in range(rounds):
            found: dict[str, float] = {}
            one = _gateway(ready, 1, records, "sse", "calm")
            found["fetch"] = one * 1e3
            for pace in _PAUSES:
                found[f"floor {pace}"] = _send_loop(chunk, records, pace)
                # Every second round the other way round: what follows what must not matter.
                for protocol in _protocols(pace, reverse=number % 2 == 1):
                    raw = _gateway(ready, READERS, records, protocol, pace)
                    found[f"{protocol} {pace} raw"] = raw / READERS * 1e6
                    found[f"{protocol} {pace}"] = (raw - one) / (READERS - 1) * 1e6
            found["naive"] = _naive(chunk, records)
            print("fanout:", {name: round(value, 2) for name, value in found.items()}, flush=True)
            for name, value in found.items():
                costs.setdefault(name, []).append(value)
    return _rows(costs)


def _protocols(pace: Pace, *, reverse: bool) -> list[Protocol]:
    if pace == "eager":
        return ["sse"]
    return ["ws", "sse"] if reverse else ["sse", "ws"]


def _rows(costs: Costs) -> list[Row]:
    def ratio(above: str, below: str) -> list[float]:
        return [a / b for a, b in zip(costs[above], costs[below], strict=True)]

    def bar(name: str, above: str, below: str, most: float) -> Row:
        found = ratio(above, below)
        return Row(name, spread(found), f"≤ {most}", median(found) <= most)

    what = f"{READERS} readers, {PER_SECOND} records/s of 240 B"
    return [
        Row(f"bare C `send()` loop, {what}: µs CPU per delivery", spread(costs["floor calm"])),
        Row("queue per client + sse-starlette: µs per delivery", spread(costs["naive"])),
        Row("gateway: ms per record for fetch and encoding (one reader)", spread(costs["fetch"])),
        Row("gateway, SSE: µs per delivery, with fetch", spread(costs["sse calm raw"])),
        Row("gateway, SSE: µs per delivery, without fetch", spread(costs["sse calm"])),
        Row("gateway, WebSocket: µs per delivery, with fetch", spread(costs["ws calm raw"])),
        Row("gateway, WebSocket: µs per delivery, without fetch", spread(costs["ws calm"])),
        bar("SSE ÷ C loop", "sse calm", "floor calm", 2.0),
        bar("SSE ÷ queue per client", "sse calm", "naive", 0.5),
        bar("WebSocket ÷ SSE", "ws calm", "sse calm", 1.3),
        Row("bare C loop, clients woken by each send: µs per delivery", spread(costs["floor eager"])),
        Row("gateway, SSE, clients woken by each send: µs per delivery, without fetch", spread(costs["sse eager"])),
        bar("SSE ÷ C loop, clients woken by each send", "sse eager", "floor eager", 2.0),
    ]


def _gateway(ready: Stage, count: int, records: int, protocol: Protocol, pace: Pace) -> float:
    """CPU seconds of the gateway per record, with ``count`` readers."""
    source = ready.source
    with ready.readers(count, protocol=protocol, pause_us=_PAUSES[pace]) as readers:
        readers.wait_open()

        def send(number: int) -> None:
            source.send_paced(number, per_second=PER_SECOND)
            readers.wait_for(source.vector)

        return _cost(ready.pid, send, records)


def _cost(pid: int, send: Callable[[int], None], records: int) -> float:
    """CPU seconds per record; the clock stops when every reader has everything."""
    send(WARM_UP_RECORDS)
    before = cpu_seconds(pid)
    send(records)
    return (cpu_seconds(pid) - before) / records


def _send_loop(chunk: Path, records: int, pace: Pace) -> float:
    """µs per delivery."""
    command = [program("send_loop"), str(READERS), str(PER_SECOND), str(chunk)]
    with _server(command) as server:
        assert server.stdout is not None and server.stdin is not None
        replies, commands = server.stdout, server.stdin
        port = int(replies.readline())
        sent = 0
        wanted = [b"GET / HTTP/1.1\r\n\r\n"]
        with Readers(port, count=READERS, requests=wanted, first=[0], pause_us=_PAUSES[pace]) as readers:
            readers.wait_open()
            replies.readline()

            def send(number: int) -> None:
                nonlocal sent
                commands.write(b"%d\n" % number)
                commands.flush()
                replies.readline()
                sent += number
                readers.wait_for([sent])

            cost = _cost(server.pid, send, records)
        server.kill()
    return cost / READERS * 1e6


def _naive(chunk: Path, records: int) -> float:
    """µs per delivery."""
    with _server([sys.executable, "-m", "loadtests.naive", str(PER_SECOND), str(chunk)]) as server:
        assert server.stdout is not None
        port = int(server.stdout.readline())
        sent = 0
        wanted = [b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"]
        with Readers(port, count=READERS, requests=wanted, first=[0], pause_us=CALM_US) as readers:
            readers.wait_open()

            def send(number: int) -> None:
                nonlocal sent
                urllib.request.urlopen(f"http://127.0.0.1:{port}/send?count={number}", timeout=10).read()
                sent += number
                readers.wait_for([sent])

            cost = _cost(server.pid, send, records)
        server.kill()
    return cost / READERS * 1e6


def _server(command: list[str]) -> subprocess.Popen[bytes]:
    with on_core(SERVER_CORE):
        return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, preexec_fn=die_with_parent)

"""What one delivery costs when records come one at a time, beside the kernel's floor and the usual design."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Callable
from pathlib import Path

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

Costs = dict[str, list[float]]


def run(running: KafkaBroker, *, quick: bool) -> list[Row]:
    """CPU per delivery of the server, in rounds that take every design in turn: only ratios within a round count."""
    records, rounds = (250, 1) if quick else (500, 5)
    costs: Costs = {name: [] for name in ("floor", "naive", "fetch", "sse", "ws", "sse raw", "ws raw")}
    with stage(running, "fanout") as ready, tempfile.TemporaryDirectory() as directory:
        chunk = Path(directory) / "chunk"
        chunk.write_bytes(ready.one_chunk())
        for number in range(rounds):
            costs["floor"].append(_send_loop(chunk, records))
            one = _gateway(ready, 1, records, "sse")
            costs["fetch"].append(one * 1e3)
            # Every second round the other way round: what follows what must not matter.
            for protocol in ("sse", "ws") if number % 2 else ("ws", "sse"):
                raw = _gateway(ready, READERS, records, protocol)
                costs[f"{protocol} raw"].append(raw / READERS * 1e6)
                costs[protocol].append((raw - one) / (READERS - 1) * 1e6)
            costs["naive"].append(_naive(chunk, records))
            print("fanout:", {name: round(values[-1], 2) for name, values in costs.items()}, flush=True)
    return _rows(costs, chunk_rounds=rounds)


def _rows(costs: Costs, *, chunk_rounds: int) -> list[Row]:
    floor = [a / b for a, b in zip(costs["sse"], costs["floor"], strict=True)]
    naive = [a / b for a, b in zip(costs["sse"], costs["naive"], strict=True)]
    both = [a / b for a, b in zip(costs["ws"], costs["sse"], strict=True)]
    what = f"{READERS} readers, {PER_SECOND} records/s of 240 B"
    return [
        Row(f"bare C `send()` loop, {what}: µs CPU per delivery", spread(costs["floor"])),
        Row("queue per client + sse-starlette: µs per delivery", spread(costs["naive"])),
        Row("gateway: ms per record for fetch and encoding (one reader)", spread(costs["fetch"])),
        Row("gateway, SSE: µs per delivery, with fetch", spread(costs["sse raw"])),
        Row("gateway, SSE: µs per delivery, without fetch", spread(costs["sse"])),
        Row("gateway, WebSocket: µs per delivery, with fetch", spread(costs["ws raw"])),
        Row("gateway, WebSocket: µs per delivery, without fetch", spread(costs["ws"])),
        Row("SSE ÷ C loop", spread(floor), "≤ 2.0", median(floor) <= 2.0),
        Row("SSE ÷ queue per client", spread(naive), "≤ 0.5", median(naive) <= 0.5),
        Row("WebSocket ÷ SSE", spread(both), "≤ 1.3", median(both) <= 1.3),
    ]


def _gateway(ready: Stage, count: int, records: int, protocol: Protocol) -> float:
    """CPU seconds of the gateway per record, with ``count`` readers."""
    source = ready.source
    with ready.readers(count, protocol=protocol) as readers:
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


def _send_loop(chunk: Path, records: int) -> float:
    """µs per delivery."""
    command = [program("send_loop"), str(READERS), str(PER_SECOND), str(chunk)]
    with _server(command) as server:
        assert server.stdout is not None and server.stdin is not None
        replies, commands = server.stdout, server.stdin
        port = int(replies.readline())
        sent = 0
        with Readers(port, count=READERS, requests=[b"GET / HTTP/1.1\r\n\r\n"], first=[0]) as readers:
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
        with Readers(port, count=READERS, requests=wanted, first=[0]) as readers:
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

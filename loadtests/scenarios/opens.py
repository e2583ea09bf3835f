"""How long a partner waits for the first record while others keep coming."""

from __future__ import annotations

import json
import re
import socket
import threading

from loadtests.readers import request
from loadtests.stage import STREAM, Stage, stage
from loadtests.table import Row, percentile
from tests.parts.kafka import KafkaBroker

OPEN = 500
OPENS_PER_SECOND = 50
RECORDS_PER_SECOND = 50
RING_RECORDS = 5_000
HISTORY_RECORDS = 20_000
_WAYS = {
    "latest": ("at the end, with the wait for the next record (≤ 20 ms)", True),
    "cursor": ("at a cursor in memory, as after a reconnect", True),
    "earliest": ("at the beginning, read from Kafka", False),
}


def run(running: KafkaBroker, *, quick: bool) -> list[Row]:
    """From connect to the first record, by the client's clock: 50 opens/s, while 500 others read 50 records/s."""
    opens = 200 if quick else 1500
    rows = []
    with stage(running, "opens", ring_records=RING_RECORDS) as ready:
        ready.source.send(HISTORY_RECORDS)
        with ready.readers(OPEN) as others:
            others.wait_open()
            for way, (title, has_bar) in _WAYS.items():
                query = f"cursor={_cursor(ready)}" if way == "cursor" else f"from={way}"
                others.wait_for(ready.source.vector)
                waits = _waits(ready, opens, query)
                others.wait_for(ready.source.vector)
                p50, p99 = percentile(waits, 0.5), percentile(waits, 0.99)
                print(f"opens: {way} p50 {p50:.1f} ms, p99 {p99:.1f} ms", flush=True)
                name = f"open to first record {title}: ms, p50 · p99 · worst of {opens}"
                bar, met = ("p99 ≤ 50", p99 <= 50) if has_bar else ("", None)
                rows.append(Row(name, f"{p50:.1f} · {p99:.1f} · {max(waits):.1f}", bar, met))
    return rows


def _waits(ready: Stage, opens: int, query: str) -> list[float]:
    """Milliseconds of each open. Where in a partition they begin is not known here; from there on all is checked."""
    anywhere = [-1] * len(ready.source.vector)
    stop = threading.Event()
    sending = threading.Thread(target=_send, args=(ready, stop))
    sending.start()
    try:
        with ready.readers(opens, query=query, first=anywhere, opens_per_second=OPENS_PER_SECOND, once=True) as readers:
            readers.wait_done()
            return readers.times()["first_ms"]
    finally:
        stop.set()
        sending.join()


def _send(ready: Stage, stop: threading.Event) -> None:
    while not stop.is_set():
        ready.source.send_paced(10, per_second=RECORDS_PER_SECOND)


def _cursor(ready: Stage) -> str:
    """Where the stream's end is now; records follow it before it is used."""
    with socket.create_connection(("127.0.0.1", ready.port), timeout=10) as client:
        client.sendall(request(STREAM, ready.tokens[0], protocol="ndjson"))
        received = b""
        while b'"welcome"' not in received:
            received += client.recv(65536)
    ready.source.send(100)
    found = re.search(rb'\{"type":"welcome".*', received)
    assert found is not None, received
    return str(json.loads(found[0])["cursor"])

"""What a record costs by pull, a thousand at a time out of memory. Nothing is promised of it."""

from __future__ import annotations

import http.client
import json
import re

from loadtests.machine import cpu_seconds
from loadtests.stage import STREAM, Stage, stage
from loadtests.table import Row, spread
from tests.parts.kafka import KafkaBroker

LIMIT = 1000
RECORDS = 90_000
_MARK = re.compile(rb'"seq":"(\d):(\d{10})"')


def run(running: KafkaBroker, *, quick: bool) -> list[Row]:
    """Records per CPU-second of the gateway, for a client that catches up from memory. The first pass also encodes."""
    rounds = 1 if quick else 3
    rates = []
    with stage(running, "pull", partitions=4, linger_ms=20, ring_records=2 * RECORDS, linger_seconds=600) as ready:
        start = _first_page(ready)
        ready.source.send(RECORDS)
        for number in range(rounds + 1):
            before = cpu_seconds(ready.pid)
            _catch_up(ready, start)
            rate = RECORDS / (cpu_seconds(ready.pid) - before) / 1e3
            print(f"pull: {rate:.0f} k records per CPU-second", flush=True)
            if number or quick:
                rates.append(rate)
    what = f"pull, {LIMIT} records an answer, from memory: thousand records per CPU-second"
    return [Row(what, spread(rates, digits=0))]


def _first_page(ready: Stage) -> str:
    connection = http.client.HTTPConnection("127.0.0.1", ready.port, timeout=60)
    try:
        return str(json.loads(_page(ready, connection, "from=latest"))["next_cursor"])
    finally:
        connection.close()


def _catch_up(ready: Stage, cursor: str) -> None:
    """Read to the end; every partition's numbers follow one another from 0."""
    wanted = [0] * len(ready.source.vector)
    connection = http.client.HTTPConnection("127.0.0.1", ready.port, timeout=60)
    while wanted != ready.source.vector:
        body = _page(ready, connection, f"cursor={cursor}&limit={LIMIT}&wait=5")
        for partition, sequence in _MARK.findall(body):
            assert int(sequence) == wanted[int(partition)], (partition, sequence, wanted)
            wanted[int(partition)] += 1
        found = re.search(rb'"next_cursor":"([^"]+)"', body)
        assert found is not None
        cursor = found[1].decode()
    connection.close()


def _page(ready: Stage, connection: http.client.HTTPConnection, query: str) -> bytes:
    headers = {"Authorization": f"Bearer {ready.tokens[0]}"}
    connection.request("GET", f"/v1/streams/{STREAM}/records?{query}", headers=headers)
    answer = connection.getresponse()
    body = answer.read()
    assert answer.status == 200, body
    return body

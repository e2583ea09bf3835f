"""What happens when a gateway comes back and everybody who read from it is there at once, with their cursors."""

from __future__ import annotations

import http.client
import random
import re
import threading
import time
import urllib.request
from dataclasses import dataclass

from gateway.app import PREFILL_RECORDS
from loadtests.machine import cpu_seconds
from loadtests.readers import Readers, request
from loadtests.stage import STREAM, Stage, stage
from loadtests.table import Row, percentile, spread
from tests.parts.kafka import KafkaBroker

READERS = 2000
PER_SECOND = 20
"""What comes meanwhile; with 2 000 readers each of them is 2 000 writes."""

LIVE_SECONDS = 0.1
"""How late a reader that is live may be."""

HISTORY_PER_SECOND = 2000
PARTITIONS = 4
SEED = 4
_RECORD = re.compile(rb'"type":"record","id":"([^"]+)".*?"seq":"(\d):(\d{10})"')


@dataclass(frozen=True, slots=True)
class _Way:
    """Cursors spread over ``spread_records`` that lie ``behind_records`` before the end; the log's size where it is
    another than usual."""

    title: str
    behind_records: int
    spread_records: int
    ring: dict[str, int]


_WAYS = (
    _Way("their places up to 5 000 records back, in the log that is read back at the start", 0, 5_000, {}),
    _Way("their places 2 000 to 3 000 records back, before a log of 1 000", 2_000, 1_000, {"ring_records": 1_000}),
)


@dataclass(frozen=True, slots=True)
class Place:
    """A cursor, and the next number of each partition there."""

    cursor: str
    first: list[int]


@dataclass(frozen=True, slots=True)
class _Storm:
    """One restart: seconds until all were live, wall and CPU; when the slowest were answered; fetched ÷ needed."""

    live_seconds: float
    cpu_seconds: float
    answer_ms: list[float]
    fetched: float


def run(running: KafkaBroker, *, quick: bool) -> list[Row]:
    """A gateway is killed and started; as soon as it listens, 2 000 connections open at once and resume.

    A reader is live when it has everything that was produced a tenth of a second ago. Records keep coming meanwhile,
    and in the end each reader has had each of them once, from its own cursor on.
    """
    rows = []
    for number, way in enumerate(_WAYS):
        storms = []
        options = {"partitions": PARTITIONS, "linger_ms": 5} | way.ring
        with stage(running, f"restart-{number}", **options) as ready:  # type: ignore[arg-type]
            for _ in range(1 if quick else 3):
                storms.append(
                    _storm(ready, _places(ready, way), log_records=way.ring.get("ring_records", PREFILL_RECORDS))
                )
                print(
                    f"restart: live after {storms[-1].live_seconds:.2f} s, {storms[-1].cpu_seconds:.2f} CPU-s, "
                    f"fetched {storms[-1].fetched:.2f} times",
                    flush=True,
                )
        rows += _rows(way, storms)
    return rows


def _rows(way: _Way, storms: list[_Storm]) -> list[Row]:
    live = [storm.live_seconds for storm in storms]
    fetched = [storm.fetched for storm in storms]
    answers = [wait for storm in storms for wait in storm.answer_ms]
    return [
        Row(
            f"{READERS} readers at once after a restart, {way.title}: s until all are live",
            spread(live),
            "≤ 10",
            max(live) <= 10,
        ),
        Row("the same: CPU-s until then", spread([storm.cpu_seconds for storm in storms])),
        Row(
            "the same: ms to the answer, p50 · p99", f"{percentile(answers, 0.5):.0f} · {percentile(answers, 0.99):.0f}"
        ),
        Row("the same: records fetched ÷ records needed", spread(fetched), "≤ 2", max(fetched) <= 2),
    ]


def _places(ready: Stage, way: _Way) -> list[Place]:
    """A place for each reader, of those that a reader sees while the records are made."""
    seen = live_places(ready, way.behind_records + way.spread_records)
    choose = random.Random(SEED)
    return [choose.choice(seen[: way.spread_records]) for _ in range(READERS)]


def live_places(ready: Stage, records: int) -> list[Place]:
    """Produce so many records; the place behind each of them, as a reader saw it who was there."""
    source = ready.source
    vector = list(source.vector)
    connection = http.client.HTTPConnection("127.0.0.1", ready.port, timeout=60)
    try:
        connection.request(
            "GET", f"/v1/streams/{STREAM}/ndjson", headers={"Authorization": f"Bearer {ready.tokens[0]}"}
        )
        answer = connection.getresponse()
        assert answer.status == 200, answer.read()
        # The start is settled when the answer has begun.
        sending = threading.Thread(target=source.send_paced, args=(records,), kwargs={"per_second": HISTORY_PER_SECOND})
        sending.start()
        places: list[Place] = []
        while len(places) < records:
            found = _RECORD.search(answer.readline())
            if found is not None:
                assert int(found[3]) == vector[int(found[2])], found
                vector[int(found[2])] += 1
                places.append(Place(found[1].decode(), list(vector)))
        sending.join()
        return places
    finally:
        connection.close()


def _storm(ready: Stage, places: list[Place], *, log_records: int) -> _Storm:
    gateway, source = ready.gateway, ready.source
    before_restart = source.sent
    gateway.kill()
    gateway.start(wait_ready=False)
    stop = threading.Event()
    sending = threading.Thread(target=_send, args=(ready, stop))
    tokens = ready.tokens
    requests = [
        request(STREAM, tokens[number % len(tokens)], query=f"cursor={place.cursor}", first=place.first)
        for number, place in enumerate(places)
    ]
    start, before = time.monotonic(), cpu_seconds(ready.pid)
    with Readers(
        ready.port, count=READERS, requests=requests, first=[-1] * PARTITIONS, pause_us=1000, most_unanswered=0
    ) as readers:
        sending.start()
        try:
            _wait_live(readers, ready)
            live_seconds, spent = time.monotonic() - start, cpu_seconds(ready.pid) - before
        finally:
            stop.set()
            sending.join()
        readers.wait_for(source.vector)
        answers = readers.times()["answer_ms"]
    oldest = sum(min(place.first[partition] for place in places) for partition in range(PARTITIONS))
    # The log is read back as far as it reaches, whether somebody wants that or not.
    wanted = source.sent - min(oldest, before_restart - min(log_records, before_restart))
    return _Storm(live_seconds, spent, answers, fetched_records(ready) / wanted)


def _wait_live(readers: Readers, ready: Stage) -> None:
    """Until each reader has everything that was produced ``LIVE_SECONDS`` ago."""
    deadline = time.monotonic() + 120
    while True:
        produced = list(ready.source.vector)
        time.sleep(LIVE_SECONDS)
        now = readers.stats()
        if now["established"] == READERS and all(map(int.__ge__, now["low"], produced)):
            return
        assert time.monotonic() < deadline, now


def _send(ready: Stage, stop: threading.Event) -> None:
    while not stop.is_set():
        ready.source.send_paced(2, per_second=PER_SECOND)


def fetched_records(ready: Stage) -> float:
    """Records that the gateway has had from Kafka, for its log and for older readers."""
    with urllib.request.urlopen(f"{ready.gateway.admin_url}/metrics", timeout=10) as answer:
        text = answer.read().decode()
    return sum(
        float(found)
        for name in ("gateway_fetched_records_total", "gateway_replay_records_total")
        for found in re.findall(rf"^{name}(?:{{.*}})? (\S+)$", text, re.MULTILINE)
    )

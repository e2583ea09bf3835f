"""What partners' own filters cost: a thousand that a look-up decides, and fifty that take a comparison each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

from loadtests.machine import cpu_seconds
from loadtests.source import RECORD_BYTES
from loadtests.stage import Stage, stage
from loadtests.table import Row, median, spread
from tests.parts.kafka import KafkaBroker

T = TypeVar("T")
PER_SECOND = 2000
PARTITIONS = 4
LINGER_MS = 5
"""What producers wait for more by default, librdkafka's and since Kafka 4.0 the Java client's."""

AIRLINES = 1000
RARE = 100
"""Of so many records one is an emergency."""

GENERAL = 50
_EMERGENCY = b'"callsign":"MAYDAY-MAYDAY-MAYDAY","altitude_ft":900,"speed_kt":900.5,"state":"emergency"'
_ROUTINE = b'"callsign":"DLH4AB","altitude_ft":36000,"speed_kt":447.3,"state":"cruise"'
EXPOSED = {
    "payload": {
        "type": "object",
        "properties": {
            "seq": {"type": "string"},
            "airline": {"type": "string"},
            "callsign": {"type": "string"},
            "altitude_ft": {"type": "integer"},
            "speed_kt": {"type": "number"},
            "state": {"type": "string"},
            "note": {"type": "string"},
        },
    },
    "filters": {
        "airline": {"pointer": "/airline", "type": "string"},
        "callsign": {"pointer": "/callsign", "type": "string"},
        "altitude": {"pointer": "/altitude_ft", "type": "integer"},
        "speed": {"pointer": "/speed_kt", "type": "number"},
        "state": {"pointer": "/state", "type": "string"},
    },
}


def airline_record(partition: int, sequence: int) -> bytes:
    """Airlines in turn, each with numbers of its own: of a foreign record the number is a repeated one."""
    number = sequence * PARTITIONS + partition
    return _record(0, number // AIRLINES, b'"airline":"A%03d",%b' % (number % AIRLINES, _ROUTINE))


def emergency_record(partition: int, sequence: int) -> bytes:
    """Emergencies with numbers of their own; all others name a partition that no reader knows."""
    number = sequence * PARTITIONS + partition
    if number % RARE:
        return _record(9, number, b'"airline":"A000",' + _ROUTINE)
    return _record(0, number // RARE, b'"airline":"A000",' + _EMERGENCY)


def _record(partition: int, number: int, fields: bytes) -> bytes:
    start = b'{"seq":"%d:%010d",%b,"note":"' % (partition, number, fields)
    return start + b"." * (RECORD_BYTES - len(start) - 2) + b'"}'


def general_filters() -> list[str]:
    """Fifty queries, no two the same, that no look-up decides; emergencies pass all of them, nothing else any."""
    found = []
    for number in range(GENERAL):
        found.append(
            (
                f"filter=speed:ge:{600 + number}",
                f"filter=altitude:lt:{1000 + number}",
                f"filter=callsign:prefix:{'MAYDAY-MAYDAY-MAYDAY'[: 2 + number // 4]}",
                f"filter=state:ne:cruise&filter=speed:gt:{500 + number}",
            )[number % 4]
        )
    return found


def run(running: KafkaBroker, *, quick: bool) -> list[Row]:
    """CPU of the gateway with many filters and with one, in turn, for the same connections and the same deliveries."""
    records, rounds = (8_000, 1) if quick else (20_000, 5)
    return _equality(running, records, rounds) + _general(running, records, rounds)


def _equality(running: KafkaBroker, records: int, rounds: int) -> list[Row]:
    many = [f"filter=airline:eq:A{number:03d}" for number in range(AIRLINES)]
    many_costs, one_costs, fetch = [], [], []
    options = {"partitions": PARTITIONS, "linger_ms": LINGER_MS, "exposed": EXPOSED, "payload": airline_record}
    with stage(running, "equality", **options) as ready:  # type: ignore[arg-type]
        for number in range(rounds):
            alone = _cost(ready, many[:1], 1, records, every=AIRLINES)
            # Every second round the other way round: what follows what must not matter.
            for queries, costs in _in_turn((many, many_costs), (many[:1], one_costs), reverse=number % 2 == 1):
                costs.append(_cost(ready, queries, AIRLINES, records, every=AIRLINES) * 1e6)
            fetch.append(alone * 1e6)
            print(f"filters: {many_costs[-1]:.1f} µs, one {one_costs[-1]:.1f} µs, alone {fetch[-1]:.1f} µs", flush=True)
    ratios = [many / one for many, one in zip(many_costs, one_costs, strict=True)]
    what = f"{AIRLINES} readers, {PER_SECOND} records/s: µs CPU per record"
    return [
        Row(f"one equality filter, one reader, {PER_SECOND} records/s: µs CPU per record", spread(fetch)),
        Row(f"one equality filter, {what} (one in {AIRLINES} passes, to all)", spread(one_costs)),
        Row(f"{AIRLINES} equality filters, {what} (each passes to one)", spread(many_costs)),
        Row(f"{AIRLINES} equality filters ÷ one, same deliveries", spread(ratios), "≤ 1.3", median(ratios) <= 1.3),
    ]


def _general(running: KafkaBroker, records: int, rounds: int) -> list[Row]:
    many = general_filters()
    costs = []
    options = {"partitions": PARTITIONS, "linger_ms": LINGER_MS, "exposed": EXPOSED, "payload": emergency_record}
    with stage(running, "general", **options) as ready:  # type: ignore[arg-type]
        for number in range(rounds):
            found: dict[int, float] = {}
            for queries in _in_turn(many, many[:1], reverse=number % 2 == 1):
                found[len(queries)] = _cost(ready, queries, GENERAL, records, every=RARE)
            costs.append((found[GENERAL] - found[1]) / (GENERAL - 1) * 1e6)
            print(f"filters: general {costs[-1]:.2f} µs a record each ({found})", flush=True)
    what = f"{GENERAL} general filters, {PER_SECOND} records/s: µs CPU per record for each filter more"
    return [Row(what, spread(costs), "≤ 2", median(costs) <= 2)]


def _in_turn(first: T, second: T, *, reverse: bool) -> tuple[T, T]:
    return (second, first) if reverse else (first, second)


def _cost(ready: Stage, queries: Sequence[str], count: int, records: int, *, every: int) -> float:
    """CPU seconds of the gateway per record of the stream; the clock stops when every reader has everything."""
    source = ready.source

    def send(number: int) -> None:
        source.send_paced(number, per_second=PER_SECOND)
        readers.wait_for([source.sent // every])

    with ready.readers(count, query=queries, first=[source.sent // every], pause_us=1000) as readers:
        readers.wait_open()
        send(PER_SECOND)
        before = cpu_seconds(ready.pid)
        send(records)
        return (cpu_seconds(ready.pid) - before) / records

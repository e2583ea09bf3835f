"""What partners' own filters cost: a thousand that a look-up decides, and fifty that take a comparison each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, TypeVar

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

Whose = Literal["many", "one", "nobody", "mark"]
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


class Airlines:
    """Records of a thousand airlines in turn.

    ``whose`` says which: those of which each has a reader of its own (``many``), those of which one has all the readers
    (``one``), those that nobody reads (``nobody``), or marks, one in each partition.
    """

    def __init__(self) -> None:
        self.whose: Whose = "nobody"
        self.counts: dict[Whose, int] = {"many": 0, "one": 0, "nobody": 0, "mark": 0}

    def __call__(self, partition: int, sequence: int) -> bytes:
        number = self.counts[self.whose]
        self.counts[self.whose] += 1
        turn, airline = divmod(number, AIRLINES)
        if self.whose == "many":
            # Of a foreign record the number is a repeated one.
            return self._record(0, turn, b"A%03d" % airline)
        if self.whose == "mark":
            return self._record(partition, number // PARTITIONS, b"MARK")
        if self.whose == "one" and airline == 0:
            return self._record(0, turn, b"B000")
        return self._record(9, number, b"C%03d" % airline)

    def _record(self, partition: int, number: int, airline: bytes) -> bytes:
        return _record(partition, number, b'"airline":"%b",%b' % (airline, _ROUTINE))

    def read(self, whose: Whose) -> list[int]:
        """How many records each reader of these must have had."""
        if whose == "mark":
            return [self.counts[whose] // PARTITIONS] * PARTITIONS
        return [self.counts[whose] // AIRLINES]


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
    spelled = (
        lambda n: f"filter=speed:ge:{600 + n}",
        lambda n: f"filter=altitude:lt:{1000 + n}",
        lambda n: f"filter=callsign:prefix:{'MAYDAY-MAYDAY-MAYDAY'[: 2 + n // 4]}",
        lambda n: f"filter=state:ne:cruise&filter=speed:gt:{500 + n}",
    )
    return [spelled[number % len(spelled)](number) for number in range(GENERAL)]


def run(running: KafkaBroker, *, quick: bool) -> list[Row]:
    """CPU of the gateway with many filters and with one, in turn, for as many connections and the same deliveries."""
    return _equality(running, rounds=5 if quick else 30) + _general(
        running, records=8_000 if quick else 20_000, rounds=1 if quick else 5
    )


def _equality(running: KafkaBroker, *, rounds: int) -> list[Row]:
    """All readers are there all the time, and those rest for whom nothing comes: turns can be short, and so what else
    the machine does is the same in two turns that follow each other."""
    airlines = Airlines()
    costs: dict[Whose, list[float]] = {"many": [], "one": [], "nobody": []}
    queries: dict[Whose, list[str]] = {
        "many": [f"filter=airline:eq:A{number:03d}" for number in range(AIRLINES)],
        "one": ["filter=airline:eq:B000"],
    }
    with (
        stage(
            running, "equality", partitions=PARTITIONS, linger_ms=LINGER_MS, exposed=EXPOSED, payload=airlines
        ) as ready,
        ready.readers(AIRLINES, query=queries["many"], first=[0], pause_us=1000) as many,
        ready.readers(AIRLINES, query=queries["one"], first=[0], pause_us=1000) as one,
        ready.readers(1, query="filter=airline:eq:MARK", first=[0] * PARTITIONS, pause_us=1000) as mark,
    ):
        for readers in (many, one, mark):
            readers.wait_open()
        for number in range(-1, rounds):
            # Every second round the other way round: what follows what must not matter.
            for whose in tuple(costs)[:: -1 if number % 2 else 1]:
                airlines.whose = whose
                before = cpu_seconds(ready.pid)
                ready.source.send_paced(PER_SECOND, per_second=PER_SECOND)
                # What nobody reads is waited for by nobody; but what stands behind it in each partition is.
                airlines.whose = "mark"
                ready.source.send(PARTITIONS)
                mark.wait_for(airlines.read("mark"))
                many.wait_for(airlines.read("many"))
                one.wait_for(airlines.read("one"))
                if number >= 0:
                    costs[whose].append((cpu_seconds(ready.pid) - before) / PER_SECOND * 1e6)
            if number >= 0:
                print("filters:", {whose: round(found[-1], 1) for whose, found in costs.items()}, flush=True)
    ratios = [above / below for above, below in zip(costs["many"], costs["one"], strict=True)]
    what = f"{AIRLINES} readers, {PER_SECOND} records/s: µs CPU per record"
    return [
        Row(f"records that no filter lets through, {what}", spread(costs["nobody"], digits=1)),
        Row(f"one equality filter, {what} (one record in {AIRLINES} is for all)", spread(costs["one"], digits=1)),
        Row(f"{AIRLINES} equality filters, {what} (each record is for one)", spread(costs["many"], digits=1)),
        Row(f"{AIRLINES} equality filters ÷ one, same deliveries", spread(ratios), "≤ 1.3", median(ratios) <= 1.3),
    ]


def _general(running: KafkaBroker, *, records: int, rounds: int) -> list[Row]:
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

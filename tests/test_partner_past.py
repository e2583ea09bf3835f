"""Many partners read one part of the past, each in its own way: Kafka is asked for it about once."""

from __future__ import annotations

import asyncio
import random
import re
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.parts.gateway import Deployment, GatewayProcess, contract
from tests.parts.kafka import Kafka
from tests.parts.readers import PROTOCOLS, Identities, Ledger, Reader, value

PARTITIONS = 4
PER_PARTITION = 400
TOTAL = PARTITIONS * PER_PARTITION
READERS = 200
ROWS = ("red", "green", "blue")
FIELDS = (None, "/topic,/p,/n,/row", "/topic,/p,/n,/row,/pad", "/topic,/p,/n,/row,/none")


@dataclass
class ChoosyReader(Reader):
    """A reader that asks for some fields, or for those that there are."""

    fields: str | None = None

    def target(self, protocol: str, **more: str | int) -> str:
        return super().target(protocol, **more, **({"fields": self.fields} if self.fields else {}))


def deployment(directory: Path, kafka: Kafka, topic: str) -> Deployment:
    """The topic as it is, and by rows; a ring that holds next to nothing of it."""
    rows: dict[str, Any] = {
        "filters": {"row": {"pointer": "/row", "type": "string"}},
        "row_filter": {"field": "row", "claim": "row"},
    }
    payload = {"type": "object", "properties": {"row": {"type": "string"}}}
    streams = [contract("all", topic, payload=payload), contract("mine", topic, payload=payload, **rows)]
    return Deployment(directory, kafka.bootstrap, streams, settings={"stream": {"ring_records": 100}})


def replayed(node: GatewayProcess) -> float:
    """Records that a node has read from Kafka again."""
    with urllib.request.urlopen(f"{node.admin_url}/metrics", timeout=10) as answer:
        text = answer.read().decode()
    return sum(float(count) for count in re.findall(r"^gateway_replay_records_total{[^}]*} (\S+)$", text, re.MULTILINE))


async def test_two_hundred_partners_with_other_rows_fields_and_protocols_read_the_past_once(
    tmp_path: Path, kafka: Kafka
) -> None:
    await kafka.create_topic("past", PARTITIONS)
    for partition in range(PARTITIONS):
        values = [value("past", partition, n, row=ROWS[n % 3], padding=n % 50) for n in range(PER_PARTITION)]
        await kafka.produce("past", values, partition=partition)
    served = deployment(tmp_path, kafka, "past")
    identities = Identities()

    def reader(number: int) -> ChoosyReader:
        row = ROWS[number % 3] if number % 2 else None
        return ChoosyReader(
            name=f"reader {number}",
            stream="all" if row is None else "mine",
            token=served.token(**({} if row is None else {"row": row})),
            ledger=Ledger(
                "past",
                [PER_PARTITION] * PARTITIONS,
                wanted=lambda n: row is None or ROWS[n % 3] == row,
                identities=identities,
            ),
            random=random.Random(number),
            fields=FIELDS[number // 2 % len(FIELDS)],
        )

    readers = [reader(number) for number in range(READERS)]
    with served.gateway("a") as node:
        async with asyncio.timeout(120), asyncio.TaskGroup() as group:
            for number, one in enumerate(readers):
                protocol = PROTOCOLS[number // 8 % len(PROTOCOLS)]
                group.create_task(one.read_once(node.base_url, protocol, cut_after=None))
        fetched = replayed(node)
    assert [one.name for one in readers if not one.ledger.complete] == []
    print(f"{READERS} readers, {TOTAL} records each: {fetched:g} read from Kafka again")
    # Once for all, and a little more where the first ones left before the others came: not once for each.
    assert TOTAL / 2 < fetched < 3 * TOTAL

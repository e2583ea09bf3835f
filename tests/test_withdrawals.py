"""Every kind of withdrawal in short: two nodes, three protocols, with Redis and without; nobody else's stream ends.

The long form, a thousand streams with times beside their bounds, is ``python -m loadtests withdrawals``.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

from loadtests.scenarios.withdrawals import KINDS, PERSONAL, PROTOCOLS, Fleet, measure
from tests.parts.kafka import Kafka
from tests.parts.redis import RedisServer


def test_whatever_is_withdrawn_ends_its_streams_on_both_nodes_and_no_others(
    kafka: Kafka, own_redis: RedisServer, tmp_path: Path
) -> None:
    missed = ["tenant revoked", "tenant suspended"]
    kinds = {"together": list(KINDS), "bell-lost": missed[:1], "redis-killed": missed}
    fleet = Fleet(kafka, own_redis, tmp_path / "d", kinds=kinds, each=1)  # type: ignore[arg-type]
    with fleet.running():
        measured = measure(fleet, own_redis, bystanders=6, ttl_seconds=4, at_once=True)
        results, untouched = asyncio.run(measured)
    everywhere = 2 * len(PROTOCOLS)
    assert [(one.kind, one.ended) for one in results if one.phase == "redis-killed"] == [
        (kind, everywhere) for kind in missed
    ]
    assert {one.kind: one.ended for one in results if one.phase == "together"} == dict.fromkeys(KINDS, everywhere)
    assert untouched == 6 + everywhere * len(PERSONAL)

"""Bad days in short: real parts break under readers on four protocols, and nothing is lost, reordered or foreign.

The long form, every kind many times and drains of many streams, is ``python -m loadtests.faults``.
"""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest

from loadtests.faults import DRAIN_SECONDS, Parts, parts
from loadtests.ordeal.drains import drain, prepare
from loadtests.ordeal.kinds import KINDS
from loadtests.ordeal.rounds import run
from loadtests.ordeal.stage import stage
from tests.conftest import or_left_out

SHORT = ["broker-killed", "gateway-killed", "topic-recreated"]


@pytest.fixture
def on() -> Iterator[Parts]:
    """Three brokers, Redis and Postgres of this test's own."""
    with or_left_out(parts()) as made:
        yield made


async def test_readers_of_two_gateways_live_through_bad_days_and_a_drain(on: Parts) -> None:
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    async with stage(on.kafka, on.redis, on.postgres, on.directory / "short", seed=seed) as made:
        await made.flows()
        for name in SHORT:
            outcome = await run(made, name, KINDS[name], number=1)
            assert outcome.kept, "\n".join([outcome.line(), *outcome.problems])
            assert outcome.counts.records > 0
        prepare(made)
        drained = await drain(made, number=1, drain_seconds=DRAIN_SECONDS)
        assert drained.kept, "\n".join([drained.line(), *drained.problems])
        assert len(drained.goodbyes) == sum(partner.protocol != "pull" for partner in made.partners) > 0

"""Bad days in short: real parts break under readers on four protocols, and nothing is lost, reordered or foreign.

The long form, every kind many times, is ``python -m loadtests.faults``.
"""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest

from loadtests.faults import Parts, leave, parts, suffer
from tests.conftest import or_left_out

SHORT = ["broker-killed", "gateway-killed", "partners-cut", "topic-recreated"]
"""What these kinds kill is started again by the main thread: what another thread starts ends with a test's loop."""


@pytest.fixture(scope="module")
def on() -> Iterator[Parts]:
    """Three brokers, Redis and Postgres of these tests' own."""
    with or_left_out(parts()) as made:
        yield made


async def test_readers_of_two_gateways_live_through_bad_days(on: Parts) -> None:
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    outcomes = await suffer(on, kinds=SHORT, runs=1, seed=seed)
    assert [one.kind for one in outcomes] == SHORT
    for one in outcomes:
        assert one.kept, one.line() + "".join(f"\n{word}" for word in one.problems)
        assert one.counts.records > 0


async def test_every_read_of_a_node_that_stops_goes_on_at_the_other(on: Parts) -> None:
    (drained,) = await leave(on, streams=40, runs=1, seed=random.randrange(1 << 32))
    assert drained.kept, drained.line() + "".join(f"\n{word}" for word in drained.problems)
    assert len(drained.goodbyes) == 31, "ten on each of three protocols, and one of the other stream"

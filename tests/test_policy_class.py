"""Readers whom policy treats alike share one view, whoever they are; each difference that matters makes another."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

from gateway.errors import GatewayError
from gateway.hub.block import Slice
from gateway.hub.feed import TopicFeed
from gateway.model import Grant, RowMatch
from gateway.subscription.encode import FRAMINGS
from gateway.subscription.request import ReadRequest
from gateway.subscription.shape import Shape, offered
from gateway.subscription.subscription import Subscription
from tests.parts.source import Engine, MemoryKafka, contract, grant

CONTRACT = contract("s", "t")


class Keeping:
    """A client that keeps what it gets."""

    framing = FRAMINGS["ndjson"]
    paused = False
    on_resume: Any = None
    on_close: Any = None

    def __init__(self) -> None:
        self.slices: list[Slice] = []

    def write(self, piece: Slice) -> None:
        self.slices.append(piece)

    def say(self, data: bytes) -> None: ...

    def accepted_monotonic(self) -> float:
        return 0.0

    def unsent(self) -> int:
        return 0

    def finish(self, error: GatewayError | None) -> None: ...

    def abort(self) -> None: ...

    def numbers(self) -> list[int]:
        lines = [json.loads(line) for piece in self.slices for line in piece.body.splitlines()]
        return [one["data"]["n"] for one in lines if one["type"] == "record"]


class Reads:
    """Open reads of one topic."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._kept: dict[str, Keeping] = {}

    async def open(self, name: str, granted: Grant, *, shape: Shape | None = None) -> Subscription:
        opening = await self._engine.openings.open(granted.contract, ReadRequest())
        outlet = self._kept[name] = Keeping()
        return self._engine.registry.subscribe(
            opening,
            granted,
            shape or offered(granted.contract, granted.masks, shard=(0, 1)),
            session=name,
            transport="ndjson",
            outlet=outlet,
        )

    def __getitem__(self, name: str) -> Keeping:
        return self._kept[name]


def rows(*values: str) -> RowMatch:
    return RowMatch("/row", frozenset(values))


@asynccontextmanager
async def reads() -> AsyncIterator[tuple[Reads, MemoryKafka]]:
    kafka = MemoryKafka()
    kafka.create_topic("t")
    engine = Engine(kafka)
    try:
        yield Reads(engine), kafka
    finally:
        for subscription, _ in engine.registry.made:
            subscription.leave()
        await engine.hub.close()


async def test_readers_of_one_policy_class_share_a_view_and_its_bytes() -> None:
    async with reads() as (opened, kafka):
        first = await opened.open("acme", grant(CONTRACT, rows=rows("red", "blue")))
        feed: TopicFeed = first.feed
        await opened.open("the list in another order", grant(CONTRACT, tenant="globex", rows=rows("blue", "red")))
        another = replace(grant(CONTRACT, tenant="initech", rows=rows("red", "blue")), entitled_until=4e9)
        await opened.open("another tenant, plan's end and token", another)
        assert feed.view_count() == 1
        await opened.open("fewer rows", grant(CONTRACT, rows=rows("red")))
        await opened.open("every row", grant(CONTRACT))
        await opened.open("masked", replace(grant(CONTRACT, rows=rows("red", "blue")), masks=(("/pad", "drop"),)))
        assert feed.view_count() == 4
        topic = kafka.topics["t"]
        for number, row in enumerate(("red", "blue", "green")):
            topic.produce(0, json.dumps({"n": number, "row": row, "pad": "x"}).encode())
        assert opened["acme"].numbers() == [0, 1]
        assert opened["fewer rows"].numbers() == [0]
        assert opened["every row"].numbers() == [0, 1, 2]
        assert b"pad" not in b"".join(piece.body for piece in opened["masked"].slices)
        for name in ("the list in another order", "another tenant, plan's end and token"):
            theirs, ours = opened[name].slices, opened["acme"].slices
            assert [id(one.body) for one in theirs] == [id(one.body) for one in ours], "not equal: the very bytes"


async def test_a_hundred_readers_of_ten_classes_are_ten_views_and_none_is_left_behind() -> None:
    async with reads() as (opened, _):
        made = [
            await opened.open(f"reader-{number}", grant(CONTRACT, tenant=f"t{number}", rows=rows(f"r{number % 10}")))
            for number in range(100)
        ]
        feed = made[0].feed
        assert feed.view_count() == 10
        for subscription in made[10:]:
            subscription.leave()
        assert feed.view_count() == 10, "one reader of each is left"
        for subscription in made[:10]:
            subscription.leave()
        assert feed.view_count() == 0

"""Turns: everybody gets one, nobody two before the others, and the loop is given back after a few milliseconds."""

from __future__ import annotations

import asyncio
import itertools
import time

from gateway.hub.pump import Pump
from tests.parts.serving import until
from tests.parts.source import Engine, MemoryKafka


class Taker:
    """Takes ``slices`` turns, each ``seconds`` long, and writes its name down at each."""

    def __init__(self, name: str, turns: list[str], *, slices: int = 1, seconds: float = 0.0) -> None:
        self.queued = False
        self.name = name
        self.turns = turns
        self.left = slices
        self._seconds = seconds

    def pump(self) -> bool:
        assert not self.queued
        self.turns.append(self.name)
        end = time.monotonic() + self._seconds
        while time.monotonic() < end:
            pass
        self.left -= 1
        return self.left > 0


async def test_who_has_more_comes_again_after_the_others() -> None:
    pump = Pump()
    turns: list[str] = []
    for name, slices in (("a", 3), ("b", 1), ("c", 2)):
        pump.ready(Taker(name, turns, slices=slices))
    pump.run()
    assert turns == ["a", "b", "c", "a", "c", "a"]


async def test_who_is_ready_twice_has_one_turn() -> None:
    pump = Pump()
    turns: list[str] = []
    one = Taker("a", turns)
    pump.ready(one)
    pump.ready(one)
    pump.run()
    assert turns == ["a"]
    pump.ready(one)
    pump.run()
    assert turns == ["a", "a"]


async def test_nobody_has_to_be_told_to_run() -> None:
    pump = Pump()
    turns: list[str] = []
    pump.ready(Taker("a", turns, slices=2))
    assert not turns, "never from within the call"
    await until(lambda: turns == ["a", "a"])


async def test_a_turn_may_make_others_ready() -> None:
    pump = Pump()
    turns: list[str] = []
    late = Taker("late", turns)

    class Inviting(Taker):
        def pump(self) -> bool:
            pump.ready(late)
            pump.run()
            return super().pump()

    pump.ready(Inviting("first", turns))
    pump.run()
    assert turns == ["first", "late"], "never one within the other"


async def test_a_broadcast_gives_the_loop_back_after_some_milliseconds_and_goes_on() -> None:
    pump = Pump()
    turns: list[str] = []
    everybody = [Taker(str(number), turns, seconds=0.0005) for number in range(400)]
    for one in everybody:
        pump.ready(one)
    pieces: list[int] = []

    async def other_work() -> None:
        while len(turns) < len(everybody):
            pieces.append(len(turns))
            await asyncio.sleep(0)

    pump.run()
    first = len(turns)
    assert 0 < first <= 16, "cut"
    await asyncio.wait_for(other_work(), 10)
    assert turns == [one.name for one in everybody], "each once, in order"
    # A piece ends at the first look after the bound, and 16 turns take longer than it.
    assert all(after - before <= 16 for before, after in itertools.pairwise([first, *pieces]))


async def test_between_two_settlements_nobody_has_two_turns_and_after_the_last_turn_there_is_one() -> None:
    pump = Pump()
    turns: list[str] = []
    pump.after_round.append(lambda: turns.append("settled"))
    for name, slices in (("a", 3), ("b", 1), ("c", 2)):
        pump.ready(Taker(name, turns, slices=slices))
    pump.run()
    assert turns == ["a", "b", "c", "settled", "a", "c", "settled", "a", "settled"]
    for number in range(100):
        pump.ready(Taker(str(number), turns, slices=2, seconds=0.0005))
    await until(lambda: turns.count("settled") > 3 and len(turns) - turns.count("settled") == 206)
    rounds = [list(group) for is_end, group in itertools.groupby(turns, "settled".__eq__) if not is_end]
    assert all(len(set(names)) == len(names) for names in rounds)
    assert turns[-1] == "settled"
    assert len(turns) - turns.count("settled") == 206


async def test_a_reader_that_is_cut_off_is_not_forgotten_by_the_next_broadcast() -> None:
    pump = Pump()
    turns: list[str] = []
    everybody = [Taker(str(number), turns, slices=3, seconds=0.0003) for number in range(100)]
    for _ in range(3):
        for one in everybody:
            pump.ready(one)
        pump.run()
    await until(lambda: all(one.left == 0 for one in everybody))
    assert len(turns) == 300


class Listener(Taker):
    """Has nothing more after each turn."""

    def pump(self) -> bool:
        self.turns.append(self.name)
        return False


async def test_each_broadcast_begins_with_another_reader() -> None:
    kafka = MemoryKafka()
    topic = kafka.create_topic("t")
    engine = Engine(kafka)
    feed = await engine.hub.acquire("main", "t")
    turns: list[str] = []
    readers = [Listener(name, turns) for name in "abc"]
    for reader in readers:
        feed.listen(reader)
    for _ in range(3):
        topic.produce(0, b"{}")
    assert turns == ["a", "b", "c", "b", "c", "a", "c", "a", "b"]
    feed.forget(readers[1])
    topic.produce(0, b"{}")
    assert turns[9:] == ["a", "c"]
    engine.hub.release(feed)
    await engine.hub.close()

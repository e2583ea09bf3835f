"""One timer for everybody: never early, late by a tick at most, and a failing call harms no other."""

from __future__ import annotations

import asyncio
import logging
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.clock import ManualClock, SystemClock
from gateway.subscription.wheel import TimerWheel
from tests.parts.serving import until

TICK = 0.1


class Wheel:
    """A wheel on a clock that is moved by hand; notes what is called, and when."""

    def __init__(self) -> None:
        self.clock = ManualClock()
        self.wheel = TimerWheel(self.clock, tick_seconds=TICK)
        self.called: list[tuple[str, float]] = []

    def schedule(self, name: str, seconds: float) -> object:
        return self.wheel.schedule(seconds, lambda: self.called.append((name, self.clock.monotonic())))

    def advance(self, seconds: float) -> None:
        self.clock.advance(seconds)
        self.wheel.advance()

    def names(self) -> list[str]:
        return [name for name, _ in self.called]


async def test_nothing_is_called_early_and_nothing_later_than_a_tick() -> None:
    wheel = Wheel()
    wheel.schedule("one", 1.0)
    for _ in range(99):
        wheel.advance(0.01)
        assert not wheel.called
    wheel.advance(0.01 + TICK)
    assert wheel.names() == ["one"]


@given(delays=st.lists(st.floats(0, 50), max_size=20), steps=st.lists(st.floats(0.001, 20), min_size=1, max_size=30))
def test_any_schedule_is_kept_once_each_within_a_tick_of_the_look(delays: list[float], steps: list[float]) -> None:
    async def play() -> None:
        wheel = Wheel()
        for number, delay in enumerate(delays):
            wheel.schedule(str(number), delay)
        for step in steps:
            before = wheel.clock.monotonic()
            wheel.advance(step)
            now = wheel.clock.monotonic()
            for name, at in wheel.called:
                assert at + 1e-9 >= delays[int(name)], "early"
                if at == now and before < now:
                    assert delays[int(name)] > before - 2 * TICK, "should have been called before"
        wheel.advance(100)
        assert sorted(wheel.names(), key=int) == [str(number) for number in range(len(delays))]

    asyncio.run(play())


async def test_a_cancelled_appointment_is_forgotten() -> None:
    wheel = Wheel()
    timer = wheel.wheel.schedule(1.0, lambda: wheel.called.append(("never", 0)))
    wheel.schedule("other", 1.0)
    timer.cancel()
    timer.cancel()
    wheel.advance(5)
    assert wheel.names() == ["other"]


async def test_an_appointment_made_while_others_are_called_waits_for_its_own_time() -> None:
    wheel = Wheel()

    def again() -> None:
        wheel.called.append(("again", wheel.clock.monotonic()))
        wheel.wheel.schedule(0.0, again)

    wheel.wheel.schedule(0.0, again)
    for count in range(1, 6):
        wheel.advance(2 * TICK)
        assert len(wheel.called) == count, "once a look, not for ever in one"


async def test_one_that_cancels_another_of_the_same_tick_is_obeyed() -> None:
    wheel = Wheel()
    timers = [wheel.wheel.schedule(1.0, lambda: None)]
    wheel.wheel.schedule(1.0, lambda: timers[1].cancel())
    timers.append(wheel.wheel.schedule(1.0, lambda: wheel.called.append(("cancelled", 0))))
    wheel.advance(3)
    assert not wheel.called


async def test_a_call_that_fails_is_logged_and_the_others_go_on(caplog: pytest.LogCaptureFixture) -> None:
    wheel = Wheel()

    def fail() -> None:
        raise ZeroDivisionError

    wheel.wheel.schedule(1.0, fail)
    wheel.schedule("other", 1.0)
    wheel.schedule("later", 2.0)
    with caplog.at_level(logging.ERROR, "gateway.timers"):
        wheel.advance(1.5)
    assert wheel.names() == ["other"]
    assert caplog.records[0].exc_info is not None
    wheel.advance(1.5)
    assert wheel.names() == ["other", "later"]


async def test_after_a_long_pause_everything_due_is_called_in_its_order() -> None:
    wheel = Wheel()
    for number in range(50):
        wheel.schedule(str(number), number * 3.0)
    wheel.schedule("far", 10_000)
    wheel.advance(500)
    assert wheel.names() == [str(number) for number in range(50)]


async def test_it_runs_by_itself_and_rests_when_there_is_nothing_to_do() -> None:
    wheel = TimerWheel(SystemClock(), tick_seconds=0.01)
    called: list[float] = []
    for round_ in range(2):
        began = time.monotonic()
        wheel.schedule(0.05, lambda: called.append(time.monotonic()))
        await until(lambda round_=round_: len(called) == round_ + 1)  # type: ignore[misc]
        assert called[-1] - began >= 0.05


async def test_a_far_appointment_is_kept_and_a_cancelled_one_is_not() -> None:
    wheel = Wheel()
    wheel.schedule("far", 3_600)
    cancelled = [wheel.wheel.schedule(86_400, lambda: None) for _ in range(1_000)]
    for timer in cancelled:
        timer.cancel()
    assert wheel.wheel.waiting() == 1_001
    wheel.advance(61)
    assert wheel.wheel.waiting() == 1
    for _ in range(58):
        wheel.advance(61)
    assert wheel.names() == []
    wheel.advance(1.2)
    assert wheel.names() == ["far"]

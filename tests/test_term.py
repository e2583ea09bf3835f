"""A grant's appointments: the warning before the token's end, and the end itself, never early."""

from __future__ import annotations

from dataclasses import replace

import pytest

from gateway.clock import ManualClock
from gateway.errors import AccessWithdrawn, GatewayError, TokenExpired
from gateway.model import Grant
from gateway.subscription.term import WARNING_SECONDS, Term
from gateway.subscription.wheel import TimerWheel
from tests.parts.source import contract, grant, principal


class Stream:
    """Notes when it was told what, in seconds since the begin."""

    def __init__(self, clock: ManualClock) -> None:
        self._clock = clock
        self._begin = clock.now()
        self.told: list[tuple[str, float]] = []
        self.ends: list[GatewayError | None] = []

    def say_expiring(self) -> None:
        self.told.append(("expiring", self._clock.now() - self._begin))

    def end(self, error: GatewayError | None) -> None:
        self.told.append(("end", self._clock.now() - self._begin))
        self.ends.append(error)


class Bench:
    def __init__(self) -> None:
        self.clock = ManualClock()
        self.wheel = TimerWheel(self.clock)
        self.stream = Stream(self.clock)
        self.term = Term(self.wheel, self.clock)

    def grant(self, *, expires_in: float, entitled_for: float = 1e9) -> Grant:
        now = self.clock.now()
        held = grant(contract("s", "t"))
        bearer = principal(expires_at=int(now + expires_in))
        return replace(held, principal=bearer, entitled_until=now + entitled_for)

    def pass_time(self, seconds: float) -> None:
        for _ in range(int(seconds * 10)):
            self.clock.advance(0.1)
            self.wheel.advance()

    def told(self) -> list[tuple[str, int]]:
        return [(what, round(at)) for what, at in self.stream.told]


@pytest.mark.parametrize("left", [1, 30, WARNING_SECONDS])
async def test_with_a_minute_or_less_the_warning_comes_right_after_the_open(left: int) -> None:
    b = Bench()
    b.term.run(b.grant(expires_in=left), b.stream)
    assert b.told() == [("expiring", 0)], "before any time has passed"
    b.pass_time(left + 2)
    assert b.told() == [("expiring", 0), ("end", left)]
    assert b.stream.told[-1][1] >= left - 0.001
    assert isinstance(b.stream.ends[0], TokenExpired)


async def test_with_more_it_comes_a_minute_before_the_end_and_once() -> None:
    b = Bench()
    b.term.run(b.grant(expires_in=200), b.stream)
    b.pass_time(190)
    assert b.told() == [("expiring", 140)]
    b.pass_time(20)
    assert b.told() == [("expiring", 140), ("end", 200)]


async def test_a_fresh_token_has_a_warning_of_its_own_at_once_where_it_ends_soon_too() -> None:
    b = Bench()
    b.term.run(b.grant(expires_in=30), b.stream)
    b.term.run(b.grant(expires_in=40), b.stream)
    assert b.told() == [("expiring", 0), ("expiring", 0)]
    b.term.run(b.grant(expires_in=300), b.stream)
    b.pass_time(60)
    assert len(b.told()) == 2, "the ends of the first two are forgotten"
    b.pass_time(190)
    assert b.told()[2:] == [("expiring", 240)]


async def test_another_decision_on_the_same_token_warns_no_second_time() -> None:
    b = Bench()
    held = b.grant(expires_in=30)
    b.term.run(held, b.stream)
    b.term.run(replace(held, plan=replace(held.plan, revision=2)), b.stream)
    b.pass_time(31)
    assert b.told() == [("expiring", 0), ("end", 30)]


async def test_an_entitlement_ends_the_stream_before_its_token_does() -> None:
    b = Bench()
    b.term.run(b.grant(expires_in=500, entitled_for=100), b.stream)
    b.pass_time(101)
    assert b.told() == [("end", 100)]
    assert isinstance(b.stream.ends[0], AccessWithdrawn)
    b.term.close()
    b.pass_time(500)
    assert len(b.told()) == 1

"""An issuer's keys at an address: fetched once for all who wait, not too often, kept while it is away, not for ever."""

from __future__ import annotations

import asyncio
import json
import logging
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from gateway.auth.address import Answer, KeysUnreachable
from gateway.auth.remote import MAX_ABSENT, UNTOLD_FRESH_SECONDS, RefreshRules, RemoteKeys
from gateway.auth.tokens import TokenVerifier
from gateway.clock import ManualClock, SystemClock
from gateway.errors import TokenInvalid, Unavailable
from tests.parts.kafka import eventually
from tests.parts.tokens import PretendIssuer, SigningKey

ALGORITHM = "EdDSA"
OLD, NEW, NEWEST = (SigningKey(ALGORITHM, kid=name) for name in ("old", "new", "newest"))
RULES = RefreshRules(cooldown_seconds=30, refresh_seconds=3600, stale_seconds=86_400)


def jwks(*keys: SigningKey) -> bytes:
    return json.dumps({"keys": [key.jwk() for key in keys]}).encode()


class ScriptedAddress:
    """Answers what it is told to; held back while ``gate`` is closed."""

    url = "https://idp.example/jwks"

    def __init__(self, *keys: SigningKey) -> None:
        self.answer: Answer | Exception = Answer(jwks(*keys), None)
        self.asked = 0
        self.together = 0
        self.gate = asyncio.Event()
        self.gate.set()

    def publish(self, *keys: SigningKey, fresh_seconds: float | None = None) -> None:
        self.answer = Answer(jwks(*keys), fresh_seconds)

    def fail(self, reason: str = "cannot connect") -> None:
        self.answer = KeysUnreachable(reason)

    async def ask(self) -> Answer:
        self.asked += 1
        self.together += 1
        assert self.together == 1, "two fetches at once"
        try:
            await self.gate.wait()
        finally:
            self.together -= 1
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


class Bench:
    """A source over a scripted address, with a clock of our own."""

    def __init__(self, *keys: SigningKey, rules: RefreshRules = RULES) -> None:
        self.address = ScriptedAddress(*keys)
        self.clock = ManualClock()
        self.fetches: Counter[tuple[str, str]] = Counter()
        self.keys = RemoteKeys(
            self.address, name="idp", algorithms=(ALGORITHM,), clock=self.clock, rules=rules, fetches=self.fetches
        )

    async def look(self, key: SigningKey | str) -> bool:
        kid = key if isinstance(key, str) else key.kid
        await self.keys.look_for(kid, algorithm=ALGORITHM)
        return self.knows(kid)

    def knows(self, key: SigningKey | str) -> bool:
        current = self.keys.current()
        return (
            current is not None
            and current.find(key if isinstance(key, str) else key.kid, algorithm=ALGORITHM) is not None
        )


async def loaded(*keys: SigningKey, rules: RefreshRules = RULES) -> Bench:
    bench = Bench(*(keys or (OLD,)), rules=rules)
    await bench.keys.refresh()
    assert bench.address.asked == 1
    return bench


async def test_nothing_is_known_before_the_first_answer_and_then_all_of_it() -> None:
    bench = Bench(OLD, NEW)
    assert bench.keys.current() is None
    assert bench.keys.status().reason == "not fetched yet"
    assert await bench.look(OLD)
    assert bench.knows(NEW)
    status = bench.keys.status()
    assert (status.keys, status.reason, status.age_seconds) == (2, "", 0)


async def test_a_thousand_who_wait_share_one_fetch() -> None:
    bench = Bench(OLD)
    bench.address.gate.clear()
    waiting = [asyncio.create_task(bench.look(OLD)) for _ in range(1000)]
    await eventually(lambda: bench.address.asked == 1)
    bench.address.gate.set()
    assert all(await asyncio.gather(*waiting))
    assert bench.address.asked == 1


async def test_one_who_leaves_takes_nothing_from_those_who_wait() -> None:
    bench = Bench(OLD)
    bench.address.gate.clear()
    first, second = (asyncio.create_task(bench.look(OLD)) for _ in range(2))
    await eventually(lambda: bench.address.asked == 1)
    first.cancel()
    await asyncio.gather(first, return_exceptions=True)
    bench.address.gate.set()
    assert await second
    assert bench.address.asked == 1


async def test_a_new_key_is_found_by_the_first_token_that_names_it() -> None:
    bench = await loaded(OLD)
    bench.clock.advance(1)
    bench.address.publish(OLD, NEW)
    assert await bench.look(NEW)
    assert bench.knows(OLD)
    assert bench.address.asked == 2


async def test_a_key_that_is_no_longer_published_is_gone() -> None:
    bench = await loaded(OLD)
    bench.address.publish(NEW)
    bench.clock.advance(1)
    assert await bench.look(NEW)
    assert not bench.knows(OLD)


async def test_who_joins_a_fetch_that_began_too_early_gets_one_of_his_own() -> None:
    bench = await loaded(OLD)
    bench.clock.advance(10)
    bench.address.gate.clear()
    refreshing = asyncio.create_task(bench.keys.refresh())
    await eventually(lambda: bench.address.asked == 2)
    waiting = [asyncio.create_task(bench.look(NEW)) for _ in range(20)]
    await asyncio.sleep(0)
    bench.address.gate.set()
    await refreshing
    bench.address.publish(OLD, NEW)
    assert all(await asyncio.gather(*waiting))
    assert bench.address.asked == 3


async def test_unknown_names_cost_one_fetch_a_cooldown_however_many_they_are() -> None:
    bench = await loaded(OLD)
    bench.clock.advance(100)
    for second in range(301):
        for number in range(20):
            assert not await bench.look(f"no-{second}-{number}")
        bench.clock.advance(1)
    assert bench.address.asked == 1 + 11


async def test_a_name_that_was_looked_for_in_vain_is_not_looked_for_again_for_two_cooldowns() -> None:
    bench = await loaded(OLD)
    bench.clock.advance(100)
    assert not await bench.look("gone")
    assert bench.address.asked == 2
    bench.clock.advance(59)
    assert not await bench.look("gone")
    assert bench.address.asked == 2
    bench.clock.advance(1)
    assert not await bench.look("gone")
    assert bench.address.asked == 3


async def test_other_keys_make_a_name_worth_looking_for_again() -> None:
    bench = await loaded(OLD)
    bench.clock.advance(100)
    assert not await bench.look("newest")
    bench.clock.advance(30)
    bench.address.publish(OLD, NEW)
    assert await bench.look(NEW)
    bench.clock.advance(30)
    bench.address.publish(OLD, NEW, NEWEST)
    assert await bench.look(NEWEST)


async def test_the_names_that_are_remembered_are_bounded_and_no_fetch_is_made_for_endless_ones() -> None:
    bench = await loaded(OLD, rules=RefreshRules(cooldown_seconds=1, refresh_seconds=1e6, stale_seconds=1e6))
    for number in range(MAX_ABSENT + 50):
        bench.clock.advance(1)
        await bench.look(f"no-{number}")
    assert len(bench.keys._absent) == MAX_ABSENT
    asked = bench.address.asked
    bench.clock.advance(100)
    await bench.look("k" * 257)
    assert bench.address.asked == asked


async def test_a_fetch_that_fails_counts_for_the_cooldown() -> None:
    bench = await loaded(OLD)
    bench.clock.advance(100)
    bench.address.fail()
    for _ in range(10):
        assert not await bench.look(NEW)
    assert bench.address.asked == 2
    bench.address.publish(OLD, NEW)
    bench.clock.advance(29)
    assert not await bench.look(NEW)
    bench.clock.advance(1)
    assert await bench.look(NEW)
    assert bench.address.asked == 3


async def test_a_failed_fetch_says_nothing_about_a_name() -> None:
    bench = await loaded(OLD)
    bench.clock.advance(100)
    bench.address.fail()
    assert not await bench.look(NEW)
    bench.clock.advance(30)
    bench.address.publish(OLD, NEW)
    assert await bench.look(NEW)


async def test_known_keys_stay_while_the_issuer_is_away_and_not_for_ever() -> None:
    bench = await loaded(OLD, rules=RefreshRules(cooldown_seconds=30, refresh_seconds=3600, stale_seconds=1000))
    bench.address.fail("no whole answer within 5 s")
    bench.clock.advance(900)
    await bench.keys.refresh()
    assert bench.knows(OLD)
    status = bench.keys.status()
    assert (status.keys, status.reason, status.age_seconds) == (1, "no whole answer within 5 s", 900)
    bench.clock.advance(100)
    assert bench.knows(OLD)
    bench.clock.advance(1)
    assert bench.keys.current() is None
    assert bench.keys.status().keys == 0
    with pytest.raises(Unavailable):
        await bench.look(OLD)
    bench.address.publish(OLD)
    bench.clock.advance(30)
    assert await bench.look(OLD)


async def test_without_any_key_a_caller_hears_when_to_come_back() -> None:
    bench = Bench()
    bench.address.fail()
    for _ in range(5):
        with pytest.raises(Unavailable) as caught:
            await bench.look(OLD)
        assert caught.value.retry_after_ms is not None
        assert 1000 <= caught.value.retry_after_ms <= 30_000
    assert bench.address.asked == 1
    assert caught.value.status == 503
    assert "idp.example" not in caught.value.detail


async def test_the_first_answer_is_asked_for_ever_more_rarely_up_to_the_cooldown() -> None:
    bench = Bench()
    bench.address.fail()
    waits = []
    for _ in range(8):
        await bench.keys.refresh()
        waits.append(bench.keys.due_seconds)
        bench.clock.advance(bench.keys.due_seconds)
    for wait, base in zip(waits, (1, 2, 4, 8, 16, 30, 30, 30), strict=True):
        assert base <= wait <= base * 1.1


@pytest.mark.parametrize(
    ("fresh_seconds", "wait_seconds"),
    [(None, UNTOLD_FRESH_SECONDS), (0, 30), (5, 30), (31, 31), (900, 900), (86_400, 3600), (999_999_999, 3600)],
)
async def test_an_answer_says_when_to_ask_again_within_bounds(fresh_seconds: float | None, wait_seconds: float) -> None:
    bench = Bench()
    bench.address.publish(OLD, fresh_seconds=fresh_seconds)
    await bench.keys.refresh()
    assert wait_seconds <= bench.keys.due_seconds <= wait_seconds * 1.1


async def test_after_a_failure_it_is_asked_again_a_cooldown_later() -> None:
    bench = await loaded(OLD)
    bench.clock.advance(700)
    bench.address.fail()
    await bench.keys.refresh()
    assert 30 <= bench.keys.due_seconds <= 33


@pytest.mark.parametrize(
    ("document", "said"),
    [
        (b"", "not a JWKS document"),
        (b"<html>", "not a JWKS document"),
        (b'{"keys": []}', "no key here can verify"),
        (json.dumps({"keys": [NEW.jwk(), NEW.jwk()]}).encode(), "more than once"),
        (json.dumps({"keys": [NEW.private_jwk()]}).encode(), "is a secret"),
        (json.dumps({"keys": [NEW.jwk(use="enc")]}).encode(), "its use is 'enc'"),
        (json.dumps({"keys": [NEW.jwk(key_ops=["sign"])]}).encode(), "key_ops"),
        (b'{"keys": [' + b"{}, " * 2000 + b"{}]}", "objects and lists"),
        (b'{"keys": [], "keys": []}', "duplicate name"),
    ],
)
async def test_an_answer_is_judged_like_a_file_and_a_bad_one_changes_nothing(document: bytes, said: str) -> None:
    bench = await loaded(OLD)
    before = bench.keys.current()
    bench.clock.advance(700)
    bench.address.answer = Answer(document, 60)
    await bench.keys.refresh()
    assert bench.keys.current() is before
    assert said in bench.keys.status().reason
    assert bench.fetches["idp", "failed"] == 1
    assert 30 <= bench.keys.due_seconds <= 33


async def test_the_same_answer_is_the_same_set() -> None:
    """What was verified by it need not be verified again."""
    bench = await loaded(OLD)
    before = bench.keys.current()
    bench.clock.advance(700)
    await bench.keys.refresh()
    assert bench.keys.current() is before
    assert bench.keys.status().age_seconds == 0
    assert bench.fetches == {("idp", "changed"): 1, ("idp", "unchanged"): 1}


async def test_the_log_has_a_line_for_each_change_of_state_and_none_for_each_fetch(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, logger="gateway.auth")

    async def said(action: Callable[[], None], *, times: int = 3) -> list[str]:
        caplog.clear()
        action()
        for _ in range(times):
            bench.clock.advance(100)
            await bench.keys.refresh()
        return [f"{record.levelname} {record.getMessage()}" for record in caplog.records]

    bench = Bench(OLD)
    assert await said(lambda: None) == ["INFO keys of idp: 1 from https://idp.example/jwks"]
    assert await said(lambda: bench.address.publish(OLD, NEW)) == ["INFO keys of idp changed: 2 now, 1 new, 0 gone"]
    away = "WARNING keys of idp cannot be had from https://idp.example/jwks: {}; the known ones stay for now"
    assert await said(lambda: bench.address.fail("cannot connect")) == [away.format("cannot connect")]
    assert await said(lambda: bench.address.fail("answers 500")) == [away.format("answers 500")]
    back = await said(lambda: bench.address.publish(OLD, NEW))
    assert back == ["INFO keys of idp can be fetched again after 600 s"]

    def lie() -> None:
        bench.address.answer = Answer(jwks(NEW, NEW), None)

    (line,) = await said(lie)
    assert "more than once" in line
    stale = await said(lambda: bench.clock.advance(90_000), times=1)
    assert [line for line in stale if line.startswith("ERROR")] == [
        "ERROR keys of idp are used no more: no good answer for 86400 s: kid 'new' is there more than once; "
        "every key needs its own"
    ]


async def test_an_unforeseen_error_is_a_failed_fetch(caplog: pytest.LogCaptureFixture) -> None:
    bench = await loaded(OLD)
    bench.clock.advance(100)
    bench.address.answer = ZeroDivisionError("?")
    await bench.keys.refresh()
    assert bench.knows(OLD)
    assert bench.keys.status().reason == "ZeroDivisionError"


async def test_a_reload_asks_again_but_not_twice_a_second() -> None:
    bench = await loaded(OLD)
    await bench.keys.refresh()
    assert bench.address.asked == 1
    bench.clock.advance(1)
    await bench.keys.refresh()
    assert bench.address.asked == 2


async def test_in_the_background_it_is_fetched_at_once_and_again_when_it_is_time() -> None:
    address = ScriptedAddress(OLD)
    address.publish(OLD, fresh_seconds=0)
    rules = RefreshRules(cooldown_seconds=0.02, refresh_seconds=0.02, stale_seconds=60)
    keys = RemoteKeys(address, name="idp", algorithms=(ALGORITHM,), clock=SystemClock(), rules=rules)
    running = asyncio.create_task(keys.run())
    await eventually(lambda: address.asked >= 3)
    address.fail()
    await eventually(lambda: bool(keys.status().reason))
    address.publish(OLD, NEW)
    await eventually(lambda: keys.status().keys == 2)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    asked = address.asked
    assert asked == address.asked


async def test_stopping_ends_a_fetch_that_hangs() -> None:
    bench = Bench(OLD)
    bench.address.gate.clear()
    running = asyncio.create_task(bench.keys.run())
    await eventually(lambda: bench.address.asked == 1)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    assert bench.address.together == 0


async def test_tokens_of_a_rotating_issuer_never_fail_and_are_verified_anew() -> None:
    clock = ManualClock()
    issuer = PretendIssuer(OLD, clock=clock)
    address = ScriptedAddress(OLD)
    keys = RemoteKeys(address, name="idp", algorithms=(ALGORITHM,), clock=clock)
    checks: Counter[str] = Counter()
    verifier = TokenVerifier([issuer.settings(keys=keys, algorithms=(ALGORITHM,))], clock=clock, checks=checks)
    token = issuer.mint()
    assert await verifier.authenticate(token)
    assert await verifier.authenticate(token)
    assert checks == {"verified": 1, "remembered": 1}
    for signer in (NEW, NEWEST):
        clock.advance(60)
        address.publish(OLD, signer)
        fresh = [issuer.mint(key=signer) for _ in range(50)]
        found: list[Any] = await asyncio.gather(*(verifier.authenticate(each) for each in fresh))
        assert len(found) == 50
    assert address.asked == 3
    before = checks["verified"]
    assert await verifier.authenticate(token)
    assert checks["verified"] == before + 1
    address.publish(NEWEST)
    clock.advance(60)
    await keys.refresh()
    with pytest.raises(TokenInvalid) as caught:
        await verifier.authenticate(token)
    assert caught.value.reason == "no_key"

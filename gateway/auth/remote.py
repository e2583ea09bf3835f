"""An issuer's keys at an address: kept, renewed in the background, looked for when a token names one we have not.

Rules, in the order of their weight:

- Requests cost the issuer at most one fetch a ``cooldown_seconds``, however many tokens with however many names of keys
  arrive, and none so soon after a fetch that failed. One fetch goes on at a time; who needs it joins it.
- What is known goes on verifying while the issuer is away, ``stale_seconds`` long; then it is used no more.
- An answer is taken as a whole or not at all, by the rules for files; a refused one counts as a failed fetch.
- A key that a good answer no longer holds is gone at once.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import random
from collections import Counter, OrderedDict
from dataclasses import dataclass
from typing import Final, Literal

from gateway.auth.address import Address, Answer, KeysUnreachable
from gateway.auth.keys import MAX_KID_LENGTH, KeySet, KeySetRefused
from gateway.clock import Clock
from gateway.errors import Unavailable

FIRST_RETRY_SECONDS: Final = 1.0
"""After how long a first fetch that failed is made again; doubled each time, up to the cooldown."""

UNTOLD_FRESH_SECONDS: Final = 600.0
"""When keys are asked for anew where the answer does not say for how long it holds."""

MAX_ABSENT: Final = 1000
"""How many names of keys that were looked for in vain are remembered."""

_JITTER: Final = 0.1
_RELOAD_FLOOR_SECONDS: Final = 1.0

_LOG = logging.getLogger("gateway.auth")
Outcome = Literal["changed", "unchanged", "failed"]


@dataclass(frozen=True, slots=True, kw_only=True)
class RefreshRules:
    """Bounds of asking. ``cooldown_seconds`` lies between fetches that requests cause and between failed ones,
    ``refresh_seconds`` is the longest time between any two, ``stale_seconds`` how long keys hold without an answer."""

    cooldown_seconds: float = 30.0
    refresh_seconds: float = 3600.0
    stale_seconds: float = 86_400.0


@dataclass(frozen=True, slots=True)
class KeysStatus:
    """How an issuer's keys stand. ``reason`` is empty while the last fetch was a good one."""

    keys: int
    reason: str
    age_seconds: float | None
    """Since the last good answer was asked for; None: there was none."""


class RemoteKeys:
    """A ``KeySource`` that follows an address. Of one event loop; ``run`` it in the background."""

    def __init__(
        self,
        address: Address,
        *,
        name: str,
        algorithms: tuple[str, ...],
        clock: Clock,
        rules: RefreshRules | None = None,
        fetches: Counter[tuple[str, str]] | None = None,
    ) -> None:
        """``name`` is the issuer's; ``fetches`` counts by (name, outcome)."""
        self.name = name
        self.address = address
        self._algorithms = algorithms
        self._clock = clock
        self._rules = rules or RefreshRules()
        self._fetches: Counter[tuple[str, str]] = Counter() if fetches is None else fetches
        self._keys: KeySet | None = None
        self._digest = b""
        self._refused: tuple[bytes, str] = (b"", "")
        self._good_at: float | None = None
        self._failures = 0
        self._failing_since = 0.0
        self._reason = ""
        self._tried_at = float("-inf")
        self._rests_until = float("-inf")
        self._due_at = clock.monotonic()
        self._flight: asyncio.Task[None] | None = None
        self._flown = asyncio.Event()
        self._absent: OrderedDict[str | None, float] = OrderedDict()

    def current(self) -> KeySet | None:
        """The keys that hold now; None: there are none, or they are too old."""
        if self._keys is not None and self._good_at is not None:
            if self._clock.monotonic() - self._good_at <= self._rules.stale_seconds:
                return self._keys
            self._drop()
        return None

    async def look_for(self, kid: str | None, *, algorithm: str) -> None:
        """Ask the issuer whether there is such a key now, if it may be asked; wait for the answer.

        Raises Unavailable where there are no keys at all: that is not the token's fault. Cancelling the caller does
        not end a fetch that others wait for.
        """
        if kid is None or len(kid) <= MAX_KID_LENGTH:
            await self._look(kid, algorithm)
        if self.current() is None:
            raise Unavailable(
                "The keys of the token's issuer cannot be had at the moment.", retry_after_ms=self._retry_after_ms()
            )

    async def _look(self, kid: str | None, algorithm: str) -> None:
        if self._flight is not None:
            await asyncio.shield(self._flight)
            if self._has(kid, algorithm):
                return
        # That one may have begun, for another reason, before the key was published. Of all who waited for it the first
        # asks again, the others join.
        first = self._flight is None
        if first and (self._is_resting() or self._is_absent(kid)):
            return
        await asyncio.shield(self._begin(caused=True))
        if first and not self._failures and not self._has(kid, algorithm):
            self._remember_absent(kid)

    async def refresh(self) -> None:
        """Ask now, whatever the cooldown says; an answer of the last second is new enough."""
        if self._flight is None and self._clock.monotonic() - self._tried_at < _RELOAD_FLOOR_SECONDS:
            return
        await asyncio.shield(self._begin(caused=False))

    async def run(self) -> None:
        """Fetch whenever it is time, until cancelled; a fetch that goes on then ends too."""
        try:
            while True:
                wait_seconds = self._due_at - self._clock.monotonic()
                if wait_seconds <= 0:
                    await asyncio.shield(self._begin(caused=False))
                    continue
                self._flown.clear()
                try:
                    # A fetch that a request caused puts the next one off.
                    async with asyncio.timeout(wait_seconds):
                        await self._flown.wait()
                except TimeoutError:
                    continue
        finally:
            await self.close()

    async def close(self) -> None:
        """Give up a fetch that goes on. Idempotent."""
        flight = self._flight
        if flight is not None:
            flight.cancel()
            await asyncio.gather(flight, return_exceptions=True)

    def status(self) -> KeysStatus:
        """How it stands now."""
        keys = self.current()
        age = None if self._good_at is None else self._clock.monotonic() - self._good_at
        reason = self._reason or ("" if age is not None else "not fetched yet")
        return KeysStatus(0 if keys is None else len(keys.keys), reason, age)

    @property
    def due_seconds(self) -> float:
        """How long until the next fetch of the background."""
        return self._due_at - self._clock.monotonic()

    def _has(self, kid: str | None, algorithm: str) -> bool:
        keys = self.current()
        return keys is not None and keys.find(kid, algorithm=algorithm) is not None

    def _is_resting(self) -> bool:
        return self._clock.monotonic() < self._rests_until

    def _is_absent(self, kid: str | None) -> bool:
        until = self._absent.get(kid)
        return until is not None and self._clock.monotonic() < until

    def _remember_absent(self, kid: str | None) -> None:
        self._absent[kid] = self._clock.monotonic() + 2 * self._rules.cooldown_seconds
        self._absent.move_to_end(kid)
        while len(self._absent) > MAX_ABSENT:
            self._absent.popitem(last=False)

    def _retry_after_ms(self) -> int:
        soonest = min(self._due_at, max(self._rests_until, self._clock.monotonic()))
        return max(1000, int(1000 * (soonest - self._clock.monotonic())))

    def _begin(self, *, caused: bool) -> asyncio.Task[None]:
        """The fetch that goes on, or a new one. ``caused``: by a request."""
        if self._flight is None:
            self._tried_at = self._clock.monotonic()
            if caused:
                self._rest()
            self._flight = asyncio.create_task(self._fly(), name=f"keys of {self.name}")
        return self._flight

    def _rest(self) -> None:
        self._rests_until = self._clock.monotonic() + self._rules.cooldown_seconds

    async def _fly(self) -> None:
        asked_at = self._clock.monotonic()
        try:
            answer = await self.address.ask()
            await self._take(answer, asked_at=asked_at)
        except (KeysUnreachable, KeySetRefused) as error:
            self._fail(str(error))
        except Exception as error:  # noqa: BLE001 - nothing that an answer holds may end the following of an issuer
            _LOG.exception("keys of %s: an answer that nobody foresaw", self.name)
            self._fail(type(error).__name__)
        finally:
            self._flight = None
            self._flown.set()

    async def _take(self, answer: Answer, *, asked_at: float) -> None:
        digest = hashlib.sha256(answer.document).digest()
        changed = self._keys is None or digest != self._digest
        if changed:
            if digest == self._refused[0]:
                # Said already, entry by entry.
                raise KeySetRefused([self._refused[1]])
            try:
                # A hundred keys on Edwards curves take a tenth of a second.
                keys = await asyncio.to_thread(KeySet.parse, answer.document, algorithms=self._algorithms)
            except KeySetRefused as refused:
                self._refused = digest, str(refused)
                raise
            self._tell_change(keys)
            self._keys, self._digest = keys, digest
            self._absent.clear()
        self._good_at = asked_at
        self._fetches[self.name, "changed" if changed else "unchanged"] += 1
        if self._failures and self._reason:
            _LOG.info("keys of %s can be fetched again after %.0f s", self.name, asked_at - self._failing_since)
        self._failures, self._reason = 0, ""
        fresh = UNTOLD_FRESH_SECONDS if answer.fresh_seconds is None else answer.fresh_seconds
        rules = self._rules
        self._wait(max(rules.cooldown_seconds, min(fresh, rules.refresh_seconds)))

    def _fail(self, reason: str) -> None:
        self._fetches[self.name, "failed"] += 1
        now = self._clock.monotonic()
        if not self._failures:
            self._failing_since = now
        known = "none are known" if self.current() is None else "the known ones stay for now"
        if not self._failures or reason != self._reason:
            _LOG.warning("keys of %s cannot be had from %s: %s; %s", self.name, self.address.url, reason, known)
        self._failures += 1
        self._reason = reason
        self._rest()
        if self._good_at is None:
            self._wait(min(self._rules.cooldown_seconds, FIRST_RETRY_SECONDS * 2 ** min(self._failures - 1, 20)))
        else:
            self._wait(self._rules.cooldown_seconds)

    def _wait(self, seconds: float) -> None:
        # Many nodes that came up together must not ask together for ever.
        self._due_at = self._clock.monotonic() + seconds * (1 + random.random() * _JITTER)  # noqa: S311

    def _drop(self) -> None:
        _LOG.error(
            "keys of %s are used no more: no good answer for %.0f s: %s",
            self.name,
            self._rules.stale_seconds,
            self._reason or "nobody asked",
        )
        self._keys, self._digest = None, b""

    def _tell_change(self, keys: KeySet) -> None:
        if self._keys is None:
            _LOG.info("keys of %s: %d from %s", self.name, len(keys.keys), self.address.url)
        else:
            old, new = ({key.kid for key in one.keys} for one in (self._keys, keys))
            _LOG.info(
                "keys of %s changed: %d now, %d new, %d gone", self.name, len(keys.keys), len(new - old), len(old - new)
            )

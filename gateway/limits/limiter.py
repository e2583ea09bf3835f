"""Every rate of records, bytes and requests on this node: accounts that borrow from the store and lend to reads."""

from __future__ import annotations

import asyncio
import itertools
import logging
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

from gateway.clock import Clock
from gateway.limits.account import HELD_US, Account, Lender
from gateway.limits.breaker import Away, Breaker
from gateway.limits.breakers import Breakers
from gateway.limits.bucket import MICROSECONDS, Rate
from gateway.limits.lease import Lease
from gateway.limits.lending import Given
from gateway.limits.pace import PLENTY, NarrowPace, Pace
from gateway.limits.scopes import PACED, RATES, name_of_application, name_of_stream, of_each_application, of_stream
from gateway.limits.standing import Standing, rate_of
from gateway.limits.store import Exchange, Store, account_key, name_tag
from gateway.model import Grant, Plan

log = logging.getLogger("gateway.limits")

REQUESTS: Final = "requests_per_second"

GATHER_SECONDS: Final = 0.02
"""Questions that nobody waits for are put together for so long."""

TICK_US: Final = 100_000
SWEEP_SECONDS: Final = 10.0
SWEPT_AT_ONCE: Final = 1000
_AT_ONCE: Final = 100


class Limiter:
    """One per process; everything runs on the event loop's thread."""

    def __init__(self, store: Store, *, breaker: Breaker | Breakers, clock: Clock) -> None:
        self.exchanges = 0
        self._store = store
        self._breaker = breaker
        self._monotonic = clock.monotonic
        self._accounts: dict[tuple[str, str], Account] = {}
        self._numbers = itertools.count(1)
        self._waiting: dict[Account, None] = {}
        self._gathering: asyncio.TimerHandle | None = None
        self._lending: asyncio.Task[None] | None = None
        self._reports: dict[int, list[Account]] = {}
        self._ticking: asyncio.TimerHandle | None = None
        self._lenders: dict[Breaker, PartLender] = {}
        self._free = _unlimited()
        self._silent_until_us = 0
        breaker.on_change.append(self._change)

    # ---- for the engine and the edges ----------------------------------------------------------------------------

    def pace(self, grant: Grant) -> Pace | None:
        """How fast this read may go; None: as fast as it can. Never waits, never asks Redis. Close it with the read."""
        limits, stream = grant.plan.limits, grant.contract.stream
        rates = [rate_of(limits, limit) for limit in PACED]
        narrow = {
            name_of_stream(stream): of_stream(limits, stream),
            name_of_application(grant.principal.issuer, grant.application): of_each_application(limits),
        }
        scopes = [(name_tag(name), tighter) for name, tighter in narrow.items() if tighter]
        if not scopes and rates == [None, None, None]:
            return None
        account = self._account(grant.tenant, grant.plan.name)
        account.join()
        leases = [
            self._free if told is None else account.lease(limit, limit, told)
            for limit, told in zip(PACED, rates, strict=True)
        ]
        if not scopes:
            return Pace(account, *leases)
        records, replayed, data_bytes = (
            (
                lease,
                *(
                    account.lease(_within(limit, tag), limit, told)
                    for tag, tighter in scopes
                    if (told := rate_of(tighter, limit)) is not None
                ),
            )
            for limit, lease in zip(PACED, leases, strict=True)
        )
        return NarrowPace(account, records, replayed, data_bytes)

    async def take(self, tenant: str, plan: Plan, limit: str = REQUESTS) -> int:
        """Take one of a rate that refuses rather than waits. 0: taken; else milliseconds until there may be one.

        Waits only for the answer to a first question, and for that no longer than the breaker lets it.
        """
        told = rate_of(plan.limits, limit)
        if told is None:
            return 0
        account = self._account(tenant, plan.name)
        lease = account.lease(limit, limit, told)
        return await account.take(lease)

    def wait_ms(self, tenant: str, plan: Plan, limit: str = REQUESTS) -> int:
        """What ``take`` would say where there is nothing to take; 0 where there may be something, or nobody knows.

        Never waits, and takes nothing.
        """
        account = self._accounts.get((tenant, plan.name))
        lease = None if account is None else account.leases.get(limit)
        if account is None or lease is None or self._breaker.of(account.key).is_open is not lease.is_alone:
            return 0
        now_us = self.now_us()
        lease.ripen(now_us=now_us)
        if lease.left > 0 or not lease.is_over(now_us=now_us):
            return 0
        lease.is_wanted = True
        account.mark()
        return max(1, math.ceil(lease.resume_in_us(now_us=now_us) / 1000))

    def standing(self, tenant: str, plan: Plan, limits: Sequence[str] = RATES) -> list[Standing]:
        """How the tenant stands with these rates of the plan, as far as this node knows without asking."""
        account = self._accounts.get((tenant, plan.name))
        leases = {} if account is None else account.leases
        now_us = self.now_us()
        return [_standing(limit, rate_of(plan.limits, limit), leases.get(limit), now_us) for limit in limits]

    def tighter(self, tenant: str, plan: Plan, scope: str, rates: Mapping[str, Any]) -> list[Standing]:
        """The same of the ``rates`` within a scope of the plan, which ``scopes`` names."""
        account, tag = self._accounts.get((tenant, plan.name)), name_tag(scope)
        leases = {} if account is None else account.leases
        now_us = self.now_us()
        return [_standing(one, rate_of(rates, one), leases.get(_within(one, tag)), now_us) for one in sorted(rates)]

    def accounts(self) -> Iterator[Account]:
        """Those that this node knows now."""
        return iter(list(self._accounts.values()))

    def _account(self, tenant: str, plan: str) -> Account:
        account = self._accounts.get((tenant, plan))
        if account is None:
            key = account_key(tenant, plan)
            account = Account(self._lender(key), key, tenant=tenant, plan=plan)
            self._accounts[tenant, plan] = account
        return account

    def _lender(self, key: str) -> Lender:
        breaker = self._breaker.of(key)
        if breaker is self._breaker:
            return self
        return self._lenders.setdefault(breaker, PartLender(self, breaker))

    # ---- for the accounts ----------------------------------------------------------------------------------------

    @property
    def is_away(self) -> bool:
        """See ``Lender``."""
        return self._breaker.is_open

    def now_us(self) -> int:
        """See ``Lender``."""
        return int(self._monotonic() * MICROSECONDS)

    def nodes(self) -> int:
        """See ``Lender``."""
        return self._breaker.nodes()

    def ask(self, account: Account, *, urgent: bool) -> None:
        """See ``Lender``."""
        self._waiting[account] = None
        if self._lending is not None:
            # Who comes while others are being served is served right after them.
            return
        loop = asyncio.get_running_loop()
        if urgent:
            if self._gathering is not None:
                self._gathering.cancel()
            self._gathering = loop.call_later(0, self._begin)
        elif self._gathering is None:
            self._gathering = loop.call_later(GATHER_SECONDS, self._begin)

    def report_later(self, account: Account) -> None:
        """See ``Lender``."""
        self._file(account, HELD_US)

    def _file(self, account: Account, delay_us: int) -> None:
        # One timer for all accounts: with ten thousand of them, one each would cost more than their questions.
        self._reports.setdefault((self.now_us() + delay_us) // TICK_US + 1, []).append(account)
        if self._ticking is None:
            self._ticking = asyncio.get_running_loop().call_later(TICK_US / MICROSECONDS, self._tick)

    def _tick(self) -> None:
        self._ticking = None
        now = self.now_us() // TICK_US
        for tick in [tick for tick in self._reports if tick <= now]:
            for account in self._reports.pop(tick):
                again_in_us = account.report()
                if again_in_us is not None:
                    self._file(account, again_in_us)
        if self._reports and self._ticking is None:
            self._ticking = asyncio.get_running_loop().call_later(TICK_US / MICROSECONDS, self._tick)

    def _begin(self) -> None:
        self._gathering = None
        if self._lending is None:
            self._lending = asyncio.get_running_loop().create_task(self._lend(), name="limits")

    async def _lend(self) -> None:
        """Ask for all who want something, in few round trips, one after the other."""
        try:
            while self._waiting:
                batch = list(itertools.islice(self._waiting, _AT_ONCE))
                for account in batch:
                    del self._waiting[account]
                try:
                    await self._exchange(batch)
                except Exception:  # noqa: BLE001 - those who wait must not wait for ever, nor those behind them
                    self._complain("limits could not be asked for")
                    for account in batch:
                        self._answer(account, Away())
        finally:
            self._lending = None

    async def _exchange(self, batch: list[Account]) -> None:
        exchanges: list[Exchange] = []
        for account in batch:
            asks = account.question(next(self._numbers))
            exchanges.append(Exchange(account.key, account.number, asks))
        self.exchanges += len(exchanges)
        for account, given in zip(batch, await self._store.lend(exchanges), strict=True):
            self._answer(account, given)

    def _answer(self, account: Account, given: list[Given] | Away) -> None:
        try:
            if not isinstance(given, Away):
                account.answer(given)
                return
        except Exception:  # noqa: BLE001 - the others of the batch have answers too
            self._complain("an answer about limits could not be taken")
        try:
            account.unanswered()
        except Exception:  # noqa: BLE001 - as above
            self._complain("limits could not be given up")

    def _complain(self, what: str) -> None:
        """One line now and then: what goes wrong for one may go wrong for ten thousand, twenty times a second."""
        now_us = self.now_us()
        if now_us >= self._silent_until_us:
            self._silent_until_us = now_us + int(SWEEP_SECONDS * MICROSECONDS)
            log.exception(what)

    def _change(self) -> None:
        """The breaker opened or closed. Who waits is looked after in another way now; the others see it in time."""
        for account in self._accounts.values():
            if account.is_crowded:
                account.follow()

    # ---- life ----------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Forget who is gone, until cancelled."""
        while True:
            await asyncio.sleep(SWEEP_SECONDS)
            keys = list(self._accounts)
            for begin in range(0, len(keys), SWEPT_AT_ONCE):
                self._sweep(keys[begin : begin + SWEPT_AT_ONCE])
                await asyncio.sleep(0)
            self._store.sweep()

    def _sweep(self, keys: Iterable[tuple[str, str]]) -> None:
        for key in keys:
            account = self._accounts.get(key)
            if account is not None and account.is_idle:
                del self._accounts[key]

    def sweep(self) -> None:
        """Forget accounts that nobody uses and that hold nothing."""
        self._sweep(list(self._accounts))

    async def close(self) -> None:
        """Give back what is borrowed, as far as somebody is there to take it."""
        self._breaker.on_change.remove(self._change)
        for timer in (self._gathering, self._ticking):
            if timer is not None:
                timer.cancel()
        if self._lending is not None:
            self._lending.cancel()
            await asyncio.wait([self._lending])
        exchanges = [
            Exchange(account.key, next(self._numbers), asks)
            for account in self._accounts.values()
            if (asks := account.close())
        ]
        for begin in range(0, len(exchanges), _AT_ONCE):
            # Where nobody answers, it lapses.
            await self._store.lend(exchanges[begin : begin + _AT_ONCE])
        self._accounts.clear()


class PartLender:
    """The limiter as accounts of one part of a cluster see it: away when their part is."""

    def __init__(self, limiter: Limiter, breaker: Breaker) -> None:
        self._breaker = breaker
        self.now_us = limiter.now_us
        self.nodes = limiter.nodes
        self.ask = limiter.ask
        self.report_later = limiter.report_later

    @property
    def is_away(self) -> bool:
        """See ``Lender``."""
        return self._breaker.is_open


def _unlimited() -> Lease:
    free = Lease("", "records", Rate.of(1, 1), 1)
    free.left, free.low = PLENTY, -PLENTY
    return free


def _within(limit: str, tag: str) -> str:
    """The name of a rate's lease within a scope."""
    return f"{limit}@{tag}"


def _standing(limit: str, told: tuple[int | float, int | float] | None, lease: Lease | None, now_us: int) -> Standing:
    if told is None:
        return Standing(limit, None)
    rate, burst = told
    remaining = int(burst) if lease is None else lease.remaining(now_us=now_us)
    return Standing(
        limit,
        rate,
        window_seconds=1,
        burst=burst,
        remaining=remaining,
        resets_in_seconds=max(0.0, (burst - remaining) / rate),
    )

"""Every rate of records, bytes and requests on this node: accounts that borrow from the store and lend to reads."""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import Iterable, Iterator
from typing import Final

from gateway.clock import Clock
from gateway.limits.account import HELD_US, Account, Lender
from gateway.limits.breaker import Away, Breaker
from gateway.limits.breakers import Breakers
from gateway.limits.bucket import MICROSECONDS, Rate
from gateway.limits.lease import Lease
from gateway.limits.pace import PLENTY, NarrowPace, Pace
from gateway.limits.scopes import PACED, of_each_application, of_stream
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
        self._clock = clock
        self._accounts: dict[tuple[str, str], Account] = {}
        self._numbers = itertools.count(1)
        self._waiting: dict[Account, None] = {}
        self._gathering: asyncio.TimerHandle | None = None
        self._lending: asyncio.Task[None] | None = None
        self._reports: dict[int, list[Account]] = {}
        self._ticking: asyncio.TimerHandle | None = None
        self._lenders: dict[Breaker, PartLender] = {}
        self._free = _unlimited()
        breaker.on_change.append(self._change)

    # ---- for the engine and the edges ----------------------------------------------------------------------------

    def pace(self, grant: Grant) -> Pace | None:
        """How fast this read may go; None: as fast as it can. Never waits, never asks Redis. Close it with the read."""
        limits, stream = grant.plan.limits, grant.contract.stream
        rates = [rate_of(limits, limit) for limit in PACED]
        narrow = {
            f"stream:{stream}": of_stream(limits, stream),
            f"application:{grant.principal.issuer}:{grant.application}": of_each_application(limits),
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
                    account.lease(f"{limit}@{tag}", limit, told)
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

    def standing(self, tenant: str, plan: Plan) -> list[Standing]:
        """How the tenant stands with the rates of the plan, as far as this node knows without asking."""
        account = self._accounts.get((tenant, plan.name))
        return [
            _standing(limit, told, None if account is None else account.leases.get(limit), self.now_us())
            for limit in (REQUESTS, *PACED)
            for told in [rate_of(plan.limits, limit)]
        ]

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
        return int(self._clock.monotonic() * MICROSECONDS)

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
                await self._exchange(batch)
        finally:
            self._lending = None

    async def _exchange(self, batch: list[Account]) -> None:
        exchanges: list[Exchange] = []
        for account in batch:
            asks = account.question(next(self._numbers))
            exchanges.append(Exchange(account.key, account.number, asks))
        self.exchanges += len(exchanges)
        try:
            answers = await self._store.lend(exchanges)
        except Exception:
            # Whatever it was, those who wait must not wait for ever.
            for account in batch:
                account.unanswered()
            raise
        for account, given in zip(batch, answers, strict=True):
            if isinstance(given, Away):
                account.unanswered()
            else:
                account.answer(given)

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

"""Keeps this node's shares of quotas: asks for more in good time, in Redis, and in the database while that is away."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Final, Protocol
from zoneinfo import ZoneInfo

from gateway.clock import Clock
from gateway.errors import Unavailable
from gateway.limits.breaker import Away
from gateway.limits.quota import REST_SECONDS, Ask, Held, QuotaKey, Share, Told, quotas_of

log = logging.getLogger("gateway.limits")
LOOK_SECONDS: Final = 0.5
"""How often shares are looked at that nobody called for."""

KEEP_SECONDS: Final = 2.0
"""How often the database is told what has changed."""

READY_SECONDS: Final = 0.5
"""How long the first answer of a quota is waited for where a read begins; later the read waits for it."""

CLOSE_SECONDS: Final = 2.0
RECHECK_SECONDS: Final = 5.0
"""How often a quota that is used up is asked for again, where reads come: another node may have given back."""


GRACE_SECONDS: Final = 2.5
"""How long Redis may be away before portions come from the database: by then that holds what others had from Redis,
and one node's own trouble has passed. Two books at once would each know half."""


class SharedQuotas(Protocol):
    """Where all nodes meet; ``quota_redis.RedisQuotas`` is one."""

    def apart(self, asks: Sequence[Ask]) -> list[list[int]]: ...

    async def tell(self, asks: Sequence[Ask], *, now: float) -> list[Told | None]: ...

    async def restore(self, asks: Sequence[Ask], held: Sequence[Held], *, now: float) -> None: ...


class KeptQuotas(Protocol):
    """What outlives Redis; ``quota_store.QuotaStore`` is one. Its methods block."""

    def tell(self, asks: Sequence[Ask], *, now: float) -> list[Told]: ...

    def keep(self, held: Sequence[Held], *, now: float) -> None: ...

    def load(self, keys: Sequence[QuotaKey]) -> list[Held]: ...


class Quotas:
    """This node's shares, by tenant, plan and name, on the event loop's thread."""

    def __init__(
        self,
        *,
        shared: SharedQuotas | None,
        kept: KeptQuotas,
        work: Callable[..., Awaitable[Any]],
        node: str,
        nodes: Callable[[], int],
        zone: Callable[[str], str],
        clock: Clock,
        rest_seconds: float = REST_SECONDS,
        grace_seconds: float = GRACE_SECONDS,
    ) -> None:
        """``work`` runs what blocks in a thread; ``zone`` is a tenant's, by its name."""
        self._shared = shared
        self._kept = kept
        self._work = work
        self._node = node
        self._nodes = nodes
        self._zone = zone
        self._clock = clock
        self._rest_seconds = rest_seconds
        self._grace_seconds = grace_seconds
        self._away_since: dict[QuotaKey, float] = {}
        self._shares: dict[tuple[str, str, str], Share] = {}
        self._needed: set[Share] = set()
        self._written: dict[QuotaKey, tuple[int, int]] = {}
        self._to_restore: set[QuotaKey] = set()
        self._news = asyncio.Event()
        self._rounds: asyncio.Future[None] | None = None
        self._say_all = False
        self._is_closed = False
        self._asking: asyncio.Task[None] | None = None
        self.on_loss: Callable[[], Awaitable[None]] | None = None
        """Called where Redis had lost a quota: the other nodes should tell theirs."""

    # ---- the reads' side -----------------------------------------------------------------------------------------

    def shares(self, tenant: str, plan: str, limits: Mapping[str, Any]) -> list[Share]:
        """One for each quota of the plan; the same ones for all who ask."""
        return [self._share(tenant, plan, name, limit) for name, limit in quotas_of(limits).items()]

    def all(self) -> list[Share]:
        """Those that are known here."""
        return list(self._shares.values())

    def _share(self, tenant: str, plan: str, name: str, limit: int) -> Share:
        found = self._shares.get((tenant, plan, name))
        zone = ZoneInfo(self._zone(tenant))
        if found is None:
            found = Share(
                tenant,
                plan,
                name,
                limit=limit,
                zone=zone,
                clock=self._clock,
                on_need=self._need,
                rest_seconds=self._rest_seconds,
            )
            self._shares[tenant, plan, name] = found
        else:
            found.renew(limit, zone)
            found.turn()
        return found

    async def ready(self, tenant: str, plan: str, limits: Mapping[str, Any]) -> list[Share]:
        """The shares, for a read that begins: none is unknown, unless there is no answer in a short time."""
        shares = self.shares(tenant, plan, limits)
        await self._ask_now([one for one in shares if not one.is_known or (one.is_over and self._is_stale(one))])
        return shares

    async def refresh(self, tenant: str, plan: str, limits: Mapping[str, Any]) -> list[Share]:
        """The shares, with what the other nodes have used by now."""
        shares = self.shares(tenant, plan, limits)
        await self._ask_now(shares)
        return shares

    async def _ask_now(self, shares: list[Share]) -> None:
        if not shares:
            return
        began = self._clock.monotonic()
        for share in shares:
            self._need(share)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(READY_SECONDS):
                while any(one.told_before(began) for one in shares):
                    await self._round_over()

    def _is_stale(self, share: Share) -> bool:
        return share.told_before(self._clock.monotonic() - RECHECK_SECONDS)

    async def _round_over(self) -> None:
        if self._rounds is None or self._rounds.done():
            self._rounds = asyncio.get_running_loop().create_future()
        await asyncio.shield(self._rounds)

    def _need(self, share: Share) -> None:
        self._needed.add(share)
        self._news.set()

    def ring(self) -> None:
        """Another node found that Redis had lost what it knew: say all that is known here."""
        self._say_all = True
        self._news.set()

    # ---- the asking side -----------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Ask, say, give back, write down; until cancelled."""
        keeping = asyncio.ensure_future(self._keep_on())
        try:
            while True:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(self._until_next()):
                        await self._news.wait()
                self._news.clear()
                await self._round()
        finally:
            keeping.cancel()
            await asyncio.gather(keeping, return_exceptions=True)

    def _until_next(self) -> float:
        """Periods end on the dot, not at the next look."""
        now = self._clock.now()
        ends = min((share.period.ends_at for share in self._shares.values()), default=now + LOOK_SECONDS)
        return min(LOOK_SECONDS, max(0.001, ends - now))

    async def _round(self) -> None:
        now = self._clock.monotonic()
        needed, self._needed = self._needed, set()
        for share in self._shares.values():
            if share.turn() or (self._say_all and share.is_known) or share.is_due(now):
                needed.add(share)
        self._say_all = False
        if needed and not self._is_closed:
            # In a task of its own: who is cancelled here must not leave something behind that comes after ``close``.
            self._asking = asyncio.ensure_future(self._ask_for(list(needed), now))
            await asyncio.shield(self._asking)
        if self._rounds is not None and not self._rounds.done():
            self._rounds.set_result(None)

    async def _ask_for(self, shares: list[Share], now: float, *, is_last: bool = False) -> None:
        asks = [share.ask(nodes=self._nodes(), now=now, is_last=is_last) for share in shares]
        try:
            answers = await self._tell(asks)
        except Unavailable as error:
            # Nothing more is given then; what a node has it may use. The prober says that the database is away.
            log.debug("quotas are not known: %s", error)
            return
        for share, ask, told in zip(shares, asks, answers, strict=True):
            if told is not None:
                share.take(ask, told, now=self._clock.monotonic())

    async def _tell(self, asks: list[Ask]) -> Sequence[Told | None]:
        if self._shared is None:
            return await self._tell_kept(asks)
        told: list[Told | None] = [None] * len(asks)
        groups = self._shared.apart(asks)
        found = await asyncio.gather(
            *(self._tell_group(self._shared, [asks[index] for index in group]) for group in groups)
        )
        for group, answers in zip(groups, found, strict=True):
            for index, one in zip(group, answers, strict=True):
                told[index] = one
        return told

    async def _tell_group(self, shared: SharedQuotas, asks: list[Ask]) -> Sequence[Told | None]:
        now = self._clock.monotonic()
        try:
            answers = await self._tell_shared(shared, asks)
        except Away as error:
            log.debug("quotas are not in Redis: %s", error)
        else:
            for ask in asks:
                self._away_since.pop(ask.key, None)
            return answers
        since = min(self._away_since.setdefault(ask.key, now) for ask in asks)
        if self._nodes() > 1 and now - since < self._grace_seconds:
            return [None] * len(asks)
        self._to_restore.update(ask.key for ask in asks)
        return await self._tell_kept(asks)

    async def _tell_kept(self, asks: list[Ask]) -> Sequence[Told]:
        answers: list[Told] = await self._work(self._kept.tell, asks, now=self._clock.now())
        for ask, told in zip(asks, answers, strict=True):
            self._written[ask.key] = (told.given, ask.used)
        return answers

    async def _tell_shared(self, shared: SharedQuotas, asks: list[Ask]) -> Sequence[Told | None]:
        now = self._clock.now()
        missed = [ask for ask in asks if ask.key in self._to_restore]
        if missed:
            await self._restore(shared, missed)
        answers = await shared.tell(asks, now=now)
        lost = [ask for ask, told in zip(asks, answers, strict=True) if told is None]
        if lost:
            await self._restore(shared, lost)
            answers = await shared.tell(asks, now=now)
        return answers

    async def _restore(self, shared: SharedQuotas, asks: list[Ask]) -> None:
        """Redis knows less of these than the database does."""
        held: list[Held] = await self._work(self._kept.load, [ask.key for ask in asks])
        await shared.restore(asks, held, now=self._clock.now())
        self._to_restore.difference_update(ask.key for ask in asks)
        if held and self.on_loss is not None:
            await self.on_loss()

    async def _keep_on(self) -> None:
        while True:
            await asyncio.sleep(KEEP_SECONDS)
            try:
                await self._keep()
            except Unavailable as error:
                log.debug("quotas not written down: %s", error)

    async def _keep(self) -> None:
        changed = [
            Held(share.key, share.period.ends_at, self._node, max(share.given, share.used), share.used)
            for share in self._shares.values()
            if share.is_known and self._written.get(share.key, (0, 0))[0] != max(share.given, share.used)
        ]
        if changed:
            await self._work(self._kept.keep, changed, now=self._clock.now())
            periods = self._periods()
            self._written = {key: told for key, told in self._written.items() if key.period in periods} | {
                one.key: (one.given, one.used) for one in changed
            }

    def _periods(self) -> set[str]:
        return {share.period.name for share in self._shares.values()}

    async def settled(self) -> None:
        """Return when no answer is waited for any more."""
        if self._asking is not None:
            await asyncio.wait([self._asking])

    async def close(self) -> None:
        """Give back what is left, so that nothing of a quota is lost with this process; but not at any price."""
        self._is_closed = True
        try:
            async with asyncio.timeout(CLOSE_SECONDS):
                await self.settled()
                known = [share for share in self._shares.values() if share.is_known]
                if known:
                    await self._ask_for(known, self._clock.monotonic(), is_last=True)
                    await self._keep()
        except (TimeoutError, Unavailable) as error:
            log.warning("what was borrowed of quotas is not given back, and counts as used: %s", error or "no answer")

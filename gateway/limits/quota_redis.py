"""Quotas in Redis: of each, what every node was given and has used, so that no node's word can undo another's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from gateway.limits.quota import Ask, Held, QuotaKey, Told
from gateway.limits.scripts import Call, Script, Scripts, Whole
from gateway.limits.store import KEY_PREFIX, name_tag, tenant_tag

SETTLE_SECONDS: Final = 2.5
"""After Redis has lost its data nothing more is given until every node has told what it has."""

LOOSE_SECONDS: Final = 12.0
"""A node that said nothing for so long is gone, and gives nothing back."""

KEPT_SECONDS: Final = 86_400


class RedisQuotas:
    """Every method raises Away, and may be called again with the same words."""

    def __init__(
        self,
        scripts: Scripts,
        *,
        node: str,
        settle_seconds: float = SETTLE_SECONDS,
        loose_seconds: float = LOOSE_SECONDS,
    ) -> None:
        self._scripts = scripts
        self._whole = Whole()
        self._node = node
        self._times_ms = (round(settle_seconds * 1000), round(loose_seconds * 1000))
        # Each says what is so, and not what is more: run twice they do the same.
        self._tell, self._restore = (Script(name, repeatable=True) for name in ("tell_quota", "restore_quota"))

    def apart(self, asks: Sequence[Ask]) -> list[list[int]]:
        """The asks, by their place here, in groups of which one may be away while another is not."""
        return self._scripts.apart([_key(ask.key) for ask in asks])

    async def tell(self, asks: Sequence[Ask], *, now: float) -> list[Told | None]:
        """The answers; None where Redis knows nothing of the quota, and has to be told by ``restore`` first."""
        calls = [
            Call(
                [_key(ask.key)],
                [
                    *(self._node, ask.given, ask.used, ask.want, ask.limit, _life_ms(ask.ends_at, now)),
                    *self._times_ms,
                ],
            )
            for ask in asks
        ]
        return [_told(answer) for answer in await self._whole(self._scripts.run(self._tell, calls))] if calls else []

    async def restore(self, asks: Sequence[Ask], held: Sequence[Held], *, now: float) -> None:
        """Say what a database holds of these quotas. Where that is something, nobody gets more until all have told."""
        calls = []
        for ask in asks:
            known = [one for one in held if one.key == ask.key and one.node != self._node]
            words: list[Any] = [int(bool(known)), _life_ms(ask.ends_at, now)]
            for one in known:
                words += [one.node, one.given, one.used]
            calls.append(Call([_key(ask.key)], words))
        if calls:
            await self._whole(self._scripts.run(self._restore, calls))


def _told(answer: Any) -> Told | None:
    given, others, loose, is_sure = map(int, answer)
    return None if given < 0 else Told(given, others, loose, bool(is_sure))


def _life_ms(ends_at: float, now: float) -> int:
    return round((max(0.0, ends_at - now) + KEPT_SECONDS) * 1000)


def _key(key: QuotaKey) -> str:
    """Tenants' names stay out of Redis, and no name can leave its key."""
    return f"{KEY_PREFIX}:quota:{tenant_tag(key.tenant)}:{name_tag(key.plan)}:{key.name}:{key.period}"

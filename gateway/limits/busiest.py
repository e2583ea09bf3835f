"""Which tenants press against their limits: what operators look at first, over all nodes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any, Final, Protocol

from gateway.limits.quota import Share

TOPIC: Final = "limits"
MOST: Final = 1000
"""So many tenants a node tells of, the busiest ones."""

Key = tuple[str, str]
"""Tenant and plan."""


class Others(Protocol):
    """The other nodes; see ``nodes.bus.Bus``."""

    async def ask(self, topic: str, body: dict[str, Any], *, first: bool = False) -> list[dict[str, Any]]: ...


class Paced(Protocol):
    """A tenant's reads under one plan; ``account.Account`` is one."""

    tenant: str
    plan: str

    @property
    def is_crowded(self) -> bool:
        """Whether some of them wait for a rate now."""
        ...


class Rates(Protocol):
    """``limiter.Limiter`` is one."""

    def accounts(self) -> Iterator[Paced]: ...


class Held(Protocol):
    """``connections.Connections`` is one."""

    def by_key(self) -> dict[Key, int]: ...


class Quotas(Protocol):
    """``quotas.Quotas`` is one."""

    def all(self) -> list[Share]: ...


class Busiest:
    """Adds up what this node knows, and what the others tell. ``others`` None: there are none."""

    def __init__(
        self, rates: Rates, connections: Held, quotas: Quotas, *, refused: Counter[tuple[str, str, str]]
    ) -> None:
        """``refused``: how often, by tenant, plan and limit, since the process began."""
        self._rates = rates
        self._connections = connections
        self._quotas = quotas
        self._refused = refused
        self.others: Others | None = None

    async def all(self, *, limit: int) -> list[dict[str, Any]]:
        """The busiest tenants first: refused most often, paced now, nearest to the end of a quota, most reads.

        Raises Unavailable where other nodes cannot be asked.
        """
        found = self.own()
        if self.others is not None:
            for told in await self.others.ask(TOPIC, {}):
                found += told["tenants"]
        return ranked(merged(found))[:limit]

    def answer(self, question: dict[str, Any]) -> dict[str, Any]:
        """This node's part."""
        return {"tenants": ranked(self.own())[:MOST]}

    def own(self) -> list[dict[str, Any]]:
        """What this node knows, one entry for each tenant and plan."""
        found: dict[Key, dict[str, Any]] = {}

        def entry(key: Key) -> dict[str, Any]:
            empty = {"tenant": key[0], "plan": key[1], "open_reads": 0, "is_paced": False, "refused": {}, "quotas": {}}
            return found.setdefault(key, empty)

        for key, count in self._connections.by_key().items():
            entry(key)["open_reads"] = count
        for account in self._rates.accounts():
            if account.is_crowded:
                entry((account.tenant, account.plan))["is_paced"] = True
        for (tenant, plan, limit), count in self._refused.items():
            entry((tenant, plan))["refused"][limit] = count
        for share in self._quotas.all():
            entry((share.key.tenant, share.key.plan))["quotas"][share.key.name] = share.percent()
        return list(found.values())


def merged(entries: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """One entry for each tenant and plan, of those of all nodes."""
    found: dict[Key, dict[str, Any]] = {}
    for one in entries:
        key = (one["tenant"], one["plan"])
        if key not in found:
            found[key] = one | {"refused": dict(one["refused"]), "quotas": dict(one["quotas"])}
            continue
        there = found[key]
        there["open_reads"] += one["open_reads"]
        there["is_paced"] = there["is_paced"] or one["is_paced"]
        there["refused"] = dict(Counter(there["refused"]) + Counter(one["refused"]))
        for name, percent in one["quotas"].items():
            # Each node knows the others' use as of its last question.
            there["quotas"][name] = max(percent, there["quotas"].get(name, 0))
    return list(found.values())


def ranked(entries: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """The busiest first; by name where they are equal."""

    def size(one: dict[str, Any]) -> tuple[Any, ...]:
        quota = max(one["quotas"].values(), default=0)
        return (-sum(one["refused"].values()), not one["is_paced"], -quota, -one["open_reads"], one["tenant"])

    return sorted(entries, key=size)

"""Where usage comes from: what billing asks of the ledger, a fake of it, rows brought together and fingerprinted."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple, Protocol

import msgspec

from gateway.model import Transport
from gateway.usage import MEASURES, Usage, UsageKey

Rows = dict[UsageKey, Usage]
"""Usage of one stretch. Every key's bucket is the stretch's beginning: rolling up older buckets changes nothing."""

_TOLD: Final = tuple(name for name in MEASURES if name != "hidden_records")
"""What partners are told: what a row filter hid would be others' volume."""


class Source(Protocol):
    """A process that counts. ``state``: live, ended, or lost; times are epoch seconds."""

    @property
    def source(self) -> str: ...
    @property
    def state(self) -> str: ...
    @property
    def started_at(self) -> int: ...
    @property
    def complete_through(self) -> int: ...


class Ledger(Protocol):
    """What was delivered to whom."""

    def rows(self, *, tenant: str | None, start: int, end: int) -> Iterable[tuple[UsageKey, Usage]]:
        """Usage within ``start`` ≤ bucket < ``end``, epoch seconds."""
        ...

    def sums(self, *, tenant: str, start: int, end: int) -> Iterable[tuple[UsageKey, Usage]]:
        """A tenant's rows with their buckets added up, each under ``start``."""
        ...

    def tenants(self) -> Sequence[str]:
        """All that have usage."""
        ...

    def complete_until(self, *, now: float) -> int:
        """Epoch seconds: every delivery before it is in the rows."""
        ...

    def sources(self) -> Sequence[Source]:
        """Everything that counts, or did."""
        ...

    def give_up(self, source: str, *, by: str, at: str) -> bool:
        """An operator says that a source is lost with what it has not told. False: none of this name is live."""
        ...


class Watermark(NamedTuple):
    """Up to when usage is complete, epoch seconds, and the sources of a period that an operator has given up."""

    complete_until: int
    lost: tuple[str, ...] = ()


@dataclass(slots=True)
class MemorySource:
    """A source of ``MemoryLedger``."""

    source: str
    state: str = "live"
    started_at: int = 0
    complete_through: int = 0


class MemoryLedger:
    """A ledger in memory; ships for tests of what is made from usage."""

    def __init__(self) -> None:
        self.known: dict[str, MemorySource] = {}
        self._kept: dict[UsageKey, Usage] = {}

    def add(self, key: UsageKey, usage: Usage) -> None:
        """Count more under a key."""
        self._kept[key] = self._kept.get(key, Usage()) + usage

    def rows(self, *, tenant: str | None, start: int, end: int) -> Iterator[tuple[UsageKey, Usage]]:
        for key in sorted(self._kept):
            if tenant in (None, key.tenant) and start <= key.bucket < end:
                yield key, self._kept[key]

    def sums(self, *, tenant: str, start: int, end: int) -> Iterator[tuple[UsageKey, Usage]]:
        yield from gather(self.rows(tenant=tenant, start=start, end=end), start=start).items()

    def tenants(self) -> list[str]:
        return sorted({key.tenant for key in self._kept})

    def complete_until(self, *, now: float) -> int:
        through = [one.complete_through for one in self.known.values() if one.state == "live"]
        return min([int(now), *through])

    def sources(self) -> list[MemorySource]:
        return list(self.known.values())

    def give_up(self, source: str, *, by: str, at: str) -> bool:
        found = self.known.get(source)
        if found is None or found.state != "live":
            return False
        found.state = "lost"
        return True


def gather(rows: Iterable[tuple[UsageKey, Usage]], *, start: int) -> Rows:
    """Bring rows of one stretch together, whatever their buckets. Holds one row for each key but the bucket."""
    found: Rows = {}
    for key, usage in rows:
        whole = key._replace(bucket=start)
        known = found.get(whole)
        found[whole] = usage if known is None else known + usage
    return {key: found[key] for key in sorted(found)}


def spell_rows(rows: Rows) -> list[dict[str, Any]]:
    """Rows as a statement tells them, in a stable order; ``read_rows`` reads them again."""
    return [
        {
            "application": key.application,
            "stream": key.stream,
            "transport": key.transport,
            "plan": key.plan,
            "revision": key.revision,
            "is_billable": key.is_billable,
            **{name: str(getattr(usage, name)) for name in _TOLD},
        }
        for key, usage in sorted(rows.items())
    ]


def read_rows(spelled: Sequence[Mapping[str, Any]], *, tenant: str, start: int) -> Rows:
    """What ``spell_rows`` spelled, but for what it leaves out."""
    found: Rows = {}
    for one in spelled:
        transport: Transport = one["transport"]
        key = UsageKey(
            tenant,
            one["application"],
            one["stream"],
            one["plan"],
            one["revision"],
            transport,
            one["is_billable"],
            start,
        )
        found[key] = Usage(**{name: int(one[name]) for name in _TOLD})
    return found


def ledger_digest(rows: Rows) -> str:
    """SHA-256 of rows with all that was counted, what a row filter hid included: never shown to partners."""
    counted = [[*key[:-1], *usage] for key, usage in sorted(rows.items())]
    return hashlib.sha256(msgspec.json.encode(counted)).hexdigest()


def fingerprint(spelled: Sequence[Mapping[str, Any]]) -> str:
    """SHA-256 of rows as ``spell_rows`` spells them: of their canonical JSON, names sorted, in UTF-8."""
    return hashlib.sha256(msgspec.json.encode(list(spelled), order="sorted")).hexdigest()

"""Where usage comes from: what billing asks of the ledger, a fake of it, and rows brought together and fingerprinted."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple, Protocol

import msgspec

from gateway.model import Transport
from gateway.usage import MEASURES, Usage, UsageKey

Rows = dict[UsageKey, Usage]
"""Usage of one stretch of time. Every key's bucket is the stretch's beginning: rolling up older buckets changes nothing."""

_TOLD: Final = tuple(name for name in MEASURES if name != "hidden_records")
"""What partners are told: what a row filter hid would be others' volume."""


class Ledger(Protocol):
    """What was delivered to whom."""

    def rows(self, *, tenant: str | None, start: int, end: int) -> Iterable[tuple[UsageKey, Usage]]:
        """Usage within ``start`` ≤ bucket < ``end``, epoch seconds."""
        ...

    def complete_until(self, *, now: float) -> int:
        """Epoch seconds: every delivery before it is in the rows."""
        ...


class Watermark(NamedTuple):
    """Up to when usage is complete, epoch seconds, and the sources that an operator has given up."""

    complete_until: int
    lost: tuple[str, ...] = ()


class MemoryLedger:
    """A ledger in memory; ships for tests of what is made from usage."""

    def __init__(self, *, complete_until: int = 2**40) -> None:
        self.complete = complete_until
        self._kept: dict[UsageKey, Usage] = {}

    def add(self, key: UsageKey, usage: Usage) -> None:
        """Count more under a key."""
        self._kept[key] = self._kept.get(key, Usage()) + usage

    def rows(self, *, tenant: str | None, start: int, end: int) -> Iterator[tuple[UsageKey, Usage]]:
        for key in sorted(self._kept):
            if tenant in (None, key.tenant) and start <= key.bucket < end:
                yield key, self._kept[key]

    def complete_until(self, *, now: float) -> int:
        return min(self.complete, int(now))


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


def fingerprint(spelled: Sequence[Mapping[str, Any]]) -> str:
    """SHA-256 of rows as ``spell_rows`` spells them: of their canonical JSON, names sorted, in UTF-8."""
    return hashlib.sha256(msgspec.json.encode(list(spelled), order="sorted")).hexdigest()

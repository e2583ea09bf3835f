"""Which tenants have a label of their own: the largest ones. All others are one label, so that labels stay bounded."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from gateway.counters import Total

OTHER = "other"


class TenantLabels:
    """Turns totals by tenant into totals by label, of which there are ``limit`` and ``other`` at most.

    Who is among the largest may change, but no label's counter ever goes down: what a tenant gave while it was one of
    the others stays theirs, and a label that comes back goes on where it ended. So rates are right, and all labels
    together are always the whole.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._seen: dict[str, tuple[int, int]] = {}
        self._shown: dict[str, Total] = {OTHER: Total()}

    def of(self, totals: Mapping[str, Total]) -> Iterator[tuple[str, Total]]:
        """The labels with their totals now; ``other`` is always among them."""
        named = self._largest(totals)
        for shown in self._shown.values():
            shown.open = 0
        for tenant, total in totals.items():
            label = tenant if tenant in named else OTHER
            records, size = self._seen.get(tenant, (0, 0))
            self._seen[tenant] = (total.records, total.bytes)
            shown = self._shown.setdefault(label, Total())
            shown.add(total.records - records, total.bytes - size)
            shown.open += total.open
        yield from ((label, self._shown[label]) for label in sorted(named))
        yield OTHER, self._shown[OTHER]

    def _largest(self, totals: Mapping[str, Total]) -> set[str]:
        """By bytes since the process began, since that changes slowly; by open reads where nothing was read yet."""

        def size(tenant: str) -> tuple[int, int, str]:
            return (-totals[tenant].bytes, -totals[tenant].open, tenant)

        return set(sorted((tenant for tenant in totals if tenant != OTHER), key=size)[: self._limit])

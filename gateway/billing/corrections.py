"""What closed periods still owe: rated again with the usage of now, the differences as lines of the next statement."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from decimal import Decimal
from typing import Any, Final

from gateway.billing.bill import Line
from gateway.billing.inforce import Plans
from gateway.billing.money import ZERO, exactly, round_money
from gateway.billing.rating import rate
from gateway.billing.rows import Rows, fingerprint, spell_rows
from gateway.billing.statement import Corrected, advances_in, lines_of, period_of, terms_in
from gateway.billing.store import Kept

OWN_KINDS: Final = ("charge", "discount", "minimum", "maximum")
"""Lines that a period's usage and plans alone decide."""


def corrections(
    closed: Sequence[Kept], *, plans: Plans, usage: Callable[[Kept], Rows], newest: int
) -> Iterator[tuple[Corrected, list[Line]]]:
    """Closed periods whose usage has changed since, of the ``newest`` so many, each with its differences.

    ``closed`` are all of a tenant, in order; ``usage`` is what the ledger holds now of one of them.
    """
    for number, kept in enumerate(closed):
        if kept.status != "FINAL" or number < len(closed) - newest:
            continue
        body = kept.body
        billed_hash, billed = billed_so_far(kept, body, closed[number + 1 :])
        rows = usage(kept)
        usage_hash = fingerprint(spell_rows(rows))
        if usage_hash == billed_hash:
            continue
        again = rated_again(body, rows, plans=plans)
        amounts = {key: format(line.amount, "f") for key, line in again.items()}
        found = _differences(again, billed, body, currency=body["currency"])
        with exactly():
            difference = sum((line.amount for line in found), ZERO)
        yield Corrected(str(kept.number), body["period"]["label"], usage_hash, amounts, difference), found


def line_key(line: Line) -> str:
    """What names a line of a statement among the others of its kind."""
    return "/".join((line.kind, line.plan, str(line.revision), line.name, line.meter or ""))


def billed_so_far(kept: Kept, body: Mapping[str, Any], later: Sequence[Kept]) -> tuple[str, dict[str, str]]:
    """The usage hash and the amounts by line that a closed period was billed with, later corrections included."""
    found: tuple[str, dict[str, str]] = (
        body["usage_hash"],
        {line_key(line): format(line.amount, "f") for line in lines_of(body, *OWN_KINDS)},
    )
    for other in later:
        for one in other.body["corrections"]:
            if one["number"] == kept.number:
                found = (one["usage_hash"], dict(one["amounts"]))
    return found


def rated_again(body: Mapping[str, Any], rows: Rows, *, plans: Plans) -> dict[str, Line]:
    """The lines of a closed period's own, on these rows, with the terms and advances it was made with; by their key."""
    period = period_of(body)
    bill = rate(
        rows.items(),
        tenant=body["tenant"],
        period=period,
        terms=terms_in(body, plans),
        plans=plans,
        advances=advances_in(body),
        currency=body["currency"],
    )
    return {line_key(line): line for line in bill.lines if line.kind in OWN_KINDS}


def _differences(
    again: Mapping[str, Line], billed: Mapping[str, str], body: Mapping[str, Any], *, currency: str
) -> list[Line]:
    before = {line_key(line): line for line in lines_of(body, *OWN_KINDS)}
    period = period_of(body)
    lines: list[Line] = []
    for key in sorted(again.keys() | billed.keys()):
        now, was = again.get(key), Decimal(billed.get(key, "0"))
        with exactly():
            difference = (ZERO if now is None else now.amount) - was
        if not difference:
            continue
        like = now or before[key]
        lines.append(
            Line(
                kind="correction",
                name=f"{like.name}, correction of {period.label} ({body['number']})",
                amount=round_money(difference, currency),
                exact=difference,
                start=period.start,
                end=period.end,
                plan=like.plan,
                revision=like.revision,
                meter=like.meter,
                stream=like.stream,
                used=0 if now is None else now.used - (before[key].used if key in before else 0),
                billable=0 if now is None else now.billable - (before[key].billable if key in before else 0),
                taxes=like.taxes,
                reason="usage that was told after the statement was final",
            )
        )
    return lines

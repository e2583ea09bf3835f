"""What closed periods still owe: rated again with the usage of now, the differences as lines of the next statement."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from decimal import Decimal
from typing import Any, Final

from gateway.billing.bill import Line
from gateway.billing.inforce import Plans
from gateway.billing.money import ZERO, exactly, round_money
from gateway.billing.period import Period
from gateway.billing.rating import MixedCurrencies, rate
from gateway.billing.rows import Rows, fingerprint, spell_rows
from gateway.billing.statement import Corrected, advances_in, lines_of, period_of, terms_in
from gateway.billing.store import Kept

OWN_KINDS: Final = ("charge", "discount", "minimum", "maximum")
"""Lines that a period's usage and plans alone decide."""

_LATE: Final = "usage that was told after the statement was final"
_LATE_OF_GAP: Final = "usage that was told after the next statement was final"


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
        found = _differences(
            again,
            billed,
            {line_key(line): line for line in lines_of(body, *OWN_KINDS)},
            period_of(body),
            currency=body["currency"],
            name=f"correction of {body['period']['label']} ({body['number']})",
            reason=_LATE,
        )
        with exactly():
            difference = sum((line.amount for line in found), ZERO)
        yield Corrected(str(kept.number), body["period"]["label"], usage_hash, amounts, difference), found


def gaps(closed: Sequence[Kept], *, first_told: int | None, newest: int) -> Iterator[Period]:
    """The months up to a tenant's newest statement that have none, since the catalog ``first_told`` of it (epoch
    seconds): there was nothing to say of them. Those before the ``newest`` so many statements; always cut the same.
    """
    start: int | None = None
    for number, kept in enumerate(closed):
        zone = period_of(kept.body).zone
        if first_told is not None:
            first = Period.holding(first_told, zone=zone).start
            start = first if start is None else max(start, first)
        while start is not None and start < kept.starts_at:
            end = min(Period.holding(start, zone=zone).end, kept.starts_at)
            if number >= len(closed) - newest:
                yield Period.spanning(start, end, zone=zone)
            start = end
        start = kept.ends_at


def correction_of_gap(
    gap: Period, rows: Rows, *, tenant: str, closed: Sequence[Kept], plans: Plans
) -> tuple[Corrected, list[Line]] | None:
    """Usage that was told of a month after a later one was final, less what was billed of it since; None: nothing new.

    No plan was in force, so it has prices of usage and no fixed amounts. Raises RatingRefused.
    """
    billed_hash, billed = gap_so_far(gap, closed)
    usage_hash = fingerprint(spell_rows(rows))
    if usage_hash == billed_hash:
        return None
    bill = rate(rows.items(), tenant=tenant, period=gap, terms=(), plans=plans)
    currency = str(closed[-1].body["currency"])
    if bill.currency not in ("", currency):
        raise MixedCurrencies(
            f"usage of {gap.label}, which was told late, is in {bill.currency}; the statements of {tenant} are in"
            f" {currency}"
        )
    again = {line_key(line): line for line in bill.lines if line.kind in OWN_KINDS}
    amounts = {key: format(line.amount, "f") for key, line in again.items()}
    name = f"late usage of {gap.label}"
    found = _differences(again, billed, {}, gap, currency=currency, name=name, reason=_LATE_OF_GAP)
    with exactly():
        difference = sum((line.amount for line in found), ZERO)
    return Corrected(None, gap.label, usage_hash, amounts, difference), found


def gap_so_far(gap: Period, closed: Sequence[Kept]) -> tuple[str, dict[str, str]]:
    """As ``billed_so_far``, of a month without a statement."""
    found: tuple[str, dict[str, str]] = (fingerprint([]), {})
    for kept in closed:
        for one in kept.body["corrections"]:
            if one["number"] is None and one["period"] == gap.label:
                found = (one["usage_hash"], dict(one["amounts"]))
    return found


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
    again: Mapping[str, Line],
    billed: Mapping[str, str],
    before: Mapping[str, Line],
    period: Period,
    *,
    currency: str,
    name: str,
    reason: str,
) -> list[Line]:
    """``before`` are the lines of the period's own statement."""
    lines: list[Line] = []
    for key in sorted(again.keys() | billed.keys()):
        now, was = again.get(key), Decimal(billed.get(key, "0"))
        with exactly():
            difference = (ZERO if now is None else now.amount) - was
        like = now or before.get(key)
        if not difference or like is None:
            continue
        then = before.get(key)
        lines.append(
            Line(
                kind="correction",
                name=f"{like.name}, {name}",
                amount=round_money(difference, currency),
                exact=difference,
                start=period.start,
                end=period.end,
                plan=like.plan,
                revision=like.revision,
                meter=like.meter,
                stream=like.stream,
                used=0 if now is None else now.used - (0 if then is None else then.used),
                billable=0 if now is None else now.billable - (0 if then is None else then.billable),
                taxes=like.taxes,
                reason=reason,
            )
        )
    return lines

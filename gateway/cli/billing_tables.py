"""What ``gateway billing`` prints: periods that were closed, a list of statements, one of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from gateway.cli.options import print_json
from gateway.cli.usage import print_table

if TYPE_CHECKING:
    from gateway.billing.closing import Closed
    from gateway.billing.store import Kept


def closed(one: Closed) -> dict[str, Any]:
    """As JSON tells it."""
    kept = one.statement
    return {
        "tenant": one.tenant,
        "period": one.period.label,
        "outcome": one.outcome,
        "id": None if kept is None else kept.id,
        "number": None if kept is None else kept.number,
        "reasons": list(one.reasons),
    }


def show_closed(closed: list[dict[str, Any]]) -> None:
    """``closed`` of several."""
    lines = [
        [one["tenant"], one["period"], one["outcome"], one["number"] or one["id"] or "", "; ".join(one["reasons"])]
        for one in closed
    ]
    print_table(["tenant", "period", "outcome", "statement", "why"], lines, numbers=0)


def show_list(found: list[Kept], output: str) -> None:
    """Without their usage rows."""
    shown = [{name: value for name, value in one.shown().items() if name != "usage"} for one in found]
    if output == "json":
        print_json({"statements": shown})
        return
    lines = [
        [
            one["number"] or one["id"],
            one["status"] + (" (preview)" if one["is_preview"] else ""),
            one["tenant"],
            one["period"]["label"],
            one["currency"],
            one["total"],
            one["due"],
        ]
        for one in shown
    ]
    print_table(["statement", "status", "tenant", "period", "currency", "total", "due"], lines, numbers=2)


def show_one(kept: Kept) -> None:
    """As the other forms have it, for a terminal."""
    from gateway.billing.report.page import page_of

    page = page_of(kept.shown())
    click.echo(page.title)
    if page.banner:
        click.echo(page.banner)
    for name, value in page.facts:
        click.echo(f"{name}: {value}")
    click.echo()
    lines: list[list[str]] = []
    for row in page.rows:
        lines.append([row.name, row.unit, row.used, row.included, row.billable, row.unit_price, row.amount])
        # What the other forms say below a line's name: which of two base fees is that of the month to come.
        lines += [[f"  {note}", *[""] * 6] for note in row.notes]
    lines += [[name, "", "", "", "", "", value] for name, value in (*page.sums, page.due)]
    print_table(["line", "unit", "used", "included", "billable", "unit price", "amount"], lines, numbers=5)
    for note in page.notes:
        click.echo(note)


def print_state(kept: Kept, output: str) -> None:
    """What became of a draft."""
    if output == "json":
        head = {"id": kept.id, "number": kept.number, "status": kept.status, "tenant": kept.tenant}
        print_json(head | {"approved_by": kept.approved_by})
    else:
        click.echo(f"{kept.id}: approved by {kept.approved_by}")

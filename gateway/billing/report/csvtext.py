"""A statement's lines as CSV (RFC 4180), safe to open in a spreadsheet."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from typing import Any, Final

COLUMNS: Final = (
    *("number", "status", "tenant", "period", "currency", "kind", "name", "plan", "revision", "meter", "stream"),
    *("from", "to", "used", "included", "billable", "unit_price", "per", "exact", "amount", "tax", "reason"),
    *("share", "tiers", "before_discount", "discount_units", "discount_percent", "discount_amount", "advanced"),
)
_NUMBERS: Final = frozenset(
    {
        *("revision", "used", "included", "billable", "unit_price", "per", "exact", "amount", "before_discount"),
        *("discount_units", "discount_percent", "discount_amount", "advanced"),
    }
)
_DANGEROUS: Final = ("=", "+", "-", "@", "\t", "\r")


def spell(statement: Mapping[str, Any]) -> bytes:
    """One row a line of the statement, those of tax and credit last; ``amount`` adds up to what is due.

    What looks like a formula to a spreadsheet gets a ``'`` in front; numbers stay numbers, also below 0.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\r\n")
    writer.writerow(COLUMNS)
    for line in statement["lines"]:
        cells = {
            **{name: line.get(name) for name in COLUMNS},
            "number": statement["number"],
            "status": statement["status"],
            "tenant": statement["tenant"],
            "period": statement["period"]["label"],
            "currency": statement["currency"],
            "from": line["period"]["from"],
            "to": line["period"]["to"],
            "tax": " + ".join(f"{tax['name']} {tax['percent']} %" for tax in line.get("taxes", ())),
            "share": "{seconds}/{of_seconds}".format_map(line["share"]) if "share" in line else None,
            "tiers": "; ".join(_tier(tier) for tier in line.get("tiers", ())),
            **_discount(line.get("discount")),
        }
        writer.writerow([_cell(name, cells[name]) for name in COLUMNS])
    return text.getvalue().encode()


def _tier(tier: Mapping[str, Any]) -> str:
    """``up to 1000: 1000 * 0.1 + 5 = 105``."""
    bound = "rest" if tier["up_to"] is None else f"up to {tier['up_to']}"
    return f"{bound}: {tier['quantity']} * {tier['unit_price']} + {tier['flat_amount']} = {tier['exact']}"


def _discount(discount: Mapping[str, Any] | None) -> dict[str, Any]:
    if discount is None:
        return {}
    taken = {f"discount_{name}": discount[name] for name in ("units", "percent", "amount")}
    return taken | {"before_discount": discount["before"]}


def _cell(column: str, value: object) -> str:
    text = "" if value is None else str(value)
    return f"'{text}" if column not in _NUMBERS and text.startswith(_DANGEROUS) else text

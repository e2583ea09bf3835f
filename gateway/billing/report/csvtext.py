"""A statement's lines as CSV (RFC 4180), safe to open in a spreadsheet."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from typing import Any, Final

COLUMNS: Final = (
    *("number", "status", "tenant", "period", "currency", "kind", "name", "plan", "revision", "meter", "stream"),
    *("from", "to", "used", "included", "billable", "unit_price", "per", "exact", "amount", "tax", "reason"),
)
_NUMBERS: Final = frozenset({"revision", "used", "included", "billable", "unit_price", "per", "exact", "amount"})
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
        }
        writer.writerow([_cell(name, cells[name]) for name in COLUMNS])
    return text.getvalue().encode()


def _cell(column: str, value: object) -> str:
    text = "" if value is None else str(value)
    return f"'{text}" if column not in _NUMBERS and text.startswith(_DANGEROUS) else text

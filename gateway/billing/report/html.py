"""A statement as one HTML page that prints well: no script, nothing loaded from elsewhere."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable, Mapping
from html import escape
from typing import Any, Final

from gateway.billing.report.page import Page, Row, columns, page_of

_STYLE: Final = """
@page { size: A4; margin: 16mm 14mm }
* { box-sizing: border-box }
body { font: 10pt/1.45 "DejaVu Sans", Verdana, Arial, sans-serif; color: #1b1f24; margin: 0; background: #fff }
main { max-width: 210mm; margin: 0 auto; padding: 8mm }
h1 { font-size: 19pt; margin: 0 0 2mm; font-weight: 700 }
h2 { font-size: 11pt; margin: 9mm 0 2mm }
.banner { border: 1px solid #9a6700; background: #fff8e1; padding: 2mm 3mm; margin: 0 0 5mm; font-weight: 700 }
.top { display: flex; justify-content: space-between; gap: 10mm; margin-bottom: 6mm }
.party p { margin: 0 }
.party p:first-child { font-weight: 700 }
.label { color: #57606a; font-size: 8pt; margin: 0 0 1mm; font-weight: 400 !important }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .5mm 4mm; margin: 0 }
dt { color: #57606a }
dd { margin: 0 }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums }
th { text-align: left; font-size: 8pt; color: #57606a; border-bottom: 1.5px solid #1b1f24; padding: 1.2mm 1.5mm }
td { vertical-align: top; border-bottom: 1px solid #d0d7de; padding: 1.6mm 1.5mm; overflow-wrap: break-word }
.lines { table-layout: fixed }
.lines th:nth-child(1) { width: 30% }
.lines th:nth-child(3) { width: 14% }
.lines th:nth-child(5) { width: 13% }
.lines th:nth-child(6) { width: 12.5% }
.lines td.n { font-size: 8.5pt }
.lines td.n .unit { font-size: 7pt }
.lines .note + .note { width: 230% }
.n { text-align: right; white-space: nowrap; overflow-wrap: normal }
.note, .unit { display: block; color: #57606a; font-size: 8pt; line-height: 1.35; font-weight: 400 }
.name { font-weight: 700 }
.usage { font-size: 8pt }
.sums { width: 88mm; margin: 4mm 0 0 auto }
.sums td { border: 0; padding: .8mm 1.5mm }
.sums .due td { border-top: 1.5px solid #1b1f24; font-weight: 700; font-size: 12pt; padding-top: 1.6mm }
.notes p { margin: 0 0 1.5mm; font-size: 8.5pt }
.hashes { font-size: 7.5pt; color: #57606a; overflow-wrap: anywhere }
thead { display: table-header-group }
tr { break-inside: avoid }
@media print { main { padding: 0; max-width: none } }
"""
_STYLE_HASH: Final = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()


def spell(statement: Mapping[str, Any]) -> bytes:
    """The page, in UTF-8. Everything in it that is not ours is escaped."""
    page = page_of(statement)
    policy = f"default-src 'none'; style-src 'sha256-{_STYLE_HASH}'; base-uri 'none'; form-action 'none'"
    parts = [
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n',
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n',
        '<meta name="viewport" content="width=device-width">\n',
        f"<title>{escape(page.title)}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n<main>\n",
        f"<h1>{escape(page.title)}</h1>\n",
        f'<p class="banner">{escape(page.banner)}</p>\n' if page.banner else "",
        _top(page),
        _lines(page),
        _sums(page),
        _usage(page),
        '<h2>Notes</h2>\n<div class="notes">\n',
        *(f"<p>{escape(note)}</p>\n" for note in page.notes),
        '</div>\n<h2>Fingerprints (SHA-256)</h2>\n<dl class="hashes">\n',
        *(f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>\n" for name, value in page.fingerprints),
        "</dl>\n</main>\n</body>\n</html>\n",
    ]
    return "".join(parts).encode()


def _top(page: Page) -> str:
    sides = [
        _party("Issued by", page.seller) if page.seller else "",
        _party("For", page.buyer),
        "<dl>" + "".join(f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>" for name, value in page.facts) + "</dl>",
    ]
    return '<div class="top">\n' + "\n".join(side for side in sides if side) + "\n</div>\n"


def _party(label: str, lines: Iterable[str]) -> str:
    told = "".join(f"<p>{escape(line)}</p>" for line in lines)
    return f'<div><p class="label">{label}</p><div class="party">{told}</div></div>'


def _lines(page: Page) -> str:
    first, *numbers = columns(page.currency)
    head = f"<th>{first}</th>" + "".join(f'<th class="n">{escape(name)}</th>' for name in numbers)
    rows = "".join(_line(row) for row in page.rows) or '<tr><td colspan="6">Nothing was used or asked.</td></tr>\n'
    return f'<table class="lines">\n<thead><tr>{head}</tr></thead>\n<tbody>\n{rows}</tbody>\n</table>\n'


def _line(row: Row) -> str:
    notes = "".join(f'<span class="note">{escape(note)}</span>' for note in row.notes)
    cells = [f'<td><span class="name">{escape(row.name)}</span>{notes}</td>']
    for value in (row.used, row.included, row.billable):
        unit = f'<span class="unit">{escape(row.unit)}</span>' if value else ""
        cells.append(f'<td class="n">{escape(value)}{unit}</td>')
    price, _, per = row.unit_price.partition(" per ")
    unit = f'<span class="unit">per {escape(per)}</span>' if per else ""
    cells.append(f'<td class="n">{escape(price)}{unit}</td><td class="n">{escape(row.amount)}</td>')
    return f"<tr>{''.join(cells)}</tr>\n"


def _sums(page: Page) -> str:
    rows = "".join(f'<tr><td>{escape(name)}</td><td class="n">{escape(value)}</td></tr>\n' for name, value in page.sums)
    name, value = page.due
    due = f'<tr class="due"><td>{escape(name)}</td><td class="n">{escape(value)} {escape(page.currency)}</td></tr>\n'
    return f'<table class="sums">\n<tbody>\n{rows}{due}</tbody>\n</table>\n'


def _usage(page: Page) -> str:
    if not page.usage:
        return ""
    plain = 4
    head = "".join(
        f"<th{'' if place < plain else ' class=n'}>{escape(name)}</th>" for place, name in enumerate(page.usage_columns)
    )
    rows = "".join(
        "<tr>"
        + "".join(f"<td{'' if place < plain else ' class=n'}>{escape(cell)}</td>" for place, cell in enumerate(cells))
        + "</tr>\n"
        for cells in page.usage
    )
    return (
        f'<h2>Usage in the period</h2>\n<table class="usage">\n<thead><tr>{head}</tr></thead>\n'
        f"<tbody>\n{rows}</tbody>\n</table>\n"
    )

"""A statement as PDF with its fonts embedded; the same bytes for the same statement."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields
from datetime import UTC, datetime
from functools import cache
from importlib import resources
from itertools import groupby
from typing import Any, Final

from fpdf import FPDF
from fpdf.bidi import BidiParagraph
from fpdf.enums import MethodReturnValue, TableBordersLayout, XPos, YPos
from fpdf.fonts import FontFace

from gateway.billing.report.page import Page, Row, columns, page_of
from gateway.units import parse_rfc3339

_FAMILY: Final = "DejaVu"
_FONTS: Final = {"": "DejaVuSans.ttf", "B": "DejaVuSans-Bold.ttf"}
_INK, _GREY, _RULE, _AMBER, _PAPER = (27, 31, 36), (87, 96, 106), (208, 215, 222), (154, 103, 0), (255, 248, 225)
_MARGIN: Final = 14
_WIDTH: Final = 210 - 2 * _MARGIN
_LINE_WIDTHS: Final = (57, 27, 25, 27, 24, 22)
_NAME_WIDTH: Final = _LINE_WIDTHS[0] - 2.0
_NOTE_WIDTH: Final = sum(_LINE_WIDTHS[:4]) - 2.0
_NAME_HEIGHT, _NOTE_HEIGHT, _PADDING = 4.2, 3.5, 1.3
_USAGE_WIDTHS: Final = (32, 30, 17, 25, 20, 18, 16, 24)


_NUMBERED: Final = (
    "Characters that this document's fonts lack are shown by their Unicode numbers in brackets, such as [U+682A]. "
    "The JSON, CSV and HTML forms of this statement have the characters themselves; what is owed is the same."
)


class _Sheet(FPDF):
    """A4 with page numbers, and with an identity made of what it shows."""

    def __init__(self, page: Page, identity: str) -> None:
        super().__init__(format="A4")
        self._page = page
        self._identity = identity
        for style, name in _FONTS.items():
            self.add_font(_FAMILY, style, str(resources.files("gateway.billing.report").joinpath("fonts", name)))
        self.set_margins(_MARGIN, 16, _MARGIN)
        # Or text would stand a little to the right of the rules.
        self.c_margin = 0
        self.set_auto_page_break(True, margin=18)
        self.alias_nb_pages()

    def file_id(self) -> str:
        """Of the statement, where others take the time."""
        half = self._identity[:32]
        return f"<{half}><{half}>"

    def footer(self) -> None:
        """What a sheet that was separated from the others is of."""
        self.set_y(-12)
        self.ink(7, grey=True)
        self.cell(_WIDTH / 2, 4, _drawable(self._page.title))
        self.cell(_WIDTH / 2, 4, f"page {self.page_no()} of {{nb}}", align="R")

    def ink(self, size: float, *, bold: bool = False, grey: bool = False) -> None:
        """How what comes next is written."""
        self.set_font(_FAMILY, "B" if bold else "", size)
        self.set_text_color(*(_GREY if grey else _INK))

    def text_line(self, text: str, height: float, *, width: float = _WIDTH) -> None:
        """A paragraph across ``width``, and on to the next line."""
        self.multi_cell(width, height, _drawable(text), align="L", new_x=XPos.LMARGIN, new_y=YPos.NEXT)


def spell(statement: Mapping[str, Any]) -> bytes:
    """The document. Characters that the fonts lack are written by those they are made of, or by their numbers; where it
    has such numbers it says so at its head."""
    page = page_of(statement)
    sheet = _Sheet(page, statement["hash"])
    made = statement["issued_at"] or statement["made_at"]
    sheet.set_creation_date(datetime.fromtimestamp(parse_rfc3339(made) // 1000, UTC))
    sheet.set_title(page.title)
    sheet.set_lang("en")
    sheet.set_producer("gateway")
    sheet.add_page()
    sheet.ink(18, bold=True)
    sheet.text_line(page.title, 9)
    if page.banner:
        _draw_banner(sheet, page.banner)
    _draw_top(sheet, page)
    if any(_lacks(text) for text in _texts(page)):
        sheet.ink(8)
        sheet.text_line(_NUMBERED, 4.2)
        sheet.ln(2)
    _draw_lines(sheet, page)
    _draw_sums(sheet, page)
    _draw_usage(sheet, page)
    _draw_notes(sheet, page)
    return bytes(sheet.output())


def _draw_banner(sheet: _Sheet, banner: str) -> None:
    sheet.ln(1)
    sheet.ink(9, bold=True)
    sheet.set_draw_color(*_AMBER)
    sheet.set_fill_color(*_PAPER)
    sheet.multi_cell(_WIDTH, 7, f"  {banner}", border=1, fill=True, new_x=XPos.LMARGIN, new_y=YPos.NEXT)
    sheet.set_fill_color(255)


def _draw_top(sheet: _Sheet, page: Page) -> None:
    sheet.ln(4)
    top = bottom = sheet.get_y()
    blocks = [("Issued by", page.seller), ("For", page.buyer)]
    width = 50
    left = float(_MARGIN)
    for label, lines in blocks:
        if not lines:
            continue
        sheet.set_xy(left, top)
        sheet.ink(7.5, grey=True)
        sheet.cell(width, 4, label)
        for place, line in enumerate(lines):
            sheet.set_xy(left, top + 4 if place == 0 else sheet.get_y())
            sheet.ink(9, bold=place == 0)
            sheet.multi_cell(width, 4.6, _drawable(line), align="L", new_x=XPos.LMARGIN, new_y=YPos.NEXT)
        bottom = max(bottom, sheet.get_y())
        left += width + 6
    right = float(_MARGIN + _WIDTH - 84 if len([one for one in blocks if one[1]]) == 1 else left)
    y = top
    for name, value in page.facts:
        sheet.set_xy(right, y)
        sheet.ink(8.5, grey=True)
        sheet.cell(21, 4.8, name)
        sheet.set_xy(right + 21, y)
        sheet.ink(8.5)
        sheet.multi_cell(_MARGIN + _WIDTH - right - 21, 4.8, _drawable(value), align="L", new_y=YPos.NEXT)
        y = sheet.get_y()
    sheet.set_xy(_MARGIN, max(bottom, y) + 5)


def _draw_lines(sheet: _Sheet, page: Page) -> None:
    _draw_head(sheet, columns(page.currency))
    for row in page.rows:
        # A line stays on one page where it fits on one.
        height = min(_height(sheet, row), 200.0)
        if sheet.will_page_break(height):
            sheet.add_page()
            _draw_head(sheet, columns(page.currency))
        _draw_line(sheet, row)
    if not page.rows:
        sheet.ink(8.5)
        sheet.ln(2)
        sheet.text_line("Nothing was used or asked.", 5)


def _draw_head(sheet: _Sheet, names: Sequence[str]) -> None:
    sheet.ink(7, bold=True, grey=True)
    for place, (name, width) in enumerate(zip(names, _LINE_WIDTHS, strict=True)):
        sheet.cell(width, 5, _drawable(name), align="R" if place else "L")
    sheet.ln(5.6)
    _rule(sheet, _INK)


def _height(sheet: _Sheet, row: Row) -> float:
    sheet.ink(8.5, bold=True)
    found: float = _NAME_HEIGHT * _lines_of(sheet, row.name, width=_NAME_WIDTH)
    sheet.ink(7)
    found += _NOTE_HEIGHT * sum(_lines_of(sheet, note, width=width) for note, width in _widths(row))
    return max(found, _NAME_HEIGHT + _NOTE_HEIGHT) + 2 * _PADDING


def _widths(row: Row) -> Iterator[tuple[str, float]]:
    """Notes with how wide they may be: beside the first stand the units, beside the others nothing."""
    for place, note in enumerate(row.notes):
        yield note, _NAME_WIDTH if place == 0 else _NOTE_WIDTH


def _lines_of(sheet: _Sheet, text: str, *, width: float) -> int:
    shown = sheet.multi_cell(width, 4, _drawable(text), align="L", dry_run=True, output=MethodReturnValue.LINES)
    return len(shown) if isinstance(shown, list) else 1


def _draw_line(sheet: _Sheet, row: Row) -> None:
    top = sheet.get_y() + _PADDING
    page_no = sheet.page_no()
    left = _MARGIN + float(_LINE_WIDTHS[0])
    price, _, per = row.unit_price.partition(" per ")
    quantities = [(value, row.unit if value else "") for value in (row.used, row.included, row.billable)]
    cells = [*quantities, (price, f"per {per}" if per else ""), (row.amount, "")]
    for (value, unit), width in zip(cells, _LINE_WIDTHS[1:], strict=True):
        for text, down, size in ((value, 0.0, 8), (unit, _NAME_HEIGHT, 6.5)):
            sheet.set_xy(left, top + down)
            sheet.ink(size, grey=size < 8)
            sheet.cell(width, _NAME_HEIGHT, _drawable(text), align="R")
        left += width
    sheet.set_xy(_MARGIN, top)
    sheet.ink(8.5, bold=True)
    sheet.text_line(row.name, _NAME_HEIGHT, width=_NAME_WIDTH)
    sheet.ink(7, grey=True)
    for note, room in _widths(row):
        sheet.text_line(note, _NOTE_HEIGHT, width=room)
    bottom = sheet.get_y() if sheet.page_no() > page_no else max(sheet.get_y(), top + _NAME_HEIGHT + _NOTE_HEIGHT)
    sheet.set_y(bottom + _PADDING)
    _rule(sheet, _RULE)


def _rule(sheet: _Sheet, color: tuple[int, int, int]) -> None:
    sheet.set_draw_color(*color)
    sheet.line(_MARGIN, sheet.get_y(), _MARGIN + _WIDTH, sheet.get_y())


def _draw_sums(sheet: _Sheet, page: Page) -> None:
    height = 5.0
    if sheet.will_page_break(height * (len(page.sums) + 3)):
        sheet.add_page()
    sheet.ln(3)
    left, wide, narrow = _MARGIN + _WIDTH - 92.0, 58.0, 34.0
    for name, value in page.sums:
        sheet.set_x(left)
        sheet.ink(9)
        sheet.cell(wide, height, _drawable(name))
        sheet.cell(narrow, height, value, align="R", new_x=XPos.LMARGIN, new_y=YPos.NEXT)
    sheet.set_draw_color(*_INK)
    sheet.line(left, sheet.get_y() + 0.5, left + wide + narrow, sheet.get_y() + 0.5)
    sheet.ln(1.5)
    sheet.set_x(left)
    sheet.ink(11, bold=True)
    sheet.cell(wide - 8, 7, page.due[0])
    sheet.cell(narrow + 8, 7, f"{page.due[1]} {page.currency}", align="R", new_x=XPos.LMARGIN, new_y=YPos.NEXT)


def _draw_usage(sheet: _Sheet, page: Page) -> None:
    if not page.usage:
        return
    _draw_heading(sheet, "Usage in the period")
    sheet.ink(7)
    sheet.set_draw_color(*_RULE)
    with sheet.table(
        width=_WIDTH,
        col_widths=_USAGE_WIDTHS,
        text_align=(*["LEFT"] * 4, *["RIGHT"] * 4),
        borders_layout=TableBordersLayout.HORIZONTAL_LINES,
        line_height=3.6,
        padding=(0.9, 1),
        headings_style=FontFace(emphasis="BOLD", size_pt=7, color=_GREY),
    ) as table:
        table.row(page.usage_columns)
        for cells in page.usage:
            table.row([_drawable(cell) for cell in cells])


def _draw_notes(sheet: _Sheet, page: Page) -> None:
    _draw_heading(sheet, "Notes")
    for note in page.notes:
        sheet.ink(8)
        sheet.text_line(note, 4.2)
        sheet.ln(0.8)
    _draw_heading(sheet, "Fingerprints (SHA-256)")
    for name, value in page.fingerprints:
        sheet.ink(7, grey=True)
        sheet.cell(48, 4, _drawable(name))
        sheet.cell(_WIDTH - 48, 4, value, new_x=XPos.LMARGIN, new_y=YPos.NEXT)


def _draw_heading(sheet: _Sheet, text: str) -> None:
    if sheet.will_page_break(22):
        sheet.add_page()
    sheet.ln(6)
    sheet.ink(10, bold=True)
    sheet.text_line(text, 6)


@cache
def _glyphs() -> frozenset[int]:
    from fontTools.ttLib import TTFont

    found: set[int] | None = None
    for name in _FONTS.values():
        with resources.files("gateway.billing.report").joinpath("fonts", name).open("rb") as file:
            known = set(TTFont(file, lazy=True).getBestCmap())
        found = known if found is None else found & known
    return frozenset(found or ())


def _drawable(text: str) -> str:
    """The text in characters that the fonts have, in the order in which they are drawn."""
    glyphs = _glyphs()
    if text.isascii():
        return text
    drawn = [_nearest(character, glyphs) for character in text]
    found = ""
    for is_lacking, run in groupby(zip(text, drawn, strict=True), key=lambda one: one[1] is None):
        if is_lacking:
            found += f"[{' '.join(f'U+{ord(character):04X}' for character, _ in run)}]"
        else:
            found += "".join(nearest or "" for _, nearest in run)
    if any(unicodedata.bidirectional(character) in ("R", "AL") for character in found):
        found = BidiParagraph(text=found).get_reordered_string()
    return found


def _lacks(text: str) -> bool:
    """Whether some of it is drawn as numbers."""
    return not text.isascii() and any(_nearest(one, _glyphs()) is None for one in text)


def _texts(value: object) -> Iterator[str]:
    """All that a page says."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, tuple):
        for one in value:
            yield from _texts(one)
    elif isinstance(value, Page | Row):
        for member in fields(value):
            yield from _texts(getattr(value, member.name))


def _nearest(character: str, glyphs: frozenset[int]) -> str | None:
    """The character, or those it is made of as far as the fonts have them; None: they have none of it."""
    if character == "\n" or ord(character) in glyphs:
        return character
    plain = unicodedata.normalize("NFKD", character)
    found = "".join(one for one in plain if ord(one) in glyphs)
    return found or None

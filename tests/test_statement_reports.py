"""Statements as JSON, CSV, HTML and PDF: the same bytes each time, safe whatever names they hold, fit to be read."""

from __future__ import annotations

import csv
import io
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from decimal import Decimal
from fractions import Fraction
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pypdfium2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.billing.office import FORMS, spell
from gateway.billing.report.page import grouped, page_of
from gateway.billing.statement import Party, is_invoice
from tests.parts.billing import AUGUST, HOUR, JULY, Desk, desk, example

HOSTILE = "<script>alert(1)</script>"
UNICODE = "Łódź Œuvre — Ünïcode 東京 مرحبا 🎉 & \u202eevil\x07 Co."
SELLER = Party("Streams SE", ("Hafen 1", "20457 Hamburg"), "DE123456789", "HRB 1", "billing@streams.example")


@pytest.fixture(scope="module")
def finance(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Desk]:
    folder = tmp_path_factory.mktemp("finance")
    catalog = example()
    catalog["tenants"][0]["title"] = UNICODE.replace("\x07", "")
    catalog["tenants"][0]["credit"] = "7.00"
    with desk(f"sqlite:///{folder}/gateway.db", folder, catalog=catalog) as one:
        one.use(JULY.start, records=12_345_678, bytes=133 << 30, units=9)
        one.close_all(JULY.end + HOUR)
        one.use(JULY.start + HOUR, source="late", stream="earthquakes", records=999_999)
        one.told(AUGUST.end, source="late", state="ended")
        one.use(AUGUST.start, records=1_000_001, replayed_records=1_500_000, filtered_records=3)
        one.use(AUGUST.start, application="acme-test", is_billable=False, records=77, transport="pull")
        one.store.adjust(
            tenant="acme", name=HOSTILE, reason="=1+1", amount=Decimal("-3.5"), by="@eve", now=int(JULY.end)
        )
        one.close_all(AUGUST.end + HOUR)
        yield one


@pytest.fixture(scope="module")
def august(finance: Desk) -> dict[str, Any]:
    return finance.store.find("ST-000002").shown()


@pytest.mark.parametrize("form", FORMS)
def test_the_same_statement_gives_the_same_bytes(form: str, august: dict[str, Any], tmp_path: Path) -> None:
    """In another process, too, with another hash seed, zone and time."""
    once = spell(august, form)
    assert spell(json.loads(json.dumps(august)), form) == once
    (tmp_path / "statement.json").write_text(json.dumps(august))
    code = (
        "import json, sys, time, os; os.environ['TZ'] = 'Asia/Tokyo'; time.tzset();"
        "from gateway.billing.office import spell;"
        "sys.stdout.buffer.write(spell(json.load(open('statement.json', 'rb')), sys.argv[1]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, form],
        cwd=tmp_path,
        env={"PYTHONHASHSEED": "7", "PYTHONPATH": str(Path(__file__).parents[1])},
        capture_output=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == once


def test_json_has_what_it_takes_to_check_it(august: dict[str, Any]) -> None:
    told = json.loads(spell(august, "json"))
    assert (told["number"], told["status"], told["currency"]) == ("ST-000002", "FINAL", "EUR")
    assert told["period"]["time_zone"] == "Europe/Berlin"
    assert re.fullmatch(r"[0-9a-f]{64}", told["usage_hash"])
    assert told["previous"]["number"] == "ST-000001"
    assert told["watermark"]["is_complete"] is True
    assert sum(Decimal(line["amount"]) for line in told["lines"]) == Decimal(told["due"])
    for line in told["lines"]:
        assert {"name", "meter", "stream", "used", "included", "billable", "unit_price", "exact", "amount"} <= set(line)
        for name in ("used", "included", "billable", "unit_price", "exact", "amount"):
            assert line[name] is None or isinstance(line[name], str)
    (correction,) = [line for line in told["lines"] if line["kind"] == "correction"]
    assert "ST-000001" in correction["name"]
    assert (correction["stream"], correction["used"]) == (None, "999999")


def test_csv_is_one_row_a_line_and_no_formula_runs(august: dict[str, Any]) -> None:
    text = spell(august, "csv").decode()
    assert "\r\n" in text
    rows = list(csv.DictReader(io.StringIO(text, newline="")))
    assert len(rows) == len(august["lines"])
    assert sum(Decimal(row["amount"]) for row in rows) == Decimal(august["due"])
    (line,) = [row for row in rows if row["kind"] == "adjustment"]
    assert line["reason"] == "'=1+1 (@eve)"
    assert line["amount"] == "-3.50", "numbers stay numbers"
    texts = [value for row in rows for name, value in row.items() if name not in ("amount", "exact")]
    assert not [value for value in texts if value.startswith(("=", "+", "-", "@", "\t", "\r"))]


def text_of(pdf: bytes) -> str:
    """What a PDF says, whatever the breaks of its lines."""
    with closing(pypdfium2.PdfDocument(pdf)) as document:
        found = ""
        for page in document:
            with closing(page.get_textpage()) as part:
                found += part.get_text_range() + " "
            page.close()
    return " ".join(found.split())


def test_every_form_has_what_it_takes_to_count_each_line_again(tmp_path: Path) -> None:
    """Exact amounts, tiers, shares and discounts: what was taken off, beside what the plan says."""
    catalog = example()
    pro = next(one for one in catalog["plans"] if one["name"] == "pro")
    records: dict[str, Any] = {
        "name": "Records",
        "model": "graduated",
        "meter": "records",
        "discount": {"units": 50, "amount": "3"},
    }
    records["tiers"] = [{"up_to": 1000, "unit_price": "0.01", "flat_amount": "5"}, {"unit_price": "0.0015"}]
    second = {**pro, "revision": 2, "charges": [records], "minimum": None}
    with desk(f"sqlite:///{tmp_path}/gateway.db", tmp_path, catalog=catalog) as finance:
        finance.at(JULY.end - 8 * 24 * HOUR)
        finance.apply(catalog | {"plans": [*catalog["plans"], second]})
        finance.use(JULY.end - HOUR, revision=2, records=1_234_567)
        (july,) = finance.close_all(JULY.end + HOUR)
        assert finance.findings() == []
    shown = july.shown()
    line = next(one for one in shown["lines"] if one["name"] == "Records" and one["revision"] == 2)
    share = Fraction(int(line["share"]["seconds"]), int(line["share"]["of_seconds"]))
    assert share == Fraction(8, 31)
    taken = line["discount"]
    assert (taken["units"], taken["full_units"], taken["full_amount"]) == ("13", "50", "3")
    assert abs(Fraction(taken["amount"]) - 3 * share) < Fraction(1, 10**20), "what was deducted, and no more"
    gross = sum(Fraction(tier["exact"]) for tier in line["tiers"])
    assert abs(gross - Fraction(taken["before"])) < Fraction(1, 10**20)
    assert abs(gross - Fraction(taken["amount"]) - Fraction(line["exact"])) < Fraction(1, 10**20)
    assert int(line["used"]) - int(line["included"]) - int(taken["units"]) == int(line["billable"])
    html = Tags()
    html.feed(spell(shown, "html").decode())
    (row,) = [
        one
        for one in csv.DictReader(io.StringIO(spell(shown, "csv").decode(), newline=""))
        if one["name"] == "Records" and one["revision"] == "2"
    ]
    assert row["share"] == f"{line['share']['seconds']}/{line['share']['of_seconds']}"
    assert (row["discount_units"], row["discount_amount"]) == ("13", taken["amount"])
    assert row["before_discount"] == taken["before"]
    for tier in line["tiers"]:
        assert f"{tier['quantity']} * {tier['unit_price']} + {tier['flat_amount']} = {tier['exact']}" in row["tiers"]
    for text in (html.text, text_of(spell(shown, "pdf"))):
        for one in shown["lines"]:
            if one["kind"] not in ("tax", "credit"):
                assert f"exact {grouped(one['exact'])}" in text
        assert f"for {grouped(line['share']['seconds'])} of {grouped(line['share']['of_seconds'])} seconds" in text
        assert "13 units (of 50 a month)" in text
        assert f"{taken['amount']} (of 3 a month)" in text
        for tier in line["tiers"]:
            assert f"{grouped(tier['quantity'])} \u00d7 {tier['unit_price']}" in text
    taxed = next(one for one in shown["lines"] if one["kind"] == "tax")
    assert f"is exactly {taxed['exact']}." in html.text


class Tags(HTMLParser):
    """What a browser would see."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs

    def handle_data(self, data: str) -> None:
        self.text += data


def test_html_loads_and_runs_nothing(august: dict[str, Any]) -> None:
    page = Tags()
    page.feed(spell(august, "html").decode())
    assert not {"script", "img", "link", "iframe", "a", "form", "object"} & set(page.tags)
    assert not [name for name, _ in page.attributes if name.startswith("on") or name in ("src", "href", "style")]
    assert HOSTILE in page.text, "shown as it is written"
    assert "\u202e" not in page.text
    assert "東京" in page.text
    policy = next(value for name, value in page.attributes if value and "default-src" in value)
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy


def test_a_pdf_tells_the_same_as_the_page(august: dict[str, Any]) -> None:
    document = pypdfium2.PdfDocument(spell(august, "pdf"))
    try:
        text = ""
        for page in document:
            part = page.get_textpage()
            text += part.get_text_range()
            part.close()
            page.close()
    finally:
        document.close()
    shown = page_of(august)
    assert "Łódź" in text
    for wanted in ("Statement ST-000002", "1 August 2026 to 31 August 2026", HOSTILE, shown.due[1], *dict(shown.sums)):
        assert wanted in text, wanted
    for row in shown.rows:
        assert row.amount in text
    assert august["hash"] in text


@settings(max_examples=12, deadline=None, derandomize=True, database=None)
@given(name=st.text(max_size=60), reason=st.text(max_size=200))
def test_whatever_a_name_is_made_of_every_form_can_be_made(name: str, reason: str, august: dict[str, Any]) -> None:
    lines = [{**line, "name": name, "reason": reason} for line in august["lines"][:2]]
    statement = {**august, "title": name, "lines": lines}
    for form in ("csv", "html", "pdf"):
        assert spell(statement, form)


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("株式会社アクメ", "[U+682A U+5F0F U+4F1A U+793E U+30A2 U+30AF U+30E1]"),
        ("Acme 株式会社 GmbH", "Acme [U+682A U+5F0F U+4F1A U+793E] GmbH"),
        ("हि", "[U+0939 U+093F]"),
        ("क्", "[U+0915 U+094D]"),
        ("A𠮷", "A[U+20BB7]"),
    ],
)
def test_what_the_fonts_lack_is_a_number_in_a_pdf_and_the_pdf_says_so(
    name: str, shown: str, august: dict[str, Any]
) -> None:
    document = pypdfium2.PdfDocument(spell({**august, "title": name}, "pdf"))
    text = " ".join(document[0].get_textpage().get_text_range().split())
    assert shown in text
    assert "□" not in text
    assert "have the characters themselves" in text
    document.close()
    assert name in spell({**august, "title": name}, "html").decode()


@pytest.mark.parametrize("name", ["Müller & Søn", "Καλημέρα", "Привет", "Škoda ﬁ ½ Ⅷ", "Acme"])
def test_names_that_the_fonts_have_need_no_note(name: str, august: dict[str, Any]) -> None:
    document = pypdfium2.PdfDocument(spell({**august, "title": name}, "pdf"))
    text = " ".join(document[0].get_textpage().get_text_range().split())
    assert "U+" not in text
    document.close()


def test_a_long_statement_goes_over_several_pages_with_a_head_on_each(august: dict[str, Any]) -> None:
    long = {**august, "lines": august["lines"][:1] * 120, "usage": august["usage"] * 80}
    document = pypdfium2.PdfDocument(spell(long, "pdf"))
    try:
        count = len(document)
        page = document[2]
        part = page.get_textpage()
        text = part.get_text_range()
        part.close()
        page.close()
    finally:
        document.close()
    assert count > 5
    assert "Unit price" in text
    assert f"page 3 of {count}" in text


def test_draft_preview_and_credited_say_so_large(august: dict[str, Any]) -> None:
    draft = {**august, "status": "DRAFT", "number": None, "issued_at": None}
    for statement, said in (
        (draft, "Draft: not a claim"),
        ({**draft, "is_preview": True}, "Preview: not a claim"),
        ({**august, "status": "CREDITED"}, "Credited"),
    ):
        assert said in spell(statement, "html").decode()
        assert spell(statement, "pdf")[:5] == b"%PDF-"
    assert page_of(august).banner == ""


def test_it_is_an_invoice_only_where_both_sides_are_named_in_full(finance: Desk, august: dict[str, Any]) -> None:
    assert "nvoice" not in spell(august, "html").decode() + spell(august, "json").decode()
    body = finance.store.find("ST-000002").body
    buyer = Party("Acme AG", ("Weg 2", "10115 Berlin"), "DE987654321")
    for seller, other, word in (
        (None, None, False),
        (SELLER, None, False),
        (Party("Streams SE"), buyer, False),
        (SELLER, buyer, True),
    ):
        named = {
            **body,
            "seller": None if seller is None else seller.to_dict(),
            "buyer": None if other is None else other.to_dict(),
        }
        assert is_invoice(named) is word
    page = spell(
        {**august, "document": "invoice", "seller": SELLER.to_dict(), "buyer": buyer.to_dict()}, "html"
    ).decode()
    for wanted in ("Invoice ST-000002", "VAT ID DE123456789", "VAT ID DE987654321", "20457 Hamburg", "10115 Berlin"):
        assert wanted in page


@pytest.mark.parametrize(
    ("number", "shown"),
    [("0", "0"), ("-0.50", "-0.50"), ("1234567.89", "1,234,567.89"), ("-1234", "-1,234"), ("0.000005", "0.000005")],
)
def test_numbers_are_grouped_by_thousands(number: str, shown: str) -> None:
    assert grouped(number) == shown

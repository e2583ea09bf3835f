"""What a statement shows people and in which order: words and numbers, for whatever draws them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final
from zoneinfo import ZoneInfo

from gateway.units import parse_rfc3339

_MONTHS: Final = (
    *("January", "February", "March", "April", "May", "June", "July", "August", "September", "October", "November"),
    "December",
)
_UNSEEN: Final = re.compile("[\x00-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff\ufff9-\ufffb]+")
_UNITS: Final = {
    "records": "records",
    "replayed_records": "replayed records",
    "bytes": "bytes",
    "replayed_bytes": "replayed bytes",
    "units": "units of 64 KiB",
    "connection_seconds": "connection seconds",
    "requests": "requests",
}
_TIMES: Final = "\u00d7"
_KINDS: Final = {"advance": "in advance", "minimum": "up to the minimum", "maximum": "down to the maximum"}


@dataclass(frozen=True, slots=True)
class Row:
    """One line. ``notes`` stand small below the name; of the cells, ``unit`` stands below every quantity."""

    name: str
    notes: tuple[str, ...]
    used: str
    included: str
    billable: str
    unit: str
    unit_price: str
    amount: str


@dataclass(frozen=True, slots=True)
class Page:
    """A statement as people read it, from the top to the bottom. All text is plain: whoever draws it escapes it."""

    title: str
    banner: str
    seller: tuple[str, ...]
    buyer: tuple[str, ...]
    facts: tuple[tuple[str, str], ...]
    currency: str
    rows: tuple[Row, ...]
    sums: tuple[tuple[str, str], ...]
    due: tuple[str, str]
    usage_columns: tuple[str, ...]
    usage: tuple[tuple[str, ...], ...]
    notes: tuple[str, ...]
    fingerprints: tuple[tuple[str, str], ...]


def page_of(statement: Mapping[str, Any]) -> Page:
    """The page of a statement as ``statement.shown`` gives it."""
    zone = ZoneInfo(statement["period"]["time_zone"])
    word = "Invoice" if statement["document"] == "invoice" else "Statement"
    number = statement["number"]
    shown = [line for line in statement["lines"] if line["kind"] not in ("tax", "credit")]
    return Page(
        title=f"{word} {number}" if number else f"{word}, draft",
        banner=_banner(statement),
        seller=_party(statement["seller"]),
        buyer=_party(statement["buyer"]) or (clean(statement["title"]),),
        facts=_facts(statement, zone),
        currency=statement["currency"],
        rows=tuple(_row(line, statement, zone) for line in shown),
        sums=_sums(statement),
        due=("Amount due" if not statement["due"].startswith("-") else "In your favour", grouped(statement["due"])),
        usage_columns=("Application", "Stream", "Protocol", "Plan", "Records", "Replayed", "Filtered", "Bytes"),
        usage=tuple(_usage(one) for one in statement["usage"]),
        notes=_notes(statement, zone),
        fingerprints=_fingerprints(statement),
    )


def clean(text: str) -> str:
    """Text without what cannot be seen: control characters, marks that turn the direction of writing."""
    return _UNSEEN.sub(" ", text).strip()


def grouped(number: str) -> str:
    """A decimal number with a comma between thousands."""
    sign, digits = ("-", number[1:]) if number.startswith("-") else ("", number)
    whole, point, rest = digits.partition(".")
    return f"{sign}{int(whole):,}{point}{rest}"


def _banner(statement: Mapping[str, Any]) -> str:
    if statement["status"] == "CREDITED":
        return "Credited: a later statement takes this one back."
    if statement["is_preview"]:
        return "Preview: not a claim for payment, and never becomes one."
    if statement["status"] == "DRAFT":
        return "Draft: not a claim for payment; it may still change."
    return ""


def _party(party: Mapping[str, Any] | None) -> tuple[str, ...]:
    if party is None:
        return ()
    lines = [party["name"], *party["address"]]
    lines += [f"VAT ID {party['vat_id']}"] if party["vat_id"] else []
    lines += [party[name] for name in ("registration", "contact") if party[name]]
    return tuple(clean(line) for line in lines)


def _facts(statement: Mapping[str, Any], zone: ZoneInfo) -> tuple[tuple[str, str], ...]:
    period = statement["period"]
    facts = [
        ("Number", statement["number"] or "none yet"),
        ("Status", statement["status"]),
        ("Customer", clean(statement["tenant"])),
        ("Period", stretch(period["from"], period["to"], zone)),
        ("Time zone", period["time_zone"]),
        ("Issued", day(statement["issued_at"], zone) if statement["issued_at"] else "not yet"),
        ("Currency", statement["currency"]),
    ]
    return tuple(facts)


def _row(line: Mapping[str, Any], statement: Mapping[str, Any], zone: ZoneInfo) -> Row:
    notes: list[str] = []
    if line["plan"]:
        notes.append(f"plan {line['plan']}, revision {line['revision']}")
    if line["stream"]:
        notes.append(f"stream {line['stream']}")
    elif line.get("streams"):
        notes.append(
            "streams " + ", ".join(f"{s['stream']} {grouped(s['used'])}" for s in line["streams"] if s["used"] != "0")
        )
    if line["kind"] in _KINDS:
        notes.append(_KINDS[line["kind"]])
    if line["period"] != {name: statement["period"][name] for name in ("from", "to")}:
        notes.append(stretch(line["period"]["from"], line["period"]["to"], zone))
    if "share" in line:
        share = line["share"]
        notes.append(f"for {grouped(share['seconds'])} of {grouped(share['of_seconds'])} seconds")
    notes += [_tier(tier) for tier in line.get("tiers", ())]
    if "discount" in line:
        notes.append(_discount(line["discount"]))
    settled = f" for the period, less {grouped(line['advanced'])} asked in advance" if "advanced" in line else ""
    notes.append(f"exact {grouped(line['exact'])}{settled}")
    if line.get("not_billable", "0") != "0":
        notes.append(f"{grouped(line['not_billable'])} more of test applications, free")
    if line.get("reason"):
        notes.append(line["reason"])
    price = line["unit_price"] or ""
    if price and line.get("per", "1") != "1":
        price = f"{price} per {grouped(line['per'])}"
    is_metered = line["meter"] is not None
    return Row(
        name=clean(line["name"]),
        notes=tuple(clean(note) for note in notes),
        used=grouped(line["used"]) if is_metered else "",
        included=grouped(line["included"]) if is_metered else "",
        billable=grouped(line["billable"]) if is_metered else "",
        unit=_UNITS.get(line["meter"], line["meter"]) if is_metered else "",
        unit_price=price,
        amount=grouped(line["amount"]),
    )


def _tier(tier: Mapping[str, Any]) -> str:
    bound = "the rest" if tier["up_to"] is None else f"up to {grouped(tier['up_to'])}"
    flat = f" + {tier['flat_amount']}" if tier["flat_amount"] != "0" else ""
    return f"{bound}: {grouped(tier['quantity'])} {_TIMES} {tier['unit_price']}{flat} = {tier['exact']}"


def _discount(discount: Mapping[str, Any]) -> str:
    parts = [_share_of(discount, "units", " units")]
    parts += [f"{discount['percent']} %" if discount["percent"] != "0" else ""]
    parts += [_share_of(discount, "amount", "")]
    found = " and ".join(part for part in parts if part) or "nothing"
    return f"{grouped(discount['before'])} before a discount of {found}"


def _share_of(discount: Mapping[str, Any], name: str, unit: str) -> str:
    """What was taken off, beside what the plan says where that is more; empty where it says nothing."""
    taken = discount[name]
    full = discount.get(f"full_{name}", taken)
    if full == "0":
        return ""
    return f"{grouped(taken)}{unit}" + (f" (of {grouped(full)} a month)" if full != taken else "")


def _sums(statement: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    sums = [("Net", grouped(statement["net"]))]
    for line in statement["lines"]:
        if line["kind"] == "tax":
            on = f"{line['percent']} % on {grouped(line['base'])}" if "percent" in line and "base" in line else ""
            sums.append((f"{clean(line['name'])} {on}".strip(), grouped(line["amount"])))
    sums.append(("Total", grouped(statement["total"])))
    if statement["credit_used"].strip("0.-"):
        sums.append(("Prepaid credit", grouped(f"-{statement['credit_used']}")))
    return tuple(sums)


def _usage(one: Mapping[str, Any]) -> tuple[str, ...]:
    plan = f"{one['plan']}, rev. {one['revision']}" if one["is_billable"] else "test, free"
    size = int(one["bytes"]) + int(one["replayed_bytes"])
    counts = [one[name] for name in ("records", "replayed_records", "filtered_records")]
    named = (clean(one["application"]), one["stream"], one["transport"], plan)
    return (*named, *(grouped(count) for count in counts), f"{size:,}")


def _notes(statement: Mapping[str, Any], zone: ZoneInfo) -> tuple[str, ...]:
    watermark = statement["watermark"]
    until = moment(watermark["complete_until"], zone)
    if not watermark["is_complete"]:
        notes = [f"Usage is complete up to {until}; what was delivered later may still be missing."]
    elif not watermark["lost_sources"]:
        notes = ["Usage of the period is complete."]
    else:
        notes = []
    if watermark["lost_sources"]:
        notes.append("Closed without what these sources had not told: " + ", ".join(watermark["lost_sources"]) + ".")
    notes += [
        f"Corrects {one['period']}, {_named(one['number'])}, by {grouped(one['difference'])}"
        f" {statement['currency']} before tax: usage that was told after {_since(one['number'])} statement was final."
        for one in statement["corrections"]
    ]
    notes += [
        f"{line['name']}: {line['percent']} % on {grouped(line['base'])} is exactly {grouped(line['exact'])}."
        for line in statement["lines"]
        if line["kind"] == "tax" and "percent" in line and line["exact"] != line["amount"].rstrip("0").rstrip(".")
    ]
    if statement["credit"]["before"].strip("0."):
        credit = statement["credit"]
        notes.append(f"Prepaid credit: {grouped(credit['before'])} before, {grouped(credit['left'])} left.")
    notes.append(
        "Bytes are the length of the data as sent. Each line is rounded half up once, and rounded lines are added."
    )
    return tuple(clean(note) for note in notes)


def _named(number: str | None) -> str:
    return f"statement {number}" if number else "which had no statement"


def _since(number: str | None) -> str:
    return "that" if number else "the next"


def _fingerprints(statement: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    found = [("Usage rows", statement["usage_hash"]), ("This statement", statement["hash"])]
    if statement["previous"]:
        found.append((f"Statement before, {statement['previous']['number']}", statement["previous"]["hash"]))
    return tuple(found)


def stretch(start: str, end: str, zone: ZoneInfo) -> str:
    """A half-open stretch in words: whole days as first and last day, else two moments."""
    first, last = _local(start, zone), _local(end, zone)
    if _is_midnight(first) and _is_midnight(last):
        return f"{_day(first)} to {_day(last - timedelta(hours=12))}"
    return f"{moment(start, zone)} to {moment(end, zone)}"


def day(text: str, zone: ZoneInfo) -> str:
    """The day of an RFC 3339 time in the zone."""
    return _day(_local(text, zone))


def moment(text: str, zone: ZoneInfo) -> str:
    """An RFC 3339 time in the zone, to the minute, with its offset from UTC."""
    local = _local(text, zone)
    return f"{_day(local)} {local:%H:%M} (UTC{local:%z})"


def _local(text: str, zone: ZoneInfo) -> datetime:
    return datetime.fromtimestamp(parse_rfc3339(text) // 1000, zone)


def _is_midnight(local: datetime) -> bool:
    return (local.hour, local.minute, local.second) == (0, 0, 0)


def _day(local: datetime) -> str:
    return f"{local.day} {_MONTHS[local.month - 1]} {local.year}"


def columns(currency: str) -> Sequence[str]:
    """The head of the table of lines."""
    return ("Description", "Used", "Included", "Billable", "Unit price", f"Amount ({currency})")

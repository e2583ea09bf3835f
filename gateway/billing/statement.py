"""A statement as a value: a bill with everything that it takes to check it, in a form whose bytes can be fingerprinted.

The *body* is plain data, money and quantities as text. Its hash covers all of it, the hash of the tenant's statement
before included. What may change later (that it was credited) stands beside the body.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, Final, Literal

import msgspec

from gateway.billing.bill import Advance, Bill, Line
from gateway.billing.money import ZERO, format_amount, format_exact, format_money
from gateway.billing.period import Period
from gateway.billing.pricing import Tax
from gateway.billing.rows import Rows, Watermark, fingerprint, ledger_digest, spell_rows
from gateway.billing.terms import Term
from gateway.units import format_rfc3339, parse_rfc3339

Status = Literal["DRAFT", "FINAL", "CREDITED"]
FORM: Final = 2
"""Of the body. A change of what is in it, or how it is spelled, is another number."""

_NOT_CONTENT: Final = ("watermark", "number", "issued_at", "previous", "made_at", "approval")
"""What may differ between two drafts that ask for the same."""


@dataclass(frozen=True, slots=True)
class Party:
    """Who issues a statement, or whom it is for. Only the name is always there."""

    name: str
    address: tuple[str, ...] = ()
    vat_id: str = ""
    registration: str = ""
    contact: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return {
            "name": self.name,
            "address": list(self.address),
            "vat_id": self.vat_id or None,
            "registration": self.registration or None,
            "contact": self.contact or None,
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Party:
        """What ``to_dict`` spelled."""
        return cls(
            data["name"],
            tuple(data["address"]),
            data["vat_id"] or "",
            data["registration"] or "",
            data["contact"] or "",
        )


@dataclass(frozen=True, slots=True)
class Corrected:
    """A closed period that was rated again; ``number`` is its statement's, None of one that had none. ``amounts`` are
    its lines' as they should have been, by their key."""

    number: str | None
    period: str
    usage_hash: str
    amounts: Mapping[str, str]
    difference: Decimal

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return {
            "number": self.number,
            "period": self.period,
            "usage_hash": self.usage_hash,
            "amounts": dict(sorted(self.amounts.items())),
            "difference": format_amount(self.difference),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Draft:
    """All that a statement is made of. ``credit`` is what was prepaid and left before it."""

    id: str
    title: str
    is_preview: bool
    bill: Bill
    rows: Rows
    watermark: Watermark
    terms: Sequence[Term]
    advances: Sequence[Advance]
    made_at: int
    credit: Decimal = ZERO
    seals: Mapping[str, str] = field(default_factory=dict)
    corrected: Sequence[Corrected] = ()
    adjustments: Sequence[int] = ()
    seller: Party | None = None
    buyer: Party | None = None

    def body(self) -> dict[str, Any]:
        """The body of the draft."""
        bill = self.bill.to_dict()
        usage = spell_rows(self.rows)
        bill.pop("metered")
        zone = bill["period"].pop("zone")
        bill["period"]["time_zone"] = zone
        return {
            "form": FORM,
            "id": self.id,
            "number": None,
            "issued_at": None,
            "made_at": _moment(self.made_at),
            "is_preview": self.is_preview,
            "title": self.title,
            "seller": None if self.seller is None else self.seller.to_dict(),
            "buyer": None if self.buyer is None else self.buyer.to_dict(),
            **bill,
            "plans": [_spell_term(term) for term in self.terms],
            "advances": [_spell_advance(one) for one in self.advances],
            "credit": {
                "before": format_money(self.credit, bill["currency"]),
                "used": format_money(self.bill.credit_used, bill["currency"]),
                "left": format_money(self.credit - self.bill.credit_used, bill["currency"]),
            },
            "corrections": [one.to_dict() for one in self.corrected],
            "adjustments": [str(number) for number in self.adjustments],
            "usage": usage,
            "usage_hash": fingerprint(usage),
            "watermark": {
                "complete_until": _moment(self.watermark.complete_until),
                "is_complete": self.watermark.complete_until >= self.bill.period.end,
                "lost_sources": list(self.watermark.lost),
            },
            "previous": None,
            "approval": None,
        }

    def sealed(self) -> dict[str, str]:
        """By id of statements, the digests of all that the ledger holds of their periods: its own, and those that were
        looked at for what came late."""
        return {**self.seals, self.id: ledger_digest(self.rows)}


def finalized(
    body: Mapping[str, Any],
    *,
    number: str,
    issued_at: int,
    previous: Mapping[str, str] | None,
    approval: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """The body with its number, when it was given, the statement before (``number``, ``hash``), and who approved it."""
    return {
        **body,
        "number": number,
        "issued_at": _moment(issued_at),
        "previous": None if previous is None else dict(previous),
        "approval": None if approval is None else dict(approval),
    }


def approval_of(by: str | None, at: int | None, content: str | None) -> dict[str, str] | None:
    """An approval as bodies tell it: who, when (epoch seconds here), and the digest of what was looked at."""
    return None if by is None or at is None or content is None else {"by": by, "at": _moment(at), "content": content}


def encode(body: Mapping[str, Any]) -> bytes:
    """Canonical JSON: names sorted, no spaces, UTF-8."""
    return msgspec.json.encode(dict(body), order="sorted")


def digest(body: Mapping[str, Any]) -> str:
    """SHA-256 of the canonical JSON, in hex."""
    return hashlib.sha256(encode(body)).hexdigest()


def content_digest(body: Mapping[str, Any]) -> str:
    """The same of what is asked for, whenever the draft was made: what an approval is about."""
    return digest({name: value for name, value in body.items() if name not in _NOT_CONTENT})


def lines_of(body: Mapping[str, Any], *kinds: str) -> list[Line]:
    """A body's lines, of these kinds where any is named."""
    return [Line.from_dict(one) for one in body["lines"] if not kinds or one["kind"] in kinds]


def advances_of(body: Mapping[str, Any] | None) -> tuple[Advance, ...]:
    """What a statement asked for the period after its own."""
    if body is None:
        return ()
    return tuple(
        Advance(line.plan, line.revision, line.name, line.amount, line.taxes) for line in lines_of(body, "advance")
    )


def advances_in(body: Mapping[str, Any]) -> tuple[Advance, ...]:
    """What a statement was made with: asked before it, for its own period."""
    return tuple(
        Advance(
            one["plan"],
            one["revision"],
            one["name"],
            Decimal(one["amount"]),
            tuple(Tax(tax["name"], Decimal(tax["percent"])) for tax in one["taxes"]),
        )
        for one in body["advances"]
    )


def period_of(body: Mapping[str, Any]) -> Period:
    """The period a body is about."""
    told = body["period"]
    start, end = (parse_rfc3339(told[name]) // 1000 for name in ("from", "to"))
    return Period(told["time_zone"], start, end, told["label"])


def terms_in(body: Mapping[str, Any], plans: Mapping[tuple[str, int], Any]) -> tuple[Term, ...]:
    """The terms that a body was made from. Raises KeyError for a revision that ``plans`` lacks."""
    return tuple(
        Term(
            plans[one["plan"], one["revision"]],
            parse_rfc3339(one["from"]) // 1000,
            None if one["to"] is None else parse_rfc3339(one["to"]) // 1000,
        )
        for one in body["plans"]
    )


def shown(body: Mapping[str, Any], *, status: Status, fingerprint_hex: str, approved_by: str | None) -> dict[str, Any]:
    """The statement as everybody sees it: first what is looked for first; the body with what stands beside it."""
    beside = {
        "status": status,
        "document": "invoice" if is_invoice(body) else "statement",
        "approved_by": approved_by,
        "hash": fingerprint_hex,
    }
    found = _ordered({**body, **beside}, _HEAD)
    found["lines"] = [_ordered(line, _LINE_HEAD) for line in body["lines"]]
    return found


_HEAD: Final = (
    *("number", "id", "status", "document", "is_preview", "tenant", "title", "period", "currency", "lines"),
    *("net", "tax", "total", "credit_used", "due", "credit", "plans", "advances", "corrections", "adjustments"),
    *("usage", "usage_hash", "watermark", "previous", "hash", "seller", "buyer"),
)
_LINE_HEAD: Final = (
    *("kind", "name", "plan", "revision", "period", "meter", "stream", "used", "included", "billable", "unit_price"),
    *("per", "tiers", "exact", "amount"),
)


def _ordered(data: Mapping[str, Any], head: Sequence[str]) -> dict[str, Any]:
    """What is looked for first comes first."""
    return {name: data[name] for name in head if name in data} | {k: v for k, v in data.items() if k not in head}


def is_invoice(body: Mapping[str, Any]) -> bool:
    """Whether it may be called an invoice: both sides are named as Directive 2006/112/EC, article 226, asks for."""
    seller, buyer = body["seller"], body["buyer"]
    return bool(seller and seller["address"] and seller["vat_id"] and buyer and buyer["address"])


def _spell_term(term: Term) -> dict[str, Any]:
    return {
        "plan": term.plan.name,
        "revision": term.plan.revision,
        "title": term.plan.title,
        "from": _moment(term.start),
        "to": None if term.end is None else _moment(term.end),
    }


def _spell_advance(one: Advance) -> dict[str, Any]:
    taxes = [{"name": tax.name, "percent": format_exact(tax.percent)} for tax in one.taxes]
    return {
        "plan": one.plan,
        "revision": one.revision,
        "name": one.name,
        "amount": format_amount(one.amount),
        "taxes": taxes,
    }


def _moment(seconds: int) -> str:
    return format_rfc3339(seconds * 1000)

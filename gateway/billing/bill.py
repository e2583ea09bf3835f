"""What rating gives: lines that add up and the bill they make; as plain data with money and quantities as text."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, Literal, NamedTuple

import msgspec

from gateway.billing.money import ZERO, format_amount, format_exact
from gateway.billing.period import Period, Share
from gateway.billing.pricing import NO_DISCOUNT, Discount, Tax, TierPart
from gateway.units import format_rfc3339, parse_rfc3339
from gateway.usage import Usage

LineKind = Literal["charge", "advance", "discount", "minimum", "maximum", "correction", "adjustment", "tax", "credit"]
"""``charge``: what a plan's charge asks for the period. ``advance``: a flat amount for the period to come.
``correction`` and ``adjustment`` are put in by whoever makes statements. ``tax`` and ``credit`` stand last."""


class StreamUse(NamedTuple):
    """A stream's part of a line's quantity, for information: the price is of all streams together."""

    stream: str
    used: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One line. ``amount`` is rounded and is what adds up; ``exact`` is what it was rounded from.

    ``start`` and ``end`` are the stretch it is about, epoch seconds, half-open. ``share`` is set where only a share of
    a period counted, in seconds. ``used`` is of billable applications; ``not_billable`` what the others had.
    ``advanced`` was asked on an earlier statement already: ``amount`` is what is left of it, and can be below 0.
    ``stream`` is set where all usage was of one stream. ``gross`` is before the charge's ``discount``, of which
    ``discount_units`` and ``discount_amount`` were taken off; of a tax, what it is on. ``unit_price``
    is the one price that held, for each begun ``per`` units.
    """

    kind: LineKind
    name: str
    amount: Decimal
    exact: Decimal
    start: int
    end: int
    plan: str = ""
    revision: int = 0
    meter: str | None = None
    stream: str | None = None
    used: int = 0
    included: int = 0
    discount_units: int = 0
    discount_amount: Decimal = ZERO
    billable: int = 0
    not_billable: int = 0
    unit_price: Decimal | None = None
    per: int = 1
    gross: Decimal = ZERO
    discount: Discount = NO_DISCOUNT
    percent: Decimal | None = None
    tiers: tuple[TierPart, ...] = ()
    streams: tuple[StreamUse, ...] = ()
    share: Share | None = None
    advanced: Decimal = ZERO
    taxes: tuple[Tax, ...] = ()
    reason: str = ""

    @property
    def value(self) -> Decimal:
        """What the line is worth, whenever it was asked: what discount, minimum and maximum look at."""
        return self.amount + self.advanced

    def to_dict(self) -> dict[str, Any]:
        """Plain data. Members of metered lines are None on others; what a line has nothing of is left out."""
        is_metered = self.meter is not None
        found: dict[str, Any] = {
            "kind": self.kind,
            "name": self.name,
            "period": {"from": _spell_time(self.start), "to": _spell_time(self.end)},
            "plan": self.plan or None,
            "revision": self.revision or None,
            "meter": self.meter,
            "stream": self.stream,
            "used": str(self.used) if is_metered else None,
            "included": str(self.included) if is_metered else None,
            "billable": str(self.billable) if is_metered else None,
            "unit_price": None if self.unit_price is None else format_exact(self.unit_price),
        }
        if is_metered:
            found |= {
                "not_billable": str(self.not_billable),
                "per": str(self.per),
                "tiers": [_spell_part(part) for part in self.tiers],
                "streams": [{"stream": one.stream, "used": str(one.used)} for one in self.streams],
            }
        if self.discount != NO_DISCOUNT:
            found["discount"] = {
                "units": str(self.discount_units),
                "percent": format_exact(self.discount.percent),
                "amount": format_exact(self.discount_amount),
                "full_units": str(self.discount.units),
                "full_amount": format_exact(self.discount.amount),
                "before": format_exact(self.gross),
            }
        if self.percent is not None:
            found |= {"percent": format_exact(self.percent), "base": format_amount(self.gross)}
        if self.share is not None:
            found["share"] = {"seconds": str(self.share.part), "of_seconds": str(self.share.whole)}
        if self.advanced:
            found["advanced"] = format_amount(self.advanced)
        if self.taxes:
            found["taxes"] = [_spell_tax(tax) for tax in self.taxes]
        if self.reason:
            found["reason"] = self.reason
        return found | {"exact": format_exact(self.exact), "amount": format_amount(self.amount)}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Line:
        """The line that ``to_dict`` spelled. An exact amount without end comes back as it was shown."""
        price, discount, share = data.get("unit_price"), data.get("discount"), data.get("share")
        percent = Decimal(data["percent"]) if "percent" in data else None
        gross = data.get("base") if discount is None else discount["before"]
        return cls(
            kind=data["kind"],
            name=data["name"],
            amount=Decimal(data["amount"]),
            exact=Decimal(data["exact"]),
            start=_read_time(data["period"]["from"]),
            end=_read_time(data["period"]["to"]),
            plan=data.get("plan") or "",
            revision=data.get("revision") or 0,
            meter=data.get("meter"),
            stream=data.get("stream"),
            used=int(data.get("used") or 0),
            included=int(data.get("included") or 0),
            discount_units=int(discount["units"]) if discount else 0,
            discount_amount=Decimal(discount["amount"]) if discount else ZERO,
            billable=int(data.get("billable") or 0),
            not_billable=int(data.get("not_billable", 0)),
            unit_price=None if price is None else Decimal(price),
            per=int(data.get("per", 1)),
            gross=Decimal(gross if gross is not None else data["exact"]),
            discount=_read_discount(discount),
            percent=percent,
            tiers=tuple(map(_read_part, data.get("tiers", ()))),
            streams=tuple(StreamUse(one["stream"], int(one["used"])) for one in data.get("streams", ())),
            share=Share(int(share["seconds"]), int(share["of_seconds"])) if share else None,
            advanced=Decimal(data.get("advanced", 0)),
            taxes=tuple(map(_read_tax, data.get("taxes", ()))),
            reason=data.get("reason", ""),
        )


@dataclass(frozen=True, slots=True)
class Advance:
    """A flat amount that an earlier statement asked for this period."""

    plan: str
    revision: int
    name: str
    amount: Decimal
    taxes: tuple[Tax, ...] = ()


class Metered(NamedTuple):
    """What was delivered under a plan's revision on a stream, priced or not."""

    plan: str
    revision: int
    stream: str
    is_billable: bool
    usage: Usage

    def to_dict(self) -> dict[str, Any]:
        """Plain data for the partner: what a row filter hid is left out."""
        counts = {name: str(count) for name, count in self.usage._asdict().items() if name != "hidden_records"}
        head = {"plan": self.plan, "revision": self.revision, "stream": self.stream, "is_billable": self.is_billable}
        return head | counts


@dataclass(frozen=True, slots=True)
class Bill:
    """A tenant's period, priced. ``net`` is the sum of all lines before tax, ``total`` with tax, ``due`` less credit.

    All lines together are ``due``. ``currency`` is empty where nothing says one: no plan, no lines.
    """

    tenant: str
    period: Period
    currency: str
    lines: tuple[Line, ...] = ()
    net: Decimal = ZERO
    tax: Decimal = ZERO
    total: Decimal = ZERO
    credit_used: Decimal = ZERO
    due: Decimal = ZERO
    metered: tuple[Metered, ...] = field(default=())

    def advances(self) -> tuple[Advance, ...]:
        """What this bill asks for the period after it: give it to that one's rating."""
        return tuple(
            Advance(line.plan, line.revision, line.name, line.amount, line.taxes)
            for line in self.lines
            if line.kind == "advance"
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return {
            "tenant": self.tenant,
            "period": {
                "label": self.period.label,
                "zone": self.period.zone,
                "from": _spell_time(self.period.start),
                "to": _spell_time(self.period.end),
            },
            "currency": self.currency,
            "lines": [line.to_dict() for line in self.lines],
            "net": format_amount(self.net),
            "tax": format_amount(self.tax),
            "total": format_amount(self.total),
            "credit_used": format_amount(self.credit_used),
            "due": format_amount(self.due),
            "metered": [one.to_dict() for one in self.metered],
        }

    def encode(self) -> bytes:
        """JSON, the same bytes for the same bill."""
        return msgspec.json.encode(self.to_dict())


def _spell_time(moment: int) -> str:
    return format_rfc3339(moment * 1000)


def _read_time(text: str) -> int:
    return parse_rfc3339(text) // 1000


def _spell_part(part: TierPart) -> dict[str, str | None]:
    return {
        "up_to": None if part.up_to is None else str(part.up_to),
        "quantity": str(part.quantity),
        "unit_price": format_exact(part.unit_price),
        "flat_amount": format_exact(part.flat_amount),
        "exact": format_exact(part.exact),
    }


def _read_part(data: Mapping[str, Any]) -> TierPart:
    up_to = data["up_to"]
    prices = (Decimal(data[name]) for name in ("unit_price", "flat_amount", "exact"))
    return TierPart(None if up_to is None else int(up_to), int(data["quantity"]), *prices)


def _read_discount(data: Mapping[str, Any] | None) -> Discount:
    """The plan's own; bodies of form 1 do not tell it beside what was taken off."""
    if data is None:
        return NO_DISCOUNT
    units, amount = data.get("full_units", data["units"]), data.get("full_amount", data["amount"])
    return Discount(int(units), Decimal(data["percent"]), Decimal(amount))


def _spell_tax(tax: Tax) -> dict[str, str]:
    return {"name": tax.name, "percent": format_exact(tax.percent)}


def _read_tax(data: Mapping[str, Any]) -> Tax:
    return Tax(data["name"], Decimal(data["percent"]))

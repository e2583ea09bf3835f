"""A tenant that has come to a mark of a quota or of its spend limit: the words for operators' systems, signed."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from typing import Any, Final, Literal, NamedTuple

from gateway.units import format_rfc3339

MARKS: Final = (50, 80, 100)
"""Percent at which an alert is made, once in each period."""

RETRY_SECONDS: Final = (10, 60, 300, 1_800, 7_200, 21_600, 43_200)
"""How long after each failed try comes the next; after the last of them there is none."""


class QuotaAlert(NamedTuple):
    """``found_at`` and ``resets_at`` are epoch seconds. Tenant, plan, quota, period and percent name it."""

    tenant: str
    plan: str
    quota: str
    period: str
    percent: int
    limit: int
    used: int
    resets_at: float
    found_at: float

    @property
    def type(self) -> Literal["quota.used"]:
        """What it tells of."""
        return "quota.used"

    @property
    def id(self) -> str:
        """The same at every try and on every node: receivers drop what they know."""
        return "quota_" + _named(self.tenant, self.plan, self.quota, self.period, str(self.percent))

    def body(self) -> bytes:
        """What is posted: JSON."""
        about = {name: getattr(self, name) for name in self._fields[:-2]}
        return _body(self.id, self.type, about, found_at=self.found_at, resets_at=self.resets_at)


class SpendAlert(NamedTuple):
    """``limit`` and ``spent`` are decimal text. Tenant, period, percent and limit name it: a new limit begins anew."""

    tenant: str
    period: str
    percent: int
    limit: str
    spent: str
    currency: str
    resets_at: float
    found_at: float

    @property
    def type(self) -> Literal["spend.used"]:
        """What it tells of."""
        return "spend.used"

    @property
    def id(self) -> str:
        """The same at every try and on every node."""
        return "spend_" + _named(self.tenant, self.period, str(self.percent), self.limit)

    def body(self) -> bytes:
        """What is posted: JSON."""
        about = {name: getattr(self, name) for name in self._fields[:-2]}
        return _body(self.id, self.type, about, found_at=self.found_at, resets_at=self.resets_at)


Alert = QuotaAlert | SpendAlert


def _named(*names: str) -> str:
    return hashlib.sha256("\0".join(names).encode()).hexdigest()[:24]


def _body(alert_id: str, kind: str, about: dict[str, Any], *, found_at: float, resets_at: float) -> bytes:
    told = {"id": alert_id, "type": kind, "at": format_rfc3339(round(found_at * 1000)), **about}
    told["resets_at"] = format_rfc3339(round(resets_at * 1000))
    return json.dumps(told, separators=(",", ":")).encode()


def sign(body: bytes, *, alert_id: str, at: int, secret: bytes) -> str:
    """The value of ``Webhook-Signature``: HMAC-SHA256 of id, time (epoch seconds) and body, as Standard Webhooks has it
    (standardwebhooks.com, version 1)."""
    signed = b"%s.%d.%s" % (alert_id.encode("ascii"), at, body)
    return "v1," + base64.b64encode(hmac.new(secret, signed, hashlib.sha256).digest()).decode("ascii")


def next_try_at(attempts: int, *, now: float) -> float | None:
    """When to try again after so many failed ones; None: no more."""
    return now + RETRY_SECONDS[attempts - 1] if attempts <= len(RETRY_SECONDS) else None

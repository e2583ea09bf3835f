"""A quota that a tenant has used up to a mark, as operators' systems are told of it: the words, and their signature."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from typing import Final, NamedTuple

from gateway.units import format_rfc3339

MARKS: Final = (50, 80, 100)
"""Percent of a quota at which an alert is made, once in each period."""

RETRY_SECONDS: Final = (10, 60, 300, 1_800, 7_200, 21_600, 43_200)
"""How long after each failed try comes the next; after the last of them there is none."""


class Alert(NamedTuple):
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
    def id(self) -> str:
        """The same at every try and on every node: receivers drop what they know."""
        named = "\0".join((self.tenant, self.plan, self.quota, self.period, str(self.percent)))
        return "quota_" + hashlib.sha256(named.encode()).hexdigest()[:24]

    def body(self) -> bytes:
        """What is posted: JSON."""
        told = {
            "id": self.id,
            "type": "quota.used",
            "at": format_rfc3339(round(self.found_at * 1000)),
            "tenant": self.tenant,
            "plan": self.plan,
            "quota": self.quota,
            "period": self.period,
            "percent": self.percent,
            "limit": self.limit,
            "used": self.used,
            "resets_at": format_rfc3339(round(self.resets_at * 1000)),
        }
        return json.dumps(told, separators=(",", ":")).encode()


def sign(body: bytes, *, alert_id: str, at: int, secret: bytes) -> str:
    """The value of ``Webhook-Signature``: HMAC-SHA256 of id, time (epoch seconds) and body, as Standard Webhooks has it
    (standardwebhooks.com, version 1)."""
    signed = b"%s.%d.%s" % (alert_id.encode("ascii"), at, body)
    return "v1," + base64.b64encode(hmac.new(secret, signed, hashlib.sha256).digest()).decode("ascii")


def next_try_at(attempts: int, *, now: float) -> float | None:
    """When to try again after so many failed ones; None: no more."""
    return now + RETRY_SECONDS[attempts - 1] if attempts <= len(RETRY_SECONDS) else None

"""What an operator has taken back before its time: tokens, subjects, applications, tenants. Pure values."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, get_args

from gateway.errors import AccessWithdrawn, TokenInvalid
from gateway.model import Principal

Kind = Literal["jti", "sub", "client_id", "tenant"]
KINDS: tuple[Kind, ...] = get_args(Kind)


@dataclass(frozen=True, slots=True)
class Revocation:
    """Refuses what bears the value until ``until`` (epoch seconds); ``issuer`` None: whoever issued the token."""

    kind: Kind
    value: str
    until: float
    issuer: str | None = None


class Revocations:
    """All that count; never changed once made."""

    def __init__(self, revocations: Iterable[Revocation] = ()) -> None:
        self._until: dict[tuple[Kind, str, str | None], float] = {}
        for one in revocations:
            key = (one.kind, one.value, one.issuer)
            self._until[key] = max(one.until, self._until.get(key, one.until))

    def __len__(self) -> int:
        return len(self._until)

    def beyond(self, before: Revocations) -> frozenset[tuple[str, str, str | None]]:
        """(kind, value, issuer) of what these refuse and those did not, or not for so long."""
        return frozenset(key for key, until in self._until.items() if until > before._until.get(key, -math.inf))

    def check(self, principal: Principal, tenant: str | None, *, now: float) -> None:
        """Raises TokenInvalid for a revoked token or subject, AccessWithdrawn for an application or tenant."""
        if not self._until:
            return
        if self._holds("jti", principal.token_id, principal, now) or self._holds(
            "sub", principal.subject, principal, now
        ):
            raise TokenInvalid("revoked")
        if self._holds("client_id", principal.client_id, principal, now):
            raise AccessWithdrawn("The provider has withdrawn the access of this application.")
        if tenant is not None and self._holds("tenant", tenant, principal, now):
            raise AccessWithdrawn("The provider has withdrawn the access of your organisation.")

    def _holds(self, kind: Kind, value: str, principal: Principal, now: float) -> bool:
        return any(self._until.get((kind, value, issuer), 0.0) > now for issuer in (None, principal.issuer))

"""Which open reads a change may touch: two moments compared, so that one tenant's withdrawal is one tenant's matter."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Protocol

from gateway.model import Contract, Grant

if TYPE_CHECKING:
    from gateway.auth.revocation import Revocations
    from gateway.catalog.catalog import Catalog


class Moment(Protocol):
    """What may be read by whom at one time, as a whole; see ``transport.gate.Snapshot``."""

    @property
    def contracts(self) -> Mapping[str, Contract]: ...

    @property
    def catalog(self) -> Catalog: ...

    @property
    def revocations(self) -> Revocations: ...


class Reach:
    """What lies between two moments, asked tenant by tenant and read by read.

    A read that neither ``takes_in_tenant`` nor ``takes_in`` would get the same decision at both moments, but for what
    passes with time alone, which its own term keeps.
    """

    def __init__(self, before: Moment, after: Moment) -> None:
        self._before, self._after = before.catalog, after.catalog
        self._revoked = after.revocations.beyond(before.revocations)
        self._streams = frozenset(
            name
            for name in {*before.contracts, *after.contracts}
            # The object counts: an equal contract that is another object was not kept, and its readers have to move.
            if before.contracts.get(name) is not after.contracts.get(name)
        )
        self._kinds = {kind for kind, _, _ in self._revoked}
        self._tenants = {value for kind, value, _ in self._revoked if kind == "tenant"}

    @property
    def is_personal(self) -> bool:
        """Whether single reads have to be asked for, whosever they are: by stream, token, subject or application."""
        return bool(self._streams or self._kinds - {"tenant"})

    def takes_in_tenant(self, tenant: str) -> bool:
        """Whether anything that the tenant reads may be decided otherwise now."""
        return tenant in self._tenants or not self._after.says_the_same(self._before, tenant=tenant)

    def takes_in(self, grant: Grant) -> bool:
        """Whether this read may be, for what it is or for whoever bears it."""
        if grant.contract.stream in self._streams:
            return True
        principal = grant.principal
        return (
            ("jti" in self._kinds and self._holds("jti", principal.token_id, principal.issuer))
            or ("sub" in self._kinds and self._holds("sub", principal.subject, principal.issuer))
            or ("client_id" in self._kinds and self._holds("client_id", principal.client_id, principal.issuer))
        )

    def _holds(self, kind: str, value: str, issuer: str) -> bool:
        return (kind, value, None) in self._revoked or (kind, value, issuer) in self._revoked

"""What may be read by whom at one moment: contracts, catalog, keys and revocations together."""

from __future__ import annotations

from dataclasses import dataclass

from gateway.auth.policy import decide
from gateway.auth.revocation import Revocations
from gateway.auth.tokens import TokenVerifier
from gateway.catalog.catalog import Catalog
from gateway.catalog.contracts import Contracts
from gateway.model import Grant, Principal, Transport


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What may be read by whom, as last loaded; replaced as a whole."""

    contracts: Contracts
    catalog: Catalog
    verifier: TokenVerifier
    revocations: Revocations

    def check_revoked(self, principal: Principal, *, now: float) -> None:
        """Raises TokenInvalid or AccessWithdrawn where an operator has taken back what the principal bears."""
        found = self.catalog.application(principal.issuer, principal.client_id)
        self.revocations.check(principal, None if found is None else found[0].name, now=now)

    def grant(self, principal: Principal, stream: str, transport: Transport, *, now: float) -> Grant:
        """What policy allows on a stream that is read already. Raises the GatewayError that says why nothing."""
        self.check_revoked(principal, now=now)
        return decide(principal, self.contracts.get(stream), self.catalog, transport=transport, now=now)

"""Open reads by name, wherever in the deployment they are: listed, ended, gone on with under a fresh token."""

from __future__ import annotations

from typing import Any, Protocol

import msgspec

from gateway.errors import (
    AccessWithdrawn,
    GatewayError,
    GrantRefused,
    SessionNotFound,
    WrongApplication,
)
from gateway.model import Principal
from gateway.subscription.registry import Registry
from gateway.subscription.subscription import Subscription
from gateway.subscription.watch import Watch
from gateway.units import format_rfc3339

_REFUSALS = {one.code: one for one in (SessionNotFound, WrongApplication, GrantRefused)}


class Others(Protocol):
    """The other nodes; see ``nodes.bus.Bus``."""

    async def ask(self, topic: str, body: dict[str, Any], *, first: bool = False) -> list[dict[str, Any]]: ...


class Sessions:
    """Knows this node's own, and asks the other nodes for theirs. ``others`` None: there are none."""

    def __init__(self, registry: Registry, watch: Watch, *, others: Others | None) -> None:
        self._registry = registry
        self._watch = watch
        self._others = others

    def look_at(self, subscription: Subscription) -> None:
        """Decide anew on one that has just opened; see ``Watch``."""
        self._watch.look_at(subscription)

    async def refresh(self, session: str, principal: Principal, tenant: str) -> None:
        """Go on under another token, which is verified already. Raises SessionNotFound, WrongApplication, GrantRefused
        and then nothing has changed; Unavailable where a node that may know does not answer."""
        if self._registry.session(session) is not None:
            self._refresh(session, principal, tenant)
            return
        told = await self._ask("refresh", {"session": session, "tenant": tenant, "principal": principal.spelt()})
        if not told:
            raise SessionNotFound
        refused = _REFUSALS.get(told[0].get("code", ""))
        if refused is not None:
            raise refused(str(told[0].get("detail", "")))

    def _refresh(self, session: str, principal: Principal, tenant: str) -> None:
        subscription = self._registry.session(session)
        # Of another organisation's session not even the existence is told.
        if subscription is None or subscription.grant.tenant != tenant:
            raise SessionNotFound
        held = subscription.grant.principal
        if (held.issuer, held.client_id) != (principal.issuer, principal.client_id):
            raise WrongApplication
        try:
            self._watch.refresh(subscription, principal)
        except GatewayError as error:
            raise GrantRefused(f"{error.title}. {error.detail or ''}".strip()) from error

    async def end(self, session: str) -> bool:
        """End it for good, as by the provider's will. False: there is none of this name."""
        return self._end(session) or bool(await self._ask("end", {"session": session}))

    def _end(self, session: str) -> bool:
        subscription = self._registry.session(session)
        if subscription is None:
            return False
        subscription.end(AccessWithdrawn("The provider has ended this read."))
        return True

    async def all(self) -> list[dict[str, Any]]:
        """Every open read of the deployment, by name."""
        found = self._own()
        for told in await self._ask("sessions", {}, first=False):
            found += told["sessions"]
        return sorted(found, key=lambda one: str(one["session"]))

    def _own(self) -> list[dict[str, Any]]:
        return [_entry(one) for one in self._registry.subscriptions()]

    async def _ask(self, topic: str, body: dict[str, Any], *, first: bool = True) -> list[dict[str, Any]]:
        return [] if self._others is None else await self._others.ask(topic, body, first=first)

    # ---- what other nodes ask ------------------------------------------------------------------------------------

    def answer_sessions(self, question: dict[str, Any]) -> dict[str, Any]:
        """This node's part of a list."""
        return {"sessions": self._own()}

    def answer_end(self, question: dict[str, Any]) -> dict[str, Any] | None:
        """Ended, or nothing."""
        return {"ended": True} if self._end(str(question.get("session"))) else None

    def answer_refresh(self, question: dict[str, Any]) -> dict[str, Any] | None:
        """Done, refused with a reason, or nothing where the session is not here."""
        session = str(question.get("session"))
        if self._registry.session(session) is None:
            return None
        try:
            principal = msgspec.convert(question["principal"], Principal)
            self._refresh(session, principal, str(question["tenant"]))
        except GatewayError as error:
            return {"code": error.code, "detail": error.detail}
        return {"code": ""}


def _entry(subscription: Subscription) -> dict[str, Any]:
    grant = subscription.grant
    return {
        "session": subscription.session,
        "tenant": grant.tenant,
        "client_id": grant.application,
        "stream": grant.contract.stream,
        "protocol": subscription.transport,
        "plan": grant.plan.name,
        "opened_at": format_rfc3339(round(subscription.opened_at * 1000)),
        "expires_at": format_rfc3339(grant.expires_at * 1000),
    }

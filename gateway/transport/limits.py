"""``GET /v1/limits``: what the caller's plans allow, what is used of it, and when there is more."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any, Final

from starlette.types import Receive, Scope, Send

from gateway.auth.policy import member, readable
from gateway.errors import Unavailable
from gateway.limits.spending import told_of
from gateway.limits.standing import Standing, spelt
from gateway.subscription.request import parse_nothing
from gateway.transport.gate import Gate
from gateway.transport.negotiate import demand

PATH: Final = "/v1/limits"


async def serve(gate: Gate, scope: Scope, receive: Receive, send: Send) -> None:
    """Answer with one entry for each plan in force, by name, and with the tenant's spend limit where it has one."""
    demand([value for name, value in scope["headers"] if name == b"accept"], "application/json")
    principal = await gate.principal(scope)
    parse_nothing(scope["query_string"])
    if gate.admission is None:
        raise Unavailable("Limits are not kept here.")
    snapshot, now = gate.snapshot(), gate.now()
    tenant, _ = member(principal, snapshot.catalog)
    scope["state"]["access_fields"].update(tenant=tenant.name)
    streams: dict[str, list[str]] = {}
    for one in readable(principal, snapshot.contracts.values(), snapshot.catalog, now=now):
        streams.setdefault(one.plan.name, []).append(one.contract.stream)
    plans = {right.plan.name: right.plan for right in snapshot.catalog.rights(tenant.name, now=now)}
    found: list[dict[str, Any]] = []
    for name, plan in sorted(plans.items()):
        told_of_plan: dict[str, Any] = {
            "plan": name,
            "title": plan.title,
            "streams": streams.get(name, []),
            "limits": _spelt(await gate.admission.standings(tenant.name, plan)),
        }
        # Tighter rates within the plan: a read goes at the tightest of those that it is under.
        narrow = {one: gate.admission.of_stream(tenant.name, plan, one) for one in streams.get(name, [])}
        if any(narrow.values()):
            told_of_plan["stream_limits"] = {one: _spelt(standings) for one, standings in narrow.items() if standings}
        own = gate.admission.of_application(tenant.name, plan, principal.issuer, principal.client_id)
        if own:
            told_of_plan["application_limits"] = _spelt(own)
        found.append(told_of_plan)
    told: dict[str, Any] = {"plans": found}
    spend_limit = snapshot.catalog.accounts.get(tenant.name, {}).get("spend_limit")
    if spend_limit is not None:
        told["spend_limit"] = told_of(spend_limit, gate.admission.spendings.of(tenant.name))
    body = json.dumps(told).encode()
    headers = [
        (b"content-type", b"application/json"),
        (b"cache-control", b"no-store"),
        (b"content-length", b"%d" % len(body)),
    ]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def _spelt(standings: Iterable[Standing]) -> dict[str, Any]:
    return {one.name: spelt(one) for one in standings}

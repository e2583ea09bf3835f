"""What an operator can do through the management port: each change takes hold at once, on every node, and is noted."""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final

from gateway.admin.errors import TenantNotFound
from gateway.alerts.store import AlertStore
from gateway.auth.revocation import Kind, Revocation
from gateway.billing.office import StatementOffice
from gateway.catalog.problems import nearest, spell
from gateway.clock import Clock
from gateway.control import Control
from gateway.database.audit import Entry
from gateway.errors import BadRequest, SessionNotFound, Unavailable
from gateway.limits.busiest import Busiest
from gateway.limits.spending import Spendings, told_of
from gateway.metering.desk import UsageDesk
from gateway.nodes.bus import Bus
from gateway.subscription.sessions import Sessions
from gateway.units import format_rfc3339

CATALOG_BELL: Final = "catalog"
"""Rung when the database says something new."""


class Administration:
    """See ``admin.operations.Administration``, the port that this serves."""

    def __init__(
        self,
        *,
        control: Control,
        sessions: Sessions,
        bus: Bus | None,
        reload: Callable[[], Awaitable[list[str]]],
        clock: Clock,
        usage: UsageDesk | None = None,
        statements: StatementOffice | None = None,
        busiest: Busiest | None = None,
        alerts: AlertStore | None = None,
        spendings: Spendings | None = None,
    ) -> None:
        """``busiest`` None: nothing is limited here; ``usage`` None: nothing is metered here; ``statements`` None: none
        are made."""
        self._control = control
        self._sessions = sessions
        self._bus = bus
        self._reload = reload
        self._clock = clock
        self.usage = usage
        self.statements = statements
        self._busiest = busiest
        self._alerts = alerts
        self._spendings = spendings

    async def sessions(self) -> list[dict[str, Any]]:
        return await self._sessions.all()

    async def limits(self, *, limit: int) -> list[dict[str, Any]]:
        return [] if self._busiest is None else await self._busiest.all(limit=limit)

    def spend_limits(self, *, limit: int) -> list[dict[str, Any]]:
        accounts, known = self._control.snapshot().catalog.accounts, self._spendings
        found = []
        for tenant, account in sorted(accounts.items()):
            told = told_of(account.get("spend_limit"), None if known is None else known.of(tenant))
            if told is not None:
                found.append({"tenant": tenant, **told})
        return sorted(found, key=lambda one: -(one["used_percent"] or 0))[:limit]

    async def alerts(self, *, limit: int) -> list[dict[str, Any]]:
        return [] if self._alerts is None else await self._control.work(self._alerts.read, limit=limit)

    async def end_session(self, session: str, *, actor: str) -> None:
        await self._control.note(self._entry(actor, "session.end", session))
        if not await self._sessions.end(session):
            raise SessionNotFound

    async def revoke(self, kind: Kind, value: str, *, until: float | None, issuer: str | None, actor: str) -> float:
        now = self._clock.now()
        end = now + self._control.longest_token_seconds if until is None else until
        if end <= now:
            raise BadRequest(f"until {_moment(end)}: a time to come is needed; it is {_moment(now)} now.")
        await self._refuse_unknown(tenant=value if kind == "tenant" else None, issuer=issuer)
        revocation = Revocation(kind, value, end, issuer)
        # The token's id and the subject are a person's: the log holds what identifies them to who knows them.
        target = f"{kind}:{value}" if kind in ("client_id", "tenant") else f"{kind}:{_digest(value)}"
        after = {"until": _moment(end), "issuer": issuer}
        await self._control.revoke(revocation, self._entry(actor, "revocation.add", target, after=after))
        await self._tell()
        return end

    async def _refuse_unknown(self, *, tenant: str | None, issuer: str | None) -> None:
        """Raises BadRequest for names that would withdraw nothing, now or ever: a mistake while somebody reads on.

        Tokens, subjects and applications are taken as they come: the catalog may have forgotten an application whose
        tokens are about, and of the others it knows none.
        """
        catalog = self._control.snapshot().catalog
        if issuer is not None and issuer not in catalog.issuers:
            known = ", ".join(catalog.issuers) or "none is configured"
            raise BadRequest(f"issuer {spell(issuer)}: allowed are {known}{_hint(issuer, catalog.issuers)}")
        if tenant is not None and catalog.tenant(tenant) is None:
            # It may be as new as the catalog of another node.
            await self._control.catch_up()
            names = [one.name for one in self._control.snapshot().catalog.tenants]
            if tenant not in names:
                raise BadRequest(f"tenant {spell(tenant)}: the catalog holds none of this name{_hint(tenant, names)}")

    async def tenant(self, name: str) -> dict[str, Any]:
        tenant = self._control.snapshot().catalog.tenant(name)
        if tenant is None:
            raise TenantNotFound
        return {
            "name": tenant.name,
            "title": tenant.title,
            "status": tenant.status,
            "time_zone": tenant.time_zone,
            "attributes": dict(tenant.attributes),
            "applications": [
                {"client_id": one.client_id, "title": one.title, "origins": list(one.origins), "billable": one.billable}
                for one in tenant.applications
            ],
            "entitlements": [
                {
                    "product": one.product,
                    "plan": one.plan,
                    "from": one.start.isoformat(),
                    "to": None if one.end is None else one.end.isoformat(),
                }
                for one in tenant.entitlements
            ],
        }

    async def set_status(self, name: str, status: str, *, actor: str) -> dict[str, Any]:
        before = (await self.tenant(name))["status"]
        audit = self._entry(
            actor,
            f"tenant.{'suspend' if status == 'suspended' else 'resume'}",
            name,
            before={"status": before},
            after={"status": status},
        )
        if not await self._control.suspend(name, audit, suspended=status == "suspended"):
            raise TenantNotFound
        await self._tell()
        return await self.tenant(name)

    def streams(self) -> list[dict[str, Any]]:
        return [
            {
                "name": one.stream,
                "title": one.title,
                "version": one.version,
                "lifecycle": one.lifecycle,
                "owner": one.owner,
                "visibility": one.visibility,
                "transports": list(one.transports),
                "cluster": one.cluster,
                "topic": one.topic,
            }
            for one in self._control.snapshot().contracts.values()
        ]

    async def reload(self, *, actor: str) -> list[str]:
        problems = await self._reload()
        await self._control.note(self._entry(actor, "reload", "configuration", after={"problems": problems}))
        return problems

    async def preview_statement(self, tenant: str, *, start: int, end: int, actor: str) -> dict[str, Any]:
        zone = self.time_zone(tenant)
        if self.statements is None:
            raise Unavailable("Statements cannot be made here.")
        shown = await self.statements.preview(tenant, zone=zone, start=start, end=end)
        after = {"id": shown["id"], "period": shown["period"]["label"]}
        await self._control.note(self._entry(actor, "statement.preview", tenant, after=after))
        return shown

    async def audit(self, *, limit: int, before: int | None) -> list[dict[str, Any]]:
        return await self._control.audit(limit=limit, before=before)

    def time_zone(self, tenant: str) -> str:
        found = self._control.snapshot().catalog.tenant(tenant)
        if found is None:
            raise TenantNotFound
        return found.time_zone

    def now(self) -> float:
        return self._clock.now()

    async def _tell(self) -> None:
        # Here at once, so that whoever was told of the change finds it done; elsewhere as soon as the bell is heard.
        await self._control.catch_up()
        if self._bus is not None:
            await self._bus.ring(CATALOG_BELL)

    def _entry(self, actor: str, action: str, target: str, *, before: Any = None, after: Any = None) -> Entry:
        return Entry(format_rfc3339(round(self._clock.now() * 1000)), actor, action, target, before, after)


def _moment(epoch_seconds: float) -> str:
    return format_rfc3339(round(epoch_seconds * 1000))


def _hint(name: str, choices: Sequence[str]) -> str:
    near = nearest(name, choices)
    return f"; did you mean {near}?" if near else "."


def _digest(value: str) -> str:
    return "sha256:" + hashlib.sha256(value.encode()).hexdigest()[:16]

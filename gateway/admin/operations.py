"""``/admin/``: what an operator asks and changes; each address one function, each change with who made it."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final, Protocol

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from gateway.admin import statements, usage
from gateway.admin.errors import AdminTokenInvalid, AdminTokenMissing, ReloadRefused
from gateway.admin.openapi import PATH as DOCUMENT_PATH
from gateway.admin.openapi import admin_document, parameters_of
from gateway.admin.statements import StatementsOffice
from gateway.admin.usage import UsageOffice
from gateway.auth.revocation import KINDS, Kind
from gateway.auth.tokens import parse_bearer
from gateway.errors import BadRequest
from gateway.subscription.request import parse_only
from gateway.transport.bodies import read_object, read_text
from gateway.units import format_rfc3339, parse_rfc3339

_NO_STORE: Final = {"Cache-Control": "no-store"}
MAX_AUDIT_ENTRIES: Final = 1000
MAX_VALUE_CHARACTERS: Final = 512
MAX_BUSIEST: Final = 1000


class Administration(UsageOffice, StatementsOffice, Protocol):
    """What these addresses need done. ``actor`` names the token that asks, without being it."""

    async def sessions(self) -> list[dict[str, Any]]:
        """Every open read of every node."""
        ...

    async def end_session(self, session: str, *, actor: str) -> None:
        """End one for good. Raises SessionNotFound."""
        ...

    async def revoke(self, kind: Kind, value: str, *, until: float | None, issuer: str | None, actor: str) -> float:
        """Refuse what bears the value until then (epoch seconds; None: the longest token life). Returns the end.

        Raises BadRequest where that is over already, and for a tenant or issuer that nobody knows."""
        ...

    async def tenant(self, name: str) -> dict[str, Any]:
        """One tenant. Raises TenantNotFound."""
        ...

    async def set_status(self, name: str, status: str, *, actor: str) -> dict[str, Any]:
        """Suspend or resume it, and return it. Raises TenantNotFound."""
        ...

    async def limits(self, *, limit: int) -> list[dict[str, Any]]:
        """The tenants that press most against their limits, over all nodes. Raises Unavailable."""
        ...

    def spend_limits(self, *, limit: int) -> list[dict[str, Any]]:
        """What tenants with a spend limit have spent of it; those nearest to it first, then by name."""
        ...

    async def alerts(self, *, limit: int) -> list[dict[str, Any]]:
        """Quotas and spend limits that came to a mark, and whether the operator's system was told; the newest first."""
        ...

    def streams(self) -> list[dict[str, Any]]:
        """The contracts that are loaded, with what partners never see."""
        ...

    async def reload(self, *, actor: str) -> list[str]:
        """Contracts, catalog, keys and certificates anew; the problems, where that is refused."""
        ...

    async def audit(self, *, limit: int, before: int | None) -> list[dict[str, Any]]:
        """The newest changes first."""
        ...


Answer = Callable[[Request, str], Awaitable[Response]]


class Operations:
    """The addresses below ``/admin/``, closed to whoever bears none of ``tokens``; without any, to everybody."""

    def __init__(self, administration: Administration, tokens: Sequence[str]) -> None:
        self._administration = administration
        self._tokens = [token.encode() for token in tokens]

    def routes(self) -> list[BaseRoute]:
        """What the management port serves beside health and metrics."""
        return [
            self._route("/admin/sessions", self._sessions),
            self._route("/admin/sessions/{session}", self._end_session, method="DELETE"),
            self._route("/admin/revocations", self._revoke, method="POST"),
            self._both("/admin/tenants/{name}", {"GET": self._tenant, "PUT": self._put_tenant}),
            self._route("/admin/streams", self._streams),
            self._route("/admin/reload", self._reload, method="POST"),
            self._route("/admin/audit", self._audit),
            self._route("/admin/limits", self._limits),
            self._route("/admin/alerts", self._alerts),
            self._route(DOCUMENT_PATH, self._document),
            self._route(usage.PATH, self._usage),
            self._both(statements.PATH, {"GET": self._statements, "POST": self._make_statement}),
            self._route(statements.ONE, self._statement),
        ]

    def _route(self, path: str, answer: Answer, *, method: str = "GET") -> Route:
        return self._both(path, {method: answer})

    def _both(self, path: str, answers: dict[str, Answer]) -> Route:
        return Route(path, self._opened(path, answers), methods=list(answers))

    def _opened(self, path: str, answers: dict[str, Answer]) -> Callable[[Request], Awaitable[Response]]:
        async def endpoint(request: Request) -> Response:
            actor = self._actor(request)
            request.state.access_fields["actor"] = actor
            method = "GET" if request.method == "HEAD" else request.method
            parse_only(request.scope["query_string"], parameters_of(method, path))
            return await answers[method](request, actor)

        return endpoint

    def _actor(self, request: Request) -> str:
        """Who asks, as a name for logs. Raises Unauthorized."""
        sent = request.headers.getlist("authorization")
        if len(sent) != 1:
            raise AdminTokenMissing("The request holds no admin token.")
        token = parse_bearer(sent[0]).encode()
        # All are compared, whichever fits: the time tells nothing.
        fits = [hmac.compare_digest(token, one) for one in self._tokens]
        if not any(fits):
            raise AdminTokenInvalid("admin_token_unknown")
        return "token:" + hashlib.sha256(token).hexdigest()[:12]

    # ---- the addresses -------------------------------------------------------------------------------------------

    async def _sessions(self, request: Request, actor: str) -> Response:
        return _json({"sessions": await self._administration.sessions()})

    async def _end_session(self, request: Request, actor: str) -> Response:
        await self._administration.end_session(request.path_params["session"], actor=actor)
        return Response(status_code=204, headers=_NO_STORE)

    async def _revoke(self, request: Request, actor: str) -> Response:
        body = await read_object(request, {*KINDS, "until", "issuer"})
        named = [kind for kind in KINDS if kind in body]
        if len(named) != 1:
            raise BadRequest(
                f"Exactly one of {', '.join(KINDS)} says what is revoked; found: {', '.join(named) or 'none'}."
            )
        kind = named[0]
        value = read_text(body, kind, most=MAX_VALUE_CHARACTERS)
        issuer = read_text(body, "issuer", most=255) if "issuer" in body else None
        if issuer is not None and kind == "tenant":
            raise BadRequest("issuer goes with jti, sub and client_id; a tenant is the same for all issuers.")
        until = _moment(read_text(body, "until", most=64)) if "until" in body else None
        end = await self._administration.revoke(kind, value, until=until, issuer=issuer, actor=actor)
        told = {kind: value, "until": format_rfc3339(round(end * 1000))}
        return _json(told | ({"issuer": issuer} if issuer is not None else {}), status=201)

    async def _tenant(self, request: Request, actor: str) -> Response:
        return _json(await self._administration.tenant(request.path_params["name"]))

    async def _put_tenant(self, request: Request, actor: str) -> Response:
        name = request.path_params["name"]
        known = await self._administration.tenant(name)
        body = await read_object(request, known)
        for member, value in body.items():
            # What was read may be sent back as it was; the rest of a tenant belongs to its file.
            if member != "status" and value != known[member]:
                raise BadRequest(f"{member} is not changed here but by gateway apply: leave it out, or as it is.")
        if "status" not in body:
            return _json(known)
        status = read_text(body, "status", most=32)
        if status not in ("active", "suspended"):
            raise BadRequest(f"status {status!r}: allowed are active, suspended.")
        return _json(await self._administration.set_status(name, status, actor=actor))

    async def _streams(self, request: Request, actor: str) -> Response:
        return _json({"streams": self._administration.streams()})

    async def _reload(self, request: Request, actor: str) -> Response:
        await read_object(request, ())
        problems = await self._administration.reload(actor=actor)
        if problems:
            raise ReloadRefused("Nothing was taken over; all runs on as it was.", extensions={"problems": problems})
        return _json({"reloaded": True, "streams": len(self._administration.streams())})

    async def _limits(self, request: Request, actor: str) -> Response:
        limit = _number(request, "limit", least=1, most=MAX_BUSIEST) or 20
        tenants = await self._administration.limits(limit=limit)
        return _json({"tenants": tenants, "spend_limits": self._administration.spend_limits(limit=limit)})

    async def _alerts(self, request: Request, actor: str) -> Response:
        limit = _number(request, "limit", least=1, most=MAX_AUDIT_ENTRIES) or 100
        return _json({"alerts": await self._administration.alerts(limit=limit)})

    async def _audit(self, request: Request, actor: str) -> Response:
        limit = _number(request, "limit", least=1, most=MAX_AUDIT_ENTRIES) or 100
        entries = await self._administration.audit(limit=limit, before=_number(request, "next", least=1, most=2**62))
        page: dict[str, Any] = {"entries": entries}
        if len(entries) == limit:
            page["next"] = str(entries[-1]["number"])
        return _json(page)

    async def _document(self, request: Request, actor: str) -> Response:
        return _json(admin_document())

    async def _statements(self, request: Request, actor: str) -> Response:
        return await statements.listing(self._administration, request)

    async def _statement(self, request: Request, actor: str) -> Response:
        return await statements.one(self._administration, request)

    async def _make_statement(self, request: Request, actor: str) -> Response:
        return await statements.make(self._administration, request, actor)

    async def _usage(self, request: Request, actor: str) -> Response:
        return await usage.answer(self._administration, request)


def _json(body: dict[str, Any], *, status: int = 200) -> Response:
    return JSONResponse(body, status_code=status, headers=_NO_STORE)


def _moment(text: str) -> float:
    try:
        return parse_rfc3339(text) / 1000
    except ValueError:
        raise BadRequest(f"until {text!r}: an RFC 3339 time such as 2026-12-01T00:00:00Z is needed.") from None


def _number(request: Request, name: str, *, least: int, most: int) -> int | None:
    text = request.query_params.get(name)
    if text is None:
        return None
    if not text.isascii() or not text.isdigit() or not least <= int(text[:20]) <= most:
        raise BadRequest(f"{name} {text[:40]!r}: a whole number from {least} to {most} is needed.")
    return int(text)

"""The management port as OpenAPI 3.1: a table with a row for each method of an address, and the document made of it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Final

from gateway import __version__
from gateway.admin.errors import AdminTokenInvalid, AdminTokenMissing, ReloadRefused, TenantNotFound
from gateway.auth.revocation import KINDS
from gateway.billing.errors import StatementNotFound, StatementRefused
from gateway.catalog.documents.events import Schema, members, ref
from gateway.catalog.documents.limits import spend_limit_schema
from gateway.catalog.documents.problems import PROBLEM
from gateway.errors import (
    BadRequest,
    GatewayError,
    InvalidParameter,
    NotAcceptable,
    PayloadTooLarge,
    SessionNotFound,
    Unavailable,
)

PATH: Final = "/admin/openapi.json"
_OPENAPI_VERSION: Final = "3.1.0"
_ABOUT: Final = (
    "For operators, on a port that no partner reaches. What lies below `/admin/` wants a bearer of `admin.tokens`; "
    "every change is in the audit log. Members that you do not know may come: pass over them."
)
_JSON: Final = "application/json"
_PLACE: Final = re.compile(r"\{(\w+)\}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """A method of an address: what it answers by status (None: no body), takes as a body and in the query, refuses."""

    method: str
    path: str
    summary: str
    answers: Mapping[int, Schema | None]
    asks: Schema | None = None
    query: Mapping[str, str] = field(default_factory=dict)
    refusals: tuple[type[GatewayError], ...] = ()
    media: tuple[str, ...] = (_JSON,)

    @property
    def is_open(self) -> bool:
        """Whether it wants no token."""
        return not self.path.startswith("/admin/")


def _text(**more: Any) -> Schema:
    return {"type": "string", **more}


def _list(name: str, entry: Schema, **more: Schema) -> Schema:
    return members({name: {"type": "array", "items": entry}, **more}, (name,))


def _texts(*names: str, **more: Schema) -> Schema:
    """An object whose members of these names are all there, and text."""
    return members({**{name: _text() for name in names}, **more}, names)


_ANY: Final[Schema] = {"type": "object"}
_MOMENT: Final = _text(format="date-time")
_SESSION: Final = _texts("session", "tenant", "client_id", "stream", "protocol", "plan", "opened_at", "expires_at")
_TENANT: Final = _texts(
    "name",
    "title",
    "status",
    "time_zone",
    attributes=_ANY,
    applications={"type": "array", "items": _texts("client_id", "title")},
    entitlements={"type": "array", "items": _texts("product", "plan", "from")},
)
_STREAM: Final = _texts("name", "title", "version", "lifecycle", "owner", "visibility", "cluster", "topic")
_CHANGE: Final = _texts(
    "at", "actor", "action", "target", number={"type": "integer"}, before={}, after={"description": "As it was left."}
)
_REVOCATION: Final = {
    **members(
        {**{kind: _text(minLength=1, maxLength=512) for kind in KINDS}, "until": _MOMENT, "issuer": _text()},
        description="Exactly one of " + ", ".join(KINDS) + ", and until when; without, the longest life of a token.",
    ),
    "additionalProperties": False,
}
_USAGE: Final = _texts("complete_until", rows={"type": "array", "items": _ANY})
_BUSY: Final = _texts(
    "tenant", "plan", open_reads={"type": "integer"}, is_paced={"type": "boolean"}, refused=_ANY, quotas=_ANY
)
_PAGE: Final = {"limit": "The most on a page, 1 to 1000; 100 without.", "next": "Where the page before ended."}
_USAGE_QUERY: Final = {
    "tenant": "One tenant's alone; days are then those of its zone.",
    "from": "RFC 3339, widened to whole buckets.",
    "to": "The same; it may lie ahead.",
    "by": "What rows are told apart by, with commas.",
    "granularity": "15m, hour, day or month.",
    "limit": "The most rows on a page, 1 to 10000; 1000 without.",
    "format": "json or csv, whatever Accept says.",
    "next": "Where the page before ended.",
}

_STATEMENT: Final = _texts(
    "id",
    "status",
    "tenant",
    "currency",
    "total",
    "due",
    number={"type": ["string", "null"]},
    lines={"type": "array", "items": _ANY},
)

OPERATIONS: Final = (
    Operation(method="GET", path="/livez", summary="Whether the process runs its loop.", answers={200: _ANY}),
    Operation(
        method="GET",
        path="/readyz",
        summary="Whether to send traffic here: each dependency, each reader.",
        answers={200: _ANY, 503: _ANY},
    ),
    Operation(
        method="GET",
        path="/metrics",
        summary="Metrics for Prometheus.",
        answers={200: _text()},
        media=("text/plain", "application/openmetrics-text"),
    ),
    Operation(method="GET", path=PATH, summary="This document.", answers={200: _ANY}),
    Operation(
        method="GET",
        path="/admin/sessions",
        summary="Every open read of every node.",
        answers={200: _list("sessions", _SESSION)},
        refusals=(Unavailable,),
    ),
    Operation(
        method="DELETE",
        path="/admin/sessions/{session}",
        summary="End a read for good.",
        answers={204: None},
        refusals=(SessionNotFound, Unavailable),
    ),
    Operation(
        method="POST",
        path="/admin/revocations",
        summary="Refuse what bears a value from now on, and end the reads that do.",
        asks=_REVOCATION,
        answers={201: members({**{kind: _text() for kind in KINDS}, "until": _MOMENT, "issuer": _text()}, ("until",))},
    ),
    Operation(
        method="GET",
        path="/admin/tenants/{name}",
        summary="A tenant, its applications and entitlements.",
        answers={200: _TENANT},
        refusals=(TenantNotFound,),
    ),
    Operation(
        method="PUT",
        path="/admin/tenants/{name}",
        summary="Suspend or resume a tenant.",
        asks={
            "type": "object",
            "properties": {**_TENANT["properties"], "status": _text(enum=["active", "suspended"])},
            "additionalProperties": False,
        },
        answers={200: _TENANT},
        refusals=(TenantNotFound,),
    ),
    Operation(
        method="GET",
        path="/admin/streams",
        summary="The contracts that are loaded, with what partners never see.",
        answers={200: _list("streams", _STREAM)},
    ),
    Operation(
        method="POST",
        path="/admin/reload",
        summary="Take contracts, catalog, keys and certificates anew, on this node.",
        answers={200: members({"reloaded": {"type": "boolean"}, "streams": {"type": "integer"}}, ("reloaded",))},
        refusals=(ReloadRefused,),
    ),
    Operation(
        method="GET",
        path="/admin/audit",
        summary="The changes, newest first.",
        query=_PAGE,
        answers={200: _list("entries", _CHANGE, next=_text())},
    ),
    Operation(
        method="GET",
        path="/admin/limits",
        summary="The tenants that press most against their limits, over all nodes.",
        query={"limit": "How many, 1 to 1000; 20 without."},
        answers={200: _list("tenants", _BUSY, spend_limits={"type": "array", "items": spend_limit_schema()})},
        refusals=(Unavailable,),
    ),
    Operation(
        method="GET",
        path="/admin/alerts",
        summary="Quotas and spend limits that came to 50, 80 or 100 percent, and whether your system took the alert.",
        query={"limit": "The most, 1 to 1000; 100 without."},
        answers={200: _list("alerts", _texts("type", "tenant", "period", "failure", "found_at"))},
    ),
    Operation(
        method="GET",
        path="/admin/usage",
        summary="What all tenants, or one of them, have read.",
        query=_USAGE_QUERY,
        answers={200: _USAGE},
        media=(_JSON, "text/csv"),
        refusals=(InvalidParameter, TenantNotFound, NotAcceptable, Unavailable),
    ),
    Operation(
        method="GET",
        path="/admin/statements",
        summary="Statements of all tenants, or of one of them, the newest first.",
        query={
            "tenant": "One tenant's alone.",
            "limit": "The most on a page, 1 to 1000; 100 without.",
            "next": "Where the page before ended.",
        },
        answers={200: _list("statements", _STATEMENT, next=_text())},
        refusals=(InvalidParameter, TenantNotFound, NotAcceptable, Unavailable),
    ),
    Operation(
        method="POST",
        path="/admin/statements",
        summary="Make a draft of a stretch of time, on whole buckets up to now.",
        asks={
            **members(
                {"tenant": _text(minLength=1, maxLength=63), "from": _MOMENT, "to": _MOMENT}, ("tenant", "from", "to")
            ),
            "additionalProperties": False,
        },
        answers={201: _STATEMENT},
        refusals=(TenantNotFound, StatementRefused, Unavailable),
    ),
    Operation(
        method="GET",
        path="/admin/statements/{number}",
        summary="A statement by its number or id.",
        query={"format": "json, csv, html or pdf; as Accept says without."},
        answers={200: _STATEMENT},
        media=(_JSON, "text/csv", "text/html", "application/pdf"),
        refusals=(InvalidParameter, StatementNotFound, NotAcceptable, Unavailable),
    ),
)
"""Everything that the management port serves. An address that is added needs its row here."""


@cache
def admin_document() -> dict[str, Any]:
    """The document; the same object at every call, for reading only."""
    paths: dict[str, Any] = {}
    for one in OPERATIONS:
        paths.setdefault(one.path, {})[one.method.lower()] = _operation(one)
    return {
        "openapi": _OPENAPI_VERSION,
        "info": {"title": "Management port", "version": __version__, "description": _ABOUT},
        "servers": [{"url": "/"}],
        "paths": paths,
        "components": {
            "schemas": {"Problem": PROBLEM},
            "securitySchemes": {
                "operator": {"type": "http", "scheme": "bearer", "description": "One of `admin.tokens`."}
            },
        },
    }


@cache
def parameters_of(method: str, path: str) -> tuple[str, ...]:
    """The parameters that an operation takes in the query: what the document does not say is not there."""
    (found,) = [one for one in OPERATIONS if (one.method, one.path) == (method, path)]
    return tuple(found.query)


def _operation(one: Operation) -> dict[str, Any]:
    parameters = [
        {"name": name, "in": "path", "required": True, "schema": _text()} for name in _PLACE.findall(one.path)
    ]
    parameters += [
        {"name": name, "in": "query", "description": told, "schema": _text()} for name, told in one.query.items()
    ]
    document: dict[str, Any] = {
        "operationId": f"{one.method.lower()}{re.sub(r'[^a-z]+', '-', one.path)}".rstrip("-"),
        "summary": one.summary,
        "security": [] if one.is_open else [{"operator": []}],
        "parameters": parameters,
        "responses": {str(status): _answer(schema, one.media) for status, schema in one.answers.items()}
        | _refusals(one),
    }
    if one.asks is not None:
        document["requestBody"] = {"required": True, "content": {_JSON: {"schema": one.asks}}}
    return document


def _answer(schema: Schema | None, media: tuple[str, ...]) -> dict[str, Any]:
    if schema is None:
        return {"description": "Done."}
    return {
        "description": "The answer.",
        "content": {one: {"schema": schema if one == _JSON else _text()} for one in media},
    }


def _refusals(one: Operation) -> dict[str, Any]:
    if one.is_open:
        return {}
    always: tuple[type[GatewayError], ...] = (AdminTokenMissing, AdminTokenInvalid, BadRequest)
    if one.asks is not None:
        always += (PayloadTooLarge,)
    told: dict[str, list[str]] = {}
    for error in dict.fromkeys((*always, *one.refusals)):
        told.setdefault(str(error.status), []).append(f"`{error.code}`: {error.action}")
    return {
        status: {
            "description": "\n".join(rows),
            "content": {"application/problem+json": {"schema": ref("Problem")}},
        }
        for status, rows in sorted(told.items())
    }

"""The partner's OpenAPI 3.1 document: the routes of this version, those of each stream with its own schemas."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

from gateway.catalog.documents.account import account_paths
from gateway.catalog.documents.events import CURSOR, CURSOR_SAMPLE, TIME_SAMPLE, Schema, members, ref
from gateway.catalog.documents.facts import API_VERSION, LABELS, PATHS, about, facts
from gateway.catalog.documents.issuing import BASIC, issuing_paths, resource_paths
from gateway.catalog.documents.limits import DESCRIPTIONS, limits_schema
from gateway.catalog.documents.limits import PATH as LIMITS
from gateway.catalog.documents.offer import Audience, Offer
from gateway.catalog.documents.parameters import Parameter, parameters
from gateway.catalog.documents.payload import Payload
from gateway.catalog.documents.problems import PROBLEM, codes_by_status
from gateway.catalog.documents.records import RecordSchemas
from gateway.model import Contract, Transport

OPENAPI_VERSION: Final = "3.1.0"
_ABOUT: Final = (
    "Streams over HTTP pull, Server-Sent Events and NDJSON. WebSocket, and the events within a stream, are described "
    "by the AsyncAPI document at `/asyncapi.json`. Members and codes that you do not know may come: pass over them."
)
_HTTP: Final[tuple[Transport, ...]] = ("pull", "sse", "ndjson")
_MEDIA: Final[dict[Transport, str]] = {
    "pull": "application/json",
    "sse": "text/event-stream",
    "ndjson": "application/x-ndjson",
}
_EVERY_ROUTE: Final = (400, 401, 403, 406, 408, 413, 414, 429, 431, 500, 503)
_READ_ROUTE: Final = (404, 410)
_BEARER: Final[list[dict[str, list[str]]]] = [{"bearer": []}]
_PERHAPS_BEARER: Final[list[dict[str, list[str]]]] = [{}, {"bearer": []}]
_DOCUMENTS: Final = (
    ("/openapi.json", "openapi", "This document.", "application/json"),
    ("/asyncapi.json", "asyncapi", "The streams and their events as AsyncAPI 3.0.", "application/json"),
    ("/asyncapi.yaml", "asyncapi.yaml", "The same in YAML.", "application/yaml"),
)


def _header(description: str, *, required: bool = False, **schema: Any) -> dict[str, Any]:
    return {"description": description, "required": required, "schema": {"type": "string", **schema}}


_HEADERS: Final[dict[str, dict[str, Any]]] = {
    "X-Correlation-Id": _header("The request's own, if it was well formed, else a new one.", required=True),
    "Gateway-Start-Cursor": _header("Where the read starts.", required=True, pattern="^[A-Za-z0-9_-]+$"),
    "Gateway-Session": _header("The name of this read.", required=True),
    "Cache-Control": _header("Who may keep the answer, and for how long.", required=True),
    **{name: _header(told) for name, told in DESCRIPTIONS.items()},
    "Retry-After": _header("Seconds after which coming back makes sense."),
    "WWW-Authenticate": _header("What the credential lacks (RFC 6750)."),
    "Deprecation": _header("Since when the stream is deprecated (RFC 9745)."),
    "Sunset": _header("When the stream ends (RFC 8594)."),
    "ETag": _header("Names these bytes: send it back as `If-None-Match`.", required=True),
    "Vary": _header("`Authorization, Origin`: the document depends on who asks.", required=True),
}


def openapi_document(audience: Audience, *, public_url: str) -> dict[str, Any]:
    """The document for an audience; ``public_url`` is how partners reach the gateway. Equal arguments, equal order."""
    return _Document(audience, public_url).build()


def openapi_document_with_tokens(audience: Audience, *, public_url: str) -> dict[str, Any]:
    """The same, of a gateway that gives tokens away itself."""
    document = openapi_document(audience, public_url=public_url)
    document["paths"] |= issuing_paths()
    document["components"]["securitySchemes"]["client"] = BASIC
    return document


class _Document:
    def __init__(self, audience: Audience, public_url: str) -> None:
        self._audience = audience
        self._url = public_url.rstrip("/")
        self._codes = codes_by_status()
        self._paths: dict[str, Any] = {}
        self._schemas: dict[str, Any] = {"Cursor": dict(CURSOR), "Problem": PROBLEM, "Stream": _entry()}

    def build(self) -> dict[str, Any]:
        self._paths["/v1/streams"] = {"get": self._listing()}
        self._paths["/v1/sessions/{session}/token"] = {"post": self._refreshing()}
        self._paths[LIMITS] = {"get": self._limits()}
        self._paths["/v1/tickets"] = {"post": self._ticketing()}
        for offer in self._audience.offers:
            self._add_stream(offer)
        for path, name, summary, media in _DOCUMENTS:
            self._paths[path] = {"get": self._document(name, summary, media)}
        self._paths |= account_paths(self._refusals, always=_EVERY_ROUTE)
        self._paths |= resource_paths(self._refusals(set(_EVERY_ROUTE) - {401, 403}))
        return {
            "openapi": OPENAPI_VERSION,
            "info": {"title": "Streams", "version": API_VERSION, "description": _ABOUT},
            "servers": [{"url": self._url}],
            "tags": [
                {
                    "name": one.contract.stream,
                    "description": f"{one.contract.title}\n\n{about(one.contract)}",
                    "x-stream": facts(one),
                }
                for one in self._audience.offers
            ],
            "paths": self._paths,
            "components": {
                "schemas": self._schemas,
                "responses": self._responses(),
                "parameters": {
                    "correlation-id": _CORRELATION_ID,
                    "last-event-id": _LAST_EVENT_ID,
                    "if-none-match": _ETAGS,
                },
                "headers": _HEADERS,
                "securitySchemes": {
                    "bearer": {
                        "type": "http",
                        "scheme": "bearer",
                        "bearerFormat": "JWT",
                        "description": "An access token (RFC 9068).",
                    }
                },
            },
        }

    def _responses(self) -> dict[str, Any]:
        """A refusal for each status, with the codes it may have."""
        found: dict[str, Any] = {}
        for status in sorted({*_EVERY_ROUTE, *_READ_ROUTE, 409} & set(self._codes)):
            rows = self._codes[status]
            told = "\n".join(f"- `{one.code}`: {one.title}. {one.action}" for one in rows)
            schema = {"allOf": [ref("Problem"), members({"code": {"enum": [one.code for one in rows]}})]}
            names = ["X-Correlation-Id", "Cache-Control"]
            names += ["WWW-Authenticate"] if status in (400, 401, 403) else []
            names += [*DESCRIPTIONS] if status == 429 else []
            names += ["Retry-After"] if status in (408, 429, 500, 503) else []
            found[f"problem-{status}"] = {
                "description": told,
                "headers": _header_refs(names),
                "content": {"application/problem+json": {"schema": schema}},
            }
        return found

    def _refusals(self, statuses: Iterable[int]) -> dict[str, Any]:
        known = sorted(set(statuses) & set(self._codes))
        return {str(status): {"$ref": f"#/components/responses/problem-{status}"} for status in known}

    def _listing(self) -> dict[str, Any]:
        schema = members({"streams": {"type": "array", "items": ref("Stream")}}, ("streams",))
        return {
            "operationId": "list-streams",
            "summary": "The streams that this token may read.",
            "security": _BEARER,
            "parameters": [_parameter_ref("correlation-id")],
            "responses": {
                "200": {
                    "description": "The streams, by name.",
                    "headers": _header_refs(["X-Correlation-Id", "Cache-Control"]),
                    "content": {"application/json": {"schema": schema}},
                },
                **self._refusals(_EVERY_ROUTE),
            },
        }

    def _limits(self) -> dict[str, Any]:
        return {
            "operationId": "show-limits",
            "summary": "What your plans allow, what is used of it, and when there is more.",
            "security": _BEARER,
            "parameters": [_parameter_ref("correlation-id")],
            "responses": {
                "200": {
                    "description": "The plans in force, by name.",
                    "headers": _header_refs(["X-Correlation-Id", "Cache-Control", *DESCRIPTIONS]),
                    "content": {"application/json": {"schema": limits_schema()}},
                },
                **self._refusals(_EVERY_ROUTE),
            },
        }

    def _refreshing(self) -> dict[str, Any]:
        named = {
            "name": "session",
            "in": "path",
            "required": True,
            "description": "The running read, as `Gateway-Session` or its welcome names it.",
            "schema": {"type": "string"},
        }
        return {
            "operationId": "refresh-session",
            "summary": "Go on with a running read under the token of this request.",
            "security": _BEARER,
            "parameters": [named, _parameter_ref("correlation-id")],
            "responses": {
                "204": {
                    "description": "The read goes on under this token's grant, from the next record on.",
                    "headers": _header_refs(["X-Correlation-Id", "Cache-Control"]),
                },
                **self._refusals((*_EVERY_ROUTE, 404, 409)),
            },
        }

    def _ticketing(self) -> dict[str, Any]:
        text = {"type": "string", "minLength": 1, "maxLength": 256}
        asked = members({"stream": text, "origin": text}, ("stream",)) | {"additionalProperties": False}
        given = members({"ticket": {"type": "string"}, "expires_in": {"type": "integer"}}, ("ticket", "expires_in"))
        return {
            "operationId": "issue-ticket",
            "summary": "What a page that can send no header puts into an address: `?ticket=`.",
            "security": _BEARER,
            "parameters": [_parameter_ref("correlation-id")],
            "requestBody": {"required": True, "content": {"application/json": {"schema": asked}}},
            "responses": {
                "201": {
                    "description": "A ticket, good for `expires_in` seconds until its first connection.",
                    "headers": _header_refs(["X-Correlation-Id", "Cache-Control"]),
                    "content": {"application/json": {"schema": given}},
                },
                **self._refusals((*_EVERY_ROUTE, 404, 410)),
            },
        }

    def _document(self, name: str, summary: str, media: str) -> dict[str, Any]:
        headers = _header_refs(["X-Correlation-Id", "Cache-Control", "ETag", "Vary"])
        return {
            "operationId": f"document-{name}",
            "summary": f"{summary} Without a token the public part, with one the streams of its organisation.",
            "security": _PERHAPS_BEARER,
            "parameters": [_parameter_ref("correlation-id"), _parameter_ref("if-none-match")],
            "responses": {
                "200": {
                    "description": "The document.",
                    "headers": headers,
                    "content": {media: {"schema": {"type": "object"}}},
                },
                "304": {"description": "The document is the one that `If-None-Match` names.", "headers": headers},
                **self._refusals(_EVERY_ROUTE),
            },
        }

    def _add_stream(self, offer: Offer) -> None:
        contract = offer.contract
        offered = tuple(one for one in _HTTP if one in contract.transports)
        if not offered:
            return
        path = f"/v1/streams/{contract.stream}"
        payload = Payload(contract, "2020-12", masks=offer.masks)
        records = RecordSchemas(contract, payload, stream_url=self._url + path)
        schemas = records.schemas()
        within = (records.name("event"), records.name("frame"))
        if "pull" in offered:
            self._schemas |= {name: one for name, one in schemas.items() if name not in within}
        self._paths[path] = {"get": self._read(contract, offered, records, name="negotiated")}
        for transport in offered:
            one = self._read(contract, (transport,), records, name=PATHS[transport])
            self._paths[f"{path}/{PATHS[transport]}"] = {"get": one}

    def _read(
        self, contract: Contract, transports: tuple[Transport, ...], records: RecordSchemas, *, name: str
    ) -> dict[str, Any]:
        labels = ", ".join(LABELS[one] for one in transports)
        told = [_parameter(one) for one in parameters(contract, transports)]
        operation: dict[str, Any] = {
            "operationId": f"read-{contract.stream}-{name}",
            "tags": [contract.stream],
            "summary": f"Read {contract.title} over {labels}" + (", as Accept says." if len(transports) > 1 else "."),
            "security": [{"bearer": list(contract.scopes)}],
            "parameters": [_parameter_ref("correlation-id"), _parameter_ref("last-event-id"), *told],
            "responses": {
                "200": self._success(contract, transports, records),
                **self._refusals((*_EVERY_ROUTE, *_READ_ROUTE)),
            },
        }
        if contract.lifecycle == "deprecated":
            operation["deprecated"] = True
        return operation

    def _success(self, contract: Contract, transports: tuple[Transport, ...], records: RecordSchemas) -> dict[str, Any]:
        headers = ["X-Correlation-Id", "Cache-Control", *DESCRIPTIONS, "Gateway-Start-Cursor"]
        if "pull" not in transports:
            headers.append("Gateway-Session")
        headers += ["Deprecation"] if contract.deprecated_on else []
        headers += ["Sunset"] if contract.sunset_on else []
        content: dict[str, Any] = {}
        for transport in transports:
            # A stream has no end and no schema: its events are the AsyncAPI document's.
            media: dict[str, Any] = {"schema": {"type": "string"}}
            if transport == "pull":
                media = {"schema": ref(records.name("page"))}
                samples = records.samples("page")
                if samples:
                    media["examples"] = {
                        f"example-{n}": {"summary": s[0], "value": s[1]} for n, s in enumerate(samples, 1)
                    }
            content[_MEDIA[transport]] = media
        told = "A page of records." if transports == ("pull",) else "The records, without end."
        if len(transports) > 1:
            told = "Records: a page, or without end."
        return {"description": told, "headers": _header_refs(headers), "content": content}


_CORRELATION_ID: Final = {
    "name": "X-Correlation-Id",
    "in": "header",
    "description": "Yours, for logs on both sides: 1 to 128 of `A-Za-z0-9._:-`; anything else gets a new one.",
    "schema": {"type": "string"},
}
_LAST_EVENT_ID: Final = {
    "name": "Last-Event-ID",
    "in": "header",
    "description": "A cursor; goes before every other start. An empty one counts as none.",
    "schema": {"type": "string", "pattern": "^[A-Za-z0-9_-]*$"},
}
_ETAGS: Final = {
    "name": "If-None-Match",
    "in": "header",
    "description": "The ETag of the document you have.",
    "schema": {"type": "string"},
}


def _entry() -> Schema:
    """A stream in the list of streams."""
    text: Schema = {"type": "string"}
    return members(
        {
            "name": text,
            "title": text,
            "version": text,
            "description": text,
            "lifecycle": {"type": "string", "enum": ["published", "deprecated"]},
            "transports": {"type": "array", "items": {"type": "string", "enum": ["sse", "ws", "pull", "ndjson"]}},
            "links": {"type": "object", "additionalProperties": {"type": "string", "format": "uri"}},
            "filters": {"type": "array", "items": members({"name": text, "type": text}, ("name", "type"))},
            "scopes": {"type": "array", "items": text},
            "row_filtered": {"type": "boolean"},
            "limits": {"type": "object"},
            "replay": {"type": "object"},
            "docs": text,
            "deprecated_on": {"type": "string", "format": "date"},
            "sunset_on": {"type": "string", "format": "date"},
            "successor": text,
        },
        ("name", "title", "version", "lifecycle", "transports", "links", "filters", "scopes", "limits"),
    )


def _header_refs(names: Iterable[str]) -> dict[str, Any]:
    return {name: {"$ref": f"#/components/headers/{name}"} for name in names}


def _parameter_ref(name: str) -> dict[str, Any]:
    return {"$ref": f"#/components/parameters/{name}"}


def _parameter(parameter: Parameter) -> dict[str, Any]:
    told: dict[str, Any] = {"name": parameter.name, "in": "query", "description": parameter.description}
    if parameter.is_repeatable:
        told |= {"style": "form", "explode": True}
    sample = {"cursor": CURSOR_SAMPLE, "last_event_id": CURSOR_SAMPLE, "from": TIME_SAMPLE}.get(parameter.name)
    told["schema"] = parameter.schema
    if sample is not None and parameter.name != "from":
        told["example"] = sample
    return told

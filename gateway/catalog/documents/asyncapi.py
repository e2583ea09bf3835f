"""The partner's AsyncAPI 3.0 document: one channel for each stream and protocol, operations from the reader's side."""

from __future__ import annotations

from typing import Any, Final
from urllib.parse import urlsplit

from gateway.catalog.documents import events
from gateway.catalog.documents.events import Schema, ref
from gateway.catalog.documents.facts import API_VERSION, LABELS, PATHS, about, facts
from gateway.catalog.documents.offer import Audience, Offer
from gateway.catalog.documents.parameters import parameters
from gateway.catalog.documents.payload import Payload
from gateway.catalog.documents.problems import PROBLEM, close_code_rows, refusal_rows
from gateway.catalog.documents.records import RecordSchemas
from gateway.model import Contract, Transport

ASYNCAPI_VERSION: Final = "3.0.0"
SUBPROTOCOL: Final = "gateway.v1"
_ABOUT: Final = (
    "Streams over Server-Sent Events, WebSocket, NDJSON and HTTP pull. A record's `id` is a cursor that resumes after "
    "it, on any of the protocols. The routes over plain HTTP, with every refusal, are in the OpenAPI document at "
    "`/openapi.json`. Members, events and codes that you do not know may come: pass over them."
)
_KINDS: Final[dict[Transport, tuple[str, ...]]] = {
    "sse": ("event", "cloudevent", "payload"),
    "ws": ("frame", "cloudevent"),
    "ndjson": ("frame", "cloudevent"),
    "pull": ("page",),
}
_CHANNEL_KEYS: Final = {"event": "record", "frame": "record"}
"""What a kind of record is called within its channel, where only one of them stands."""

_LAST_EVENT_ID: Final[Schema] = {
    "type": "object",
    "properties": {"Last-Event-ID": {"type": "string", "description": "A cursor; goes before every other start."}},
}
_BINDING_VERSIONS: Final = {"http": "0.3.0", "ws": "0.1.0"}


def asyncapi_document(audience: Audience, *, public_url: str) -> dict[str, Any]:
    """The document for an audience; ``public_url`` is how partners reach the gateway. Equal arguments, equal order."""
    return _Document(audience, public_url).build()


class _Document:
    def __init__(self, audience: Audience, public_url: str) -> None:
        self._offers = audience.offers
        self._url = public_url.rstrip("/")
        self._channels: dict[str, Any] = {}
        self._operations: dict[str, Any] = {}
        self._messages: dict[str, Any] = {}
        self._schemas: dict[str, Any] = {**events.control_schemas(), "Problem": PROBLEM}

    def build(self) -> dict[str, Any]:
        self._add_control_messages()
        for offer in self._offers:
            self._add_stream(offer)
        return {
            "asyncapi": ASYNCAPI_VERSION,
            "info": {
                "title": "Streams",
                "version": API_VERSION,
                "description": _ABOUT,
                "tags": [{"name": one.contract.stream, "description": one.contract.title} for one in self._offers],
            },
            "defaultContentType": "application/json",
            "servers": self._servers(),
            "channels": self._channels,
            "operations": self._operations,
            "components": {
                "schemas": self._schemas,
                "messages": self._messages,
                "securitySchemes": {
                    "bearer": {
                        "type": "http",
                        "scheme": "bearer",
                        "bearerFormat": "JWT",
                        "description": "An access token (RFC 9068) in the header `Authorization: Bearer`.",
                    }
                },
            },
            "x-errors": refusal_rows(),
            "x-close-codes": close_code_rows(),
        }

    def _servers(self) -> dict[str, Any]:
        parts = urlsplit(self._url)
        tls = parts.scheme == "https"
        path = {"pathname": parts.path} if parts.path else {}
        security = [{"$ref": "#/components/securitySchemes/bearer"}]
        return {
            name: {"host": parts.netloc, "protocol": protocol, **path, "description": description, "security": security}
            for name, protocol, description in (
                ("http", "https" if tls else "http", "Server-Sent Events, NDJSON and HTTP pull."),
                ("websocket", "wss" if tls else "ws", f"WebSocket, subprotocol `{SUBPROTOCOL}`."),
            )
        }

    def _add_control_messages(self) -> None:
        for framed in (False, True):
            names = (*events.EVENTS, *events.COMMANDS) if framed else events.SSE_EVENTS
            for event in names:
                name = events.name_of(event, framed=framed)
                told = events.EVENTS.get(event, {}).get("description") or events.COMMANDS.get(event, "")
                message: dict[str, Any] = {
                    "name": event,
                    "title": event.replace("_", " ").capitalize(),
                    "summary": told,
                    "contentType": "application/json",
                    "payload": ref(name),
                }
                sample = events.sample_of(event, framed=framed)
                if sample is not None:
                    message["examples"] = [{"payload": sample}]
                self._messages[name] = message

    def _add_stream(self, offer: Offer) -> None:
        contract = offer.contract
        payload = Payload(contract, "draft-07", masks=offer.masks)
        records = RecordSchemas(contract, payload, stream_url=f"{self._url}/v1/streams/{contract.stream}")
        self._schemas.update(records.schemas())
        for transport in contract.transports:
            for kind in _KINDS[transport]:
                if records.name(kind) in self._schemas:
                    self._messages.setdefault(records.name(kind), _record_message(contract, payload, records, kind))
        for transport in contract.transports:
            self._add_channel(offer, transport, records)

    def _add_channel(self, offer: Offer, transport: Transport, records: RecordSchemas) -> None:
        contract = offer.contract
        key = f"{contract.stream}.{PATHS[transport]}"
        messages = {
            _CHANNEL_KEYS.get(kind, kind): records.name(kind)
            for kind in _KINDS[transport]
            if records.name(kind) in self._messages
        }
        if transport == "sse":
            messages |= {event: events.name_of(event, framed=False) for event in events.SSE_EVENTS}
        elif transport != "pull":
            messages |= {event: events.name_of(event, framed=True) for event in events.FRAMES[transport]}
        commands = {
            event: events.name_of(event, framed=True) for event in (events.COMMANDS if transport == "ws" else ())
        }
        channel: dict[str, Any] = {
            "address": f"/v1/streams/{contract.stream}/{PATHS[transport]}",
            "title": f"{contract.title}: {LABELS[transport]}",
            "description": about(contract),
            "servers": [{"$ref": f"#/servers/{'websocket' if transport == 'ws' else 'http'}"}],
            "tags": [{"name": contract.stream}],
            "messages": {one: {"$ref": f"#/components/messages/{name}"} for one, name in (messages | commands).items()},
        }
        query = _query(contract, transport)
        if transport == "ws":
            binding = {"method": "GET", "query": query, "headers": _LAST_EVENT_ID}
            channel["bindings"] = {"ws": {**binding, "bindingVersion": _BINDING_VERSIONS["ws"]}}
        if transport == "sse":
            channel["x-sse"] = _sse(messages)
        channel["x-stream"] = facts(offer)
        self._channels[key] = channel
        self._operations[f"receive.{key}"] = self._operation(contract, transport, key, list(messages), query)
        if commands:
            self._operations[f"send.{key}"] = {
                "action": "send",
                "channel": {"$ref": f"#/channels/{key}"},
                "title": f"Pace {contract.title}",
                "summary": "What a client may say on an open WebSocket.",
                "messages": [{"$ref": f"#/channels/{key}/messages/{one}"} for one in commands],
            }

    def _operation(
        self, contract: Contract, transport: Transport, key: str, messages: list[str], query: Schema
    ) -> dict[str, Any]:
        operation: dict[str, Any] = {
            "action": "receive",
            "channel": {"$ref": f"#/channels/{key}"},
            "title": f"Read {contract.title} over {LABELS[transport]}",
            "security": [{"$ref": "#/components/securitySchemes/bearer"}],
            "tags": [{"name": contract.stream}],
            "messages": [{"$ref": f"#/channels/{key}/messages/{one}"} for one in messages],
        }
        if transport != "ws":
            operation["bindings"] = {
                "http": {"method": "GET", "query": query, "bindingVersion": _BINDING_VERSIONS["http"]}
            }
        return operation


def _record_message(contract: Contract, payload: Payload, records: RecordSchemas, kind: str) -> dict[str, Any]:
    media = "application/cloudevents+json" if kind == "cloudevent" else "application/json"
    message: dict[str, Any] = {
        "name": contract.message_name,
        "title": payload.title,
        "contentType": media,
        "payload": ref(records.name(kind)),
    }
    samples = [{"name": label, "payload": sample} for label, sample in records.samples(kind)]
    # An example's payload is an object in AsyncAPI.
    samples = [one for one in samples if isinstance(one["payload"], dict)]
    if samples:
        message["examples"] = samples
    return message


def _query(contract: Contract, transport: Transport) -> Schema:
    told = {one.name: {"description": one.description, **one.schema} for one in parameters(contract, (transport,))}
    return {"type": "object", "properties": told, "additionalProperties": False}


def _sse(messages: dict[str, str]) -> dict[str, Any]:
    """AsyncAPI knows no binding for Server-Sent Events: this says how the messages stand in the stream."""
    return {
        "contentType": "text/event-stream",
        "resume": {"header": "Last-Event-ID", "query": ["cursor", "last_event_id"]},
        "startCursorHeader": "Gateway-Start-Cursor",
        "sessionHeader": "Gateway-Session",
        "events": [
            {
                "message": key,
                # A record has no event line, so that onmessage gets it.
                "event": key if key in events.SSE_EVENTS else None,
                "hasId": key not in ("throttled", "auth_expiring"),
                "data": f"#/components/schemas/{name}",
            }
            for key, name in messages.items()
        ],
    }

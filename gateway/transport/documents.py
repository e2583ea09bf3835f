"""The partner's documents over HTTP: built once for each audience, then handed out as finished bytes."""

from __future__ import annotations

import asyncio
import hashlib
import re
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from starlette.types import Receive, Scope, Send

from gateway.auth.policy import member
from gateway.catalog.documents.asyncapi import asyncapi_document
from gateway.catalog.documents.offer import Audience, public_audience, tenant_audience
from gateway.catalog.documents.openapi import openapi_document, openapi_document_with_tokens
from gateway.catalog.documents.spelling import spell_json, spell_yaml
from gateway.subscription.request import parse_nothing
from gateway.transport.gate import Gate
from gateway.transport.negotiate import demand

KEPT_DOCUMENTS: Final = 64
KEPT_BYTES: Final = 64 * 1024 * 1024
"""Bounds of the store: the document that was not asked for the longest goes first."""

_ETAG: Final = re.compile(r'(?:W/)?("[\x21\x23-\x7e\x80-\xff]*")')


@dataclass(frozen=True, slots=True)
class Kind:
    """One address: what is built for it, how it is spelled, under which media type."""

    path: str
    build: Callable[..., dict[str, Any]]
    spell: Callable[[Mapping[str, Any]], bytes]
    media_type: str


KINDS: Final = (
    Kind("/asyncapi.json", asyncapi_document, spell_json, "application/json"),
    Kind("/asyncapi.yaml", asyncapi_document, spell_yaml, "application/yaml"),
    Kind("/openapi.json", openapi_document, spell_json, "application/json"),
)
_WITH_TOKENS: Final = {"/openapi.json": openapi_document_with_tokens}
"""What is built instead where we give tokens away ourselves: the same for the life of a process."""


@dataclass(frozen=True, slots=True)
class Document:
    """Finished bytes; ``etag`` is quoted, as the header has it."""

    body: bytes
    etag: str


class DocumentStore:
    """Documents by what they are made of. Building takes a thread of its own: open streams go on meanwhile."""

    def __init__(self) -> None:
        self._kept: OrderedDict[tuple[object, ...], Document] = OrderedDict()
        self._bytes = 0
        self._building = asyncio.Lock()
        self.built = 0
        """How many documents were built."""

    async def document(self, kind: Kind, audience: Audience, *, contracts_digest: str, public_url: str) -> Document:
        """The document, from the store where it is there."""
        # Keys are content: a reload or an applied catalog that changes nothing here builds nothing.
        key = (kind.path, contracts_digest, public_url, audience.key)
        if key not in self._kept:
            # One at a time: many who ask for the same at once get one building, and one thread is busy at most.
            async with self._building:
                if key not in self._kept:
                    document = await asyncio.to_thread(_build, kind, audience, public_url)
                    self.built += 1
                    self._keep(key, document)
                    return document
        self._kept.move_to_end(key)
        return self._kept[key]

    def _keep(self, key: tuple[object, ...], document: Document) -> None:
        self._kept[key] = document
        self._bytes += len(document.body)
        while self._kept and (self._bytes > KEPT_BYTES or len(self._kept) > KEPT_DOCUMENTS):
            self._bytes -= len(self._kept.popitem(last=False)[1].body)

    def statistics(self) -> tuple[int, int]:
        """Documents kept, and their bytes."""
        return len(self._kept), self._bytes


def _build(kind: Kind, audience: Audience, public_url: str) -> Document:
    body = kind.spell(kind.build(audience, public_url=public_url))
    return Document(body, f'"{hashlib.sha256(body).hexdigest()[:32]}"')


def serve_document(kind: Kind, store: DocumentStore) -> Callable[[Gate, Scope, Receive, Send], Awaitable[None]]:
    """The ASGI side of one address. Without a credential everybody's part; a bad credential is refused as anywhere."""

    async def serve(gate: Gate, scope: Scope, receive: Receive, send: Send) -> None:
        demand([value for name, value in scope["headers"] if name == b"accept"], kind.media_type)
        audience = await _audience(gate, scope)
        parse_nothing(scope["query_string"])
        contracts = gate.snapshot().contracts
        told = kind if gate.authority is None else replace(kind, build=_WITH_TOKENS.get(kind.path, kind.build))
        document = await store.document(told, audience, contracts_digest=contracts.digest, public_url=gate.public_url())
        headers = [
            (b"etag", document.etag.encode("ascii")),
            # A tenant's is for its own eyes and asked for anew each time: entitlements begin and end.
            (b"cache-control", b"private, no-cache" if audience.is_tenant else b"public, max-age=60"),
            # Of Origin too: what is kept for one page must not be given to another.
            (b"vary", b"Authorization, Origin"),
        ]
        if _names(scope, document.etag):
            await send({"type": "http.response.start", "status": 304, "headers": headers})
            await send({"type": "http.response.body", "body": b""})
            return
        headers += [
            (b"content-type", kind.media_type.encode("ascii")),
            (b"content-length", b"%d" % len(document.body)),
            # Contracts' texts may hold markup; no browser is to look for it.
            (b"x-content-type-options", b"nosniff"),
        ]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": document.body})

    return serve


async def _audience(gate: Gate, scope: Scope) -> Audience:
    if not any(name == b"authorization" for name, _ in scope["headers"]):
        return public_audience(gate.snapshot().contracts.values())
    principal = await gate.principal(scope)
    snapshot = gate.snapshot()
    contracts = snapshot.contracts.values()
    tenant, _ = member(principal, snapshot.catalog)
    scope["state"]["access_fields"].update(tenant=tenant.name)
    return tenant_audience(tenant, contracts, snapshot.catalog, now=gate.now())


def _names(scope: Scope, etag: str) -> bool:
    """Whether If-None-Match names the document (RFC 9110 §13.1.2: a weak comparison)."""
    sent = b",".join(value for name, value in scope["headers"] if name == b"if-none-match").decode("latin-1").strip()
    return sent == "*" or etag in _ETAG.findall(sent)

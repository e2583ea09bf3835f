"""What OAuth clients need to know of us before they have a token: protected-resource metadata (RFC 9728)."""

from __future__ import annotations

import json
from urllib.parse import urlsplit, urlunsplit

from starlette.types import Receive, Scope, Send

from gateway.auth.tokens import TokenVerifier
from gateway.catalog.contracts import Contracts
from gateway.subscription.request import parse_nothing
from gateway.transport.gate import Gate
from gateway.transport.negotiate import demand

PATH = "/.well-known/oauth-protected-resource"


def metadata_url(public_url: str) -> str:
    """Where the metadata is: the well-known path comes before the resource's own (RFC 9728 §3.1)."""
    parts = urlsplit(public_url)
    return urlunsplit((parts.scheme, parts.netloc, PATH + parts.path.rstrip("/"), "", ""))


def metadata(public_url: str, *, contracts: Contracts, verifier: TokenVerifier) -> dict[str, object]:
    """The document. Scopes of streams that are not public are nobody's business; neither are issuers without an
    address, such as the built-in one."""
    shown = [
        one for one in contracts.values() if one.visibility == "public" and one.lifecycle in ("published", "deprecated")
    ]
    return {
        "resource": public_url,
        "authorization_servers": [one for one in verifier.issuers if one.startswith(("https://", "http://"))],
        "scopes_supported": sorted({scope for one in shown for scope in one.scopes}),
        "bearer_methods_supported": ["header"],
    }


async def serve(gate: Gate, scope: Scope, receive: Receive, send: Send) -> None:
    """GET: the same for everybody."""
    demand([value for name, value in scope["headers"] if name == b"accept"], "application/json")
    parse_nothing(scope["query_string"])
    now = gate.snapshot()
    document = metadata(gate.public_url(), contracts=now.contracts, verifier=now.verifier)
    # RFC 9728 §3.2: members without a value are left out.
    body = json.dumps({name: value for name, value in document.items() if value}).encode()
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", b"%d" % len(body)),
        (b"cache-control", b"public, max-age=60"),
        (b"vary", b"Origin"),
    ]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})

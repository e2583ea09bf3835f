"""JSON bodies of requests: bounded, one object, each member known and once."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, Final

from starlette.requests import Request

from gateway.auth.jose import Malformed, decode_object
from gateway.errors import BadRequest, PayloadTooLarge

MAX_BODY_BYTES: Final = 64 * 1024


async def read_body(request: Request) -> bytes:
    """The request's body, whole. Raises PayloadTooLarge."""
    data = bytearray()
    async for piece in request.stream():
        data += piece
        if len(data) > MAX_BODY_BYTES:
            raise PayloadTooLarge(f"A body has at most {MAX_BODY_BYTES} bytes.")
    return bytes(data)


async def read_object(request: Request, allowed: Collection[str]) -> dict[str, Any]:
    """The request's body as JSON. Where no member is ``allowed``, there need be no body. Raises BadRequest and
    PayloadTooLarge."""
    data = await read_body(request)
    if not allowed and not data:
        return {}
    try:
        body = decode_object(data)
    except Malformed:
        raise BadRequest("The body is not one JSON object with each member once.") from None
    for name in body:
        if name not in allowed:
            raise BadRequest(f"The member {name[:40]!r} is not known; allowed: {', '.join(sorted(allowed)) or 'none'}.")
    return body


def read_text(body: dict[str, Any], name: str, *, most: int) -> str:
    """A member that is text. Raises BadRequest."""
    value = body.get(name)
    if not isinstance(value, str) or not 0 < len(value) <= most or any(character < " " for character in value):
        raise BadRequest(f"{name}: a text of 1 to {most} characters is needed.")
    return value

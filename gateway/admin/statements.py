"""``/admin/statements``: every tenant's statements, and previews of any stretch of time."""

from __future__ import annotations

from typing import Any, Final, Protocol

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from gateway.errors import BadRequest, Unavailable
from gateway.transport.bodies import read_object, read_text
from gateway.transport.negotiate import demand
from gateway.transport.office import Statements
from gateway.transport.statements import FORMS, asked_for, document_headers, page_of, parse_page
from gateway.units import parse_rfc3339

PATH: Final = "/admin/statements"
ONE: Final = "/admin/statements/{number}"
_NO_STORE: Final = {"Cache-Control": "no-store"}


class StatementsOffice(Protocol):
    """What these addresses need."""

    @property
    def statements(self) -> Statements | None: ...

    def time_zone(self, tenant: str) -> str:
        """Raises TenantNotFound."""
        ...

    async def preview_statement(self, tenant: str, *, start: int, end: int, actor: str) -> dict[str, Any]:
        """A draft of a stretch of time, epoch seconds. Raises TenantNotFound, Unavailable."""
        ...


async def listing(office: StatementsOffice, request: Request) -> Response:
    """As on the public port, of all tenants or of the one that ``tenant`` names."""
    demand(_accept(request), FORMS["json"])
    page = parse_page(request.scope["query_string"], others=("tenant",))
    tenant = page.others.get("tenant")
    if tenant is not None:
        office.time_zone(tenant)
    body = await page_of(_made(office), page, tenant=tenant)
    return Response(body, headers=_NO_STORE, media_type="application/json")


async def one(office: StatementsOffice, request: Request) -> Response:
    """Any tenant's statement by number or id, in any form."""
    reference, form = asked_for(request.scope)
    body = await _made(office).document(reference, tenant=None, form=form)
    named = {name.decode(): value.decode() for name, value in document_headers(reference, form)}
    return Response(body, headers={**named, **_NO_STORE})


async def make(office: StatementsOffice, request: Request, actor: str) -> Response:
    """Make a draft of whole buckets up to now. Of a period that is over and waits for its statement, it is that one."""
    body = await read_object(request, {"tenant", "from", "to"})
    tenant = read_text(body, "tenant", most=63)
    start, end = (_moment(body, name) for name in ("from", "to"))
    if end <= start:
        raise BadRequest("to has to be after from.")
    shown = await office.preview_statement(tenant, start=start, end=end, actor=actor)
    headers = {**_NO_STORE, "Location": f"{PATH}/{shown['id']}"}
    return JSONResponse(shown, status_code=201, headers=headers)


def _made(office: StatementsOffice) -> Statements:
    if office.statements is None:
        raise Unavailable("Statements cannot be told here.")
    return office.statements


def _moment(body: dict[str, Any], name: str) -> int:
    text = read_text(body, name, most=64)
    try:
        seconds = parse_rfc3339(text) // 1000
    except ValueError:
        raise BadRequest(f"{name} {text!r}: an RFC 3339 time such as 2026-12-01T00:00:00Z is needed.") from None
    if not 0 <= seconds <= _LATEST:
        raise BadRequest(f"{name} {text!r}: a time of the years 1971 to 9998 is needed.")
    return seconds


_LATEST: Final = 253_370_764_800


def _accept(request: Request) -> list[bytes]:
    return [value for name, value in request.scope["headers"] if name == b"accept"]

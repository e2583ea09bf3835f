"""``GET /v1/statements`` and ``/v1/statements/{number}``: what the token's organisation was and will be charged."""

from __future__ import annotations

import json
from typing import Any, Final, NamedTuple

from starlette.types import Receive, Scope, Send

from gateway.errors import InvalidParameter, Unavailable, UnknownParameter
from gateway.subscription.request import parse_query
from gateway.transport.gate import Gate
from gateway.transport.negotiate import choose, demand
from gateway.transport.office import Statements

PATH: Final = "/v1/statements"
FORMS: Final = {
    "json": "application/json",
    "csv": "text/csv",
    "html": "text/html",
    "pdf": "application/pdf",
}
DEFAULT_AT_ONCE: Final = 100
MOST_AT_ONCE: Final = 1000
_CHARSET: Final = {"csv": "; charset=utf-8; header=present", "html": "; charset=utf-8"}
_PAGE_POLICY: Final = b"sandbox; default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'"


async def listing(gate: Gate, scope: Scope, receive: Receive, send: Send) -> None:
    """The statements of the token's organisation, drafts and previews among them, the newest first."""
    demand(_accept(scope), FORMS["json"])
    tenant = await _tenant(gate, scope)
    body = await page_of(_office(gate), parse_page(scope["query_string"]), tenant=tenant)
    await _send(send, body, [(b"content-type", b"application/json")])


async def one(gate: Gate, scope: Scope, receive: Receive, send: Send) -> None:
    """One statement, in the form that its suffix, ``format`` or Accept asks for."""
    reference, form = asked_for(scope)
    tenant = await _tenant(gate, scope)
    body = await _office(gate).document(reference, tenant=tenant, form=form)
    await _send(send, body, document_headers(reference, form))


class Page(NamedTuple):
    """A page of the list: most entries, before which one, and what else was asked for."""

    limit: int
    before: int | None
    others: dict[str, str]


def parse_page(query: bytes, *, others: tuple[str, ...] = ()) -> Page:
    """``limit`` and ``next``, and parameters of these other names. Raises BadRequest."""
    given = {name: values[0] for name, values in parse_query(query).items()}
    known = ("limit", "next", *others)
    for name in given:
        if name not in known:
            raise UnknownParameter(f"The parameter {name[:80]!r} is not known here; allowed: {', '.join(known)}.")
    limit = _whole(given, "limit", most=MOST_AT_ONCE)
    return Page(
        DEFAULT_AT_ONCE if limit is None else limit,
        _whole(given, "next", most=2**62),
        {name: value for name, value in given.items() if name in others},
    )


def _whole(given: dict[str, str], name: str, *, most: int) -> int | None:
    text = given.get(name)
    if text is None:
        return None
    if not text.isascii() or not text.isdigit() or not 1 <= int(text[:20]) <= most:
        raise InvalidParameter(f"The parameter {name} is {text[:40]!r}; allowed: a whole number from 1 to {most}.")
    return int(text)


async def page_of(office: Statements, page: Page, *, tenant: str | None) -> bytes:
    """A page of the list, as JSON."""
    statements, following = await office.page(tenant=tenant, limit=page.limit, before=page.before)
    told: dict[str, Any] = {"statements": statements}
    if following is not None:
        told["next"] = str(following)
    return json.dumps(told, ensure_ascii=False).encode()


def asked_for(scope: Scope) -> tuple[str, str]:
    """The number or id in the address, and one of FORMS. Raises BadRequest and NotAcceptable."""
    reference: str = scope["path_params"]["number"]
    given = {name: values[0] for name, values in parse_query(scope["query_string"]).items()}
    for name in given:
        if name != "format":
            raise UnknownParameter(f"The parameter {name[:80]!r} is not known here; allowed: format.")
    name, dot, suffix = reference.rpartition(".")
    if dot and suffix in FORMS:
        if "format" in given:
            raise InvalidParameter("The form stands in the address already; leave out the parameter format.")
        reference, form = name, suffix
    elif "format" in given:
        form = given["format"]
        if form not in FORMS:
            raise InvalidParameter(f"The parameter format is {form[:80]!r}; allowed: {', '.join(FORMS)}.")
    else:
        media = choose(_accept(scope), list(FORMS.values()))
        return reference, next(form for form, known in FORMS.items() if known == media)
    demand(_accept(scope), FORMS[form])
    return reference, form


def document_headers(reference: str, form: str) -> list[tuple[bytes, bytes]]:
    """Headers of a statement in a form. ``reference`` has been found, so it holds nothing that a header may not."""
    headers = [(b"content-type", f"{FORMS[form]}{_CHARSET.get(form, '')}".encode("ascii"))]
    headers.append((b"vary", b"Accept, Authorization, Origin"))
    headers.append((b"x-content-type-options", b"nosniff"))
    if form == "html":
        headers.append((b"content-security-policy", _PAGE_POLICY))
    elif form != "json":
        headers.append((b"content-disposition", f'attachment; filename="{reference}.{form}"'.encode("ascii")))
    return headers


async def _tenant(gate: Gate, scope: Scope) -> str:
    tenant = gate.tenant(await gate.principal(scope))
    scope["state"]["access_fields"].update(tenant=tenant)
    return tenant


def _office(gate: Gate) -> Statements:
    if gate.statements is None:
        raise Unavailable("Statements cannot be told here.")
    return gate.statements


def _accept(scope: Scope) -> list[bytes]:
    return [value for name, value in scope["headers"] if name == b"accept"]


async def _send(send: Send, body: bytes, headers: list[tuple[bytes, bytes]]) -> None:
    # A draft changes, and a statement is for its tenant's eyes only.
    headers = [*headers, (b"cache-control", b"private, no-store"), (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})

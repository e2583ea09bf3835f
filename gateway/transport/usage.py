"""``GET /v1/usage``: what the token's organisation has read, as JSON or CSV."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import urlencode
from zoneinfo import ZoneInfo

from starlette.types import Receive, Scope, Send

from gateway.auth.policy import member
from gateway.errors import InvalidParameter, Unavailable
from gateway.metering.desk import Answer, UsageDesk
from gateway.metering.grain import spell
from gateway.metering.question import PARTNER_GROUPS, Question, parse_question
from gateway.metering.report import PARTNER_MEASURES, csv_header, csv_rows, document
from gateway.subscription.request import parse_query
from gateway.transport.gate import Gate
from gateway.transport.negotiate import choose
from gateway.units import format_rfc3339

PATH: Final = "/v1/usage"
JSON: Final = "application/json"
CSV: Final = "text/csv"
FORMAT: Final = "format"
FORMATS: Final = {"json": JSON, "csv": CSV}
"""What the parameter ``format`` may be, and the media type that it stands for."""


async def serve(gate: Gate, scope: Scope, receive: Receive, send: Send) -> None:
    """Answer with one page, or, as CSV without ``limit``, with all rows. Any token of the organisation will do."""
    principal = await gate.principal(scope)
    tenant, _ = member(principal, gate.snapshot().catalog)
    scope["state"]["access_fields"].update(tenant=tenant.name)
    given = {name: values[0] for name, values in parse_query(scope["query_string"]).items()}
    media = media_of(given, scope)
    zone = ZoneInfo(tenant.time_zone)
    question = parse_question(given, zone=zone, now=gate.now(), groups=PARTNER_GROUPS, others=(FORMAT,))
    if gate.usage is None:
        raise Unavailable("Usage cannot be told here.")
    link = f"{gate.public_url()}{PATH}"
    await send_usage(
        send, gate.usage, question, tenant=tenant.name, measures=PARTNER_MEASURES, media=media, given=given, link=link
    )


def media_of(given: Mapping[str, str], scope: Scope) -> str:
    """The media type of the answer: that of ``format``, which somebody wrote on purpose, else the best for Accept.

    Raises InvalidParameter and NotAcceptable.
    """
    asked = given.get(FORMAT)
    if asked is None:
        return choose([value for name, value in scope["headers"] if name == b"accept"], tuple(FORMATS.values()))
    if asked not in FORMATS:
        raise InvalidParameter(f"The parameter {FORMAT} is {asked[:80]!r}; allowed: {', '.join(FORMATS)}.")
    return FORMATS[asked]


async def send_usage(
    send: Send,
    desk: UsageDesk,
    question: Question,
    *,
    tenant: str | None,
    measures: tuple[str, ...],
    media: str,
    given: Mapping[str, str],
    link: str,
    more: Mapping[str, Any] | None = None,
) -> None:
    """The answer. ``link`` is the address asked and ``given`` its parameters; ``more`` are further JSON members."""
    if media == CSV and given.keys().isdisjoint(("limit", "next")):
        await _send_all(send, desk, question, tenant=tenant, measures=measures)
        return
    answer = await desk.answer(question, tenant=tenant, measures=measures)
    if media == CSV:
        body = csv_header(question, measures=measures) + csv_rows(answer.page.rows, question, measures=measures)
    else:
        told = document(answer.page, question, complete_until=answer.complete_until, measures=measures)
        body = json.dumps({**told, **(more or {})})
    data = body.encode()
    headers = [*_headers(answer, media, question), (b"content-length", b"%d" % len(data))]
    if answer.page.next is not None:
        target = f"{link}?{urlencode(_following(given, question, answer.page.next))}"
        headers.append((b"link", f'<{target}>; rel="next"'.encode("ascii")))
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": data})


async def _send_all(
    send: Send, desk: UsageDesk, question: Question, *, tenant: str | None, measures: tuple[str, ...]
) -> None:
    # Begun once the first page is there: what is wrong with the ledger is an answer then, and no cut one.
    is_begun = False
    async for answer in desk.answers(question, tenant=tenant, measures=measures):
        text = csv_rows(answer.page.rows, question, measures=measures)
        if not is_begun:
            headers = _headers(answer, CSV, question)
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            text, is_begun = csv_header(question, measures=measures) + text, True
        await send({"type": "http.response.body", "body": text.encode(), "more_body": True})
    await send({"type": "http.response.body", "body": b""})


def _headers(answer: Answer, media: str, question: Question) -> list[tuple[bytes, bytes]]:
    headers = [
        (b"content-type", b"text/csv; charset=utf-8; header=present" if media == CSV else b"application/json"),
        (b"cache-control", b"no-store"),
        (b"x-content-type-options", b"nosniff"),
    ]
    if answer.complete_until is not None:
        told = spell(answer.complete_until, question.grain.zone)
        headers.append((b"gateway-complete-until", told.encode("ascii")))
    if media == CSV:
        headers.append((b"content-disposition", b'attachment; filename="usage.csv"'))
    return headers


def _following(given: Mapping[str, str], question: Question, place: str) -> dict[str, str]:
    """The parameters of the next page. The stretch is named: without ``to`` it would have moved on by then."""
    start, end = (format_rfc3339(moment * 1000) for moment in (question.start, question.end))
    return {**given, "from": start, "to": end, "next": place}

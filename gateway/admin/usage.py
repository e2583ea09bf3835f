"""``GET /admin/usage``: what all tenants, or one of them, have read, with what partners are not told."""

from __future__ import annotations

from functools import partial
from typing import Any, Protocol
from zoneinfo import ZoneInfo

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from gateway.errors import Unavailable
from gateway.metering.desk import UsageDesk
from gateway.metering.question import OPERATOR_GROUPS, parse_question
from gateway.subscription.request import parse_query
from gateway.transport.usage import FORMAT, media_of, send_usage
from gateway.usage import MEASURES

PATH = "/admin/usage"


class UsageOffice(Protocol):
    """What this address needs: the ledger's desk, where there is one, a tenant's clock, and the time."""

    @property
    def usage(self) -> UsageDesk | None: ...

    def time_zone(self, tenant: str) -> str:
        """Raises TenantNotFound."""
        ...

    def now(self) -> float: ...


class _Answer(Response):
    """An answer that may go out in pieces."""

    def __init__(self, write: Any) -> None:
        super().__init__()
        self._write = write

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._write(send)


async def answer(office: UsageOffice, request: Request) -> Response:
    """As on the public port, with ``tenant`` as one more parameter; of all tenants together days are those of UTC."""
    given = {name: values[0] for name, values in parse_query(request.scope["query_string"]).items()}
    tenant = given.get("tenant")
    zone = ZoneInfo("UTC" if tenant is None else office.time_zone(tenant))
    media = media_of(given, request.scope)
    question = parse_question(given, zone=zone, now=office.now(), groups=OPERATOR_GROUPS, others=("tenant", FORMAT))
    if office.usage is None:
        raise Unavailable("Usage cannot be told here.")
    return _Answer(
        partial(
            send_usage,
            desk=office.usage,
            question=question,
            tenant=tenant,
            measures=MEASURES,
            media=media,
            given=given,
            link=PATH,
            more={"tenant": tenant},
        )
    )

"""The management port: whether to send traffic here, and what happens inside."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route
from starlette.types import ASGIApp

from gateway.admin.operations import Administration, Operations
from gateway.errors import NotFound
from gateway.observability.health import Health
from gateway.observability.metrics import Metrics
from gateway.transport.middleware import RequestMiddleware, route_app

_NO_STORE = {"Cache-Control": "no-store"}


class PageNotFound(NotFound):
    """Nothing at this path of the management port."""

    action = "GET /livez, /readyz or /metrics; or an address below /admin/, see the reference."


def create_admin_app(
    *, health: Health, metrics: Metrics, administration: Administration | None = None, tokens: Sequence[str] = ()
) -> ASGIApp:
    """``GET /livez``, ``/readyz`` and ``/metrics`` (and HEAD), ``/admin/`` for who bears one of ``tokens``; anything
    else is a problem body.

    For an address that partners cannot reach: it names dependencies and streams. Its access lines are DEBUG, since
    probes and scrapes come every few seconds.
    """

    async def livez(request: Request) -> Response:
        status, body = health.liveness()
        return JSONResponse(body, status_code=status, headers=_NO_STORE)

    async def readyz(request: Request) -> Response:
        status, body = health.readiness()
        return JSONResponse(body, status_code=status, headers=_NO_STORE)

    async def scrape(request: Request) -> Response:
        body, content_type = metrics.exposition()
        return Response(body, headers={**_NO_STORE, "Content-Type": content_type})

    routes: list[BaseRoute] = [Route("/livez", livez), Route("/readyz", readyz), Route("/metrics", scrape)]
    if administration is not None:
        routes += Operations(administration, tokens).routes()
    return RequestMiddleware(route_app(routes, not_found=PageNotFound), access_level=logging.DEBUG)

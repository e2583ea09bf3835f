"""The public side as an ASGI app, for servers other than our own: ``hypercorn gateway.asgi:app``.

Port, TLS and signals are that server's, the management port stays the gateway's: one worker process for each set of
settings. Without the direct writer a delivery costs more. Servers cut open streams before they end an app's lifespan,
so here readers get no goodbye at a stop; they go on from the last cursor they saw.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Awaitable, Callable, MutableMapping
from functools import partial
from typing import Any

from gateway.app import Gateway
from gateway.config import Settings, load_settings
from gateway.errors import ConfigurationProblems
from gateway.observability.logs import configure_logging, event

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
log = logging.getLogger("gateway.asgi")


class PublicApp:
    """Comes up and goes down with the server's lifespan; needs a server that runs one."""

    def __init__(self, settings: Callable[[], Settings]) -> None:
        """``settings`` is called when the lifespan begins, not when the module is imported."""
        self._settings = settings
        self._gateway: Gateway | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._live(receive, send)
        elif self._gateway is None:
            raise RuntimeError("the server did not run the app's lifespan")
        else:
            await self._gateway.public_app(scope, receive, send)

    async def _live(self, receive: Receive, send: Send) -> None:
        await receive()
        try:
            gateway = await self._start()
        except ConfigurationProblems as error:
            await send({"type": "lifespan.startup.failed", "message": str(error)})
            return
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await gateway.stop()
        await send({"type": "lifespan.shutdown.complete"})

    async def _start(self) -> Gateway:
        settings = self._settings()
        configure_logging(settings.log.format, level=settings.log.level.upper())
        gateway = Gateway(settings, listens=False)
        await gateway.start()
        self._gateway = gateway
        event(log, logging.INFO, "serving", url=gateway.base_url, admin_port=gateway.admin_port)
        return gateway


app = PublicApp(partial(load_settings, environ=os.environ))
"""Settings as ``gateway serve`` finds them without flags: ``gateway.toml`` here, then the environment."""

"""One port: accepts connections, watches their deadlines, drains them at the end."""

from __future__ import annotations

import asyncio
import functools
import logging
import time
from collections.abc import Callable
from email.utils import formatdate
from typing import Any, cast

from uvicorn._types import ASGI3Application
from uvicorn.config import Config

from gateway.server.bounds import ConnectionBounds
from gateway.server.http import GuardedHttpProtocol
from gateway.server.sockets import BACKLOG, bind_sockets
from gateway.server.state import ConnectionState
from gateway.server.tls import Certificate, Certificates
from gateway.server.websocket import GuardedWebSocketProtocol

logger = logging.getLogger(__name__)

SWEEP_CONNECTIONS = 500
"""Connections looked at before the loop gets its turn."""

CANCEL_SECONDS = 1.0
"""How long cancelled requests may take to end when the time to close is over."""


class Listener:
    """Serves one ASGI app on one port of the running loop.

    Touches no signal, never exits the process, runs no lifespan: those belong to whoever composes the process.
    Several listeners share a loop.
    """

    def __init__(
        self,
        app: Any,
        *,
        host: str,
        port: int,
        name: str,
        tls_cert_file: str | None = None,
        tls_key_file: str | None = None,
        tls_client_ca_file: str | None = None,
        write_buffer_high_bytes: int = 64 * 1024,
        bounds: ConnectionBounds | None = None,
    ) -> None:
        self._host = host
        self._requested_port = port
        self._name = name
        self._certificates: Certificates | None = None
        if tls_cert_file:
            self._certificates = Certificates(
                cert_file=tls_cert_file, key_file=tls_key_file, client_ca_file=tls_client_ca_file, name=name
            )
        self._bounds = bounds or ConnectionBounds()
        self._state = ConnectionState(self._bounds, write_buffer_high_bytes=write_buffer_high_bytes)
        self._config = Config(
            cast(ASGI3Application, app),
            interface="asgi3",
            http=GuardedHttpProtocol,
            ws=GuardedWebSocketProtocol,
            ws_max_size=self._bounds.message_bytes,
            ws_per_message_deflate=False,
            ws_ping_interval=None,
            ws_ping_timeout=None,
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
        )
        self._config.load()
        self._servers: list[asyncio.Server] = []
        self._port: int | None = None
        self._sweeper: asyncio.Task[None] | None = None

    @property
    def name(self) -> str:
        """Which port this is, for operators."""
        return self._name

    @property
    def port(self) -> int:
        """The bound port, also after the listener has stopped accepting."""
        if self._port is None:
            raise RuntimeError(f"{self._name}: not started")
        return self._port

    @property
    def connections(self) -> int:
        """Connections open now, in whatever state."""
        return len(self._state.connections)

    async def start(self) -> None:
        """Bind and accept. Raises ``ConfigurationProblems`` for an address or a certificate that cannot be used."""
        tls = None
        if self._certificates is not None:
            self._certificates.take(await asyncio.to_thread(self._certificates.read))
            tls = self._certificates.listening_context()
        sockets = await bind_sockets(host=self._host, port=self._requested_port, name=self._name)
        self._port = sockets[0].getsockname()[1]
        self._set_default_headers()
        loop = asyncio.get_running_loop()
        handshake_seconds = self._bounds.header_seconds if tls else None
        shutdown_seconds = self._bounds.close_seconds if tls else None
        for listening in sockets:
            server = await loop.create_server(
                self._accept,
                sock=listening,
                ssl=tls,
                backlog=BACKLOG,
                ssl_handshake_timeout=handshake_seconds,
                ssl_shutdown_timeout=shutdown_seconds,
            )
            self._servers.append(server)
        self._sweeper = loop.create_task(self._sweep_forever(), name=f"{self._name}-sweep")

    @property
    def certificate(self) -> Certificate | None:
        """What new connections are served with; None where this port speaks no TLS."""
        return None if self._certificates is None else self._certificates.current

    def prepare_certificate(self) -> Callable[[], None]:
        """Read certificate and key as they are on disk now, and return what makes new connections use them.

        Blocks for the files, so for a thread; the returned call does not, and cannot fail. Raises
        ``ConfigurationProblems`` if the pair cannot be used. Either way, what is open goes on as it began.
        """
        if self._certificates is None:
            return lambda: None
        return functools.partial(self._certificates.take, self._certificates.read())

    def stop_accepting(self) -> None:
        """Refuse new connections; those open go on, also with new requests. Idempotent."""
        for server in self._servers:
            server.close()
        self._servers = []

    async def close(self, *, timeout_seconds: float) -> None:
        """End all: idle connections at once, the others when their answer is out, what is left after the time by force.

        Returns within ``timeout_seconds`` and two more; idempotent. Cancelled, it leaves connections open.
        """
        self.stop_accepting()
        deadline = time.monotonic() + timeout_seconds
        for connection in list(self._state.connections):
            if isinstance(connection, GuardedHttpProtocol):
                connection.shutdown()
        await _until(lambda: not self._state.connections and not self._state.tasks, deadline=deadline)
        for connection in list(self._state.connections):
            # WebSockets that nobody closed hear 1012; then, like unfinished answers, they are cut.
            connection.shutdown()
            connection.transport.abort()
        await _until(lambda: not self._state.connections, deadline=time.monotonic() + CANCEL_SECONDS)
        if self._state.tasks:
            logger.warning("%s: %d requests cancelled at the end of the drain", self._name, len(self._state.tasks))
            for task in self._state.tasks:
                task.cancel()
            await asyncio.wait(list(self._state.tasks), timeout=CANCEL_SECONDS)
        if self._sweeper is not None:
            self._sweeper.cancel()
            await asyncio.wait([self._sweeper])
            self._sweeper = None

    def _accept(self) -> asyncio.Protocol:
        return GuardedHttpProtocol(self._config, self._state, {}, asyncio.get_running_loop())

    def _set_default_headers(self) -> None:
        self._state.default_headers = [(b"date", formatdate(usegmt=True).encode("ascii"))]

    async def _sweep_forever(self) -> None:
        """Deadlines of all connections by one task: no timer per request, none per connection."""
        while True:
            await asyncio.sleep(self._bounds.sweep_seconds)
            self._set_default_headers()
            for index, connection in enumerate(list(self._state.connections), start=1):
                try:
                    connection.sweep(time.monotonic())  # type: ignore[union-attr]
                except Exception:
                    logger.exception("%s: a connection could not be checked and is dropped", self._name)
                    connection.transport.abort()
                if index % SWEEP_CONNECTIONS == 0:
                    await asyncio.sleep(0)


async def _until(condition: Callable[[], bool], *, deadline: float) -> None:
    # Polled: an event would have to be set at each of the many places where uvicorn forgets a connection or a task.
    while not condition() and time.monotonic() < deadline:  # noqa: ASYNC110
        await asyncio.sleep(0.01)

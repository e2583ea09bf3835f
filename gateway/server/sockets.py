"""Listening sockets: bound by us, so that a busy port is one clear line and dead peers are noticed by the kernel."""

from __future__ import annotations

import asyncio
import os
import socket

from gateway.errors import ConfigurationProblems

USER_TIMEOUT_MS = 20_000
"""Sent bytes unacknowledged, or a window closed, for this long end a connection."""

KEEPALIVE_IDLE_SECONDS = 15
KEEPALIVE_INTERVAL_SECONDS = 5
KEEPALIVE_PROBES = 3
BACKLOG = 4096


async def bind_sockets(*, host: str, port: int, name: str) -> list[socket.socket]:
    """One socket for each address of ``host``, all on the same port; port 0 takes a free one.

    They listen already. ``::`` alone takes IPv4 too. Raises ``ConfigurationProblems`` with one line.
    """
    where = f"{name}: cannot listen on {f'[{host}]' if ':' in host else host}:{port}"
    try:
        found = await asyncio.get_running_loop().getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
    except OSError as error:
        raise ConfigurationProblems([f"{where}: no such address ({error.strerror or error})"]) from error
    addresses = list(dict.fromkeys((family, address) for family, _, _, _, address in found))
    sockets: list[socket.socket] = []
    try:
        for family, address in addresses:
            # The protocol by its number: asyncio sets TCP_NODELAY only on sockets that name it.
            listening = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
            sockets.append(listening)
            _set_options(listening, dual_stack=len(addresses) == 1)
            bound_port = sockets[0].getsockname()[1] if len(sockets) > 1 else port
            listening.bind((address[0], bound_port, *address[2:]))
            # Two may bind, one may listen: only now is the port ours.
            listening.listen(BACKLOG)
    except OSError as error:
        for opened in sockets:
            opened.close()
        reason = os.strerror(error.errno).lower() if error.errno else str(error)
        raise ConfigurationProblems([f"{where}: {reason}"]) from error
    return sockets


def _set_options(listening: socket.socket, *, dual_stack: bool) -> None:
    """Options that accepted connections inherit on Linux; TCP_NODELAY is set by the event loop."""
    listening.setblocking(False)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if listening.family == socket.AF_INET6:
        listening.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0 if dual_stack else 1)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in (
        # Not every platform has every one; without them only the speed of noticing is lost.
        ("TCP_USER_TIMEOUT", USER_TIMEOUT_MS),
        ("TCP_KEEPIDLE", KEEPALIVE_IDLE_SECONDS),
        ("TCP_KEEPINTVL", KEEPALIVE_INTERVAL_SECONDS),
        ("TCP_KEEPCNT", KEEPALIVE_PROBES),
    ):
        if hasattr(socket, option):
            listening.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)

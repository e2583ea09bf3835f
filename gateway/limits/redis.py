"""The one way to Redis: connected so that a sick server can neither hold a caller nor make a command run twice."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal
from urllib.parse import urlsplit

from redis.asyncio import ConnectionPool, Redis
from redis.asyncio.connection import Connection, SSLConnection, parse_url
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from gateway.limits.parts import PARTS, part_tag
from gateway.limits.routed import Routed
from gateway.limits.topology import (
    SLOTS,
    Address,
    Cluster,
    OneServer,
    Sentinels,
    Topology,
    parse_address,
)
from gateway.pem import PemFiles

TIMEOUT_SECONDS: Final = 0.1
"""For a connection and for an answer. The library's own default blocks one call for a minute."""

PROBE_KEY: Final = "gateway:limits:1:probe"
PROBE_CHANNEL: Final = "gateway:{nodes}:probe"
_TRY: Final = "return redis.call('SET', KEYS[1], 'check', 'PX', 1000)"

Mode = Literal["single", "sentinel", "cluster"]
_NO_FILES: Final = PemFiles()


@dataclass(frozen=True, slots=True)
class SentinelUser:
    """Who the gateway is to the sentinels, which have users of their own."""

    username: str | None = None
    password: str | None = None


class RedisLink:
    """Redis by address (``redis://``, ``rediss://``, ``unix://``): one server, a watched master, or a cluster.

    Connects when first used. ``client`` is for all who use Redis. In mode ``sentinel`` the address has no host, in
    mode ``cluster`` its host is asked first, and ``nodes`` (``host:port``) beside it.
    """

    def __init__(
        self,
        url: str,
        *,
        mode: Mode = "single",
        nodes: Sequence[str] = (),
        service: str = "",
        sentinel_user: SentinelUser = SentinelUser(),
        files: PemFiles = _NO_FILES,
        timeout_seconds: float = TIMEOUT_SECONDS,
    ) -> None:
        """``nodes``: sentinels, or further servers of a cluster. ``service``: what sentinels call the master."""
        self.mode = mode
        self._options = _options(url, files, timeout_seconds=timeout_seconds)
        self._sentinel_user = sentinel_user
        addresses = [parse_address(node) for node in nodes]
        # Without the password: this name goes into messages and logs.
        self.name = _name(url, mode, addresses, service)
        self._topology: Topology
        if mode == "sentinel":
            self._topology = Sentinels(service, {address: self._sentinel(address) for address in addresses})
        elif mode == "cluster":
            start = Address(self._options.pop("host", "localhost"), int(self._options.pop("port", 6379)))
            self._topology = Cluster([start, *addresses], lambda address: self.client.server(address))
        else:
            only = Address(self._options.get("host", "localhost"), int(self._options.get("port", 6379)))
            self._topology = OneServer(only)
        self.client = Routed(self._topology, self._connect)

    def _connect(self, address: Address) -> Redis:
        where = {} if self.mode == "single" else address._asdict()
        return Redis.from_pool(ConnectionPool(**{**self._options, **where}))

    def _sentinel(self, address: Address) -> Redis:
        user = {"username": self._sentinel_user.username, "password": self._sentinel_user.password, "db": 0}
        return Redis.from_pool(ConnectionPool(**{**self._options, **user, **address._asdict()}))

    async def ping(self) -> None:
        """Return when every server that takes writes answers; raises ConnectionError with who does not, and why.

        Looks anew who they are: a failover is noticed where nobody asks for anything.
        """
        try:
            await self.client.look()
            servers = self._topology.servers()
            answers = await asyncio.gather(*(self.client.server(one).ping() for one in servers), return_exceptions=True)
        except (RedisError, OSError) as error:
            raise ConnectionError(f"Redis at {self.name} does not answer: {error}") from error
        wrong = [(one, answer) for one, answer in zip(servers, answers, strict=True) if isinstance(answer, Exception)]
        if len(servers) == 1 and self.mode == "single" and wrong:
            raise ConnectionError(f"Redis at {self.name} does not answer: {wrong[0][1]}") from wrong[0][1]
        if wrong:
            told = "; ".join(f"{one}: {answer}" for one, answer in wrong)
            raise ConnectionError(f"of Redis at {self.name} {len(wrong)} of {len(servers)} do not answer: {told}")
        if isinstance(self._topology, Cluster) and self._topology.covered < SLOTS:
            raise ConnectionError(
                f"of Redis at {self.name} {SLOTS - self._topology.covered} of {SLOTS} slots have no server"
            )

    async def try_out(self) -> None:
        """``ping``, then write in all parts and publish: raises ConnectionError with what stands in the way."""
        await self.ping()
        keys = [f"{PROBE_KEY}:{part_tag(part)}" for part in range(PARTS)] if self.mode == "cluster" else [PROBE_KEY]
        try:
            pipeline = self.client.pipeline()
            for key in keys:
                pipeline.execute_command("EVAL", _TRY, 1, key)
            await pipeline.execute()
            await self.client.execute_command("PUBLISH", PROBE_CHANNEL, "")
        except (RedisError, OSError) as error:
            raise ConnectionError(f"Redis at {self.name} answers, but refuses what it is asked: {error}") from error

    def described(self) -> str:
        """Who answered, after ``ping``."""
        topology = self._topology
        if isinstance(topology, Sentinels):
            asked = topology.asked
            return (
                f"{self.name}: the master is {topology.servers()[0]}; {topology.answered} of {asked} sentinels answer"
            )
        if isinstance(topology, Cluster):
            return f"{self.name}: {len(topology.servers())} masters answer; replicas: {len(topology.replicas)}"
        return f"{self.name} answers"

    async def close(self) -> None:
        """Close the connections; using the link again opens new ones."""
        await self.client.aclose()


def _options(url: str, files: PemFiles, *, timeout_seconds: float) -> dict[str, Any]:
    options: dict[str, Any] = {
        "connection_class": Connection,
        "socket_timeout": timeout_seconds,
        "socket_connect_timeout": timeout_seconds,
        # No retry of any kind: a command whose reply was cut off has perhaps been carried out, and would be again.
        "retry": Retry(NoBackoff(), 0),
        "retry_on_error": [],
        "health_check_interval": 0,
        # As every version speaks it, and with no command but those that are asked for: a user needs rights for each.
        "protocol": 2,
        "driver_info": None,
        **parse_url(url),
    }
    if options["connection_class"] is SSLConnection:
        options |= {"ssl_ca_certs": files.ca, "ssl_certfile": files.cert, "ssl_keyfile": files.key}
    return options


def _name(url: str, mode: Mode, addresses: Sequence[Address], service: str) -> str:
    parts = urlsplit(url)
    if mode == "sentinel":
        return f"{parts.scheme}://{service} (sentinels {', '.join(map(str, addresses))})"
    host = parts.path if parts.scheme == "unix" else parts.netloc.rpartition("@")[2]
    return f"{parts.scheme}://{', '.join([host, *map(str, addresses)])}"

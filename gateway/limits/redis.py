"""The one way to Redis: connected so that a sick server can neither hold a caller nor make a command run twice."""

from __future__ import annotations

from urllib.parse import urlsplit

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

TIMEOUT_SECONDS = 0.1
"""For a connection and for an answer. The library's own default blocks one call for a minute."""


class RedisLink:
    """One Redis server, by address (``redis://``, ``rediss://``, ``unix://``). Connects when first used."""

    def __init__(self, url: str, *, timeout_seconds: float = TIMEOUT_SECONDS) -> None:
        parts = urlsplit(url)
        # Without the password: this name goes into messages and logs.
        self.name = f"{parts.scheme}://{parts.path if parts.scheme == 'unix' else parts.netloc.rpartition('@')[2]}"
        # No retry of any kind: a command whose reply was cut off has perhaps been carried out, and would be again.
        self.client: Redis = Redis.from_url(
            url,
            socket_timeout=timeout_seconds,
            socket_connect_timeout=timeout_seconds,
            retry=Retry(NoBackoff(), 0),
            retry_on_error=[],
            health_check_interval=0,
        )

    async def ping(self) -> None:
        """Return when the server answers; raises ConnectionError with the server's name and what is wrong with it."""
        try:
            await self.client.ping()
        except (RedisError, OSError) as error:
            raise ConnectionError(f"Redis at {self.name} does not answer: {error}") from error

    async def close(self) -> None:
        """Close the connections; using the link again opens new ones."""
        await self.client.aclose()

"""One Kafka cluster as this process reaches it: how to connect, single requests, and consumers for readers."""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.client import AIOKafkaClient
from aiokafka.errors import IncompatibleBrokerVersion
from aiokafka.protocol.metadata import MetadataRequest

from gateway.clock import Clock
from gateway.kafka.faults import KafkaUnavailable, Unsupported, describe

_log = logging.getLogger("gateway.kafka")
# Of a topic that is missing aiokafka says so for every metadata answer, a thousand times a second. The reader tells it
# once.
logging.getLogger("aiokafka.cluster").setLevel(logging.CRITICAL)

REQUEST_SECONDS = 3.0
"""How long one look-up may take before the shared connection counts as broken."""

_OPEN_SECONDS = 10.0
# Long, for big fetches over thin lines: that a reader's fetch hangs is for its watchdog to tell.
_FETCH_SECONDS = 30.0
_CLOSE_SECONDS = 2.0
_METADATA_SECONDS = 8.0  # partition growth is noticed within ten seconds
_IDLE_METADATA_SECONDS = 3600.0


@dataclass(frozen=True, slots=True)
class ClusterSettings:
    """How to reach one cluster. ``bootstrap_servers`` is ``host:port`` pairs with commas between."""

    bootstrap_servers: str
    security_protocol: str = "PLAINTEXT"
    sasl_mechanism: str | None = None
    sasl_username: str | None = None
    sasl_password: str | None = None
    ssl_cafile: str | None = None
    ssl_certfile: str | None = None
    ssl_keyfile: str | None = None
    client_id: str = "streaming-gateway"

    def __repr__(self) -> str:
        # The generated one would print the password.
        return f"ClusterSettings({self.bootstrap_servers!r}, {self.security_protocol!r})"


class KafkaCluster:
    """One cluster, by the ``name`` that contracts use. Cheap until something is asked of it."""

    def __init__(self, settings: ClusterSettings, *, name: str = "main", clock: Clock) -> None:
        self._settings = settings
        self._name = name
        self._clock = clock
        self._ssl: ssl.SSLContext | None = None
        self._client: AIOKafkaClient | None = None
        self._connecting = asyncio.Lock()

    @property
    def name(self) -> str:
        """The cluster's name in contracts, logs and health."""
        return self._name

    def consumer(self, **overrides: Any) -> AIOKafkaConsumer:
        """A consumer that belongs to no group and commits nothing, not started yet.

        ``auto_offset_reset`` is ``none``: a position that Kafka no longer holds is an error to decide about, never a
        silent jump. ``read_committed``: what a transaction aborted is never delivered.
        """
        options: dict[str, Any] = {
            "group_id": None,
            "enable_auto_commit": False,
            "auto_offset_reset": "none",
            "isolation_level": "read_committed",
            "check_crcs": True,
            "metadata_max_age_ms": int(_METADATA_SECONDS * 1000),
            **self._connection(),
            "request_timeout_ms": int(_FETCH_SECONDS * 1000),
            **overrides,
        }
        return AIOKafkaConsumer(**options)

    async def open_consumer(self, topic: str, positions: Mapping[int, int], **overrides: Any) -> AIOKafkaConsumer:
        """A consumer that is running, assigned to these partitions of one topic, and standing at these positions.

        Close it with ``stop_consumer``. Raises KafkaUnavailable, with nothing left open.
        """
        consumer = self.consumer(**overrides)
        assigned = {TopicPartition(topic, partition): offset for partition, offset in positions.items()}
        try:
            # Assigned before the start, so that start() waits for the topic's metadata and the first fetch goes out
            # at once. Nothing awaits between start() and the seeks: the fetch task must not see a missing position.
            consumer.assign(list(assigned))
            async with asyncio.timeout(_OPEN_SECONDS):
                await consumer.start()
            for partition, offset in assigned.items():
                consumer.seek(partition, offset)
        except BaseException as fault:
            await stop_consumer(consumer)
            if isinstance(fault, Exception):
                raise self.unavailable(f"topic {topic} cannot be opened ({describe(fault)})") from fault
            raise
        return consumer

    async def ask(self, request: Any, *, node: int | None = None) -> Any:
        """Send one request over the cluster's shared client, to one broker or to any, and return the response.

        Bounded by ``REQUEST_SECONDS``. A client that failed is closed, and the next request makes another. Raises
        KafkaUnavailable, and Unsupported where the brokers do not know the request; error codes inside the response are
        the caller's.
        """
        client: AIOKafkaClient | None = None
        try:
            async with asyncio.timeout(REQUEST_SECONDS):
                client = await self._connected()
                return await client.send(client.get_random_node() if node is None else node, request)
        except (IncompatibleBrokerVersion, NotImplementedError) as fault:
            # Found when the versions were compared, before anything was sent: the client is as good as before.
            raise Unsupported(f"Kafka cluster {self._name}: {describe(fault)}") from fault
        except Exception as fault:
            if client is not None and client is self._client:
                self._client = None
                await _close_client(client)
            where = f"no answer from {self._settings.bootstrap_servers}"
            raise self.unavailable(f"{where} ({describe(fault)})") from fault

    async def ping(self) -> None:
        """Whether any broker answers. Raises KafkaUnavailable that says what is wrong."""
        await self.ask(MetadataRequest([], allow_auto_topic_creation=False))

    async def close(self) -> None:
        """Close the shared client; a later request makes another. Consumers belong to whoever opened them."""
        client, self._client = self._client, None
        if client is not None:
            await _close_client(client)

    def unavailable(self, reason: str) -> KafkaUnavailable:
        """A fault of this cluster, with its name in front of the reason."""
        return KafkaUnavailable(f"Kafka cluster {self._name}: {reason}")

    async def _connected(self) -> AIOKafkaClient:
        async with self._connecting:
            if self._client is None:
                # No topics are tracked here: aiokafka's own refreshes allow brokers to create the topics they name.
                client = AIOKafkaClient(metadata_max_age_ms=int(_IDLE_METADATA_SECONDS * 1000), **self._connection())
                try:
                    await client.bootstrap()
                except BaseException:
                    await _close_client(client)
                    raise
                self._client = client
            return self._client

    def _connection(self) -> dict[str, Any]:
        settings = self._settings
        options: dict[str, Any] = {
            "bootstrap_servers": settings.bootstrap_servers,
            "client_id": settings.client_id,
            "request_timeout_ms": int(REQUEST_SECONDS * 1000),
            "security_protocol": settings.security_protocol,
        }
        if settings.security_protocol.endswith("SSL"):
            options["ssl_context"] = self._ssl_context()
        if settings.security_protocol.startswith("SASL"):
            options["sasl_mechanism"] = settings.sasl_mechanism or "PLAIN"
            options["sasl_plain_username"] = settings.sasl_username
            options["sasl_plain_password"] = settings.sasl_password
        return options

    def _ssl_context(self) -> ssl.SSLContext:
        if self._ssl is None:
            self._ssl = ssl.create_default_context(cafile=self._settings.ssl_cafile)
            if self._settings.ssl_certfile is not None:
                self._ssl.load_cert_chain(self._settings.ssl_certfile, self._settings.ssl_keyfile)
        return self._ssl


def fetching_failure(consumer: AIOKafkaConsumer) -> str | None:
    """Why a running consumer will never fetch again, or None while it can.

    One exception inside aiokafka's fetch task ends that task, and from then on ``getmany`` returns nothing, without
    a word. The task is not public; this is where the product reaches for it.
    """
    task = consumer._fetcher.error_future
    if not task.done():
        return None
    fault = None if task.cancelled() else task.exception()
    return "the fetch task ended" if fault is None else f"the fetch task died ({describe(fault.__cause__ or fault)})"


async def stop_consumer(consumer: AIOKafkaConsumer) -> None:
    """Close a consumer in whatever state it is, so that no task and no connection stays behind. Raises nothing.

    aiokafka's own ``stop()`` raises on a dead fetch task before it closes the connections; and when a fetch is between
    two tries, that fetch's cancellation comes out of ``stop()`` as if its caller had been cancelled. So its tasks are
    ended here first.
    """
    fetcher = consumer._fetcher
    if fetcher is not None:
        await _cancel({fetcher.error_future})
        await _cancel(fetcher._pending_tasks)
        fetcher._pending_tasks.clear()
    try:
        async with asyncio.timeout(_CLOSE_SECONDS):
            await consumer.stop()
    except Exception as fault:  # noqa: BLE001 - whatever it was, the connections still have to be closed
        _log.debug("a consumer did not stop by itself: %s", describe(fault))
        await _close_client(consumer._client)


async def _cancel(tasks: Iterable[asyncio.Task[Any]]) -> None:
    ended = list(tasks)
    for task in ended:
        task.cancel()
    await asyncio.gather(*ended, return_exceptions=True)


async def _close_client(client: AIOKafkaClient) -> None:
    try:
        async with asyncio.timeout(_CLOSE_SECONDS):
            await client.close()
    except Exception as fault:  # noqa: BLE001 - closing is the last thing done with it
        _log.debug("a client did not close by itself: %s", describe(fault))

"""One Kafka cluster as this process reaches it: how to connect, single requests, and consumers for readers."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.client import AIOKafkaClient
from aiokafka.errors import IncompatibleBrokerVersion, TopicAuthorizationFailedError
from aiokafka.protocol.metadata import MetadataRequest

from gateway.clock import Clock
from gateway.kafka.batches import Refused
from gateway.kafka.client import GuardedClient
from gateway.kafka.faults import AccessDenied, KafkaUnavailable, LoginRefused, Unsupported, describe, explained
from gateway.kafka.oauth import TokenEndpoint, TokenSource
from gateway.kafka.tls import TlsContext
from gateway.pem import PemFiles

_log = logging.getLogger("gateway.kafka")


def _is_news(record: logging.LogRecord) -> bool:
    """aiokafka tells of a fault at every try, up to a thousand times a second; the reader tells it once. What is left
    are its crashes."""
    return record.exc_info is not None or record.levelno >= logging.CRITICAL or _log.isEnabledFor(logging.DEBUG)


for _name in ("aiokafka", "aiokafka.cluster", "aiokafka.conn", "aiokafka.consumer.fetcher"):
    logging.getLogger(_name).addFilter(_is_news)

REQUEST_SECONDS = 3.0
"""How long one look-up may take before the shared connection counts as broken."""

_OPEN_SECONDS = 10.0
# Long, for big fetches over thin lines: that a reader's fetch hangs is for its watchdog to tell.
_FETCH_SECONDS = 30.0
_CLOSE_SECONDS = 2.0
_METADATA_SECONDS = 8.0  # partition growth is noticed within ten seconds
_IDLE_METADATA_SECONDS = 3600.0
_NOTICE_SECONDS = 60.0

MAX_RECORD_BYTES = 10 << 20
MAX_BATCH_BYTES = 32 << 20


@dataclass(frozen=True, slots=True)
class ClusterSettings:
    """How to reach one cluster. ``bootstrap_servers`` is ``host:port`` pairs with commas between."""

    bootstrap_servers: str
    security_protocol: str = "PLAINTEXT"
    sasl_mechanism: str | None = None
    sasl_username: str | None = None
    sasl_password: str | None = None
    tls: PemFiles = field(default_factory=PemFiles)
    token_endpoint: TokenEndpoint | None = None
    client_id: str = "streaming-gateway"
    section: str = "kafka"
    """Where these settings are, for those who have to correct them."""

    def __repr__(self) -> str:
        # The generated one would print the password.
        return f"ClusterSettings({self.bootstrap_servers!r}, {self.security_protocol!r})"


class KafkaCluster:
    """One cluster, by the ``name`` that contracts use. Cheap until something is asked of it.

    A record larger than ``max_record_bytes`` and a batch that inflates to more than ``max_batch_bytes`` are not taken:
    what stands in their place reads as ``model.UNREADABLE``.
    """

    def __init__(
        self,
        settings: ClusterSettings,
        *,
        name: str = "main",
        clock: Clock,
        max_record_bytes: int = MAX_RECORD_BYTES,
        max_batch_bytes: int = MAX_BATCH_BYTES,
    ) -> None:
        self._settings = settings
        self._name = name
        self._clock = clock
        self.max_record_bytes = max_record_bytes
        self._max_batch_bytes = max_batch_bytes
        self._tls = TlsContext(settings.tls)
        self._tokens = None if settings.token_endpoint is None else TokenSource(settings.token_endpoint, clock=clock)
        self._client: GuardedClient | None = None
        self._connecting = asyncio.Lock()
        self._noticed: dict[str, float] = {}
        self._illegible: set[str] = set()

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
            # The client has checked them, before it inflated anything.
            "check_crcs": False,
            "metadata_max_age_ms": int(_METADATA_SECONDS * 1000),
            **self._connection(),
            "request_timeout_ms": int(_FETCH_SECONDS * 1000),
            **overrides,
        }
        consumer = AIOKafkaConsumer(**options)
        # The client that it made has no connection yet, and everything else comes to it by the consumer.
        consumer._client = self._new_client(
            metadata_max_age_ms=options["metadata_max_age_ms"],
            **self._connection() | {"request_timeout_ms": options["request_timeout_ms"]},
        )
        return consumer

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
                raise self.fault_with(topic, fault) from fault
            raise
        return consumer

    async def ask(self, request: Any, *, node: int | None = None) -> Any:
        """Send one request over the cluster's shared client, to one broker or to any, and return the response.

        Bounded by ``REQUEST_SECONDS``. A client that failed is closed, and the next request makes another. Raises
        KafkaUnavailable, and Unsupported where the brokers do not know the request; error codes inside the response are
        the caller's.
        """
        client: GuardedClient | None = None
        try:
            async with asyncio.timeout(REQUEST_SECONDS):
                client = await self._connected()
                return await client.send(client.any_node() if node is None else node, request)
        except (IncompatibleBrokerVersion, NotImplementedError) as fault:
            # Found when the versions were compared, before anything was sent: the client is as good as before.
            raise Unsupported(f"Kafka cluster {self._name}: {describe(fault)}") from fault
        except Exception as fault:
            if client is not None and client is self._client:
                self._client = None
                await _close_client(client)
            raise self._explained(fault) from fault

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

    def denied(self, topic: str) -> AccessDenied:
        """That a right on a topic is missing, and who has to be given it."""
        who = self._settings.sasl_username or self._settings.tls.cert or "the gateway's principal"
        if self._settings.token_endpoint is not None:
            who = f"the principal of {self._settings.token_endpoint.client_id}"
        return AccessDenied(
            f"Kafka cluster {self._name}: {who} may not read topic {topic}: give it READ and DESCRIBE on it"
        )

    def fault_with(self, topic: str, fault: BaseException) -> KafkaUnavailable:
        """Why a topic cannot be read, out of what aiokafka raised."""
        if isinstance(fault, TopicAuthorizationFailedError):
            return self.denied(topic)
        known = self._explained(fault)
        if type(known) is not KafkaUnavailable:
            return known
        return self.unavailable(f"topic {topic} cannot be read ({describe(fault)})")

    def notice(self, topic: str, partition: int, refused: Refused) -> None:
        """Tell the operator what readers get a gap for: a line a minute and topic, however many there are."""
        now = self._clock.monotonic()
        if now < self._noticed.get(topic, now):
            return
        self._noticed[topic] = now + _NOTICE_SECONDS
        _log.warning(
            "topic %s, partition %d: what lies from offset %d to %d is not delivered, and readers get a gap: %s",
            *(topic, partition, refused.offset, refused.next - 1, refused.reason),
        )

    def mistrust_names(self, topic: str) -> bool:
        """Have header names of this topic made readable from now on, which costs a look at each record; True if that is
        news. Consumers that are open hold some that were fetched before: open others."""
        if topic in self._illegible:
            return False
        self._illegible.add(topic)
        _log.warning("topic %s has header names that are not UTF-8: such bytes are read as ?", topic)
        return True

    def _explained(self, fault: BaseException) -> KafkaUnavailable:
        settings = self._settings
        known = explained(fault, cluster=self._name, setting=settings.section, servers=settings.bootstrap_servers)
        if isinstance(known, LoginRefused) and self._tokens is not None:
            self._tokens.forget()
        return known

    def _new_client(self, **options: Any) -> GuardedClient:
        return GuardedClient(
            batch_bytes=self._max_batch_bytes, refused=self.notice, illegible=self._illegible, **options
        )

    async def _connected(self) -> GuardedClient:
        async with self._connecting:
            if self._client is None:
                # No topics are tracked here: aiokafka's own refreshes allow brokers to create the topics they name.
                client = self._new_client(metadata_max_age_ms=int(_IDLE_METADATA_SECONDS * 1000), **self._connection())
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
            options["ssl_context"] = self._tls.current()
        if settings.security_protocol.startswith("SASL"):
            options["sasl_mechanism"] = settings.sasl_mechanism or "PLAIN"
            options["sasl_plain_username"] = settings.sasl_username
            options["sasl_plain_password"] = settings.sasl_password
            if self._tokens is not None:
                options["sasl_oauth_token_provider"] = self._tokens
        return options


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


def doubt_about(consumer: AIOKafkaConsumer, partition: TopicPartition) -> str | None:
    """What is wrong with what the broker gives of a partition, while it is."""
    client = consumer._client
    return client.doubt_about(*partition) if isinstance(client, GuardedClient) else None


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

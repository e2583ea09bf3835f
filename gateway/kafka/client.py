"""aiokafka's client with what it lacks: no broker holds it up, no topic comes into being by it, no batch is a bomb."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable, Sequence, Set
from dataclasses import dataclass
from typing import Any

from aiokafka.client import AIOKafkaClient, ConnectionGroup
from aiokafka.conn import AIOKafkaConnection, OAuthAuthenticator
from aiokafka.errors import KafkaConnectionError, KafkaError, SaslAuthenticationFailed
from aiokafka.protocol.fetch import FetchRequest
from aiokafka.protocol.metadata import MetadataRequest

from gateway.kafka.batches import Doubtful, Heavy, Refused, Unpacked, placeholder, unpack
from gateway.kafka.faults import describe, gravest
from gateway.kafka.names import legible

_log = logging.getLogger("gateway.kafka")

# Between two brokers that are tried at the start: one that is frozen takes the connection and says nothing.
_STAGGER_SECONDS = 0.25
_CONNECT_SECONDS = 3.0
_METADATA_SECONDS = 2.0
# What is inflated or checked between two turns of the loop; more than that is done beside it.
_INLINE_BYTES = 1 << 20
_INLINE_CHECK_BYTES = 4 << 20
_SILENT_SECONDS = 1.0
_FORGIVEN_SECONDS = 30.0
_DOUBT_TIMES = 3
_DOUBT_SECONDS = 1.0
_DOUBT_PAUSE_SECONDS = 0.25

Place = tuple[str, int]
Notice = Callable[[str, int, Refused], None]


@dataclass(slots=True)
class _Doubt:
    position: int
    found: Doubtful
    times: int
    since: float


class _TokenLogin(OAuthAuthenticator):  # type: ignore[misc]  # aiokafka is untyped to mypy
    """aiokafka's takes any answer for a yes; a refusal is an answer with a text (RFC 7628 §3.2.2)."""

    async def step(self, payload: bytes | None) -> tuple[bytes, bool] | None:
        if payload:
            raise SaslAuthenticationFailed(payload[:200].decode(errors="replace"))
        return await super().step(payload)  # type: ignore[no-any-return]


class _Connection(AIOKafkaConnection):  # type: ignore[misc]
    def authenticator_oauth(self) -> OAuthAuthenticator:
        return _TokenLogin(sasl_oauth_token_provider=self._sasl_oauth_token_provider)


class GuardedClient(AIOKafkaClient):  # type: ignore[misc]  # aiokafka is untyped to mypy
    """A client whose answers to fetches hold plain batches only, whole and in order (see ``gateway.kafka.batches``).

    A first batch that is not sound is not handed on but fetched again. When the very same damage came three times
    over a second it is what the broker stores: then, if it says where it ends, it is refused like one that cannot be
    unpacked; ``refused(topic, partition, what)`` is told of each of them. In the topics of ``illegible``, which may
    become more at any time, the names of headers are looked through too.
    """

    def __init__(self, *, batch_bytes: int, refused: Notice, illegible: Set[str], **options: Any) -> None:
        super().__init__(**options)
        self._sync_task: asyncio.Task[None] | None
        self._batch_bytes = batch_bytes
        self._refused = refused
        self._illegible = illegible
        self._doubts: dict[Place, _Doubt] = {}
        self._asked: dict[Any, float] = {}
        self._is_over = False
        self._connect_options = {
            "client_id": options.get("client_id"),
            "request_timeout_ms": int(_CONNECT_SECONDS * 1000),
            "ssl_context": options.get("ssl_context"),
            "security_protocol": options.get("security_protocol", "PLAINTEXT"),
            **{name: value for name, value in options.items() if name.startswith("sasl_")},
        }

    def doubt_about(self, topic: str, partition: int) -> str | None:
        """What is wrong with what the broker gives of this partition, while it is."""
        doubt = self._doubts.get((topic, partition))
        return None if doubt is None else f"the broker gives {doubt.found.reason} at offset {doubt.position}"

    # ---- connections ---------------------------------------------------------------------------------------------

    async def bootstrap(self) -> None:
        """Learn of the brokers from the first that answers, whatever the others do. Raises what says most."""
        connection, metadata = await self._first_answer([(host, port) for host, port, _ in self.hosts])
        self.cluster.update_metadata(metadata)
        if self.cluster.brokers():
            connection.close()
        else:
            self._conns["bootstrap", ConnectionGroup.DEFAULT] = connection
        if self._sync_task is None:
            self._sync_task = asyncio.create_task(self._md_synchronizer())

    async def _first_answer(self, hosts: Sequence[tuple[str, int]]) -> tuple[AIOKafkaConnection, Any]:
        waiting = list(hosts)
        trying: set[asyncio.Task[tuple[AIOKafkaConnection, Any]]] = set()
        faults: list[Exception] = []
        try:
            while waiting or trying:
                if waiting:
                    trying.add(asyncio.create_task(self._ask_host(*waiting.pop(0))))
                patience = _STAGGER_SECONDS if waiting else None
                done, trying = await asyncio.wait(trying, timeout=patience, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    fault = task.exception()
                    if fault is None:
                        trying |= done - {task}
                        return task.result()
                    if not isinstance(fault, Exception):
                        raise fault
                    faults.append(fault)
            raise gravest(faults)
        finally:
            await self._give_up(trying)

    async def _ask_host(self, host: str, port: int) -> tuple[AIOKafkaConnection, Any]:
        async with asyncio.timeout(_CONNECT_SECONDS):
            connection = _Connection(host, port, **self._connect_options)
            await connection.connect()
            try:
                return connection, await connection.send(MetadataRequest([], allow_auto_topic_creation=False))
            except BaseException:
                connection.close()
                raise

    @staticmethod
    async def _give_up(trying: set[asyncio.Task[tuple[AIOKafkaConnection, Any]]]) -> None:
        for task in trying:
            task.cancel()
        for answer in await asyncio.gather(*trying, return_exceptions=True):
            if isinstance(answer, tuple):
                answer[0].close()

    async def _get_conn(self, node_id: Any, *, group: int = ConnectionGroup.DEFAULT, no_hint: bool = False) -> Any:
        # A connection in the making holds a lock that all others wait for.
        try:
            async with asyncio.timeout(_CONNECT_SECONDS):
                connection = await super()._get_conn(node_id, group=group, no_hint=no_hint)
        except TimeoutError:
            self.force_metadata_update()
            return None
        if self._is_over and connection is not None:
            # It came up while another request's failure closed the client, and nobody else would close it.
            self._conns.pop((node_id, group), None)
            connection.close()
            return None
        return connection

    async def close(self) -> None:
        self._is_over = True
        await super().close()

    async def _metadata_update(self, cluster_metadata: Any, topics: Any) -> bool:
        """As aiokafka's, but for two things: it creates no topic that was deleted, and it waits for no dead broker."""
        request = MetadataRequest(list(topics) if topics else None, allow_auto_topic_creation=False)
        bootstrap = ("bootstrap", ConnectionGroup.DEFAULT)
        nodes: list[Any] = [broker.nodeId for broker in self.cluster.brokers()]
        # The brokers that are connected first: they have answered before.
        nodes.sort(key=lambda node: (node, ConnectionGroup.DEFAULT) not in self._conns)
        if bootstrap in self._conns:
            nodes.append("bootstrap")
        for node in nodes:
            connection = await self._get_conn(node)
            if connection is None:
                continue
            try:
                async with asyncio.timeout(_METADATA_SECONDS):
                    metadata = await connection.send(request)
            except (KafkaError, TimeoutError) as fault:
                _log.debug("broker %s did not tell of its cluster: %s", node, describe(fault))
                continue
            if not metadata.brokers:
                return False
            cluster_metadata.update_metadata(metadata)
            if bootstrap in self._conns and self.cluster.brokers():
                self._conns.pop(bootstrap).close()
            return True
        cluster_metadata.failed_update(None)
        return False

    # ---- fetches -------------------------------------------------------------------------------------------------

    def any_node(self) -> Any:
        """A broker to ask what any of them knows: at random, but none that owes an answer for longer than a second."""
        now = asyncio.get_running_loop().time()
        nodes = [broker.nodeId for broker in self.cluster.brokers()]
        prompt = [node for node in nodes if not _SILENT_SECONDS < now - self._asked.get(node, now) < _FORGIVEN_SECONDS]
        # Which one is nobody's secret.
        return random.choice(prompt or nodes or [None])  # noqa: S311

    async def send(self, node_id: Any, request: Any, *, group: int = ConnectionGroup.DEFAULT) -> Any:
        asked = asyncio.get_running_loop().time()
        if asked - self._asked.setdefault(node_id, asked) >= _FORGIVEN_SECONDS:
            self._asked[node_id] = asked
        response = await super().send(node_id, request, group=group)
        # Not where it was cancelled or failed: whoever asks has less patience than a request.
        self._asked.pop(node_id, None)
        if isinstance(request, FetchRequest):
            await self._look_through(request, response)
        return response

    async def _look_through(self, request: FetchRequest, response: Any) -> None:
        asked = {(topic, one[0]): one[1] for topic, partitions in request.topics for one in partitions}
        budget_bytes = self._batch_bytes
        doubtful = False
        topics = []
        for topic, partitions in response.topics:
            kept = []
            for partition, code, end, *rest, data in partitions:
                place = (topic, partition)
                if place not in asked:
                    raise KafkaConnectionError(f"a broker answers about partition {partition}, which was not asked for")
                if not code and data:
                    if budget_bytes <= 0:
                        # The next fetch gets it: partitions are asked for in another order each time.
                        data = b""
                    else:
                        found = await self._unpacked(data, asked[place], end, budget_bytes)
                        data = self._settled(place, asked[place], found)
                        budget_bytes -= found.inflated_bytes
                        doubtful = doubtful or not data
                        if topic in self._illegible:
                            data = await asyncio.to_thread(legible, data)
                kept.append((partition, code, end, *rest, data))
            topics.append((topic, kept))
        response.topics = topics
        if doubtful:
            await asyncio.sleep(_DOUBT_PAUSE_SECONDS)

    async def _unpacked(self, data: bytes, position: int, end: int, budget_bytes: int) -> Unpacked:
        def look(patience_bytes: int | None) -> Unpacked:
            return unpack(
                data,
                position=position,
                end=end,
                batch_bytes=self._batch_bytes,
                budget_bytes=budget_bytes,
                patience_bytes=patience_bytes,
            )

        if len(data) <= _INLINE_CHECK_BYTES:
            try:
                return look(_INLINE_BYTES)
            except Heavy:
                pass
        return await asyncio.to_thread(look, None)

    def _settled(self, place: Place, position: int, found: Unpacked) -> bytes:
        """What aiokafka gets of a partition."""
        for one in found.refused:
            self._refused(*place, one)
        if found.doubt is None:
            self._doubts.pop(place, None)
            return found.data
        now = asyncio.get_running_loop().time()
        doubt = self._doubts.get(place)
        if doubt is None or doubt.position != position or doubt.found.likeness != found.doubt.likeness:
            # Damage that differs each time is done on the way.
            doubt = self._doubts[place] = _Doubt(position, found.doubt, 0, now)
        doubt.times += 1
        after = found.doubt.next
        if after is None or doubt.times < _DOUBT_TIMES or now - doubt.since < _DOUBT_SECONDS:
            return b""
        del self._doubts[place]
        self._refused(*place, Refused(position, after, f"the broker stores {found.doubt.reason}"))
        return placeholder(position, after)

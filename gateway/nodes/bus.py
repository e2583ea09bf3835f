"""Asking and telling all nodes: Redis pub/sub, where a lost message only delays, and presence by heartbeat."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import secrets
from collections.abc import Callable, Iterator
from typing import Any, Final

from redis.exceptions import RedisError

from gateway.errors import Unavailable
from gateway.limits.routed import Routed
from gateway.nodes.messages import VERSION, Message, decode, encode

log = logging.getLogger("gateway.nodes")
HEARTBEAT_SECONDS: Final = 2.0
ALIVE_SECONDS: Final = 8.0
"""How long after its last heartbeat a node still counts as one that may answer."""

ASK_SECONDS: Final = 1.5
RETRY_SECONDS: Final = 1.0
_PREFIX: Final = f"gateway:{{nodes}}:{VERSION}"
# In a cluster one server has the key, and is the one that is listened to: who is heard to be there can hear too.
_PRESENT: Final = f"{_PREFIX}:present"
_ALL: Final = f"{_PREFIX}:all"

# One clock for all nodes, the server's own; who has not been heard for long is forgotten.
_HEARTBEAT: Final = """
local now = redis.call('TIME')
local seconds = tonumber(now[1]) + tonumber(now[2]) / 1000000
redis.call('ZADD', KEYS[1], seconds, ARGV[1])
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', seconds - tonumber(ARGV[2]))
redis.call('PEXPIRE', KEYS[1], 60000)
return redis.call('ZRANGE', KEYS[1], 0, -1)
"""

Answer = Callable[[dict[str, Any]], dict[str, Any] | None]
"""Says what this node knows to a question; None: nothing."""


class Bus:
    """This node's ear and mouth. Without ``run`` it hears nothing and nobody knows of it."""

    def __init__(self, client: Routed, *, heartbeat_seconds: float = HEARTBEAT_SECONDS) -> None:
        self.node = secrets.token_hex(8)
        self.live_nodes = 1
        """How many nodes there were when last looked, this one included; kept while Redis is away."""
        self._client = client
        self._heartbeat_seconds = heartbeat_seconds
        self._numbers = itertools.count(1)
        self._answers: dict[int, asyncio.Queue[Message]] = {}
        self._questions: dict[str, Answer] = {}
        self._bells: dict[str, Callable[[], None]] = {}
        self.size = 1
        """How many nodes there were when they were last counted, this one included."""

    def on_question(self, topic: str, answer: Answer) -> None:
        """Answer questions of this topic from other nodes."""
        self._questions[topic] = answer

    def on_bell(self, topic: str, call: Callable[[], None]) -> None:
        """Call when another node rings, and after a time in which it could not have been heard."""
        self._bells[topic] = call

    async def others(self) -> list[str]:
        """The other nodes that are there. Raises Unavailable."""
        with _told():
            present = await self._client.execute_command("EVAL", _HEARTBEAT, 1, _PRESENT, self.node, ALIVE_SECONDS)
        self.size = len(present)
        others = [name for raw in present if (name := raw.decode()) != self.node]
        self.live_nodes = len(others) + 1
        return others

    async def ask(self, topic: str, body: dict[str, Any], *, first: bool = False) -> list[dict[str, Any]]:
        """The answers of all nodes that know something, or the ``first`` one; who is slow is not waited for.

        Raises Unavailable where Redis does not answer, or a node that is there did not, and nothing was found.
        """
        waiting = set(await self.others())
        if not waiting:
            return []
        number = next(self._numbers)
        queue: asyncio.Queue[Message] = asyncio.Queue()
        self._answers[number] = queue
        found: list[dict[str, Any]] = []
        try:
            await self._publish(_ALL, Message("question", topic, self.node, number, body))
            async with asyncio.timeout(ASK_SECONDS):
                while waiting and not (first and found):
                    answer = await queue.get()
                    waiting.discard(answer.sender)
                    if answer.body:
                        found.append(answer.body)
        except TimeoutError:
            if not found:
                raise Unavailable("Another node of the gateway does not answer.", retry_after_ms=1_000) from None
        finally:
            del self._answers[number]
        return found

    async def ring(self, topic: str) -> None:
        """Tell the other nodes that there are news. Where that fails they find out by themselves, only later."""
        try:
            await self._publish(_ALL, Message("bell", topic, self.node))
        except Unavailable as error:
            log.debug("bell not rung: %s", error)

    async def run(self) -> None:
        """Listen and be present, until cancelled."""
        while True:
            try:
                await self._listen()
            except (RedisError, OSError, Unavailable) as error:
                # Whether Redis is there is the prober's to say, once.
                log.debug("other nodes are not heard: %s", error)
            await asyncio.sleep(RETRY_SECONDS)

    async def _listen(self) -> None:
        async with self._client.pubsub(near=_PRESENT, ignore_subscribe_messages=True) as channels:
            await channels.subscribe(_ALL, f"{_PREFIX}:{self.node}")
            await self.others()
            for call in self._bells.values():
                # Whoever rang while nobody listened was not heard.
                call()
            loop = asyncio.get_running_loop()
            beat_at = loop.time() + self._heartbeat_seconds
            is_heard = True
            while True:
                if loop.time() >= beat_at:
                    if not is_heard:
                        raise ConnectionError("nothing comes over the connection that listens")
                    await self.others()
                    # What is asked elsewhere says nothing about this connection: its own answer does.
                    await channels.ping()
                    is_heard = False
                    beat_at = loop.time() + self._heartbeat_seconds
                heard = await channels.get_message(timeout=max(0.01, beat_at - loop.time()))
                if heard is None:
                    continue
                is_heard = True
                if heard["type"] == "message":
                    await self._take(heard["data"])

    async def _take(self, data: bytes) -> None:
        message = decode(data)
        if message is None or message.sender == self.node:
            return
        if message.kind == "answer":
            queue = self._answers.get(message.number)
            if queue is not None:
                queue.put_nowait(message)
        elif message.kind == "bell":
            call = self._bells.get(message.topic)
            if call is not None:
                call()
        else:
            # A question that this version does not know has an answer too: nothing.
            answer = self._questions.get(message.topic)
            body = (answer(message.body) if answer is not None else None) or {}
            reply = Message("answer", message.topic, self.node, message.number, body)
            await self._publish(f"{_PREFIX}:{message.sender}", reply)

    async def _publish(self, channel: str, message: Message) -> None:
        with _told():
            await self._client.execute_command("PUBLISH", channel, encode(message))

    async def close(self) -> None:
        """Say that this node is gone."""
        with contextlib.suppress(RedisError, OSError):
            await self._client.execute_command("ZREM", _PRESENT, self.node)


@contextlib.contextmanager
def _told() -> Iterator[None]:
    try:
        yield
    except (RedisError, OSError) as error:
        raise Unavailable("The gateway cannot reach its other nodes.", retry_after_ms=1_000) from error

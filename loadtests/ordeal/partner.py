"""A partner that never gives up: it reads on one of four protocols, and comes back with its cursor, here or there."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from loadtests.ordeal.checker import Ledger
from loadtests.ordeal.link import keep_little
from loadtests.ordeal.traffic import PLAIN, Traffic
from tests.parts.readers import PROTOCOLS, READ, Cut, Message, Place, Refused, Silent, Wire

PATIENCE_SECONDS = 3.0
"""After three heartbeats without a byte a connection counts as dead."""

OPEN_SECONDS = 7.0
"""More than a gateway takes to say that it cannot."""

_COME_BACK_LATER = (429, 503)
_WAIT_SECONDS = (0.02, 0.2)


@dataclass
class Ran:
    """What happened to a partner since the last time; times in seconds.

    ``late`` is the longest that a record took from the producer to here; ``late_after_kafka`` counts from Kafka's
    acknowledgement.
    """

    late: float = 0.0
    late_after_kafka: float = 0.0
    connections: int = 0
    refusals: Counter[int] = field(default_factory=Counter)
    ends: Counter[str] = field(default_factory=Counter)
    goodbyes: list[tuple[float, Mapping[str, Any]]] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


@dataclass(kw_only=True)
class Partner(Place):
    """``nodes`` may change; ``switches``: each connection is on another protocol than the one before. ``waits``: comes
    back after a goodbye when it was told to, as partners should, and not at once."""

    name: str
    protocol: str
    nodes: Sequence[str]
    traffic: Traffic
    ledger: Ledger
    switches: bool = False
    waits: bool = False
    patience_seconds: float = PATIENCE_SECONDS
    open_seconds: float = OPEN_SECONDS
    flowing: asyncio.Event = field(default_factory=asyncio.Event)
    ran: Ran = field(default_factory=Ran)
    node: str = ""
    is_open: bool = False
    _goodbye: Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        self.flowing.set()

    async def run(self) -> None:
        """Read until cancelled."""
        self.node = self.random.choice(list(self.nodes))
        while True:
            try:
                ended = await self._read_once()
            except Cut:
                ended = "cut"
            except Silent:
                ended = "silent"
            except OSError:
                ended = "broken"
            except Refused as refused:
                ended = "refused"
                self.ran.refusals[refused.status] += 1
                if refused.status not in _COME_BACK_LATER:
                    self.ran.problems.append(f"{self.name}: {refused}")
            except Exception as error:  # noqa: BLE001 - whatever a node sends, the partner tells and goes on
                ended = "nonsense"
                self.ran.problems.append(f"{self.name}: {error!r}")
            self.is_open = False
            self.ran.ends[ended] += 1
            self.ledger.resume()
            await self._wait(ended)
            self._choose(ended)

    async def _wait(self, ended: str) -> None:
        seconds = self.random.uniform(*_WAIT_SECONDS)
        if self.waits and ended == "goodbye" and self._goodbye is not None:
            seconds = self._goodbye["retry_after_ms"] / 1000
        await asyncio.sleep(seconds)

    def _choose(self, ended: str) -> None:
        others = [node for node in self.nodes if node != self.node]
        # A node that is silent or leaves is not asked again at once.
        if ended in ("silent", "goodbye", "refused") and others:
            self.node = self.random.choice(others)
        else:
            self.node = self.random.choice(list(self.nodes))
        if self.switches:
            self.protocol = self.random.choice([other for other in PROTOCOLS if other != self.protocol])

    async def _read_once(self) -> str:
        """One connection, to its end; how it ended."""
        address = urlsplit(self.node)
        self._goodbye = None
        async with asyncio.timeout(self.open_seconds):
            reader, writer = await asyncio.open_connection(address.hostname, address.port)
        keep_little(writer)
        wire = Wire(reader, writer, cut_after=None, patience_seconds=self.open_seconds, flowing=self.flowing)
        self.ran.connections += 1
        try:
            async for message in READ[self.protocol](self, wire):
                wire.patience_seconds = self.patience_seconds
                self.is_open = True
                self._take(message)
        except Refused:
            raise
        except (Cut, Silent, OSError):
            if self._goodbye is None:
                raise
        finally:
            wire.drop()
        return "ended" if self._goodbye is None else "goodbye"

    def _take(self, message: Message) -> None:
        kind = message["type"]
        if kind == "record":
            self._record(message)
            self.cursor = message["id"]
            return
        if kind == "gap":
            self.ledger.gap(message["reason"])
        elif kind == "goodbye":
            self._goodbye = message
            self.ran.goodbyes.append((time.monotonic(), message))
        self.cursor = message.get("cursor") or message.get("resumed_at") or self.cursor

    def _record(self, message: Message) -> None:
        data = message["data"]
        if not self.ledger.record(data, uid=message["uid"]):
            return
        if data["series"] != PLAIN:
            return  # what a transaction takes is not the reader's
        now, ran = time.monotonic(), self.ran
        ran.late = max(ran.late, now - data["at"])
        acknowledged = self.traffic.acknowledged_at((data["series"], data["p"]), data["n"])
        if acknowledged is not None:
            ran.late_after_kafka = max(ran.late_after_kafka, now - acknowledged)

    def take_ran(self) -> Ran:
        """What happened since the last time."""
        taken, self.ran = self.ran, Ran()
        return taken

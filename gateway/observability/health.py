"""Whether this process is alive, whether it can serve reads, and why not: answered from memory, at once."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from gateway.clock import Clock
from gateway.counters import StreamStatus
from gateway.observability.logs import event, mask

logger = logging.getLogger(__name__)

Level = Literal["ok", "degraded", "down"]

KAFKA_GRACE_SECONDS = 30.0
"""How long reads go on without Kafka before another node should get them: the logs still serve who is in them."""

REASON_CHARACTERS = 300

_LEVELS: tuple[Level, ...] = ("ok", "degraded", "down")


@dataclass(frozen=True, slots=True)
class Status:
    """How a dependency stands. ``fields`` are further members of its row in ``/readyz``."""

    level: Level
    detail: str = ""
    fields: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Check:
    """A named question that is answered without waiting. ``required``: reads cannot be served while it is down."""

    name: str
    required: bool
    status: Callable[[], Status]


def alternatives(name: str, checks: Sequence[Check]) -> list[Check]:
    """``checks`` of which one is enough to serve somebody, and before them one that stands as the best of them does.

    With a single one it is as required as it was. With several none of them is: all nodes miss the same one, and its
    readers would gain nothing if the readers of the others were sent away too.
    """
    if len(checks) < 2:
        return list(checks)

    def best() -> Status:
        found = [check.status() for check in checks]
        level = min((status.level for status in found), key=_LEVELS.index)
        if level == "ok":
            return Status("ok")
        return Status(
            level, "; ".join(f"{one.name}: {status.detail}" for one, status in zip(checks, found, strict=True))
        )

    return [Check(name, required=True, status=best), *(replace(check, required=False) for check in checks)]


class Health:
    """Everything ``/livez`` and ``/readyz`` say. ``drain()`` is for ever: a draining process does not come back."""

    def __init__(self, checks: Sequence[Check], *, readers: Callable[[], Iterable[StreamStatus]] = tuple) -> None:
        self._checks = tuple(checks)
        self._readers = readers
        self.draining = False

    def drain(self) -> None:
        """From now on not ready, whatever else is well."""
        self.draining = True

    def dependencies(self) -> list[tuple[Check, Status]]:
        """Every check with what it says now."""
        return [(check, check.status()) for check in self._checks]

    def liveness(self) -> tuple[int, dict[str, object]]:
        """HTTP status and body of ``/livez``: that the loop came to answer is the answer."""
        return 200, {"status": "ok"}

    def readiness(self) -> tuple[int, dict[str, object]]:
        """HTTP status and body of ``/readyz``.

        503 when draining or when a required dependency is down; a dependency that is not required and a reader with
        something to say make it ``degraded``, with 200.
        """
        found = self.dependencies()
        readers = list(self._readers())
        ready = not self.draining and not any(check.required and status.level == "down" for check, status in found)
        well = all(status.level == "ok" for _, status in found) and not any(reader.reason for reader in readers)
        body: dict[str, object] = {
            "status": "not_ready" if not ready else "ready" if well else "degraded",
            "draining": self.draining,
            "dependencies": {
                check.name: {
                    **status.fields,
                    "status": status.level,
                    "required": check.required,
                    "detail": status.detail,
                }
                for check, status in found
            },
            "readers": [
                {
                    "stream": reader.stream,
                    "state": reader.state,
                    "reason": reader.reason,
                    "age_seconds": reader.age_seconds,
                    "lag_records": reader.lag_records,
                    "head_age_seconds": reader.head_age_seconds,
                }
                for reader in readers
            ],
        }
        return (200 if ready else 503), body


@dataclass(frozen=True, slots=True)
class Probe:
    """A dependency to ask every ``interval_seconds``.

    ``ping`` returns if the dependency answered and raises if not; it is cancelled after ``timeout_seconds``.
    ``grace_seconds``: for so long a dependency that has answered before counts as degraded, not down.
    """

    name: str
    ping: Callable[[], Awaitable[object]]
    required: bool = True
    grace_seconds: float = 0.0
    interval_seconds: float = 2.0
    timeout_seconds: float = 2.0


@dataclass(frozen=True, slots=True)
class ProbeMemory:
    """What is remembered of a probe, in monotonic seconds; ``failing_since`` is when the first failed ping began."""

    started_at: float
    answered_at: float | None = None
    failing_since: float | None = None
    reason: str = ""


def judge(memory: ProbeMemory, *, probe: Probe, now: float) -> Status:
    """How a dependency stands at ``now``: a pure function of what its pings found.

    Down until it has answered once; ok while it answers; degraded for the grace after it stopped; then down. Silence of
    the probe itself counts as failing, so that a ping that never ends cannot keep a dead dependency ok.
    """
    if memory.answered_at is None:
        waited = now - memory.started_at
        return Status("down", f"no answer yet after {waited:.0f} s" + (f": {memory.reason}" if memory.reason else ""))
    silent = now - memory.answered_at
    failing_since = memory.failing_since
    reason = memory.reason
    if failing_since is None and silent > 2 * (probe.interval_seconds + probe.timeout_seconds):
        failing_since, reason = memory.answered_at, "its probe is stuck"
    fields = {"answered_seconds_ago": round(silent, 1)}
    if failing_since is None:
        return Status("ok", "", fields)
    away = now - failing_since
    level: Level = "degraded" if away < probe.grace_seconds else "down"
    return Status(level, f"away for {away:.0f} s: {reason}", fields)


class Prober:
    """Pings every dependency in the background, so that health is a look into memory.

    ``run()`` goes on until it is cancelled; a cancelled ping is waited for. One slow dependency delays no other.
    """

    def __init__(self, probes: Sequence[Probe], *, clock: Clock) -> None:
        self._clock = clock
        self._probes = tuple(probes)
        self._memory = {probe.name: ProbeMemory(started_at=clock.monotonic()) for probe in probes}

    def checks(self) -> list[Check]:
        """One check a probe, for ``Health``."""
        return [Check(probe.name, probe.required, self._status_of(probe)) for probe in self._probes]

    async def run(self) -> None:
        """Ping at once, then at every interval."""
        async with asyncio.TaskGroup() as group:
            for probe in self._probes:
                group.create_task(self._watch(probe), name=f"probe-{probe.name}")

    def _status_of(self, probe: Probe) -> Callable[[], Status]:
        return lambda: judge(self._memory[probe.name], probe=probe, now=self._clock.monotonic())

    async def _watch(self, probe: Probe) -> None:
        while True:
            await self.ping(probe)
            await asyncio.sleep(probe.interval_seconds)

    async def ping(self, probe: Probe) -> None:
        """Ask one dependency once and remember what it said."""
        began = self._clock.monotonic()
        before = self._memory[probe.name]
        try:
            async with asyncio.timeout(probe.timeout_seconds):
                await probe.ping()
        except Exception as error:  # noqa: BLE001 - whatever it raises, the dependency did not answer
            reason = _reason(error, timeout_seconds=probe.timeout_seconds)
            failing_since = began if before.failing_since is None else before.failing_since
            self._memory[probe.name] = replace(before, failing_since=failing_since, reason=reason)
            if before.failing_since is None:
                event(logger, logging.WARNING, "dependency_away", dependency=probe.name, reason=reason)
        else:
            now = self._clock.monotonic()
            self._memory[probe.name] = replace(before, answered_at=now, failing_since=None, reason="")
            if before.failing_since is not None:
                away = round(now - before.failing_since, 1)
                event(logger, logging.INFO, "dependency_back", dependency=probe.name, away_seconds=away)


def _reason(error: Exception, *, timeout_seconds: float) -> str:
    if isinstance(error, TimeoutError) and not str(error):
        return f"no answer within {timeout_seconds:g} s"
    return mask(f"{type(error).__name__}: {error}"[:REASON_CHARACTERS])

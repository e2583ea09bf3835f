"""SIGTERM under load, again and again: who heard goodbye, when, and what a resume on the other node lost."""

from __future__ import annotations

import asyncio
import signal
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from loadtests.ordeal.checker import Counts
from loadtests.ordeal.partner import Partner, Ran
from loadtests.ordeal.stage import NODES, NotInTime, Stage, until
from loadtests.table import Row, percentile, spread

READY_BAR_SECONDS = 1.0
_POLL_SECONDS = 0.01
_OPEN_SECONDS = 300.0
_BURST = 6
_DELIVERIES = 1800
_BURSTS_PER_SECOND = 2


@dataclass
class Drained:
    """One drain. Times in seconds after the signal; ``retries`` are what the goodbyes said, in milliseconds."""

    run: int
    counts: Counts = field(default_factory=Counts)
    streams: int = 0
    unready: float = 0.0
    exit: float = 0.0
    goodbyes: list[float] = field(default_factory=list)
    retries: list[int] = field(default_factory=list)
    back: float = 0.0
    refusals: Counter[int] = field(default_factory=Counter)
    problems: list[str] = field(default_factory=list)
    logged: list[str] = field(default_factory=list)

    @property
    def kept(self) -> bool:
        # The cursor of a goodbye is exact: nothing comes again either.
        return self.counts.wrong == 0 and self.counts.duplicates == 0 and not self.problems

    def line(self) -> str:
        counts = self.counts
        return (
            f"drain {self.run}: {'kept' if self.kept else 'BROKEN'}, {self.streams} reads, "
            f"{len(self.goodbyes)} goodbyes from {min(self.goodbyes, default=0):.2f} to "
            f"{max(self.goodbyes, default=0):.2f} s, not ready after {self.unready:.2f} s, exit {self.exit:.2f} s, "
            f"all back after {self.back:.2f} s; {counts.records} records, {counts.lost} lost, "
            f"{counts.reordered} reordered, {counts.foreign} foreign, {counts.repeated} repeated, "
            f"{counts.duplicates} after resumes, refused {dict(self.refusals)}"
        )


def prepare(stage: Stage) -> None:
    """Partners that come back when they are told to, all to the node that is left, and take their time; traffic in
    bursts, so that they are kept busy by deliveries and not by this process."""
    stage.main.burst = min(_BURST, max(1, _DELIVERIES // len(stage.partners)))
    stage.main.beat_seconds = 1 / _BURSTS_PER_SECOND
    stage.stories[1].beat_seconds = 1.0
    for partner in stage.partners:
        partner.waits = True
        partner.switches = False
        partner.patience_seconds = partner.open_seconds = 60.0


async def drain(stage: Stage, *, number: int, drain_seconds: float) -> Drained:
    """All partners on one node; it is told to stop; all go on at the other; a new node takes its place."""
    name = NODES[number % 2]
    node, here, there = stage.nodes[name], stage.links[name].url, stage.links[NODES[1 - number % 2]].url
    await _gather(stage, here)
    await stage.flows()
    result = Drained(number, streams=len(stage.partners))
    for partner in stage.partners:
        partner.take_ran()
        partner.ledger.take_counts()
        partner.nodes = [there]
    began = time.monotonic()
    node.signal(signal.SIGTERM)
    exiting = asyncio.create_task(asyncio.to_thread(node.wait, seconds=drain_seconds + 10))
    result.unready = await _unready(stage, name) - began
    code = await exiting
    result.exit = time.monotonic() - began
    if code != 0:
        result.problems.append(f"exit code {code}")
    if result.exit > drain_seconds:
        result.problems.append(f"it took {result.exit:.1f} s to exit, of {drain_seconds:g}")
    await stage.restart_node(name)
    try:
        await until(
            lambda: all(p.is_open and p.node == there for p in stage.partners),
            what="all are back",
            seconds=_OPEN_SECONDS,
        )
        result.back = time.monotonic() - began
        await stage.flows()
    except NotInTime as late:
        result.problems.append(str(late))
    result.problems += await stage.settled()
    for partner in stage.partners:
        result.counts.add(partner.ledger.take_counts())
        _judge(result, partner, partner.take_ran(), began=began)
    result.logged = stage.errors_logged()
    return result


async def _gather(stage: Stage, url: str) -> None:
    """Everybody reads at this node."""
    for partner in stage.partners:
        partner.nodes = [url]
    for link in stage.links.values():
        if link.url != url:
            link.cut()
    await until(
        lambda: all(p.is_open and p.node == url for p in stage.partners),
        what="all are at one node",
        seconds=_OPEN_SECONDS,
    )


async def _unready(stage: Stage, name: str) -> float:
    """When ``/readyz`` said 503; or when nobody answered any more."""
    while True:
        try:
            status, _ = await asyncio.to_thread(stage.nodes[name].readiness)
        except OSError:
            return time.monotonic()
        if status == 503:
            return time.monotonic()
        await asyncio.sleep(_POLL_SECONDS)


def _judge(result: Drained, partner: Partner, ran: Ran, *, began: float) -> None:
    result.problems += ran.problems
    result.refusals += ran.refusals
    if partner.protocol == "pull":
        # Its requests are answered; there is no stream that could end.
        return
    if len(ran.goodbyes) != 1:
        result.problems.append(
            f"{partner.name}: {len(ran.goodbyes)} goodbyes, ended {dict(ran.ends)}, refused {dict(ran.refusals)}"
        )
    for at, goodbye in ran.goodbyes:
        result.goodbyes.append(at - began)
        result.retries.append(goodbye["retry_after_ms"])
        if goodbye["code"] != "draining" or not goodbye["reconnect"] or not goodbye["cursor"]:
            result.problems.append(f"{partner.name}: {dict(goodbye)}")


def rows(drains: Sequence[Drained], *, drain_seconds: float) -> list[Row]:
    """The table of a run."""
    total = Counts()
    for one in drains:
        total.add(one.counts)
    retries = [retry for one in drains for retry in one.retries]
    expected = sum(one.streams for one in drains)
    wrong = sum(not one.kept for one in drains)
    exits, unready = [one.exit for one in drains], [one.unready for one in drains]
    spans = [max(one.goodbyes, default=0) - min(one.goodbyes, default=0) for one in drains]
    return [
        Row(f"drains of {drains[0].streams} reads", str(len(drains)), "all kept", wrong == 0),
        Row("reads that went through one · goodbyes, with cursor", f"{expected} · {len(retries)}"),
        Row(
            "records · lost · reordered · foreign · repeated · again after the resume",
            f"{total.records} · {total.lost} · {total.reordered} · {total.foreign} · {total.repeated} · "
            f"{total.duplicates}",
            "0",
            total.wrong + total.duplicates == 0,
        ),
        Row("s until `/readyz` is 503", spread(unready), f"≤ {READY_BAR_SECONDS:g}", max(unready) <= READY_BAR_SECONDS),
        Row("s from the first goodbye to the last", spread(spans)),
        Row(
            "`retry_after_ms`: 1 %, half, 99 %",
            " · ".join(str(percentile(retries, share)) for share in (0.01, 0.5, 0.99)),
        ),
        Row("s until the exit", spread(exits), f"≤ {drain_seconds:g}", max(exits) <= drain_seconds),
        Row("s until all read on", spread([one.back for one in drains])),
    ]


def words(drains: Sequence[Drained]) -> str:
    """What was wrong, and what was logged."""
    lines = [f"- drain {one.run}: {word}" for one in drains for word in [*one.problems, *one.logged]]
    return "\n".join(["", *lines]) if lines else ""

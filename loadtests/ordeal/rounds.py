"""Runs faults one after the other and says what each did to whom."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from loadtests.ordeal.checker import Counts
from loadtests.ordeal.kinds import Kind
from loadtests.ordeal.stage import NotInTime, Stage
from loadtests.table import spread


@dataclass
class Outcome:
    """One run of one kind. ``late_seconds``: the longest that a record took, from its producer to a reader that reads;
    ``late_after_kafka_seconds``: from Kafka's acknowledgement. ``problems`` are in words, and fail the run."""

    kind: str
    run: int
    counts: Counts = field(default_factory=Counts)
    late_seconds: float = 0.0
    late_after_kafka_seconds: float = 0.0
    resumes: int = 0
    refusals: Counter[int] = field(default_factory=Counter)
    seconds: float = 0.0
    problems: list[str] = field(default_factory=list)
    logged: list[str] = field(default_factory=list)

    @property
    def kept(self) -> bool:
        """Whether every promise of delivery was kept."""
        return self.counts.wrong == 0 and not self.problems

    def line(self) -> str:
        """For somebody who watches."""
        counts = self.counts
        return (
            f"{self.kind} {self.run}: {'kept' if self.kept else 'BROKEN'}, {counts.records} records, "
            f"{counts.lost} lost, {counts.reordered} reordered, {counts.foreign} foreign, {counts.repeated} repeated, "
            f"{counts.duplicates} after resumes, {counts.gaps} gaps ({counts.needless_gaps} needless), "
            f"{self.resumes} resumes, refused {dict(self.refusals)}, late {self.late_seconds:.2f} s "
            f"({self.late_after_kafka_seconds:.2f} s after Kafka), {self.seconds:.1f} s"
        )


async def run(stage: Stage, name: str, kind: Kind, *, number: int) -> Outcome:
    """Inflict one fault, wait until everybody has everything, and judge."""
    began = time.monotonic()
    for partner in stage.partners:
        partner.take_ran()
    outcome = Outcome(name, number)
    try:
        await kind.inflict(stage)
    except (NotInTime, AssertionError) as late:
        outcome.problems.append(str(late))
    stage.check_instruments()
    outcome.problems += await stage.settled()
    for partner in stage.partners:
        outcome.counts.add(partner.ledger.take_counts())
        ran = partner.take_ran()
        outcome.problems += ran.problems
        outcome.refusals += ran.refusals
        outcome.resumes += ran.connections
        outcome.late_seconds = max(outcome.late_seconds, ran.late)
        outcome.late_after_kafka_seconds = max(outcome.late_after_kafka_seconds, ran.late_after_kafka)
    if kind.gaps and not outcome.counts.gaps:
        outcome.problems.append("no gap was told: the fault did not reach anybody")
    if kind.resumes and not outcome.resumes:
        outcome.problems.append("nobody had to come back: the fault did not reach anybody")
    if outcome.counts.gaps and not kind.gaps:
        outcome.problems.append("a gap where nothing is missing")
    outcome.logged = stage.errors_logged()
    outcome.seconds = time.monotonic() - began
    return outcome


def markdown(outcomes: Sequence[Outcome], kinds: Mapping[str, Kind], *, seed: int, machine: str) -> str:
    """The report."""
    lines = [
        f"Seed {seed}. {len(outcomes)} runs of {len({one.kind for one in outcomes})} kinds.",
        "",
        machine,
        "",
        "| fault | runs | records | lost | reordered | foreign | repeated | after resumes | gaps | resumes "
        "| s to a reader, from the producer | from Kafka | bar | verdict |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for name, kind in kinds.items():
        of_kind = [one for one in outcomes if one.kind == name]
        if of_kind:
            lines.append(_row(name, kind, of_kind))
    total = Counts()
    for one in outcomes:
        total.add(one.counts)
    lines.append(
        f"| **all** | {len(outcomes)} | {total.records} | {total.lost} | {total.reordered} | {total.foreign} | "
        f"{total.repeated} | {total.duplicates} | {total.gaps} | {sum(one.resumes for one in outcomes)} | | | | |"
    )
    lines += ["", *(f"- `{name}`: {kind.what}" for name, kind in kinds.items())]
    lines += _words("What was wrong", ((one, word) for one in outcomes for word in one.problems))
    lines += _words("What the gateways logged as errors", ((one, word) for one in outcomes for word in one.logged))
    return "\n".join(lines) + "\n"


def meets_bar(kind: Kind, outcomes: Sequence[Outcome]) -> bool | None:
    """Whether every run was in time; None where nothing is promised."""
    if kind.bar_seconds is None:
        return None
    late = [one.late_seconds if kind.kafka_too else one.late_after_kafka_seconds for one in outcomes]
    return max(late) <= kind.bar_seconds


def _row(name: str, kind: Kind, outcomes: Sequence[Outcome]) -> str:
    counts = Counts()
    for one in outcomes:
        counts.add(one.counts)
    late, after = ([getattr(one, name) for one in outcomes] for name in ("late_seconds", "late_after_kafka_seconds"))
    since = "the producer" if kind.kafka_too else "Kafka"
    bar = "" if kind.bar_seconds is None else f"≤ {kind.bar_seconds:g} from {since}"
    kept, met = all(one.kept for one in outcomes), meets_bar(kind, outcomes)
    verdict = "**broken**" if not kept else "**late**" if met is False else "kept"
    return (
        f"| `{name}` | {len(outcomes)} | {counts.records} | {counts.lost} | {counts.reordered} | {counts.foreign} | "
        f"{counts.repeated} | {counts.duplicates} | {counts.gaps} | {sum(one.resumes for one in outcomes)} | "
        f"{spread(late)} | {spread(after)} | {bar} | {verdict} |"
    )


def _words(title: str, said: Iterable[tuple[Outcome, str]]) -> list[str]:
    lines = [f"- {one.kind} {one.run}: {word}" for one, word in said]
    return ["", f"## {title}", "", *lines] if lines else []

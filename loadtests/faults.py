"""``python -m loadtests.faults``: bad days of every part and of the network between them, and who lost what."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import random
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from loadtests import table
from loadtests.machine import allow_many_files, description
from loadtests.ordeal.drains import Drained, drain, prepare, rows, words
from loadtests.ordeal.kinds import KINDS
from loadtests.ordeal.rounds import Outcome, markdown, meets_bar, run
from loadtests.ordeal.stage import stage
from tests.parts import postgres, redis
from tests.parts.kafka_trio import NODES, KafkaTrio, trio
from tests.parts.ports import free_port
from tests.parts.postgres import PostgresServer
from tests.parts.readers import PROTOCOLS
from tests.parts.redis import RedisServer

DRAIN_SECONDS = 20.0
SHOWN = 20
"""Problems of a run that are printed; the report has all of them."""


def fronts() -> dict[int, int]:
    """Ports for what stands before each broker."""
    return {node: free_port() for node in NODES}


@dataclass(frozen=True)
class Parts:
    """What is there to break, before anything runs on it."""

    kafka: KafkaTrio
    redis: RedisServer
    postgres: PostgresServer
    directory: Path


@contextlib.contextmanager
def parts() -> Iterator[Parts]:
    """Brokers, Redis and Postgres of one's own. Raises PartMissing."""
    with (
        tempfile.TemporaryDirectory(prefix="faults-") as directory,
        trio(fronts=fronts()) as brokers,
        redis.server() as cache,
        postgres.server() as database,
    ):
        yield Parts(brokers, cache, database, Path(directory))


async def suffer(on: Parts, *, kinds: Sequence[str], runs: int, seed: int, hold_seconds: float = 5.0) -> list[Outcome]:
    """Each kind ``runs`` times, in turn, on one set of parts."""
    outcomes = []
    async with stage(on.kafka, on.redis, on.postgres, on.directory / "faults", seed=seed) as made:
        made.hold_seconds = hold_seconds
        await made.flows()
        for number in range(1, runs + 1):
            for name in kinds:
                outcome = await run(made, name, KINDS[name], number=number)
                outcomes.append(outcome)
                print(outcome.line(), *outcome.problems[:SHOWN], *outcome.logged, sep="\n    ", flush=True)
    return outcomes


async def leave(
    on: Parts, *, streams: int, runs: int, seed: int, protocols: Sequence[str] = PROTOCOLS
) -> list[Drained]:
    """SIGTERM of the node that ``streams`` partners read from, ``runs`` times."""
    drained = []
    quiet = {"stream": {"heartbeat_seconds": 15.0, "drain_seconds": DRAIN_SECONDS}}
    async with stage(
        on.kafka,
        on.redis,
        on.postgres,
        on.directory / "drains",
        seed=seed,
        partners_per_protocol=streams // len(protocols),
        protocols=protocols,
        settings=quiet,
        prepare=prepare,
    ) as made:
        for number in range(1, runs + 1):
            one = await drain(made, number=number, drain_seconds=DRAIN_SECONDS)
            drained.append(one)
            print(one.line(), *one.problems[:SHOWN], *one.logged, sep="\n    ", flush=True)
    return drained


def main() -> int:
    """1 where a promise was broken or a bar missed, else 0."""
    options = _options()
    print(f"seed {options.seed}", flush=True)
    allow_many_files()
    machine = description(brokers="three brokers")
    with parts() as on:
        if options.drain:
            report, kept = _drains(on, options, machine)
        else:
            report, kept = _faults(on, options, machine)
    print(f"\n{report}")
    if options.report is not None:
        options.report.write_text(report)
    return 0 if kept else 1


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m loadtests.faults", description="Faults on loopback only; see docs/operations/promises.md."
    )
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 32), help="what is random comes from it")
    parser.add_argument("--runs", type=int, default=10, help="of each kind, or drains")
    parser.add_argument("--kinds", nargs="+", metavar="KIND", help=f"of {', '.join(KINDS)}; all without")
    parser.add_argument("--hold", type=float, default=5.0, metavar="SECONDS", help="how long what freezes stays so")
    parser.add_argument(
        "--drain", type=int, metavar="STREAMS", help="no faults: SIGTERM of the node with so many readers"
    )
    parser.add_argument(
        "--protocols", nargs="+", choices=PROTOCOLS, default=PROTOCOLS, help="with --drain: what they read on"
    )
    parser.add_argument("--report", type=Path, metavar="FILE", help="also write the report there")
    options = parser.parse_args()
    unknown = sorted(set(options.kinds or ()) - set(KINDS))
    if unknown:
        parser.error(f"unknown: {', '.join(unknown)}; known: {', '.join(KINDS)}")
    return options


def _faults(on: Parts, options: argparse.Namespace, machine: str) -> tuple[str, bool]:
    kinds = {name: kind for name, kind in KINDS.items() if options.kinds is None or name in options.kinds}
    outcomes = asyncio.run(
        suffer(on, kinds=list(kinds), runs=options.runs, seed=options.seed, hold_seconds=options.hold)
    )
    late = [
        name for name, kind in kinds.items() if meets_bar(kind, [one for one in outcomes if one.kind == name]) is False
    ]
    kept = not late and all(one.kept for one in outcomes)
    return markdown(outcomes, kinds, seed=options.seed, machine=machine), kept


def _drains(on: Parts, options: argparse.Namespace, machine: str) -> tuple[str, bool]:
    drained = asyncio.run(
        leave(on, streams=options.drain, runs=options.runs, seed=options.seed, protocols=options.protocols)
    )
    found = rows(drained, drain_seconds=DRAIN_SECONDS)
    report = f"Seed {options.seed}.\n\n{machine}\n\n{table.markdown(found)}\n{words(drained)}\n"
    return report, all(row.met is not False for row in found)


if __name__ == "__main__":
    sys.exit(main())

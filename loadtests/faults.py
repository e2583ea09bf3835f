"""``python -m loadtests.faults``: bad days of every part and of the network between them, and who lost what."""

from __future__ import annotations

import argparse
import asyncio
import random
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from loadtests.machine import allow_many_files, description
from loadtests.ordeal.kinds import KINDS
from loadtests.ordeal.rounds import Outcome, markdown, meets_bar, run
from loadtests.ordeal.stage import stage
from tests.parts import postgres, redis
from tests.parts.kafka import free_port
from tests.parts.kafka_trio import NODES, KafkaTrio, trio
from tests.parts.postgres import PostgresServer
from tests.parts.redis import RedisServer


def fronts() -> dict[int, int]:
    """Ports for what stands before each broker."""
    return {node: free_port() for node in NODES}


async def suffer(
    kafka: KafkaTrio,
    cache: RedisServer,
    database: PostgresServer,
    directory: Path,
    *,
    kinds: Sequence[str],
    runs: int,
    seed: int,
) -> list[Outcome]:
    """Each kind ``runs`` times, in turn, on one set of parts."""
    outcomes = []
    async with stage(kafka, cache, database, directory, seed=seed) as parts:
        await parts.flows()
        for number in range(1, runs + 1):
            for name in kinds:
                outcome = await run(parts, name, KINDS[name], number=number)
                outcomes.append(outcome)
                print(outcome.line(), *outcome.problems, *outcome.logged, sep="\n    ", flush=True)
    return outcomes


def main() -> int:
    """1 where a promise was broken or a bar missed, else 0."""
    parser = argparse.ArgumentParser(
        prog="python -m loadtests.faults", description="Faults on loopback only; see docs/operations/promises.md."
    )
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 32), help="what is random comes from it")
    parser.add_argument("--runs", type=int, default=10, help="of each kind")
    parser.add_argument("--kinds", nargs="+", metavar="KIND", help=f"of {', '.join(KINDS)}; all without")
    parser.add_argument("--report", type=Path, metavar="FILE", help="also write the report there")
    options = parser.parse_args()
    unknown = sorted(set(options.kinds or ()) - set(KINDS))
    if unknown:
        parser.error(f"unknown: {', '.join(unknown)}; known: {', '.join(KINDS)}")
    print(f"seed {options.seed}", flush=True)
    allow_many_files()
    machine = description()
    kinds = [name for name in KINDS if options.kinds is None or name in options.kinds]
    with (
        tempfile.TemporaryDirectory(prefix="faults-") as directory,
        trio(fronts=fronts()) as kafka,
        redis.server() as cache,
        postgres.server() as database,
    ):
        outcomes = asyncio.run(
            suffer(kafka, cache, database, Path(directory) / "parts", kinds=kinds, runs=options.runs, seed=options.seed)
        )
    report = markdown(outcomes, {name: KINDS[name] for name in kinds}, seed=options.seed, machine=machine)
    print(f"\n{report}")
    if options.report is not None:
        options.report.write_text(report)
    late = [n for n in kinds if meets_bar(KINDS[n], [one for one in outcomes if one.kind == n]) is False]
    return 1 if late or not all(one.kept for one in outcomes) else 0


if __name__ == "__main__":
    sys.exit(main())

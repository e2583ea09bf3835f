"""``gateway contracts new``: samples a topic and writes a contract to edit."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from gateway.cli.options import read_settings, settings_options

if TYPE_CHECKING:
    from gateway.cli.sampling import Sampled
    from gateway.config import Settings


@click.command()
@click.option("--topic", required=True, metavar="TOPIC", help="The Kafka topic to sample.")
@click.option(
    "--sample",
    "count",
    type=click.IntRange(1, 10_000),
    default=200,
    show_default=True,
    help="How many of the newest records to look at, over all partitions.",
)
@click.option("--cluster", default="main", show_default=True, help="The cluster's name in the settings.")
@click.option("--stream", metavar="NAME", help="The stream's name.  [default: made from the topic's]")
@click.option(
    "--output",
    "target",
    type=click.Path(path_type=Path, dir_okay=False),
    help="File to write, which must not exist yet.  [default: stdout]",
)
@click.option("--with-example", is_flag=True, help="Copy one whole payload into the file. It may be confidential.")
@settings_options
def new(
    *,
    topic: str,
    count: int,
    cluster: str,
    stream: str | None,
    target: Path | None,
    with_example: bool,
    config: Path | None,
    assignments: tuple[str, ...],
) -> None:
    """Sample a topic and write a contract to edit: valid as it stands, and a draft, so that it exposes nothing yet.

    The schema holds the types and member names that were met, and no value of any record.

    \b
    Example:
      gateway contracts new --topic aviation.flights.v2 --output asyncapi/streams/flights.yaml
    """
    settings = read_settings(config, assignments)
    name = _stream_name(stream, topic)
    _check_target(target)
    if cluster not in settings.kafka.by_name():
        from gateway.catalog.problems import problem_line
        from gateway.errors import ConfigurationProblems

        known = sorted(settings.kafka.by_name())
        raise ConfigurationProblems([problem_line("--cluster", "no such cluster", got=cluster, choices=known)])
    if sys.stderr.isatty():
        click.echo(f"reading the newest {count} records of {topic} …", err=True)
    sampled = asyncio.run(_sample(settings, cluster, topic, count=count))
    text = _draft(settings, sampled, stream=name, topic=topic, cluster=cluster, with_example=with_example)
    if target is None:
        click.echo(text, nl=False)
    else:
        # "x": what came into being meanwhile is not overwritten either.
        with target.open("x", encoding="utf-8") as file:
            file.write(text)
    where = f"; wrote {target}: edit it, then run `gateway contracts lint`" if target is not None else ""
    if sampled.records:
        said = f"sampled {len(sampled.records)} records of {topic} ({sampled.partitions} partitions)"
    else:
        said = f"the topic {topic} holds no record to look at: the contract is a skeleton without fields"
    click.echo(said + where, err=True)


def _stream_name(stream: str | None, topic: str) -> str:
    from gateway.catalog.exposure import NAME, NAME_ALLOWED

    if stream is None:
        return topic.lower().lstrip("._-")[:63] or "stream"
    if not NAME.fullmatch(stream):
        raise click.BadParameter(f"{stream!r}; allowed: {NAME_ALLOWED}", param_hint="--stream")
    return stream


def _check_target(target: Path | None) -> None:
    """Before anything is read: nobody likes to hear of it after the wait."""
    if target is None:
        return
    if target.exists():
        raise click.BadParameter(f"{target} exists; name another file, or remove it first", param_hint="--output")
    if not target.parent.is_dir():
        raise click.BadParameter(f"there is no directory {target.parent}", param_hint="--output")


async def _sample(settings: Settings, cluster: str, topic: str, *, count: int) -> Sampled:
    from gateway.cli.sampling import read_newest
    from gateway.clock import SystemClock
    from gateway.config.adapters import kafka_cluster_settings
    from gateway.kafka.cluster import KafkaCluster

    reached = kafka_cluster_settings(settings.kafka.by_name()[cluster])
    return await read_newest(KafkaCluster(reached, name=cluster, clock=SystemClock()), topic, count=count)


def _draft(settings: Settings, sampled: Sampled, *, stream: str, topic: str, cluster: str, with_example: bool) -> str:
    from gateway.catalog.draft import Origin, choose_example, write_contract
    from gateway.catalog.inference import Sample, infer

    reached = settings.kafka.by_name()[cluster]
    origin = Origin(
        stream=stream,
        topic=topic,
        cluster=cluster,
        host=next(iter(reached.bootstrap_servers)),
        protocol="kafka-secure" if reached.security_protocol.endswith("SSL") else "kafka",
        partitions=sampled.partitions,
    )
    samples = [
        Sample(record.value, has_key=record.key is not None, headers=tuple(name for name, _ in record.headers))
        for record in sampled.records
    ]
    example = choose_example(reversed(samples)) if with_example else None
    return write_contract(origin, infer(samples), example=example)

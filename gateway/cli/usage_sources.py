"""``gateway usage sources`` and ``create-topic``: who counts, who is lost, and the topic that usage goes through."""

from __future__ import annotations

import asyncio
import getpass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from gateway.cli.options import format_option, print_json, read_settings, settings_options
from gateway.cli.usage import books, print_table
from gateway.errors import ConfigurationProblems
from gateway.units import format_rfc3339

if TYPE_CHECKING:
    from gateway.config import Settings
    from gateway.metering.ledger import UnreadTopic

COLUMNS = ("source", "state", "node", "started_at", "complete_through")


@click.command(short_help="Which processes counted, and up to when each is complete; give up a lost one.")
@click.option("--lost", metavar="SOURCE", help="This one is gone for good with its disk: wait for it no more.")
@click.option("--lost-topic", metavar="TOPIC", help="What was not read of this usage topic will not be: wait no more.")
@settings_options
@format_option
def sources(
    *, lost: str | None, lost_topic: str | None, config: Path | None, assignments: tuple[str, ...], output: str
) -> None:
    """Show the sources of usage: one life of a serve each, with the moment up to which it has told everything.

    A live source that tells nothing any more holds back what usage and statements call complete. Its totals lie in
    data.dir/metering of its node, and any serve with that directory tells them. Where the disk is lost, name the source
    with --lost: what it had told stays, what it had not is nobody's. The audit log keeps who said so.

    A ledger that is made again from a usage topic is complete only once it has read that to its end. Where
    metering.topic was changed meanwhile, the topic before is named below the table: set it back until that is read, or
    give up what it still holds with --lost-topic.

    \b
    Example:
      gateway usage sources --lost 5f0c5a3e-0a51-4c0e-9d53-2f6de1a8f4b1
    """
    with books(config, assignments) as found:
        if lost is not None:
            at = format_rfc3339(round(found.now * 1000))
            if not found.ledger.give_up(lost, by=f"cli:{getpass.getuser()}", at=at):
                raise ConfigurationProblems([f"--lost {lost}: no live source has this name; see gateway usage sources"])
        if lost_topic is not None:
            at = format_rfc3339(round(found.now * 1000))
            if not found.ledger.give_up_topic(lost_topic, by=f"cli:{getpass.getuser()}", at=at):
                raise ConfigurationProblems(
                    [f"--lost-topic {lost_topic}: nothing that was to be read of this topic is missing"]
                )
        states, unread, topic = found.ledger.sources(), found.ledger.unread(), found.settings.metering.topic
    rows = [
        {
            "source": one.source,
            "state": one.state,
            "node": one.node,
            "started_at": format_rfc3339(one.started_at * 1000),
            "complete_through": format_rfc3339(one.complete_through * 1000),
        }
        for one in states
    ]
    if output == "json":
        print_json({"sources": rows, "unread_topics": [{"topic": one.topic, "missing": one.missing} for one in unread]})
        return
    print_table(list(COLUMNS), [list(row.values()) for row in rows], numbers=0)
    for one in unread:
        click.echo(_told(one, topic))


def _told(unread: UnreadTopic, topic: str) -> str:
    about = f"topic {unread.topic}: {unread.missing} offsets are not read yet, and nothing is complete before they are"
    if unread.topic == topic:
        return f"{about}; serve reads them"
    return f"{about}; metering.topic is {topic} now: set it back until they are, or --lost-topic {unread.topic}"


@click.command("create-topic", short_help="Make the Kafka topic that usage goes through.")
@click.option("--partitions", type=click.IntRange(1, 1000), default=1, show_default=True, help="How many it gets.")
@settings_options
@format_option
def create_topic(*, partitions: int, config: Path | None, assignments: tuple[str, ...], output: str) -> None:
    """Make metering.topic, compacted, in metering.cluster: for where serve itself may not.

    Run it with the Kafka settings of somebody who may create topics. One that is there already stays as it is, and
    what is wrong with how it keeps its records is said.

    \b
    Example:
      gateway usage create-topic --set kafka.sasl_username=admin
    """
    settings = read_settings(config, assignments)
    made, problem = asyncio.run(_ensure(settings, partitions))
    topic = settings.metering.topic
    if output == "json":
        print_json({"topic": topic, "made": made, "problem": problem})
    else:
        click.echo(f"topic {topic} {'made' if made else 'was there'}")
    if problem is not None:
        raise ConfigurationProblems([f"metering.topic: {problem}"])


async def _ensure(settings: Settings, partitions: int) -> tuple[bool, str | None]:
    from gateway.clock import SystemClock
    from gateway.config.adapters import kafka_clusters, usage_producer

    clusters = kafka_clusters(settings, clock=SystemClock())
    producer = usage_producer(settings, clusters)
    if producer is None:
        raise ConfigurationProblems(["kafka.bootstrap_servers: there is no Kafka cluster to make the topic in"])
    try:
        return await producer.ensure_topic(partitions=partitions), await producer.retention_problem()
    finally:
        for cluster in clusters.values():
            await cluster.close()

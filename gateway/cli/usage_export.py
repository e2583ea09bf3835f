"""``gateway usage export``: usage as CloudEvents, for programs that meter or bill elsewhere."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Final

import click

from gateway.cli.options import settings_options
from gateway.cli.usage import ask, books, read_rows, tell_progress
from gateway.errors import ConfigurationProblems

if TYPE_CHECKING:
    from gateway.metering.question import Question
    from gateway.metering.report import Row

TOLD_EVERY: Final = 1000


@click.command(short_help="Usage as CloudEvents 1.0, one a line.")
@click.option("--tenant", help="Whose.  [default: every tenant's]")
@click.option("--from", "start", help="RFC 3339 time or day.  [default: the beginning of the month]")
@click.option("--to", "end", help="RFC 3339 time or day; before it.  [default: now]")
@click.option("--granularity", help="15m, hour, day or month; stay with one.  [default: hour]")
@click.option("--source", help="The events' source, a URI.  [default: http.public_url, else a URN]")
@click.option("--incomplete", is_flag=True, help="Also rows that may still grow, as events of another type.")
@click.option("--output", type=click.Path(path_type=Path, dir_okay=False), help="A file.  [default: stdout]")
@settings_options
def export(
    *,
    tenant: str | None,
    start: str | None,
    end: str | None,
    granularity: str | None,
    source: str | None,
    incomplete: bool,
    output: Path | None,
    config: Path | None,
    assignments: tuple[str, ...],
) -> None:
    """Write usage as CloudEvents 1.0 in JSON, one event a line: for OpenMeter, Lago, Stripe and the like.

    Each event is the usage of a tenant in a stretch of its zone's time, by application, stream, protocol and plan. Its
    id is made of these: exporting the same twice gives the same ids, and whoever drops known ids counts once. Export
    always with the same granularity and source. Only stretches that are complete are written, unless --incomplete.

    \b
    Example:
      gateway usage export --from 2026-11-01 --to 2026-12-01 --output november.ndjson
    """
    from gateway.metering.export import BY, SOURCE, events, is_source, line
    from gateway.metering.report import PARTNER_MEASURES

    if source is not None and not is_source(source):
        raise ConfigurationProblems([f"--source {source!r}: a URI is needed, such as https://api.example.com/usage"])
    with books(config, assignments) as found:
        if tenant is not None:
            found.check_tenant(tenant)
        named = source or (found.settings.http.public_url and str(found.settings.http.public_url)) or SOURCE
        complete_until = found.ledger.complete_until(now=found.now)
        given = {"from": start, "to": end, "by": ",".join(BY), "granularity": granularity or "hour"}
        written = 0
        with _opened(output) as target:
            for one in found.ledger.tenants() if tenant is None else [tenant]:
                question = ask(given, found, one)
                rows = _even(read_rows(found, question, one, measures=PARTNER_MEASURES), question)
                complete = (row for row in rows if incomplete or row.end <= complete_until)
                for event in events(
                    complete, granularity=question.grain.granularity, source=named, complete_until=complete_until
                ):
                    target.write(line(event))
                    written += 1
                    if written % TOLD_EVERY == 0:
                        tell_progress(f"{written} events; {one}")
        if written >= TOLD_EVERY:
            tell_progress("")
        hint = "" if written or incomplete else ": only stretches that are complete; --incomplete takes the others"
        click.echo(f"{written} events{hint}", err=True)


def _even(rows: Iterator[Row], question: Question) -> Iterator[Row]:
    """Refuses rows that are longer than what was asked for: the same time in other pieces would be counted twice."""
    from gateway.metering.grain import spell

    grain = question.grain
    for row in rows:
        if row.end != grain.end(row.start):
            kept = "by the hour" if row.end - row.start < 2 * 3600 else "by the day"
            raise ConfigurationProblems(
                [f"--granularity {grain.granularity}: usage of {spell(row.start, grain.zone)} is kept {kept} only"]
            )
        yield row


@contextlib.contextmanager
def _opened(output: Path | None) -> Iterator[BinaryIO]:
    """Where events go; a file is there when it is whole."""
    if output is None:
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
        return
    part = output.with_name(output.name + ".part")
    try:
        with part.open("wb") as target:
            yield target
        part.replace(output)
    except OSError as error:
        raise ConfigurationProblems([f"--output {output}: cannot be written ({error.strerror})"]) from error
    finally:
        part.unlink(missing_ok=True)

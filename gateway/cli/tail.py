"""``gateway tail``: reads a stream as a partner does, and stays with it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import click

from gateway.cli.options import format_option, read_settings, settings_options

if TYPE_CHECKING:
    from gateway.client.event import Event
    from gateway.client.outcome import StreamInterrupted, StreamRefused
    from gateway.client.request import ProtocolName, StreamRequest

PROTOCOLS = ("sse", "ws", "ndjson", "pull")
LARGEST_PAGE = 1000

_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]+")


@click.command()
@click.argument("stream")
@click.option("--url", help="The gateway's public address.  [default: where gateway serve has it by these settings]")
@click.option(
    "--token",
    envvar="GATEWAY_TOKEN",
    help="Access token. Safer in the environment, where no list of processes shows it: GATEWAY_TOKEN.",
)
@click.option("--protocol", type=click.Choice(PROTOCOLS), default="sse", show_default=True, help="How to read.")
@click.option("--from", "start", help="latest, earliest, an RFC 3339 time or epoch milliseconds.  [default: latest]")
@click.option("--cursor", help="Go on after this place; a cursor of any protocol will do.")
@click.option("--limit", type=click.IntRange(min=1), help="Stop after so many records.")
@click.option("--no-reconnect", is_flag=True, help="Fail when the connection ends instead of coming back.")
@settings_options
@format_option
@click.pass_context
def tail(
    ctx: click.Context,
    *,
    stream: str,
    url: str | None,
    token: str | None,
    protocol: str,
    start: str | None,
    cursor: str | None,
    limit: int | None,
    no_reconnect: bool,
    config: Path | None,
    assignments: tuple[str, ...],
    output: str,
) -> None:
    """Read STREAM as a partner does: a line per record on stdout, all else on stderr.

    When the connection ends it comes back and goes on after the last record, as soon as the gateway allows. Gaps,
    goodbyes and throttling are shown. Text is time, key and data; json is the record as the gateway sent it, one line
    each. Ends with 0 at --limit and at Ctrl-C, with 1 when the gateway refuses for good. Settings say where the gateway
    is, for want of --url, and nothing else.

    \b
    Example:
      GATEWAY_TOKEN=$(gateway token --client-id acme-batch --scope streams:read) \\
        gateway tail earthquakes --from earliest --limit 10
    """
    if start is not None and cursor is not None:
        raise click.UsageError("--from and --cursor each say where to start; give one of them")
    from gateway.client.outcome import StreamInterrupted, StreamRefused
    from gateway.client.request import StreamRequest

    try:
        request = StreamRequest(
            base_url=_public_url(config, assignments) if url is None else url,
            stream=stream,
            protocol=cast("ProtocolName", protocol),
            token=token or None,
            start=start,
            cursor=cursor,
            parameters=[("limit", str(min(limit or LARGEST_PAGE, LARGEST_PAGE)))] if protocol == "pull" else [],
        )
    except ValueError as error:
        raise click.UsageError(str(error)) from error
    reading = Reading(output=output)
    try:
        asyncio.run(reading.run(request, limit=limit, reconnect=not no_reconnect))
    except KeyboardInterrupt:
        reading.say("stopped")
    except StreamRefused as refusal:
        reading.say_refusal(refusal)
        if not token:
            reading.say("no token was given; set GATEWAY_TOKEN, or --token")
        ctx.exit(1)
    except StreamInterrupted as interruption:
        reading.say(interruption.reason)
        ctx.exit(1)
    finally:
        reading.say_place()


def _public_url(config: Path | None, assignments: tuple[str, ...]) -> str:
    http = read_settings(config, assignments).http
    url = http.public_url_at(http.port)
    if url.endswith(":0"):
        raise click.UsageError("http.port = 0 is a free port, which only gateway serve knows; give --url")
    return url


class Reading:
    """What is printed of a stream, and how far it got."""

    def __init__(self, *, output: str) -> None:
        self._output = output
        self._cursor: str | None = None

    async def run(self, request: StreamRequest, *, limit: int | None, reconnect: bool) -> None:
        """Print until ``limit`` records are out; for ever without. Raises what ends the stream for good."""
        from gateway.client.follow import follow

        left = limit
        async with contextlib.aclosing(follow(request, reconnect=reconnect, on_wait=self._say_wait)) as events:
            async for event in events:
                if event.kind == "record":
                    click.echo(record_line(event, output=self._output))
                elif (line := describe(event)) is not None:
                    self.say(line)
                # Only now: a record that could not be printed is read again from here.
                self._cursor = event.cursor or self._cursor
                if event.kind == "record" and left is not None:
                    left -= 1
                    if left <= 0:
                        return

    def say(self, line: str) -> None:
        """One line for people; what the server put into it cannot move their cursor."""
        click.echo(f"gateway: {printable(line)}", err=True)

    def say_refusal(self, refusal: StreamRefused) -> None:
        """All that the server's problem tells."""
        self.say(refusal.reason)
        if refusal.action:
            self.say(refusal.action)
        if refusal.correlation_id:
            self.say(f"correlation id {refusal.correlation_id}")

    def say_place(self) -> None:
        """Where a later reading goes on."""
        if self._cursor is not None:
            self.say(f"go on with --cursor {self._cursor}")

    def _say_wait(self, interruption: StreamInterrupted, seconds: float) -> None:
        self.say(f"{interruption.reason.rstrip('.')}; trying again in {_span(seconds)}")


def record_line(event: Event, *, output: str) -> str:
    """A record as one line: its JSON, or time, key (``-`` without one) and data."""
    from gateway.client import jsontext

    if output == "json":
        return jsontext.one_line(event.text)
    try:
        parts = jsontext.members(event.text)
    except ValueError:
        return printable(event.text)
    time = _word(parts.get("time", '"-"'))
    key = _word(parts.get("key", parts.get("key_base64", '"-"')))
    return f"{time} {key} {jsontext.one_line(parts.get('data', parts.get('data_base64', 'null')))}"


def describe(event: Event) -> str | None:
    """A control event for people; None for those that need no attention."""
    try:
        data = event.data
    except ValueError:
        data = None
    if not isinstance(data, dict):
        return f"{event.kind}: {event.text}"
    match event.kind:
        case "welcome":
            return f"reading, session {data['session']}" if data.get("session") else "reading"
        case "gap":
            lost = f"from {data.get('from')} to {data.get('resumed_at')}"
            return f"gap ({data.get('reason')}): what was there cannot be delivered, {lost}"
        case "throttled":
            return f"throttled: {_listed(data)}"
        case "auth_expiring":
            return f"the token expires at {data.get('expires_at')}"
        case "checkpoint" if data.get("quota"):
            return f"quota: {_listed(data['quota'])}"
        case "checkpoint" | "goodbye":
            # A goodbye's reasons are told with what comes of it.
            return None
    return f"{event.kind}: {_listed(data)}"


def printable(text: str) -> str:
    """``text`` without line ends and other controls."""
    return _UNPRINTABLE.sub(" ", text)


def _span(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.1f} s"
    minutes, hours = round(seconds / 60), round(seconds / 3600)
    return f"{minutes} minutes" if minutes < 120 else f"{hours} hours" if hours < 48 else f"{round(hours / 24)} days"


def _listed(data: Any) -> str:
    if not isinstance(data, dict):
        return str(data)
    shown = {name: value for name, value in data.items() if name not in ("type", "cursor") and value is not None}
    return ", ".join(f"{name} {value}" for name, value in shown.items())


def _word(text: str) -> str:
    """A JSON string as one bare word where it is one, else as JSON; never anything a terminal would act on."""
    try:
        value = json.loads(text)
    except ValueError:
        return "-"
    if isinstance(value, str) and value and value.isprintable() and " " not in value:
        return value
    return json.dumps(value)

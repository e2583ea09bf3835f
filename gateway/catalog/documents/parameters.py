"""The query parameters of a read as one table: what AsyncAPI bindings and OpenAPI parameters are made from."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Final

from gateway.catalog.listing import visible_filters
from gateway.model import Contract, Transport
from gateway.subscription.filter import MAX_TERMS, OPS_BY_TYPE
from gateway.subscription.request import BUT_PULL, ENVELOPES, EVERYWHERE, MAX_SHARDS, PULL_ONLY

_SHOWN_POINTERS: Final = 100
_PULL: Final[tuple[Transport, ...]] = ("pull",)
_UNFRAMED: Final[tuple[Transport, ...]] = ("sse", "pull")
"""Protocols on which a bare payload can be told from a control event."""


@dataclass(frozen=True, slots=True)
class Parameter:
    """One query parameter. ``schema`` is JSON Schema, the same in draft-07 and 2020-12."""

    name: str
    description: str
    schema: dict[str, Any] = field(default_factory=dict)

    @property
    def is_repeatable(self) -> bool:
        """Whether it may be given several times."""
        return bool(self.schema.get("type") == "array")


_TABLE: Final = (
    Parameter(
        "cursor",
        "Go on after this cursor: the `id` of the last record, or any other cursor that this stream gave.",
        {"type": "string", "pattern": "^[A-Za-z0-9_-]+$"},
    ),
    Parameter(
        "last_event_id",
        "The same as `cursor`, by the name that clients of Server-Sent Events use; only one of the two may be given. "
        "The header `Last-Event-ID` goes before both.",
        {"type": "string", "pattern": "^[A-Za-z0-9_-]+$"},
    ),
    Parameter(
        "on_gap",
        "Where records after the given start are gone: `continue` says so with a gap and goes on, `error` refuses with "
        "410 `cursor_expired` and the earliest cursor.",
        {"type": "string", "enum": ["continue", "error"], "default": "continue"},
    ),
    Parameter(
        "shard",
        f"`i/n`: only the partitions p with p mod n = i, to share one stream among n readers; n ≤ {MAX_SHARDS}. "
        "A cursor is good for the split it came from.",
        {"type": "string", "pattern": "^[0-9]{1,2}/[0-9]{1,2}$", "examples": ["0/4"]},
    ),
    Parameter(
        "ticket",
        "Takes the token's place, for pages that can send no header: see `POST /v1/tickets`.",
        {"type": "string", "pattern": "^[A-Za-z0-9_-]{32}$"},
    ),
    Parameter("limit", "Most records of a page.", {"type": "integer", "minimum": 1, "maximum": 1000, "default": 100}),
    Parameter(
        "max_bytes",
        "Most bytes of the records of a page; one record is given whatever its size.",
        {"type": "integer", "minimum": 1, "maximum": 64 * 1024 * 1024, "default": 1024 * 1024},
    ),
    Parameter(
        "wait",
        "How many seconds to wait for a first record where there is none yet.",
        {"type": "number", "minimum": 0, "maximum": 30, "default": 0},
    ),
)
_PLAIN: Final = {one.name: one for one in _TABLE}


def parameters(contract: Contract, transports: tuple[Transport, ...]) -> Iterator[Parameter]:
    """What a read of the stream over one of ``transports`` takes, in the order of the reference."""
    streams = any(transport != "pull" for transport in transports)
    for name in (*EVERYWHERE, *(BUT_PULL if streams else ()), *(PULL_ONLY if "pull" in transports else ())):
        if name == "from":
            yield _from(contract)
        elif name == "envelope":
            yield _envelope(transports)
        elif name == "filter":
            yield from _filter(contract)
        elif name == "fields":
            yield from _fields(contract)
        else:
            yield _PLAIN[name]


def _from(contract: Contract) -> Parameter:
    words = ["latest", "earliest"] if contract.replay.earliest else ["latest"]
    told = ["`latest`: only what is new"]
    allowed: list[dict[str, Any]] = [{"type": "string", "enum": words}]
    if contract.replay.earliest:
        told.append("`earliest`: all there is")
    if contract.replay.time:
        told.append("an RFC 3339 time or epoch milliseconds: what Kafka received at or after it")
        allowed += [{"type": "string", "format": "date-time"}, {"type": "string", "pattern": "^[0-9]{1,15}$"}]
    text = f"Where to start; {'; '.join(told)}. A cursor goes before it."
    if contract.replay.max_age_seconds is not None:
        text += (
            f" Nothing older than {contract.replay.max_age_seconds} seconds is given; an older start begins with a gap."
        )
    return Parameter("from", text, {"anyOf": allowed, "default": "latest"})


def _envelope(transports: tuple[Transport, ...]) -> Parameter:
    names = [name for name in ENVELOPES if name != "none" or any(one in _UNFRAMED for one in transports)]
    text = "How a record is wrapped: `record` is the gateway's own, `cloudevents` is CloudEvents 1.0 in structured JSON"
    text += "; `none` is the payload alone." if "none" in names else "."
    if "none" in names and not all(one in _UNFRAMED for one in transports):
        text += " `none` is for Server-Sent Events and HTTP pull only."
    return Parameter("envelope", text, {"type": "string", "enum": names, "default": "record"})


def _filter(contract: Contract) -> Iterator[Parameter]:
    filters = visible_filters(contract)
    if not filters:
        return
    named = "; ".join(f"`{one.name}` ({one.type}: {', '.join(OPS_BY_TYPE[one.type])})" for one in filters)
    text = (
        "`name:op:value`; given several times, all must hold. `in` takes a comma list (a literal comma is `\\,`), "
        f"`exists` takes `true` or `false`. On an absent field only `exists:false` holds. Names: {named}."
    )
    ops = sorted({op for one in filters for op in OPS_BY_TYPE[one.type]})
    names = "|".join(one.name.replace(".", "\\.") for one in filters)
    items = {"type": "string", "pattern": f"^({names}):({'|'.join(ops)}):"}
    yield Parameter("filter", text, {"type": "array", "items": items, "maxItems": MAX_TERMS})


def _fields(contract: Contract) -> Iterator[Parameter]:
    if not contract.is_json:
        return
    text = "A comma list of JSON pointers: only these members of `data` are sent, required by the schema or not."
    if contract.projection is not None:
        shown = contract.projection[:_SHOWN_POINTERS]
        more = f" and {len(contract.projection) - len(shown)} more" if len(shown) < len(contract.projection) else ""
        text += f" Allowed are {', '.join(f'`{one}`' for one in shown)}{more}, and what lies below them."
    yield Parameter("fields", text, {"type": "string", "pattern": "^/"})

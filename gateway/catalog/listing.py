"""A stream as a partner sees it in ``GET /v1/streams``: built by allow-list, so that nothing internal can slip in."""

from __future__ import annotations

from typing import Any

from gateway.limits.scopes import limits_on
from gateway.model import Contract, FilterField, Masks, Plan
from gateway.subscription.mask import hides

_PATHS = {"sse": "sse", "ws": "ws", "pull": "records", "ndjson": "ndjson"}


def partner_entry(contract: Contract, plan: Plan, base_url: str, *, masks: Masks = ()) -> dict[str, Any]:
    """What a partner entitled at ``plan`` may know of a stream; ``base_url`` is the gateway's public URL.

    Never topic, cluster, owner, the values of a row filter, or a field that the projection leaves out or a mask hides.
    """
    base = base_url.rstrip("/")
    stream = f"{base}/v1/streams/{contract.stream}"
    entry: dict[str, Any] = {
        "name": contract.stream,
        "title": contract.title,
        "version": contract.version,
        "lifecycle": contract.lifecycle,
        "description": contract.description,
        "transports": list(contract.transports),
        "filters": [{"name": one.name, "type": one.type} for one in visible_filters(contract, masks)],
        "scopes": list(contract.scopes),
        "row_filtered": contract.row_filter is not None,
        "limits": limits_on(plan.limits, contract.stream),
        "replay": {
            "earliest": contract.replay.earliest,
            "time": contract.replay.time,
            "max_age_seconds": contract.replay.max_age_seconds,
        },
        "links": {transport: _link(stream, transport) for transport in contract.transports},
        "docs": f"{base}/asyncapi.json",
    }
    if contract.deprecated_on:
        entry["deprecated_on"] = contract.deprecated_on.isoformat()
    if contract.sunset_on:
        entry["sunset_on"] = contract.sunset_on.isoformat()
    if contract.successor:
        entry["successor"] = contract.successor
    return entry


def visible_filters(contract: Contract, masks: Masks = ()) -> tuple[FilterField, ...]:
    """The filters on fields that partners under these masks get to see; a row filter's field may be hidden."""
    projection = contract.projection
    shown = tuple(one for one in contract.filters if not hides(masks, one.pointer))
    if projection is None:
        return shown
    return tuple(
        one
        for one in shown
        if any(one.pointer == pointer or one.pointer.startswith(pointer + "/") for pointer in projection)
    )


def _link(stream: str, transport: str) -> str:
    url = f"{stream}/{_PATHS[transport]}"
    return "ws" + url.removeprefix("http") if transport == "ws" and url.startswith("http") else url

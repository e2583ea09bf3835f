"""What the documents tell of a stream besides schemas, for people and machines: its life, access, limits, contact."""

from __future__ import annotations

from typing import Any, Final

from gateway.catalog.documents.offer import Offer
from gateway.catalog.listing import visible_filters
from gateway.limits.scopes import limits_on
from gateway.model import Contract, Transport
from gateway.subscription.filter import OPS_BY_TYPE

API_VERSION: Final = "1.0.0"
"""Of the wire contract that /v1 stands for; streams have versions of their own."""

PATHS: Final[dict[Transport, str]] = {"sse": "sse", "ws": "ws", "pull": "records", "ndjson": "ndjson"}
LABELS: Final[dict[Transport, str]] = {
    "sse": "Server-Sent Events",
    "ws": "WebSocket",
    "pull": "HTTP pull",
    "ndjson": "NDJSON over HTTP",
}


def facts(offer: Offer) -> dict[str, Any]:
    """The stream for machines: the member ``x-stream``. Never topic, cluster, owner, or whose rows a filter keeps."""
    contract = offer.contract
    told: dict[str, Any] = {
        "name": contract.stream,
        "version": contract.version,
        "lifecycle": contract.lifecycle,
        "transports": list(contract.transports),
        "scopes": list(contract.scopes),
        "rowFiltered": contract.row_filter is not None,
        "filters": [
            {"name": one.name, "type": one.type, "field": one.pointer, "operators": list(OPS_BY_TYPE[one.type])}
            for one in visible_filters(contract)
        ],
        "replay": {
            "earliest": contract.replay.earliest,
            "time": contract.replay.time,
            "maxAgeSeconds": contract.replay.max_age_seconds,
        },
    }
    for name, day in (("deprecatedOn", contract.deprecated_on), ("sunsetOn", contract.sunset_on)):
        if day is not None:
            told[name] = day.isoformat()
    if contract.successor:
        told["successor"] = contract.successor
    if offer.plan is not None:
        told["plan"] = offer.plan.title
        told["limits"] = limits_on(offer.plan.limits, contract.stream)
    contact = contact_of(contract)
    if contact:
        told["contact"] = contact
    return told


def contact_of(contract: Contract) -> dict[str, str]:
    """Name and address that the contract gives for questions; its owner is the operator's business."""
    info = contract.document.get("info")
    contact = info.get("contact") if isinstance(info, dict) else None
    given = contact if isinstance(contact, dict) else {}
    return {name: given[name] for name in ("name", "email") if isinstance(given.get(name), str)}


def about(contract: Contract) -> str:
    """The stream for people, as CommonMark paragraphs."""
    told = [contract.description] if contract.description else []
    if contract.lifecycle == "deprecated":
        when = f" since {contract.deprecated_on.isoformat()}" if contract.deprecated_on else ""
        until = f"; it ends on {contract.sunset_on.isoformat()}" if contract.sunset_on else ""
        successor = f"; read `{contract.successor}` instead" if contract.successor else ""
        told.append(f"**Deprecated**{when}{until}{successor}.")
    if contract.row_filter is not None:
        told.append("You receive the records that your access covers, and never hear of others.")
    scopes = ", ".join(f"`{one}`" for one in contract.scopes)
    told.append(
        f"The token needs {'the scopes ' + scopes if len(contract.scopes) > 1 else 'the scope ' + scopes}."
        if scopes
        else "Any valid token of your organisation will do."
    )
    return "\n\n".join(told)

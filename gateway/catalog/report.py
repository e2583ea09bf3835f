"""A contract as its operator sees it, topic and cluster included: for operators, never for partners."""

from __future__ import annotations

from typing import Any

from gateway.model import Contract


def describe_contract(contract: Contract) -> dict[str, Any]:
    """Everything a contract decides, as plain data fit for JSON; the AsyncAPI document itself is left out."""
    row = contract.row_filter
    return {
        "stream": contract.stream,
        "id": contract.id,
        "title": contract.title,
        "version": contract.version,
        "description": contract.description,
        "lifecycle": contract.lifecycle,
        "deprecated_on": contract.deprecated_on.isoformat() if contract.deprecated_on else None,
        "sunset_on": contract.sunset_on.isoformat() if contract.sunset_on else None,
        "successor": contract.successor,
        "owner": contract.owner,
        "visibility": contract.visibility,
        "scopes": list(contract.scopes),
        "transports": list(contract.transports),
        "cluster": contract.cluster,
        "topic": contract.topic,
        "content_type": contract.content_type,
        "message": contract.message_name,
        "key_exposed": contract.key_exposed,
        "headers": list(contract.headers),
        "projection": list(contract.projection) if contract.projection is not None else None,
        "filters": [{"name": one.name, "pointer": one.pointer, "type": one.type} for one in contract.filters],
        "row_filter": {"field": row.field, "claim": row.claim, "attribute": row.attribute} if row else None,
        "replay": {
            "earliest": contract.replay.earliest,
            "time": contract.replay.time,
            "max_age_seconds": contract.replay.max_age_seconds,
        },
        "source": contract.source,
    }

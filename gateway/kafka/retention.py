"""How long a topic keeps its records, as its configuration says (DescribeConfigs, KIP-133)."""

from __future__ import annotations

from typing import Any

from aiokafka.protocol.admin import DescribeConfigsRequest

_TOPIC = 2
_AGE = "retention.ms"
_POLICY = "cleanup.policy"


def retention_request(topic: str) -> DescribeConfigsRequest:
    """The question."""
    return DescribeConfigsRequest([(_TOPIC, topic, [_AGE, _POLICY])])


def retention_in(response: Any) -> int | None:
    """Milliseconds from a record's Kafka time on for which its age does not remove it.

    None where age removes nothing (kept for ever, or only compacted) and where we may not know: to describe a topic's
    configuration is a right of its own.
    """
    for code, _message, _type, _name, entries in response.resources:
        if code:
            return None
        told = {entry[0]: entry[1] for entry in entries}
        age = int(told.get(_AGE) or -1)
        return age if age >= 0 and "delete" in (told.get(_POLICY) or "") else None
    return None

"""How long a topic keeps its records, as its configuration says (DescribeConfigs, KIP-133)."""

from __future__ import annotations

import math
from typing import Any

from aiokafka.protocol.admin import DescribeConfigsRequest

_TOPIC = 2
_AGE = "retention.ms"
_POLICY = "cleanup.policy"


def retention_request(topic: str) -> DescribeConfigsRequest:
    """The question."""
    return DescribeConfigsRequest([(_TOPIC, topic, [_AGE, _POLICY])])


def retention_in(response: Any) -> float | None:
    """Milliseconds from a record's Kafka time on for which its age does not remove it: infinite where age never does
    (kept for ever, or only compacted), None where we may not know, since to describe a topic is a right of its own."""
    for code, _message, _type, _name, entries in response.resources:
        if code:
            return None
        told = {entry[0]: entry[1] for entry in entries}
        if told.get(_AGE) is None or told.get(_POLICY) is None:
            return None
        age = int(told[_AGE])
        return age if age >= 0 and "delete" in told[_POLICY] else math.inf
    return None

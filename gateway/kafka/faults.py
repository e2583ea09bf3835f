"""What can be wrong with Kafka, in words for the operator and in words that a partner may see."""

from __future__ import annotations

from gateway.errors import Unavailable
from gateway.model import Vector


class KafkaUnavailable(Unavailable):
    """Kafka does not give what was asked, for now.

    ``str()`` and ``reason`` name cluster, topic and cause, for logs and health. ``detail``, which partners see, names
    nothing inside.
    """

    def __init__(self, reason: str, *, retry_after_ms: int | None = 1000) -> None:
        super().__init__("The source of the stream cannot be read at the moment.", retry_after_ms=retry_after_ms)
        self.reason = reason

    def __str__(self) -> str:
        return self.reason


class TopicMissing(KafkaUnavailable):
    """The cluster answers and knows no such topic."""


class Unsupported(KafkaUnavailable):
    """The brokers are of a kind that does not know this request."""


class OutOfRange(Exception):
    """A position that the topic does not hold (any more). Never shown to a partner; the engine makes a gap of it.

    ``earliest`` and ``latest`` are the topic's own bounds. Where the position lies before ``earliest``, retention
    passed it; where it lies beyond ``latest``, the topic's history itself has changed.
    """

    def __init__(self, *, earliest: Vector, latest: Vector) -> None:
        super().__init__(f"the topic holds {earliest} to {latest}")
        self.earliest = earliest
        self.latest = latest


def describe(fault: BaseException) -> str:
    """One line that names a foreign exception: its class, and its text where it has one."""
    text = " ".join(str(fault).split())
    return f"{type(fault).__name__}: {text}" if text else type(fault).__name__

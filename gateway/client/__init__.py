"""A partner's side of the gateway: reads a stream over any of its protocols, comes back and goes on."""

from __future__ import annotations

from gateway.client.client import StreamClient
from gateway.client.event import Envelope, Event, Kind, MalformedEvent
from gateway.client.follow import Backoff, follow
from gateway.client.outcome import ConnectionEnd, StreamInterrupted, StreamRefused
from gateway.client.request import ProtocolName, StreamRequest

__all__ = [
    "Backoff",
    "ConnectionEnd",
    "Envelope",
    "Event",
    "Kind",
    "MalformedEvent",
    "ProtocolName",
    "StreamClient",
    "StreamInterrupted",
    "StreamRefused",
    "StreamRequest",
    "follow",
]

"""What nodes say to each other, as bytes: versioned, so that two versions of the gateway can run side by side."""

from __future__ import annotations

from typing import Any, Final, Literal

import msgspec

VERSION: Final = 1
"""Grows when a change of the format would be misunderstood; members may be added without."""


class Message(msgspec.Struct, frozen=True, omit_defaults=True):
    """``question``: wants an ``answer`` with the same ``number`` on the sender's own channel. ``bell``: wants none."""

    kind: Literal["question", "answer", "bell"]
    topic: str
    sender: str
    number: int = 0
    body: dict[str, Any] = {}
    version: int = VERSION


_DECODER: Final = msgspec.json.Decoder(Message)


def encode(message: Message) -> bytes:
    """The message as JSON."""
    return msgspec.json.encode(message)


def decode(data: bytes) -> Message | None:
    """The message; None where it is none of this version: another version's, or foreign."""
    try:
        message = _DECODER.decode(data)
    except msgspec.DecodeError:
        return None
    return message if message.version == VERSION else None

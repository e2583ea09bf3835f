"""Which protocol an address and an Accept header ask for (RFC 9110 §12.5.1)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from gateway.errors import NotAcceptable
from gateway.model import Transport

MEDIA_TYPES: Final[tuple[tuple[str, Transport], ...]] = (
    # The first wins where a client likes several equally, so */* is a pull.
    ("application/json", "pull"),
    ("text/event-stream", "sse"),
    ("application/x-ndjson", "ndjson"),
)
SUFFIXES: Final[dict[str, Transport]] = {"sse": "sse", "ws": "ws", "records": "pull", "ndjson": "ndjson"}


def negotiate(accept: Sequence[bytes]) -> Transport:
    """The protocol for the values of Accept. Raises NotAcceptable, which names what is served."""
    ranges = _ranges(accept)
    if not ranges:
        return "pull"
    quality = {transport: _quality(media, ranges) for media, transport in MEDIA_TYPES}
    best = max(quality.values())
    if best <= 0:
        raise NotAcceptable(f"Served here: {', '.join(media for media, _ in MEDIA_TYPES)}.")
    return next(transport for _, transport in MEDIA_TYPES if quality[transport] == best)


def choose(accept: Sequence[bytes], medias: Sequence[str]) -> str:
    """The one of ``medias`` that Accept likes best, the first of those it likes equally. Raises NotAcceptable."""
    ranges = _ranges(accept)
    if not ranges:
        return medias[0]
    best = max(medias, key=lambda media: _quality(media, ranges))
    if _quality(best, ranges) <= 0:
        raise NotAcceptable(f"Served here: {', '.join(medias)}.")
    return best


def demand(accept: Sequence[bytes], media: str) -> None:
    """Raises NotAcceptable where Accept rules ``media`` out; an address that forces a protocol serves only that."""
    ranges = _ranges(accept)
    if ranges and _quality(media, ranges) <= 0:
        raise NotAcceptable(f"Served here: {media}.")


def _ranges(accept: Sequence[bytes]) -> list[tuple[str, float]]:
    """Media ranges with their weights; other parameters say nothing here, and what is no range is passed over."""
    found: list[tuple[str, float]] = []
    for part in b",".join(accept).decode("latin-1").split(","):
        media, *parameters = (piece.strip().lower() for piece in part.split(";"))
        if "/" not in media:
            continue
        weight = 1.0
        for parameter in parameters:
            name, _, value = parameter.partition("=")
            if name.strip() == "q":
                weight = _weight(value.strip())
        found.append((media, weight))
    return found


def _weight(text: str) -> float:
    try:
        weight = float(text)
    except ValueError:
        return 0.0
    return weight if 0.0 <= weight <= 1.0 else 0.0


def _quality(media: str, ranges: list[tuple[str, float]]) -> float:
    """The weight of the most specific range that holds ``media``."""
    kind = media.partition("/")[0]
    for wanted in (media, f"{kind}/*", "*/*"):
        weights = [weight for name, weight in ranges if name == wanted]
        if weights:
            return max(weights)
    return 0.0

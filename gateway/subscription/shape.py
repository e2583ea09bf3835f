"""What a reader wants of a stream, resolved against its contract: the key by which readers share a view."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, Literal

from gateway.errors import InvalidParameter
from gateway.model import Contract, FilterField, Masks, Transport
from gateway.subscription.filter import Term, parse_terms
from gateway.subscription.mask import drops, narrowed
from gateway.subscription.request import ReadRequest

EnvelopeName = Literal["record", "cloudevents", "none"]
MAX_FIELDS: Final = 100
MAX_POINTER_DEPTH: Final = 32
_POINTER = re.compile(r"(/([^~/]|~[01])*)+")


@dataclass(frozen=True, slots=True)
class Shape:
    """Projection (None: the whole payload), envelope, own filter, ``(index, count)`` of the shard, and what is masked
    of what the projection lets through."""

    projection: tuple[str, ...] | None = None
    envelope: EnvelopeName = "record"
    terms: frozenset[Term] = field(default_factory=frozenset)
    shard: tuple[int, int] = (0, 1)
    masks: Masks = ()

    @property
    def takes_all(self) -> bool:
        """Whether every record that the reader may see is in."""
        return not self.terms and self.shard == (0, 1)


def offered(contract: Contract, masks: Masks, *, shard: tuple[int, int] = (0, 1)) -> Shape:
    """What everybody under these masks reads who asks for nothing of their own."""
    projection, left = narrowed(contract.projection, masks)
    return Shape(projection, shard=shard, masks=left)


def shape_of(
    contract: Contract,
    request: ReadRequest,
    *,
    transport: Transport,
    filters: Sequence[FilterField],
    masks: Masks,
) -> Shape:
    """The request's shape. ``filters`` are the fields that this partner may filter on, ``masks`` what it may not see.

    Raises InvalidParameter for what the contract does not offer.
    """
    if request.envelope == "none" and transport not in ("sse", "pull"):
        raise InvalidParameter("envelope=none is for SSE and HTTP pull only; allowed here: record, cloudevents.")
    if (request.fields is not None or request.filters) and not contract.is_json:
        raise InvalidParameter("This stream's payload is not JSON: it has no fields to choose or to filter on.")
    allowed, _ = narrowed(contract.projection, masks)
    projection, left = narrowed(_projection(allowed, request.fields, masks), masks)
    return Shape(
        projection=projection,
        envelope=request.envelope,
        terms=parse_terms(request.filters, filters),
        shard=request.shard,
        masks=left,
    )


def _projection(allowed: tuple[str, ...] | None, wanted: str | None, masks: Masks) -> tuple[str, ...] | None:
    """What is allowed cut down to the wanted pointers; one above several keeps them all."""
    if wanted is None:
        return allowed
    pointers = wanted.split(",")
    if len(pointers) > MAX_FIELDS:
        raise InvalidParameter(f"fields names {len(pointers)} pointers; at most {MAX_FIELDS} are allowed.")
    kept: list[str] = []
    for pointer in pointers:
        if not _POINTER.fullmatch(pointer):
            raise InvalidParameter(f"fields: {pointer[:80]!r} is not a JSON pointer such as /properties/mag.")
        if pointer.count("/") > MAX_POINTER_DEPTH:
            raise InvalidParameter(f"fields: {pointer[:80]!r}… is deeper than {MAX_POINTER_DEPTH} members.")
        if drops(masks, pointer):
            raise _absent(pointer, allowed)
        if allowed is None:
            kept.append(pointer)
            continue
        below = [one for one in allowed if one == pointer or one.startswith(pointer + "/")]
        above = any(pointer.startswith(one + "/") for one in allowed)
        if not below and not above:
            raise _absent(pointer, allowed)
        kept += below or [pointer]
    # Sorted: the same set in another order is the same view.
    return tuple(sorted(set(kept)))


def _absent(pointer: str, allowed: tuple[str, ...] | None) -> InvalidParameter:
    """The same for what the contract leaves out and for what is masked: a partner has no use for the difference."""
    choices = f"; allowed: {', '.join(allowed)}" if allowed is not None else ""
    return InvalidParameter(f"fields: {pointer[:80]!r} is not in this stream{choices}.")

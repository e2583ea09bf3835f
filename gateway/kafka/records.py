"""From aiokafka's records to the engine's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from gateway.model import Record


def decode(partition: int, fetched: Sequence[Any], *, position: int) -> list[Record]:
    """A run of fetched records of one partition, in bulk.

    ``position`` is the fetch position after the run: the last record's ``next``, so that whoever reads on from there
    does not read control records and holes again. A header without a value comes out empty.
    """
    records = [
        Record(partition, one.offset, one.offset + 1, one.timestamp, one.key, one.value, _headers(one.headers))
        if one.headers
        else Record(partition, one.offset, one.offset + 1, one.timestamp, one.key, one.value)
        for one in fetched
    ]
    if records and records[-1].next != position:
        last = fetched[-1]
        records[-1] = Record(
            partition, last.offset, position, last.timestamp, last.key, last.value, _headers(last.headers)
        )
    return records


def _headers(fetched: Sequence[tuple[str, bytes | None]]) -> tuple[tuple[str, bytes], ...]:
    return tuple((name, b"" if value is None else value) for name, value in fetched)


def payload_bytes(records: Sequence[Record]) -> int:
    """Bytes of keys and values."""
    return sum(len(one.value or b"") + len(one.key or b"") for one in records)

"""From aiokafka's records to the engine's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from gateway.kafka.batches import Refused, mark_of
from gateway.kafka.cluster import KafkaCluster
from gateway.model import UNREADABLE, Record


def decode(cluster: KafkaCluster, partition: int, fetched: Sequence[Any], *, position: int) -> list[Record]:
    """A run of fetched records of one partition, in bulk.

    ``position`` is the fetch position after the run: the last record's ``next``, so that whoever reads on from there
    does not read control records and holes again. A header without a value comes out empty. What cannot be taken has
    the value UNREADABLE; the cluster is told of a record that is too large.
    """
    most = cluster.max_record_bytes
    # The sizes are aiokafka's; -1 for none.
    records = [
        Record(partition, one.offset, one.offset + 1, one.timestamp, one.key, one.value)
        if not one.headers and one.serialized_key_size + one.serialized_value_size <= most
        else _unusual(cluster, partition, one)
        for one in fetched
    ]
    if records and records[-1].next != position:
        records[-1] = with_next(records[-1], position)
    return records


def _unusual(cluster: KafkaCluster, partition: int, one: Any) -> Record:
    """A record with headers, one that stands for a batch, or one that is too large."""
    follows = mark_of(one.headers)
    if follows is not None:
        return Record(partition, one.offset, follows, one.timestamp, None, UNREADABLE)
    size = one.serialized_key_size + one.serialized_value_size
    if size > cluster.max_record_bytes:
        reason = f"it has {size} bytes, and stream.max_record_bytes is {cluster.max_record_bytes}"
        cluster.notice(one.topic, partition, Refused(one.offset, one.offset + 1, reason))
        return Record(partition, one.offset, one.offset + 1, one.timestamp, None, UNREADABLE)
    headers = tuple((name, b"" if value is None else value) for name, value in one.headers)
    return Record(partition, one.offset, one.offset + 1, one.timestamp, one.key, one.value, headers)


def with_next(record: Record, follows: int) -> Record:
    """The record with another place to go on from."""
    return Record(record.partition, record.offset, follows, record.timestamp, record.key, record.value, record.headers)


def payload_bytes(records: Sequence[Record]) -> int:
    """Bytes of keys and values."""
    return sum(len(one.value or b"") + len(one.key or b"") for one in records)

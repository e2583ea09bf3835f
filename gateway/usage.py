"""The words of usage: what is counted, under which key, for which stretch of time."""

from __future__ import annotations

from typing import Final, NamedTuple

from gateway.model import Transport

BUCKET_SECONDS: Final = 900
"""The finest stretch of usage. Every time zone's midnight falls on a quarter of an hour of UTC, so that a statement can
be cut in any of them."""

UNIT_BYTES: Final = 64 * 1024
"""A record counts as one unit for each begun stretch of so many bytes."""

REPLAY_AFTER_SECONDS: Final = 900
"""A record is replayed where Kafka's time of it is more than this before the read began, else live."""


class UsageKey(NamedTuple):
    """Whose usage, of what, by which way, in which quarter of an hour (``bucket``: its beginning in epoch seconds).

    ``application`` is the client id, ``revision`` the plan's at the time of the delivery. ``is_billable`` False is
    metered and never priced.
    """

    tenant: str
    application: str
    stream: str
    plan: str
    revision: int
    transport: Transport
    is_billable: bool
    bucket: int


class Usage(NamedTuple):
    """What was delivered under a key. A record is counted once: in ``records`` or in ``replayed_records``.

    ``bytes`` and ``replayed_bytes`` are of payloads as sent, decoded where they went as base64; ``units`` is of live
    and replayed records together; ``filtered_records`` were taken away by the partner's own filter, and
    ``hidden_records`` by a row filter, which only the operator may be told. ``connection_seconds`` are whole ones: what
    is left of a second at a bucket's end counts in the next.
    """

    records: int = 0
    bytes: int = 0
    units: int = 0
    connection_seconds: int = 0
    requests: int = 0
    replayed_records: int = 0
    replayed_bytes: int = 0
    filtered_records: int = 0
    hidden_records: int = 0

    def __add__(self, other: object) -> Usage:
        """Both together."""
        if not isinstance(other, Usage):
            return NotImplemented
        return Usage(*map(int.__add__, self, other))


MEASURES: Final = Usage._fields
"""Names of all counts, in their order."""


def bucket_of(moment: float) -> int:
    """The bucket of a moment in epoch seconds."""
    return int(moment) // BUCKET_SECONDS * BUCKET_SECONDS


def units_of(data_bytes: int) -> int:
    """Units of one record's payload."""
    return -(-data_bytes // UNIT_BYTES)

"""A record's identity: the same for everybody, different for every record, and without meaning."""

from __future__ import annotations

import re
import string

from hypothesis import given
from hypothesis import strategies as st

from gateway.uid import RecordIdentity

KEY = b"a uid key of tests"


def identity(key: bytes = KEY, *, cluster: str = "main", topic: str = "orders", incarnation: int = 1) -> RecordIdentity:
    return RecordIdentity(key, cluster=cluster, topic=topic, incarnation=incarnation)


@given(st.integers(0, 100_000), st.integers(0, (1 << 63) - 1))
def test_any_process_names_a_record_alike(partition: int, offset: int) -> None:
    uid = identity().uid(partition, offset)
    assert uid == identity().uid(partition, offset)
    assert re.fullmatch(rb"[A-Za-z0-9_-]{16}", uid)


def test_names_do_not_repeat() -> None:
    one = identity()
    assert len({one.uid(partition, offset) for partition in range(50) for offset in range(400)}) == 20_000


def test_each_part_of_the_place_counts() -> None:
    others = [
        identity(b"another key"),
        identity(cluster="second"),
        identity(topic="orders2"),
        identity(incarnation=2),
        # Parts are kept apart: what one ends with, the next cannot begin with.
        identity(cluster="mainor", topic="ders"),
        identity(topic="orders1", incarnation=1),
        identity(topic="orders", incarnation=11),
    ]
    assert len({one.uid(3, 7) for one in (identity(), *others)}) == 1 + len(others)
    assert identity().uid(0, 1) != identity().uid(1, 0)


def test_neighbours_have_nothing_in_common() -> None:
    one = identity()
    pairs = zip(one.uid(0, 1000).decode(), one.uid(0, 1001).decode(), strict=True)
    assert sum(a == b for a, b in pairs) < 6
    seen = set("".join(one.uid(0, offset).decode() for offset in range(500)))
    assert seen == set(string.ascii_letters + string.digits + "-_")

"""What a log is filled with before it is live stands in the order of time, and of offsets within a partition."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from gateway.hub.log import TopicLog
from gateway.hub.prefill import Prefill, by_time
from gateway.model import Record


def run(partition: int, *times: int) -> list[Record]:
    return [Record(partition, at, at + 1, millis, None, b"{}") for at, millis in enumerate(times)]


def places(records: list[Record]) -> list[tuple[int, int]]:
    return [(one.partition, one.offset) for one in records]


def test_partitions_interleave_by_time() -> None:
    assert places(by_time([run(0, 10, 30, 50), run(1, 20, 40)])) == [(0, 0), (1, 0), (0, 1), (1, 1), (0, 2)]


def test_a_record_that_claims_to_be_older_than_the_one_before_it_stays_behind_that_one() -> None:
    assert places(by_time([run(0, 10, 90, 20), run(1, 50, 95)])) == [(0, 0), (1, 0), (0, 1), (0, 2), (1, 1)]


@given(st.lists(st.lists(st.integers(0, 50), max_size=20), max_size=4))
def test_no_record_is_lost_and_no_partition_changes_its_order(times: list[list[int]]) -> None:
    runs = [run(partition, *millis) for partition, millis in enumerate(times)]
    ordered = by_time(runs)
    for partition, wanted in enumerate(runs):
        assert [one for one in ordered if one.partition == partition] == wanted
    assert len(ordered) == sum(map(len, runs))


def test_a_poured_prefill_leaves_the_log_at_the_positions_and_itself_empty() -> None:
    log = TopicLog(max_records=100, max_bytes=1 << 20)
    log.restart((0, 0, 0))
    prefill = Prefill()
    prefill.add(0, run(0, 10, 30), 2)
    prefill.add(1, run(1, 20), 1)
    prefill.add(0, (), 5)
    prefill.add(2, (), 7)
    prefill.pour(log)
    assert log.head_vector == (5, 1, 7)
    assert places(log.page_at(log.first).records) == [(0, 0), (1, 0), (0, 1)]
    assert log.vector_before(log.first + 2) == (1, 1, 0)
    first = log.head
    prefill.pour(log)
    assert (log.head, log.head_vector) == (first, (5, 1, 7))

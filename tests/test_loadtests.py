"""The load tests' own instruments: a client that overlooks a lost record would make every number worthless."""

from __future__ import annotations

import contextlib
import shutil
import socket
import threading
from collections.abc import Callable, Sequence

import pytest

from loadtests.readers import Readers, WrongDelivery, request
from loadtests.source import RECORD_BYTES, value
from loadtests.table import Row, markdown, median, percentile, spread

pytestmark = pytest.mark.skipif(shutil.which("cc") is None, reason="left out: no C compiler")

HEAD = b"HTTP/1.1 200 OK\r\n\r\n"


def serve(pieces: Sequence[bytes], then: Callable[[socket.socket], object]) -> int:
    """Answer one connection with these pieces, each in a write of its own; returns the port."""
    listening = socket.create_server(("127.0.0.1", 0))

    def answer() -> None:
        with listening, listening.accept()[0] as client:
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            client.recv(65536)
            # A reader that found a fault leaves with bytes unread, which resets the connection.
            with contextlib.suppress(ConnectionError):
                for piece in pieces:
                    client.sendall(piece)
                then(client)

    threading.Thread(target=answer, daemon=True).start()
    return int(listening.getsockname()[1])


def stay(client: socket.socket) -> None:
    client.recv(1)


def check(pieces: Sequence[bytes], *, then: Callable[[socket.socket], object] = stay) -> None:
    """Read until both partitions have had three records."""
    port = serve([HEAD, *pieces], then)
    with Readers(port, count=1, requests=[request("s", "token")], first=[5, 0]) as readers:
        readers.wait_for([8, 3])


def records(*places: tuple[int, int]) -> list[bytes]:
    return [b"data: %b\n\n" % value(partition, sequence) for partition, sequence in places]


RIGHT = ((0, 5), (1, 0), (0, 6), (0, 7), (1, 1), (1, 2))


def test_a_reader_that_gets_everything_is_content_however_the_bytes_are_cut() -> None:
    stream = b"".join(records(*RIGHT))
    check([stream])
    check(records(*RIGHT))
    check([stream[at : at + 7] for at in range(0, len(stream), 7)])


@pytest.mark.parametrize(
    "places",
    [
        ((0, 5), (0, 7), (1, 0), (1, 1), (1, 2)),
        ((0, 5), (0, 6), (0, 6), (0, 7), (1, 0), (1, 1), (1, 2)),
        ((0, 6), (0, 5), (0, 7), (1, 0), (1, 1), (1, 2)),
        ((0, 6), (0, 7), (1, 0), (1, 1), (1, 2)),
        (*RIGHT[:3], (2, 0), *RIGHT[3:]),
    ],
    ids=["lost", "repeated", "out of order", "begun too late", "of no partition"],
)
def test_a_record_that_is_not_the_next_one_is_a_fault(places: Sequence[tuple[int, int]]) -> None:
    with pytest.raises(WrongDelivery, match="faults"):
        check(records(*places))


def test_a_connection_that_ends_is_a_fault() -> None:
    with pytest.raises(WrongDelivery, match="1 connections ended"):
        check(records(*RIGHT[:3]), then=socket.socket.close)


def test_an_answer_that_is_no_stream_is_a_fault() -> None:
    port = serve([b"HTTP/1.1 403 Forbidden\r\n\r\n"], stay)
    with (
        Readers(port, count=1, requests=[request("s", "token")], first=[0]) as readers,
        pytest.raises(WrongDelivery),
    ):
        readers.wait_open()


def test_records_have_the_size_that_the_page_of_results_states() -> None:
    assert {len(value(partition, sequence)) for partition in range(4) for sequence in (0, 10**9)} == {RECORD_BYTES}


def test_the_table_says_what_was_measured_and_whether_it_was_enough() -> None:
    rows = [Row("a", spread([3, 1, 2]), "≤ 2", False), Row("b", spread([1.5]))]
    assert markdown(rows).splitlines()[2:] == ["| a | 2.00 (1.00 to 3.00) | ≤ 2 | **missed** |", "| b | 1.50 |  |  |"]
    assert (median([4, 1, 3, 2]), median([5])) == (2.5, 5)
    hundred = list(range(1, 101))
    assert [percentile(hundred, share) for share in (0.5, 0.99, 1.0)] == [50, 99, 100]

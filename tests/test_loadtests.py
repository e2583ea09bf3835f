"""The load tests' own instruments: a client that overlooks a lost record would make every number worthless."""

from __future__ import annotations

import contextlib
import json
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from urllib.parse import parse_qsl

import pytest

from gateway.hub.log import TopicLog
from gateway.model import FilterField, Record
from gateway.subscription.filter import parse_terms
from gateway.subscription.selector import FieldIndex, selector
from loadtests.pester import CONNECTIONS
from loadtests.readers import Readers, WrongDelivery, request
from loadtests.scenarios import closing
from loadtests.scenarios.filters import (
    AIRLINES,
    EXPOSED,
    PARTITIONS,
    RARE,
    Airlines,
    emergency_record,
    general_filters,
)
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


def serve_each(streams: Sequence[Sequence[bytes]]) -> int:
    """Answer connections in turn, each with its own pieces; returns the port."""
    listening = socket.create_server(("127.0.0.1", 0))

    def answer() -> None:
        with listening, contextlib.ExitStack() as clients:
            for pieces in streams:
                client = clients.enter_context(listening.accept()[0])
                client.recv(65536)
                with contextlib.suppress(ConnectionError):
                    client.sendall(HEAD + b"".join(pieces))
            client.recv(1)

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


def test_each_reader_begins_where_its_own_request_says() -> None:
    """Two connections by two requests, one after the other on the same port; the first numbers are their own."""
    port = serve_each([records((0, 5), (1, 0)), records((0, 7), (1, 2))])
    requests = [request("s", "token", first=first) for first in ([5, 0], [7, 2])]
    with Readers(port, count=2, requests=requests, first=[-1, -1], most_unanswered=1) as readers:
        readers.wait_open()
        readers.wait_until("to read both", lambda now: now["deliveries"] == 4)
        assert readers.stats()["low"] == [6, 1]


def test_a_reader_that_begins_at_anothers_place_is_at_fault() -> None:
    port = serve_each([records((0, 5), (1, 0)), records((0, 5), (1, 0))])
    requests = [request("s", "token", first=first) for first in ([5, 0], [7, 2])]
    with (
        Readers(port, count=2, requests=requests, first=[-1, -1], most_unanswered=1) as readers,
        pytest.raises(WrongDelivery, match="faults"),
    ):
        readers.wait_until("to read both", lambda now: now["deliveries"] == 4)


def test_the_mark_of_a_request_is_not_sent() -> None:
    marked, plain = request("s", "token", first=[1, 2]), request("s", "token")
    assert marked == b"@1,2\n" + plain
    heard: list[bytes] = []
    listening = socket.create_server(("127.0.0.1", 0))

    def hear() -> None:
        with listening, listening.accept()[0] as client:
            heard.append(client.recv(65536))
            client.sendall(HEAD)
            client.recv(1)

    threading.Thread(target=hear, daemon=True).start()
    with Readers(int(listening.getsockname()[1]), count=1, requests=[marked], first=[0, 0]) as readers:
        readers.wait_open()
    assert heard == [plain]


def test_arrivals_are_kept_from_the_first_time_they_are_asked_for_and_told_once() -> None:
    asked = threading.Event()

    def then(client: socket.socket) -> None:
        asked.wait(30)
        client.sendall(b"".join(records((0, 6), (1, 0))))
        stay(client)

    began = time.monotonic()
    port = serve([HEAD, *records((0, 5))], then)
    with Readers(port, count=1, requests=[request("s", "token")], first=[5, 0]) as readers:
        readers.wait_for([6, 0])
        assert readers.arrivals() == []
        asked.set()
        readers.wait_for([7, 1])
        found = readers.arrivals()
        assert [(partition, sequence) for partition, sequence, _ in found] == [(0, 6), (1, 0)]
        assert all(began <= at <= time.monotonic() for _, _, at in found), "the same clock as ours"
        assert readers.arrivals() == []


def test_a_neighbour_goes_on_to_ask_whatever_the_answers_are() -> None:
    answers = [
        b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nHTTP/",
        b"HTTP/1.1 429 Too Many Requests\r\nContent-Length: 0\r\n\r\n",
    ]
    listening = socket.create_server(("127.0.0.1", 0), backlog=CONNECTIONS)
    heard: list[bytes] = []
    enough = threading.Event()

    def answer(client: socket.socket) -> None:
        with client, contextlib.suppress(ConnectionError):
            while said := client.recv(65536):
                heard.append(said)
                client.sendall(answers[len(heard) % 2])
                if len(heard) >= 3 * CONNECTIONS:
                    enough.set()

    def accept() -> None:
        with listening:
            for _ in range(CONNECTIONS):
                threading.Thread(target=answer, args=(listening.accept()[0],), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    command = [sys.executable, "-m", "loadtests.pester", str(listening.getsockname()[1]), "400", "/v1/some", "token"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as pester:
        assert enough.wait(60)
        told, _ = pester.communicate(timeout=60)
    counts = json.loads(told.splitlines()[-1])
    assert set(counts) == {"200", "429"}
    # One on each connection may be on its way when it ends.
    assert len(heard) - CONNECTIONS <= sum(counts.values()) <= len(heard)
    assert {one.split(b"\r\n")[0] for one in heard} == {b"GET /v1/some HTTP/1.1"}


def test_of_a_thousand_airlines_each_has_the_next_number_of_its_own() -> None:
    airlines = Airlines()
    airlines.whose = "many"
    made = [decoded(airlines(0, number)) for number in range(2 * AIRLINES)]
    assert [one["seq"] for one in made if one["airline"] == "A007"] == ["0:0000000000", "0:0000000001"]
    assert len({one["airline"] for one in made}) == AIRLINES
    assert airlines.read("many") == [2]
    assert airlines.read("one") == [0]


def test_of_the_records_for_one_filter_one_in_a_thousand_passes_and_no_other_can_be_read() -> None:
    airlines = Airlines()
    airlines.whose = "one"
    made = [decoded(airlines(0, number)) for number in range(2 * AIRLINES)]
    assert [one["seq"] for one in made if one["airline"] == "B000"] == ["0:0000000000", "0:0000000001"]
    assert all(one["seq"].startswith("9:") for one in made if one["airline"] != "B000")


def test_emergencies_pass_every_general_filter_and_nothing_else_passes_any() -> None:
    fields = [FilterField(name, one["pointer"], one["type"]) for name, one in EXPOSED["filters"].items()]  # type: ignore[attr-defined]
    filters = general_filters()
    assert len({parse_terms(texts_of(query), fields) for query in filters}) == len(filters)
    log = TopicLog(max_records=1000, max_bytes=1 << 20)
    log.restart((0,))
    for query in filters:
        chosen = selector(
            rows=None,
            terms=parse_terms(texts_of(query), fields),
            shard=(0, 1),
            index=lambda pointer: FieldIndex(log, pointer),
        )
        assert chosen is not None
        assert chosen.route is None, "no look-up decides it"
        for number in range(2 * RARE):
            record = Record(0, number, number + 1, 0, None, emergency_record(number % PARTITIONS, number // PARTITIONS))
            assert chosen.matches(record) is (number % RARE == 0), (query, number)


def texts_of(query: str) -> list[str]:
    return [value for name, value in parse_qsl(query) if name == "filter"]


def decoded(payload: bytes) -> dict[str, str]:
    assert len(payload) == RECORD_BYTES
    found: dict[str, str] = json.loads(payload)
    return found


def test_records_have_the_size_that_the_page_of_results_states() -> None:
    assert {len(value(partition, sequence)) for partition in range(4) for sequence in (0, 10**9)} == {RECORD_BYTES}


def test_the_month_that_a_load_test_closes_is_one_that_a_gateway_can_have_had() -> None:
    rows = closing.run(None, quick=True)
    assert len(rows) == 3


def test_the_table_says_what_was_measured_and_whether_it_was_enough() -> None:
    rows = [Row("a", spread([3, 1, 2]), "≤ 2", False), Row("b", spread([1.5]))]
    assert markdown(rows).splitlines()[2:] == ["| a | 2.00 (1.00 to 3.00) | ≤ 2 | **missed** |", "| b | 1.50 |  |  |"]
    assert (median([4, 1, 3, 2]), median([5])) == (2.5, 5)
    hundred = list(range(1, 101))
    assert [percentile(hundred, share) for share in (0.5, 0.99, 1.0)] == [50, 99, 100]

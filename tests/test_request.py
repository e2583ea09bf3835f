"""What a partner asks for is understood whole or refused with what is allowed; never a surprise."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote, urlencode

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import BadRequest, GatewayError, InvalidParameter, UnknownParameter
from gateway.model import TRANSPORTS, Transport
from gateway.subscription.request import MAX_PARAMETERS, ReadRequest, Start, parse_listing, parse_nothing, parse_read


def read(query: str, *, transport: Transport = "sse", last_event_id: str | None = None) -> ReadRequest:
    return parse_read(query.encode("latin-1"), transport=transport, last_event_id=last_event_id)


def refused(query: str, error: type[GatewayError], *names: str, transport: Transport = "pull") -> None:
    """The refusal's class, and what its detail must name."""
    with pytest.raises(GatewayError) as caught:
        read(query, transport=transport)
    assert type(caught.value) is error, repr(caught.value)
    assert caught.value.status == 400
    for name in names:
        assert name in caught.value.detail, caught.value.detail


def test_without_a_word_a_read_starts_at_the_latest() -> None:
    assert read("") == ReadRequest()
    assert read("").start == Start("latest")
    pull = read("", transport="pull")
    assert (pull.limit, pull.max_bytes, pull.wait_seconds, pull.on_gap) == (100, 1 << 20, 0, "continue")


@pytest.mark.parametrize(
    ("text", "start"),
    [
        ("latest", Start("latest")),
        ("earliest", Start("earliest")),
        ("0", Start("time", millis=0)),
        ("1763805600000", Start("time", millis=1_763_805_600_000)),
        ("2025-11-22T10:00:00Z", Start("time", millis=1_763_805_600_000)),
        ("2025-11-22t10:00:00.5z", Start("time", millis=1_763_805_600_500)),
        ("2025-11-22T11:00:00+01:00", Start("time", millis=1_763_805_600_000)),
        ("1970-01-01T00:00:00Z", Start("time", millis=0)),
        ("9999-12-31T23:59:59.999Z", Start("time", millis=253_402_300_799_999)),
    ],
)
def test_a_start_is_an_end_a_time_or_milliseconds(text: str, start: Start) -> None:
    assert read(urlencode({"from": text})).start == start


def test_a_plus_that_was_not_escaped_is_taken_for_one() -> None:
    assert read("from=2025-11-22T11:00:00+01:00").start.millis == 1_763_805_600_000


@pytest.mark.parametrize(
    "text",
    [
        "now",
        "Latest",
        "-1",
        "1e3",
        "1.5",
        "٣",
        "99999999999999999999",
        "253402300800000",
        "2025-11-22",
        "2025-11-22T10:00:00",
        "2025-13-01T00:00:00Z",
        "2025-02-30T00:00:00Z",
        "2025-11-22T24:00:00Z",
        "2025-11-22T10:00:60Z",
        "2025-11-22 10:00:00Z",
        "1969-12-31T23:59:59Z",
        "0000-01-01T00:00:00Z",
        "2025-11-22T10:00:00+25:00",
        "9999-12-31T23:59:59-01:00",
    ],
)
def test_no_other_start_is_taken(text: str) -> None:
    refused(urlencode({"from": text}), InvalidParameter, "from=", "latest", "earliest", "RFC 3339", "milliseconds")


def test_a_cursor_wins_over_from_and_the_header_over_both() -> None:
    assert read("cursor=abc").start == Start("cursor", cursor="abc")
    assert read("last_event_id=abc").start == Start("cursor", cursor="abc")
    assert read("from=earliest&cursor=abc").start == Start("cursor", cursor="abc")
    assert read("cursor=abc", last_event_id="def").start == Start("cursor", cursor="def")
    assert read("from=earliest", last_event_id="def").start == Start("cursor", cursor="def")
    # What loses is looked at all the same.
    refused("cursor=abc&from=never", InvalidParameter, "from=never")


def test_two_names_for_a_cursor_are_one_too_many() -> None:
    refused("cursor=a&last_event_id=a", InvalidParameter, "cursor", "last_event_id")


@pytest.mark.parametrize("query", ["limit=1&limit=1", "cursor=a&cursor=b", "on_gap=error&on_gap=error"])
def test_given_twice_is_refused(query: str) -> None:
    refused(query, InvalidParameter, query.partition("=")[0], "twice")


@pytest.mark.parametrize("query", ["limit=", "from=", "cursor", "wait=&limit=1"])
def test_empty_is_refused(query: str) -> None:
    refused(query, InvalidParameter, query.partition("=")[0], "empty")


@pytest.mark.parametrize("name", ["Limit", "offset", "x" * 300, "from ", "", "\x00", "läst"])
def test_what_is_not_known_is_refused_with_what_is(name: str) -> None:
    refused(f"{quote(name)}=1", UnknownParameter, "from", "cursor", "on_gap", "limit", "wait", name[:40].strip("\x00"))


@pytest.mark.parametrize("query", ["limit=1", "max_bytes=1", "wait=1"])
@pytest.mark.parametrize("transport", [one for one in TRANSPORTS if one != "pull"])
def test_what_belongs_to_pull_is_refused_elsewhere(query: str, transport: Transport) -> None:
    refused(query, InvalidParameter, query.partition("=")[0], "pull", transport=transport)
    read(query, transport="pull")


@pytest.mark.parametrize(
    ("name", "good", "bad"),
    [
        ("limit", ["1", "1000", "0100"], ["0", "1001", "-1", "1.0", "+1", "1e2", " 1", "\uff11", "9" * 20]),
        ("max_bytes", ["1", "67108864"], ["0", "67108865", "-5", "1k", "0x10"]),
        ("wait", ["0", "30", "0.5", "29.999999"], ["30.000001", "31", "-1", "1e1", "inf", "nan", ".5", "1."]),
        ("on_gap", ["continue", "error"], ["Error", "stop", "continue,error"]),
        ("envelope", ["record"], ["Record", "xml"]),
    ],
)
def test_values_are_bounded_and_the_refusal_says_how(name: str, good: list[str], bad: list[str]) -> None:
    for text in good:
        read(urlencode({name: text}), transport="pull")
    for text in bad:
        refused(urlencode({name: text}), InvalidParameter, name)


def test_what_is_no_utf_8_is_refused() -> None:
    refused("cursor=%ff", BadRequest, "UTF-8")
    refused("cursor=\xff", BadRequest, "UTF-8")


def test_too_many_parameters_are_refused() -> None:
    refused("&".join(f"p{number}=1" for number in range(MAX_PARAMETERS + 1)), BadRequest, str(MAX_PARAMETERS))


def test_a_refusal_repeats_little_and_no_controls() -> None:
    with pytest.raises(InvalidParameter) as caught:
        read(urlencode({"from": "\r\nSet-Cookie: a=b\x1b[2J" + "x" * 5000}))
    assert caught.value.detail.isprintable()
    assert len(caught.value.detail) < 400


@given(st.dictionaries(st.text(max_size=12), st.text(max_size=30), max_size=5), st.sampled_from(TRANSPORTS))
def test_any_query_is_read_or_refused_as_the_partners_fault(pairs: dict[str, str], transport: Transport) -> None:
    query = urlencode({name.encode("utf-8", "surrogatepass"): text for name, text in pairs.items()}).encode()
    check(query, transport)


@given(st.binary(max_size=60), st.sampled_from(TRANSPORTS))
def test_any_bytes_are_read_or_refused_as_the_partners_fault(query: bytes, transport: Transport) -> None:
    check(query, transport)


@given(
    st.sampled_from(["from", "cursor", "limit", "max_bytes", "wait", "on_gap", "envelope", "shard", "filter"]),
    st.text(max_size=30),
)
def test_any_value_is_read_or_refused_as_the_partners_fault(name: str, text: str) -> None:
    check(urlencode({name: text.encode("utf-8", "surrogatepass")}).encode(), "pull")


def check(query: bytes, transport: Transport) -> None:
    try:
        found: Any = parse_read(query, transport=transport)
    except GatewayError as error:
        assert error.status == 400
    else:
        assert 1 <= found.limit <= 1000
        assert 0 <= found.wait_seconds <= 30


def test_an_address_without_parameters_refuses_them() -> None:
    parse_nothing(b"")
    with pytest.raises(UnknownParameter):
        parse_nothing(b"limit=1")


def test_a_list_is_paged_by_limit_and_next() -> None:
    assert parse_listing(b"") == (1000, "")
    assert parse_listing(b"limit=2&next=flights") == (2, "flights")
    for query in (b"limit=0", b"limit=1001", b"next=", b"offset=1", b"limit=1&limit=2"):
        with pytest.raises(BadRequest):
            parse_listing(query)

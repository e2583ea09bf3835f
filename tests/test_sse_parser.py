"""The client's SSE parser against the WHATWG's rules, with the bytes split at every place."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.client.event import MalformedEvent
from gateway.client.sse import EVENT_BYTES, ServerSentEvent, SseDecoder, SseParser

STREAM = (
    b"\xef\xbb\xbf: a comment\n"
    b"retry: 1500\r\n"
    b"\r\n"
    b"id: one\rdata: first\r\r"
    b'id:two\ndata: {"a":1}\ndata:  spaced\n\n'
    b"event: checkpoint\r\ndata\r\nid: three\r\n\r\n"
    b"data: caf\xc3\xa9 \xe2\x82\xac \xf0\x9f\x8c\x8d\n\n"
    b"id: bad\0id\ndata: keeps three\n\n"
    b"id\ndata: forgotten id\n\n"
    b"id: four\n\n"
    b"data: after an id alone\nunknown: x\nretry: 12x\nretry: 7\n\n"
    b"id: never\ndata: cut off"
)
EVENTS = [
    ServerSentEvent("message", "first", "one"),
    ServerSentEvent("message", '{"a":1}\n spaced', "two"),
    ServerSentEvent("checkpoint", "", "three"),
    ServerSentEvent("message", "café € 🌍", "three"),
    ServerSentEvent("message", "keeps three", "three"),
    ServerSentEvent("message", "forgotten id", ""),
    ServerSentEvent("message", "after an id alone", "four"),
]


def heard(*chunks: bytes) -> tuple[list[ServerSentEvent], SseParser]:
    parser = SseParser()
    return [event for chunk in chunks for event in parser.feed(chunk)], parser


def test_a_stream_of_all_line_ends_is_read_whole() -> None:
    events, parser = heard(STREAM)
    assert events == EVENTS
    assert parser.retry_ms == 7
    assert parser.last_event_id == "four"


@pytest.mark.parametrize("at", range(len(STREAM) + 1))
def test_a_split_at_any_byte_changes_nothing(at: int) -> None:
    events, parser = heard(STREAM[:at], b"", STREAM[at:])
    assert events == EVENTS
    assert (parser.retry_ms, parser.last_event_id) == (7, "four")


def test_byte_by_byte_changes_nothing() -> None:
    assert heard(*(bytes([byte]) for byte in STREAM))[0] == EVENTS


@given(
    st.lists(st.sampled_from([b"data: x", b"data", b"id: 1", b":", b"\r", b"\n", b"\r\n", b"\xef\xbb\xbf", b"\xc3"]))
)
def test_any_bytes_mean_the_same_whole_and_one_by_one(pieces: list[bytes]) -> None:
    whole = b"".join(pieces)
    assert heard(whole)[0] == heard(*(bytes([byte]) for byte in whole))[0]


@pytest.mark.parametrize("end", [b"\n", b"\r", b"\r\n"])
def test_an_event_is_there_as_soon_as_its_empty_line_has_ended(end: bytes) -> None:
    parser = SseParser()
    assert parser.feed(b"data: x" + end) == []
    assert parser.feed(end[:1]) == [ServerSentEvent("message", "x", "")]


def test_the_id_of_an_event_that_never_ended_is_not_taken() -> None:
    _, parser = heard(b"id: one\ndata: x\n\nid: two\ndata: y\n")
    assert parser.last_event_id == "one"


def test_a_byte_order_mark_is_one_only_at_the_start() -> None:
    events, _ = heard(b"\xef\xbb\xbf\xef\xbb\xbfdata: no field of that name\n\ndata: x\n\xef\xbb\xbfdata: nor this\n\n")
    assert events == [ServerSentEvent("message", "x", "")]


def test_bytes_that_are_not_utf_8_are_replaced() -> None:
    assert heard(b"data: a\xffb\xc3\n\n")[0] == [ServerSentEvent("message", "a�b�", "")]


def test_separators_that_are_no_line_ends_stay_in_the_data() -> None:
    text = "a\x0bb\x0cc\x1cd\x85e\u2028f\u2029g"
    assert heard(f"data: {text}\n\n".encode())[0] == [ServerSentEvent("message", text, "")]


def test_a_retry_of_many_digits_is_a_long_time_and_no_error() -> None:
    assert (heard(b"retry: " + b"9" * 5000 + b"\n")[1].retry_ms or 0) > 10**11
    assert heard(b"retry: 0007\n")[1].retry_ms == 7
    assert heard(b"retry: -1\nretry:\nretry: \xd9\xa1\n")[1].retry_ms is None


def test_an_event_without_end_is_refused() -> None:
    parser = SseParser()
    with pytest.raises(MalformedEvent, match="more than"):
        for _ in range(EVENT_BYTES // (1 << 20) + 1):
            parser.feed(b"x" * (1 << 20))


def test_a_record_gets_its_id_back_and_keeps_its_digits() -> None:
    number = "1.10,123456789012345678901234567890"
    decoder = SseDecoder()
    (event,) = decoder.feed(b'id: abc\ndata: {"uid":"u","data":[' + number.encode() + b',"\\ud800"]}\n\n')
    assert (event.kind, event.cursor) == ("record", "abc")
    assert event.text == '{"id":"abc","uid":"u","data":[' + number + ',"\\ud800"]}'
    assert event.data["data"][1] == 123456789012345678901234567890


def test_other_envelopes_come_as_they_are() -> None:
    for envelope, text in (("cloudevents", '{"specversion":"1.0","cursor":"abc"}'), ("none", "null")):
        (event,) = SseDecoder(envelope=envelope).feed(f"id: abc\ndata: {text}\n\n".encode())  # type: ignore[arg-type]
        assert (event.kind, event.cursor, event.text) == ("record", "abc", text)


def test_control_events_move_the_cursor_only_where_they_say_so() -> None:
    body = b"".join(
        [
            b'id: one\ndata: {"data":1}\n\n',
            b'event: throttled\ndata: {"limit":5}\n\n',
            b'event: checkpoint\nid: two\ndata: {"behind_ms":0}\n\n',
            b'event: gap\nid: three\ndata: {"reason":"retention","from":"two","resumed_at":"three"}\n\n',
            b"event: from_the_future\nid: four\ndata: {}\n\n",
            b'retry: 900\nevent: goodbye\ndata: {"code":"draining","cursor":"three"}\n\n',
        ]
    )
    decoder = SseDecoder()
    events = list(decoder.feed(body))
    assert [(event.kind, event.cursor) for event in events] == [
        ("record", "one"),
        ("throttled", None),
        ("checkpoint", "two"),
        ("gap", "three"),
        ("goodbye", "three"),
    ]
    assert decoder.retry_ms == 900
    assert json.loads(events[3].text)["reason"] == "retention"


def test_data_that_is_no_record_is_refused() -> None:
    for text in ("[]", "what"):
        with pytest.raises(MalformedEvent):
            list(SseDecoder().feed(f"id: a\ndata: {text}\n\n".encode()))
    with pytest.raises(MalformedEvent):
        list(SseDecoder().feed(b"event: gap\ndata: {\n\n"))

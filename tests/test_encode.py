"""Records and control events on the wire, protocol by protocol."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from websockets.frames import Frame, Opcode
from websockets.streams import StreamReader

from gateway.cursor import CursorCodec
from gateway.hub.block import Block
from gateway.model import Contract, Record
from gateway.subscription.encode import FRAMINGS, text_frame
from gateway.subscription.envelope import FramingName
from tests.parts.source import contract, encoder

CODEC = CursorCodec([b"a cursor key of tests"])
START = (10, 20)
MILLIS = 1_700_000_000_123


def record(
    value: bytes | None, *, partition: int = 0, offset: int = 10, key: bytes | None = None, **more: Any
) -> Record:
    return Record(partition, offset, offset + 1, more.pop("millis", MILLIS), key, value, **more)


def encoded(
    records: Sequence[Record],
    *,
    given: Contract | None = None,
    framing: FramingName = "ndjson",
    chosen: Sequence[int] | None = None,
) -> Block:
    block = Block(0)
    made = encoder(given or contract("flights", "flights"), framing, codec=CODEC)
    block.writer = made.begin(START)
    made.encode(block, records, first=0, chosen=chosen)
    return block


def body(block: Block) -> bytes:
    return block.span(0, len(block.ends)) if block.ends else b""


def message(one: Record, *, given: Contract | None = None) -> dict[str, Any]:
    said: dict[str, Any] = json.loads(body(encoded([one], given=given)))
    return said


def vector(cursor: str) -> tuple[int, ...]:
    return CODEC.decode(cursor, stream="flights").vector


def test_an_sse_record_is_an_id_and_data_and_has_no_event_name() -> None:
    text = body(encoded([record(b'{"a": 1.10}')], framing="sse"))
    assert text.endswith(b"\n\n")
    first, second, *rest = text.split(b"\n")
    assert rest == [b"", b""]
    assert vector(first.removeprefix(b"id: ").decode()) == (11, 20)
    assert second.startswith(b"data: {")
    assert second.endswith(b'"data":{"a": 1.10}}')
    assert "id" not in json.loads(second[6:])


def test_ndjson_is_one_line_and_a_pull_element_has_its_comma() -> None:
    line = body(encoded([record(b"{\r\n}")]))
    assert line.count(b"\n") == 1
    assert line.endswith(b"\n")
    assert json.loads(line)["type"] == "record"
    element = body(encoded([record(b"{}")], framing="pull"))
    assert element.endswith(b",")
    assert json.loads(element[:-1]).keys() == {"id", "uid", "time", "data"}


@pytest.mark.parametrize("size", [0, 1, 125, 126, 127, 65_535, 65_536, 65_537, 300_000])
def test_a_websocket_frame_says_its_length_as_rfc_6455_wants(size: int) -> None:
    payload = b"x" * size
    frame = text_frame(payload)
    reader = StreamReader()
    reader.feed_data(frame)
    parsing = Frame.parse(reader.read_exact, mask=False)
    with pytest.raises(StopIteration) as parsed:
        next(parsing)
    found = parsed.value.value
    assert (found.opcode, found.fin, bytes(found.data)) == (Opcode.TEXT, True, payload)
    reader.feed_eof()
    assert next(reader.at_eof(), True) or True
    # The shortest form, which RFC 6455 §5.2 demands.
    assert len(frame) - size == (2 if size < 126 else 4 if size < 65_536 else 10)


def test_the_record_is_the_same_on_every_protocol() -> None:
    one = record(b'{"n":1}', key=b"k")
    shown = contract("flights", "flights", key_exposed=True)
    line = json.loads(body(encoded([one], given=shown)))
    frame = body(encoded([one], given=shown, framing="ws"))
    assert json.loads(frame[4:]) == line
    element = json.loads(body(encoded([one], given=shown, framing="pull"))[:-1])
    assert {"type": "record", **element} == line
    event = body(encoded([one], given=shown, framing="sse")).split(b"\n")
    assert {"type": "record", "id": event[0][4:].decode(), **json.loads(event[1][6:])} == line


def test_each_cursor_stands_after_its_record() -> None:
    records = [record(b"{}", partition=p, offset=o) for p, o in ((0, 10), (1, 20), (0, 14), (1, 21), (2, 0))]
    lines = body(encoded(records)).splitlines()
    assert [vector(json.loads(line)["id"])[:3] for line in lines] == [
        (11, 20),
        (11, 21),
        (15, 21),
        (15, 22),
        (15, 22, 1),
    ]


def test_a_cursor_never_passes_a_record_that_was_not_given() -> None:
    records = [record(b"{}", partition=at % 2, offset=(10, 20)[at % 2] + at // 2) for at in range(10)]
    chosen = [1, 4, 5, 8]
    block = encoded(records, chosen=chosen)
    assert block.index == chosen
    for place, line in zip(chosen, body(block).splitlines(), strict=True):
        at = vector(json.loads(line)["id"])
        assert at[records[place].partition] == records[place].next
        assert all(at[one.partition] <= one.offset for one in records[place + 1 :])


@given(
    st.lists(
        st.one_of(
            st.binary(max_size=30),
            st.none(),
            st.sampled_from([b"{}", b'{ "a" : [1, 2] }', b'"\xc3\xa9\xe2\x80\xa8"', b"1.10", b"{\r\n}", b"null"]),
        ),
        max_size=12,
    ),
    st.sampled_from(["sse", "ws", "ndjson", "pull"]),
)
def test_metered_bytes_are_the_length_of_data_as_sent(payloads: list[bytes | None], framing: FramingName) -> None:
    block = encoded([record(value, offset=10 + at) for at, value in enumerate(payloads)], framing=framing)
    gaps = {gap.entry for gap in block.gaps}
    for entry in range(len(block.ends)):
        part = block.span(entry, entry + 1)
        cost = block.data_ends[entry] - (block.data_ends[entry - 1] if entry else 0)
        assert len(part) == block.ends[entry] - (block.ends[entry - 1] if entry else 0)
        if entry in gaps:
            assert cost == 0
            continue
        _, _, data = part.partition(b'"data":')
        assert cost == len(data.rstrip(b",\n")) - 1


def test_base64_is_metered_by_what_it_decodes_to() -> None:
    binary = contract("flights", "flights", content_type="application/octet-stream")
    block = encoded([record(b"\x00\xff\n"), record(None, offset=11)], given=binary)
    first, second = (json.loads(line) for line in body(block).splitlines())
    assert base64.b64decode(first["data_base64"]) == b"\x00\xff\n"
    assert "data" not in first
    assert second["data"] is None
    assert block.data_ends == [3, 7]


def test_a_tombstone_has_null_data() -> None:
    assert message(record(None))["data"] is None


def test_key_and_headers_are_shown_only_where_the_contract_says_so() -> None:
    one = record(b"{}", key=b"k", headers=(("trace", b"1"), ("secret", b"s"), ("trace", b"2")))
    assert message(one).keys() == {"type", "id", "uid", "time", "data"}
    shown = contract("flights", "flights", key_exposed=True, headers=("trace", "absent"))
    assert message(one, given=shown)["key"] == "k"
    assert message(one, given=shown)["headers"] == {"trace": "2"}


@pytest.mark.parametrize("key", [b"\n\r\x00", '"\u2028\\'.encode(), b"\xff\xfe", b"", b"data: x\n\n"])
def test_no_key_breaks_a_frame(key: bytes) -> None:
    shown = contract("flights", "flights", key_exposed=True, headers=("h",))
    one = record(b"{}", key=key, headers=(("h", key),))
    for framing in FRAMINGS:
        text = body(encoded([one], given=shown, framing=framing))
        assert text.count(b"\n") == {"sse": 3, "ndjson": 1}.get(framing, 0)
        assert b"\r" not in text.removeprefix(text[:4])
    said = message(one, given=shown)
    assert (said["key"].encode() if "key" in said else base64.b64decode(said["key_base64"])) == key


def test_times_are_rfc_3339_with_milliseconds() -> None:
    times = [0, 1, 999, 1000, MILLIS, -1, 253_402_300_799_999]
    lines = body(encoded([record(b"{}", offset=10 + at, millis=millis) for at, millis in enumerate(times)]))
    assert [json.loads(line)["time"] for line in lines.splitlines()] == [
        "1970-01-01T00:00:00.000Z",
        "1970-01-01T00:00:00.001Z",
        "1970-01-01T00:00:00.999Z",
        "1970-01-01T00:00:01.000Z",
        "2023-11-14T22:13:20.123Z",
        "1969-12-31T23:59:59.999Z",
        "9999-12-31T23:59:59.999Z",
    ]


def test_what_cannot_be_decoded_is_a_gap_at_its_place_and_never_sent() -> None:
    payloads = [b"{}", b"\xffsecret", b"{secret", b"{}", b"NaN", b"{}"]
    block = encoded([record(value, offset=10 + at) for at, value in enumerate(payloads)])
    lines = [json.loads(line) for line in body(block).splitlines()]
    assert [line["type"] for line in lines] == ["record", "gap", "record", "gap", "record"]
    assert [(vector(gap["from"]), vector(gap["resumed_at"])) for gap in (lines[1], lines[3])] == [
        ((11, 20), (13, 20)),
        ((14, 20), (15, 20)),
    ]
    assert [gap["reason"] for gap in (lines[1], lines[3])] == ["undecodable"] * 2
    assert all(line["cursor"] == line["resumed_at"] for line in (lines[1], lines[3]))
    assert b"secret" not in body(block)
    assert block.index == [0, 2, 3, 4, 5]


@pytest.mark.parametrize("framing", ["sse", "ws", "ndjson"])
def test_control_events_name_their_cursor(framing: FramingName) -> None:
    text = FRAMINGS[framing].event("checkpoint", {"behind_ms": 3}, cursor="abc")
    if framing == "sse":
        assert text == b'event: checkpoint\nid: abc\ndata: {"behind_ms":3}\n\n'
    else:
        line = text[2:] if framing == "ws" else text.removesuffix(b"\n")
        assert json.loads(line) == {"type": "checkpoint", "cursor": "abc", "behind_ms": 3}


def test_an_sse_goodbye_is_preceded_by_when_to_come_back() -> None:
    text = FRAMINGS["sse"].event("goodbye", {"retry_after_ms": 700, "reason": "a\nb"}, cursor="abc")
    lines = text.split(b"\n")
    assert lines[0] == b"retry: 700"
    assert len(lines) == 6
    assert b"retry" not in FRAMINGS["sse"].event("goodbye", {"reconnect": False})

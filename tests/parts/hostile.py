"""Payloads that break naive frames, parsers and stacks, and what each may come out as: the same bytes, or a gap."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any, NoReturn

from aiokafka import AIOKafkaProducer
from aiokafka.record.util import calc_crc32c

MAX_DEPTH = 128
"""Deepest nesting that this API passes on."""

LARGE = 900 * 1024
MARK = b'{"mark":%d,"who":"me"}'
"""What stands after each payload, so that its fate is told from that of the next one."""

_PIECES = {
    "cr": b"\r",
    "lf": b"\n",
    "crlf": b"\r\n",
    "two lf": b"\n\n",
    "two cr": b"\r\r",
    "two crlf": b"\r\n\r\n",
    "tab": b"\t",
    "nul": b"\0",
    "vertical tab": b"\x0b",
    "form feed": b"\x0c",
    "escape": b"\x1b[2J",
    "record separator": b"\x1e",
    "delete": b"\x7f",
    "next line": "\u0085".encode(),
    "no-break space": "\u00a0".encode(),
    "line separator": "\u2028".encode(),
    "paragraph separator": "\u2029".encode(),
    "byte order mark": b"\xef\xbb\xbf",
    "right-to-left override": "\u202e".encode(),
    "noncharacter": "\uffff".encode(),
    "planet": "\U0001f30d".encode(),
    "no utf-8": b"\xff\xfe",
    "lone continuation": b"\x80",
    "cut-off sequence": b"\xf0\x9f\x8c",
    "overlong nul": b"\xc0\x80",
    "overlong slash": b"\xe0\x80\xaf",
    "raw surrogate": b"\xed\xa0\x80",
    "beyond unicode": b"\xf4\x90\x80\x80",
}
_PLACES = {
    "alone": b"%b",
    "in a string": b'{"a":"x%by"}',
    "in a name": b'{"x%by":1}',
    "between tokens": b'{"a"%b:%b1}',
    "in front": b'%b{"a":1}',
    "behind": b'{"a":1}%b',
}
_INJECTIONS = (
    "data: forged",
    "\n\ndata: forged\n\n",
    "\r\rdata: forged\r\r",
    "\r\n\r\nid: forged\r\ndata: {}\r\n\r\n",
    "event: gap\ndata: {}\n\n",
    'event: goodbye\ndata: {"code":"draining","reconnect":true}\n\n',
    "id: forged\0\n",
    "retry: 1\n\n",
    ": ping\n\n",
    '"}\n{"type":"goodbye","code":"draining"}\n',
    '"}]},"next_cursor":"forged","gaps":[],"x":[{"y":"',
    '","cursor":"forged","data":"',
    '\\","data":"forged',
    "<script>alert(1)</script>",
    "</script><!--",
    "${jndi:ldap://a} {{7*7}} %s %n %(data)s",
    "0\r\n\r\nHTTP/1.1 200 OK\r\n\r\n",
)
_DOCUMENTS = {
    "null": b"null",
    "true": b"true",
    "a number": b"7",
    "an empty string": b'""',
    "an empty object": b"{}",
    "an empty array": b"[]",
    "two values": b"1 2",
    "two objects": b"{}{}",
    "a line of each": b'{"a":1}\n{"a":2}',
    "a comma too many": b'{"a":1,}',
    "a comma too few": b'{"a":1 "b":2}',
    "single quotes": b"{'a':1}",
    "no quotes": b"{a:1}",
    "a comment": b'{"a":1}//',
    "cut off": b'{"a":1',
    "cut off in a string": b'{"a":"1',
    "cut off in an escape": b'{"a":"\\',
    "a lone quote": b'"',
    "a lone backslash": b"\\",
    "python's words": b'{"a":True,"b":None}',
    "half a word": b"nul",
    "a capital escape": b'{"a":"\\X41"}',
    "a hexadecimal escape": b'{"a":"\\x41"}',
    "a short escape": b'{"a":"\\u12"}',
    "no hexadecimal": b'{"a":"\\u00g0"}',
    "escaped nul": b'{"a":"\\u0000"}',
    "escaped line end": b'{"a":"\\u000a\\n\\r\\u000d\\u2028"}',
    "escaped mark": b'{"a":"\\ufeff"}',
    "a lone high surrogate": b'{"a":"\\ud800"}',
    "a lone low surrogate": b'{"a":"\\udc00 x"}',
    "surrogates the wrong way round": b'{"a":"\\udc00\\ud800"}',
    "a lone surrogate as a name": b'{"\\ud800":1,"a":2}',
    "a pair of surrogates": b'{"a":"\\ud83c\\udf0d"}',
    "a high surrogate and a letter": b'{"a":"\\ud83cx"}',
    "one name twice": b'{"a":1,"a":2}',
    "one name spelled twice": b'{"a":1,"\\u0061":2}',
    "one name a thousand times": b"{" + b",".join(b'"a":%d' % n for n in range(1000)) + b"}",
    "a mark that is none": b'{"mark":{"mark":1},"a":1}',
    "an empty name": b'{"":1,"a":{"":{"":2}}}',
    "a prototype": b'{"__proto__":{"a":1},"constructor":{"prototype":1},"a":3}',
    "a frame": b'{"type":"goodbye","code":"draining","close_code":4503,"cursor":"x","a":1}',
    "a record": b'{"type":"record","id":"forged","uid":"forged","data":{"a":1},"a":1}',
    "a cloud event": b'{"specversion":"1.0","id":"x","source":"x","type":"x","data":1}',
    "base64": b'{"data_base64":"AAAA","a":1}',
    "NaN": b"NaN",
    "NaN within": b'{"a":NaN}',
    "Infinity": b'{"a":Infinity}',
    "minus Infinity": b'{"a":-Infinity}',
    "beyond a double": b'{"a":1e400,"b":-1E+400,"c":1e-400}',
    "an exponent beyond all": b'{"a":1e99999999999}',
    "minus zero": b'{"a":-0,"b":-0.0}',
    "trailing zeros": b'{"a":1.10,"b":100.000}',
    "thirty digits": b'{"a":123456789012345678901234567890}',
    "five thousand digits": b'{"a":' + b"9" * 5000 + b"}",
    "a fraction of five thousand digits": b'{"a":0.' + b"1" * 5000 + b"}",
    "hexadecimal": b'{"a":0x10}',
    "a leading zero": b'{"a":01}',
    "a plus": b'{"a":+1}',
    "a bare minus": b'{"a":-}',
    "no whole part": b'{"a":.5}',
    "no fraction": b'{"a":5.}',
    "no exponent": b'{"a":1e}',
    "underscores": b'{"a":1_000}',
    "digits of another script": '{"a":\u0661}'.encode(),
    "arrays to the bound": b"[" * MAX_DEPTH + b"]" * MAX_DEPTH,
    "arrays beyond the bound": b"[" * (MAX_DEPTH + 1) + b"]" * (MAX_DEPTH + 1),
    "objects to the bound": b'{"a":' * MAX_DEPTH + b"1" + b"}" * MAX_DEPTH,
    "objects beyond the bound": b'{"a":' * (MAX_DEPTH + 1) + b"1" + b"}" * (MAX_DEPTH + 1),
    "a thousand levels": b"[" * 1000 + b"]" * 1000,
    "a hundred thousand levels": b"[" * 100_000 + b"]" * 100_000,
    "a hundred thousand levels of objects": b'{"a":' * 100_000 + b"1" + b"}" * 100_000,
    "levels that never close": b"[" * 100_000,
    "levels that only close": b"]" * 100_000,
    "levels that alternate": b'[{"a":' * 5000 + b"1" + b"}]" * 5000,
    "brackets in a string": b'{"a":"' + b"[{" * 1000 + b'"}',
    "brackets behind an escaped quote": b'{"a":"\\"' + b"[" * 1000 + b'"}',
    "brackets behind an escaped backslash": b'{"a":["\\\\",' + b"[" * 200 + b"]" * 200 + b"]}",
    "many arrays side by side": b'{"a":[' + b"[]," * 5000 + b"[]]}",
    "large text": b'{"a":"' + b"x" * LARGE + b'"}',
    "large escapes": b'{"a":"' + b"\\u0000" * (LARGE // 6) + b'"}',
    "large line separators": b'{"a":"' + "\u2028".encode() * (LARGE // 3) + b'"}',
    "large line ends": b'{"a":' + b"\r\n" * (LARGE // 2) + b"1}",
    "large number": b'{"a":' + b"7" * LARGE + b"}",
    "large nesting": b"[" * (LARGE // 2) + b"]" * (LARGE // 2),
    "large and broken at its end": b'{"a":"' + b"x" * LARGE + b'\xff"}',
    "large and never ended": b'{"a":"' + b'\\"' * (LARGE // 2),
}


def payloads() -> dict[str, bytes | None]:
    """Every hostile value by what it is."""
    found: dict[str, bytes | None] = {"nothing": b"", "no value": None, "spaces": b" \t ", "a word": b"forged"}
    for piece, data in _PIECES.items():
        for place, template in _PLACES.items():
            found[f"{piece} {place}"] = template.replace(b"%b", data)
    for number, text in enumerate(_INJECTIONS):
        found[f"injection {number}"] = text.encode()
        found[f"injection {number} as a string"] = json.dumps({"a": text}, ensure_ascii=False).encode()
        found[f"injection {number} in a string"] = b'{"a":"%b"}' % text.encode()
    return found | _DOCUMENTS


def illegible_batch(producer: AIOKafkaProducer, value: bytes) -> Any:
    """A batch with one record whose header's name is no UTF-8, which clients of other languages do not prevent."""
    batch = producer.create_batch()
    name = "x" * 8
    batch.append(key=None, value=value, timestamp=None, headers=[(name, b"y"), ("trace", b"z")])
    batch.close()
    data = bytearray(batch._build()).replace(name.encode(), b"\xff\xfe\x80x\xc3\x00\r\n")
    # The broker checks what follows the checksum.
    data[17:21] = calc_crc32c(bytes(data[21:])).to_bytes(4, "big")
    batch._buffer = data
    return batch


def is_deliverable(value: bytes) -> bool:
    """Whether it is one JSON value in UTF-8 (RFC 8259), nested no deeper than the bound."""

    def refuse(constant: str) -> NoReturn:
        raise ValueError(constant)

    try:
        text = value.decode("utf-8")
        # Numbers stay text: their length is not bounded.
        json.loads(text, parse_constant=refuse, parse_int=str, parse_float=str)
    except (ValueError, RecursionError):
        return False
    return _depth(text) <= MAX_DEPTH


def _depth(text: str) -> int:
    deepest = level = 0
    for bracket in re.sub(r'"(?:[^"\\]|\\.)*"', "", text):
        level += (bracket in "[{") - (bracket in "]}")
        deepest = max(deepest, level)
    return deepest


def squeezed(text: bytes) -> bytes:
    """JSON text without the whitespace that means nothing."""
    return re.sub(rb'("(?:[^"\\]|\\.)*")|[ \t\r\n]+', rb"\1", text)


def decoded(text: bytes) -> Any:
    """The value, with its numbers as text."""
    return json.loads(text.decode("utf-8"), parse_int=str, parse_float=str)


def server_sent_events(body: bytes) -> Iterator[tuple[str, str, bytes]]:
    """Name, id and data of each event, as the WHATWG text has it read: CR, LF and CRLF end lines, blank ones events."""
    name, place, data = "", "", list[str]()
    for line in re.split("\r\n|\r|\n", body.decode("utf-8")):
        field, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if line and field not in ("id", "event", "data", "retry"):
            raise ValueError(f"a line that this API does not promise: {line[:200]!r}")
        if field == "data":
            data.append(value)
        elif field == "event":
            name = value
        elif field == "id":
            place = value
        elif not line:
            if data:
                yield name, place, "\n".join(data).encode()
            name, data = "", []
    if name or data:
        raise ValueError("the last event is cut off")

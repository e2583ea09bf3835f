"""What was inferred from a topic → the text of a contract to edit: valid as it stands, a draft that exposes nothing.

Everything that a person has to decide is written down with a comment. The same topic gives the same text.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Final

from gateway.catalog.exposure import FILTER_NAME
from gateway.catalog.inference import MAX_WIDTH, Detail, Inference, NumberText, Sample, Shape, parse_sample
from gateway.subscription.payload import Undecodable

MAX_EXAMPLE_BYTES: Final = 8 * 1024
_MAX_EXAMPLE_LEVELS: Final = 24
_MAX_LEVELS: Final = 40
_MAX_HEADERS: Final = 50
_LINE: Final = 110
_PLAIN = re.compile(r"[A-Za-z_/][A-Za-z0-9_./@-]*")
# Words that some YAML reader or other takes for something else than text.
_NOT_PLAIN = frozenset({"null", "true", "false", "yes", "no", "on", "off", "y", "n"})
_SCALARS = frozenset({"string", "number", "integer", "boolean"})


@dataclass(frozen=True, slots=True)
class Origin:
    """Where the samples come from, and the name of the stream to be. ``host`` and ``protocol`` are Kafka's."""

    stream: str
    topic: str
    cluster: str
    host: str
    protocol: str
    partitions: int


def write_contract(origin: Origin, found: Inference, *, example: Any = None) -> str:
    """The text of an AsyncAPI file with one channel. ``example`` is a payload as :func:`choose_example` gives it."""
    detail = Detail(found.shape)
    lines = [*_top(origin, found), *_channel(origin, found, detail), *_operation(origin), *_message(found, detail)]
    if example is not None:
        lines += [
            "      # A real payload, all of it: replace what is confidential, and delete what the projection hides.",
            "      examples:",
            "        - name: sample",
            f"          payload: {_flow(example, _MAX_EXAMPLE_LEVELS)}",
        ]
    return "\n".join(lines) + "\n"


def choose_example(newest_first: Iterable[Sample]) -> Any:
    """The newest JSON payload that is small and plain enough to stand in a contract, as plain data; None: no such."""
    for sample in newest_first:
        if sample.value is None or len(sample.value) > MAX_EXAMPLE_BYTES:
            continue
        try:
            value = parse_sample(sample.value)
            _flow(value, _MAX_EXAMPLE_LEVELS)
        except (Undecodable, ValueError):
            continue
        return value
    return None


def _top(origin: Origin, found: Inference) -> Iterator[str]:
    yield f"# Drafted from {_count(found.records, 'record')} of the topic {origin.topic}. Nothing is exposed while the"
    yield "# lifecycle is draft. Read every line before you publish it, then run `gateway contracts lint`."
    yield "asyncapi: 3.0.0"
    yield f"id: urn:stream:{origin.stream}  # the stream's name for ever: the type of its CloudEvents begins with it"
    yield "info:"
    yield f"  title: {scalar(origin.stream)}  # partners read this"
    yield "  version: 1.0.0  # once published, a change that breaks readers needs the next major version"
    yield "  description: A stream of records.  # partners read this"
    yield f"defaultContentType: {_content_type(found)}"
    yield "servers:"
    yield f"  {scalar(origin.cluster)}: {{host: {scalar(origin.host)}, protocol: {origin.protocol}}}"


def _channel(origin: Origin, found: Inference, detail: Detail) -> Iterator[str]:
    yield "channels:"
    yield f"  {scalar(origin.stream)}:"
    yield f"    address: {scalar(origin.topic)}"
    yield f"    servers: [{{$ref: {quoted(_reference('servers', origin.cluster))}}}]"
    yield f"    messages: {{record: {{$ref: {quoted(_reference('components', 'messages', 'record'))}}}}}"
    yield f"    bindings: {{kafka: {{topic: {scalar(origin.topic)}, partitions: {origin.partitions}}}}}"
    yield "    x-gateway:"
    yield f"      stream: {scalar(origin.stream)}"
    yield "      lifecycle: draft  # then published, deprecated, retired"
    yield "      owner: unknown  # whom to ask about this stream"
    yield "      visibility: entitled  # public: everybody sees in the portal that it exists"
    yield "      scopes: [streams:read]  # all of them must be in a reader's token"
    yield "      transports: [sse, ws, pull, ndjson]"
    yield f"      key: {{expose: false}}  # {found.with_key} of {_count(found.records, 'sample')} have a key"
    yield from _headers(found)
    if found.is_json:
        yield from _projection(found, detail)
        yield from _filters(found, detail)
    yield "      replay: {earliest: true, time: true, max_age: P7D}  # how far back a reader may start"


def _headers(found: Inference) -> Iterator[str]:
    # A name that is no UTF-8 text, or none at all, cannot be listed by any contract.
    names = [name for name in found.headers if 0 < len(name) <= 100 and _is_text(name)]
    if names:
        listed = ", ".join(scalar(name) for name in names[:_MAX_HEADERS])
        yield "      # Record headers that partners may see, once uncommented; these were met:"
        yield f"      # headers: [{listed}]"


def _projection(found: Inference, detail: Detail) -> Iterator[str]:
    pointers = list(_pointers(found.shape, detail, "", ""))
    if not pointers:
        yield "      # No projection: no member could be listed. Without one, partners see the whole payload."
        return
    yield "      # What partners see. Delete every line of what must stay inside; what is not listed is never sent."
    if left_out := detail.left_out(found.shape):
        yield f"      # Not listed: {_count(left_out, 'member')} more at the top whose names are too long or no text."
    yield "      projection:"
    for pointer, note in pointers:
        yield f"        - {scalar(pointer)}" + (f"  # {note}" if note else "")


def _pointers(shape: Shape, detail: Detail, above: str, absent: str) -> Iterator[tuple[str, str]]:
    """Every leaf with what to know about it. ``absent`` is the place above that is null now and then."""
    for name, member in detail.members(shape).items():
        pointer = f"{above}/{name.replace('~', '~0').replace('/', '~1')}"
        kinds = set(member.kinds)
        if detail.members(member) and kinds <= {"object", "null"}:
            yield from _pointers(member, detail, pointer, pointer if "null" in kinds else absent)
        else:
            notes = [f"left out where {_in_comment(absent)} is null"] if absent else []
            if kinds & {"object", "array"}:
                notes.insert(0, "whole, with all that it holds")
            yield pointer, "; ".join(notes)


def _filters(found: Inference, detail: Detail) -> Iterator[str]:
    suggested = []
    for name, member in detail.members(found.shape).items():
        kinds = [kind for kind in member.kinds if kind != "null"]
        if len(kinds) == 1 and kinds[0] in _SCALARS and FILTER_NAME.fullmatch(name):
            suggested.append(f"{scalar(name)}: {{pointer: {scalar('/' + name)}, type: {kinds[0]}}}")
    if suggested:
        yield "      # What partners may filter by, once uncommented; keep those alone that the projection shows."
        yield "      # A row_filter {field, claim} over one of them shows each partner its own rows only."
        yield "      # filters:"
        yield from (f"      #   {line}" for line in suggested)


def _operation(origin: Origin) -> Iterator[str]:
    yield "operations:"
    yield "  publish:"
    yield "    action: send"
    yield f"    channel: {{$ref: {quoted(_reference('channels', origin.stream))}}}"


def _message(found: Inference, detail: Detail) -> Iterator[str]:
    yield "components:"
    yield "  messages:"
    yield "    record:  # the type of its CloudEvents ends with this name"
    yield "      title: Record"
    if not found.is_json:
        yield f"      # {found.not_json} of {_count(found.payloads, 'payload')} are not JSON: as it stands, all go out"
        yield "      # as base64. Say application/json, and those that are not become gaps for their readers."
    elif not found.payloads:
        yield "      # No payload to look at: say what the records are, and list in x-gateway.projection what is shown."
    yield f"      contentType: {_content_type(found)}"
    if found.tombstones:
        yield f"      # {found.tombstones} of {_count(found.records, 'sample')} are tombstones, sent with data: null."
    if found.is_json:
        yield from _schema("      payload", found.shape, detail)


def _content_type(found: Inference) -> str:
    return "application/json" if found.is_json else "application/octet-stream"


def _schema(head: str, shape: Shape, detail: Detail) -> Iterator[str]:
    """``head: <schema>``, on one line where it is short."""
    indent = " " * (len(head) - len(head.lstrip()) + 2)
    members = detail.members(shape)
    kinds = [kind for kind in shape.kinds if kind != "null"]
    if not kinds:
        yield f"{head}: {{}}" + ("  # only null was met" if shape.count else "")
        return
    deep = len(indent) > 2 * _MAX_LEVELS
    inner: list[str] = []
    if members and not deep:
        required = [scalar(name) for name in members if shape.is_required(name)]
        inner += _list(f"{indent}required", required) if required else []
        inner.append(f"{indent}properties:")
        for name, member in members.items():
            inner += _schema(f"{indent}  {scalar(name)}", member, detail)
    if shape.is_table and not deep:
        inner += _schema(f"{indent}additionalProperties", detail.table(shape), detail)
    if shape.items is not None and not deep:
        inner += _schema(f"{indent}items", shape.items, detail)
    types = [scalar(kind) for kind in shape.kinds]
    spelled = types[0] if len(types) == 1 else f"[{', '.join(types)}]"
    note = _note(shape, detail, deep=deep)
    if inner:
        yield f"{head}:"
        if note:
            yield f"{indent}# {note}"
        yield f"{indent}type: {spelled}"
        yield from inner
    else:
        yield f"{head}: {{type: {spelled}}}" + (f"  # {note}" if note else "")


def _note(shape: Shape, detail: Detail, *, deep: bool) -> str:
    if shape.is_table:
        more = f"more than {MAX_WIDTH}" if shape.table is not None else str(len(shape.members))
        return f"{more} different member names, which look like data: none is listed, one schema is for all of them"
    if deep and (shape.members or shape.items):
        return "nested too deep to be written down"
    left_out = detail.left_out(shape)
    if left_out and not detail.members(shape):
        return f"{_count(left_out, 'member')}, not written down: too many or too deep in all, or names too long"
    if left_out:
        return f"{_count(left_out, 'more member')}, not written down: their names are too long or no text"
    return "always empty" if "array" in shape.kinds and shape.items is None else ""


def _list(head: str, items: list[str]) -> list[str]:
    line = f"{head}: [{', '.join(items)}]"
    if len(line) <= _LINE:
        return [line]
    indent = " " * (len(head) - len(head.lstrip()) + 2)
    return [f"{head}:", *(f"{indent}- {item}" for item in items)]


def scalar(text: str) -> str:
    """``text`` as YAML that every reader takes for text."""
    return text if _PLAIN.fullmatch(text) and text.lower() not in _NOT_PLAIN else quoted(text)


def quoted(text: str) -> str:
    """``text`` in double quotes, with escapes for whatever would not be seen."""
    return '"' + "".join(_escaped(character) for character in text) + '"'


def _escaped(character: str) -> str:
    if character in '"\\':
        return "\\" + character
    if character.isprintable():
        return character
    code = ord(character)
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def _flow(value: Any, levels: int) -> str:
    """Plain data as YAML on one line. Raises ValueError for what a contract cannot hold."""
    if levels == 0:
        raise ValueError("nested too deep")
    if isinstance(value, dict):
        if not all(len(name) <= 100 for name in value):
            raise ValueError("a long name")
        return "{" + ", ".join(f"{_flow(key, levels)}: {_flow(one, levels - 1)}" for key, one in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(_flow(one, levels - 1) for one in value) + "]"
    if isinstance(value, NumberText):
        if len(value) > 30 or not math.isfinite(float(value)):
            raise ValueError("a number that would not come back as it is")
        return str(value)
    if isinstance(value, str):
        if not _is_text(value):
            raise ValueError("half a surrogate pair")
        return quoted(value)
    return json.dumps(value)


def _is_text(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _in_comment(text: str) -> str:
    return "".join(character if character.isprintable() else "?" for character in text)


def _reference(*tokens: str) -> str:
    return "#/" + "/".join(token.replace("~", "~0").replace("/", "~1").replace("%", "%25") for token in tokens)


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"

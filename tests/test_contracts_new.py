"""`gateway contracts new`: what is drafted from a topic is valid at once, tells no payload, and exposes nothing."""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner, Result
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway.catalog.contracts import load_contract_files
from gateway.catalog.draft import Origin, choose_example, write_contract
from gateway.catalog.inference import MAX_MEMBERS, MAX_WIDTH, Sample, infer
from gateway.catalog.source import MAX_FILE_BYTES
from gateway.cli import main
from gateway.cli.sampling import shares
from gateway.model import Contract
from tests.parts.kafka import Kafka
from tests.parts.ports import free_port

ORIGIN = Origin("events", "events.v1", "main", "kafka.internal:9092", "kafka", 4)


def draft(values: Sequence[bytes | None], *, with_example: bool = False) -> str:
    samples = [Sample(value) for value in values]
    example = choose_example(reversed(samples)) if with_example else None
    return write_contract(ORIGIN, infer(samples), example=example)


def encoded(*payloads: Any) -> list[bytes]:
    return [json.dumps(payload).encode() for payload in payloads]


def loaded(directory: Path, text: str) -> Contract:
    path = directory / "events.yaml"
    path.write_text(text, encoding="utf-8")
    return load_contract_files(path)["events"]


def schema_of(text: str) -> Any:
    return yaml.safe_load(text)["components"]["messages"]["record"]["payload"]


def test_types_are_merged_over_the_samples() -> None:
    first = {"id": "a", "n": 1, "x": 1, "deep": {"one": True}, "list": [1, 2], "gone": None, "none": None, "mixed": 1}
    second = {"id": "b", "n": 2, "x": 1.5, "deep": {"two": "t"}, "list": [None], "gone": "now", "mixed": "s"}
    assert schema_of(draft(encoded(first, second))) == {
        "type": "object",
        "required": ["id", "n", "x", "deep", "list", "gone", "mixed"],
        "properties": {
            "id": {"type": "string"},
            "n": {"type": "integer"},
            "x": {"type": "number"},
            "deep": {"type": "object", "properties": {"one": {"type": "boolean"}, "two": {"type": "string"}}},
            "list": {"type": "array", "items": {"type": ["integer", "null"]}},
            "gone": {"type": ["string", "null"]},
            "none": {},
            "mixed": {"type": ["string", "integer"]},
        },
    }


def test_no_format_is_guessed_and_an_integer_is_what_is_written_without_fraction() -> None:
    text = draft([b'{"when": "2026-01-01T00:00:00Z", "a": 1.0, "b": 1e3, "c": 123456789012345678901234567890}'])
    properties = schema_of(text)["properties"]
    assert properties["when"] == {"type": "string"}
    assert [properties[name]["type"] for name in "abc"] == ["number", "number", "integer"]


def test_a_draft_exposes_nothing_and_lists_every_leaf(tmp_path: Path) -> None:
    payload = {"id": "a", "spot": {"lat": 1.5, "names": {"en": "x"}}, "tags": ["t"], "maybe": {"x": 1}}
    contract = loaded(tmp_path, draft(encoded(payload, payload | {"maybe": None, "spot": {"lat": 2}})))
    assert contract.lifecycle == "draft"
    assert contract.visibility == "entitled"
    assert not contract.key_exposed
    assert contract.headers == ()
    assert contract.filters == ()
    assert contract.projection == ("/id", "/spot/lat", "/spot/names/en", "/tags", "/maybe/x")
    assert contract.is_json
    assert (contract.cluster, contract.topic, contract.owner) == ("main", "events.v1", "unknown")


def test_a_place_that_is_no_object_now_and_then_is_listed_whole(tmp_path: Path) -> None:
    text = draft(encoded({"a": {"x": 1}}, {"a": "text"}))
    assert loaded(tmp_path, text).projection == ("/a",)
    assert "        - /a  # whole, with all that it holds" in text.splitlines()


def test_suggested_filters_work_once_uncommented(tmp_path: Path) -> None:
    payload = {"id": "a", "n": 1, "x": 1.5, "ok": True, "odd name": 1, "none": None, "mixed": 1, "in": {"y": 1}}
    text = draft(encoded(payload, payload | {"mixed": "m", "n": None}))
    lines = text.splitlines()
    start = lines.index("      # filters:")
    end = start + 1
    while lines[end].startswith("      #   "):
        end += 1
    lines[start:end] = [line.replace("# ", "", 1) for line in lines[start:end]]
    contract = loaded(tmp_path, "\n".join(lines) + "\n")
    assert [(one.name, one.pointer, one.type) for one in contract.filters] == [
        ("id", "/id", "string"),
        ("n", "/n", "integer"),
        ("x", "/x", "number"),
        ("ok", "/ok", "boolean"),
    ]


def test_no_value_of_any_record_is_in_the_text_unless_asked_for(tmp_path: Path) -> None:
    values = encoded({"id": "private-1", "n": 4711, "in": [{"deep": "private-2"}]})
    assert "private" not in draft(values)
    assert "4711" not in draft(values)
    text = draft(values, with_example=True)
    assert yaml.safe_load(text)["components"]["messages"]["record"]["examples"] == [
        {"name": "sample", "payload": {"id": "private-1", "n": 4711, "in": [{"deep": "private-2"}]}}
    ]
    assert "private-1" in text
    loaded(tmp_path, text)


def test_the_example_is_the_newest_that_can_be_written(tmp_path: Path) -> None:
    hostile = [b'{"n": 1e999}', b'"\\ud800"', b"[" * 60 + b"]" * 60, b'{"%s": 1}' % (b"k" * 2000), b"not json", None]
    text = draft([b'{"old": 1}', b'{"new": "\\u2028\\u0000: # \xf0\x9f\x98\x80"}', *hostile[:4]], with_example=True)
    assert yaml.safe_load(text)["components"]["messages"]["record"]["examples"][0]["payload"] == {
        "new": "\u2028\x00: # 😀"
    }
    loaded(tmp_path, text)
    assert choose_example([Sample(value) for value in hostile]) is None


def test_odd_names_come_through_as_they_are(tmp_path: Path) -> None:
    names = [
        "",
        " ",
        "a/b",
        "m~n",
        "$ref",
        "x-y",
        "null",
        "yes",
        "12",
        "2026-01-01",
        "<<",
        "- a",
        "a: b",
        "#",
        '"\\',
        "'",
    ]
    names += [
        "<script>",
        "{{7*7}}",
        "line\nbreak",
        "\x00\x1b",
        "\u2028",
        "\ufeff",
        "é",
        "😀",
        "type",
        "properties",
        "k" * 100,
    ]
    text = draft([json.dumps(dict.fromkeys(names, 1)).encode()])
    contract = loaded(tmp_path, text)
    assert contract.projection is not None
    assert [one.replace("~1", "/").replace("~0", "~")[1:] for one in contract.projection] == names
    message = contract.document["components"]["messages"]["record"]
    assert list(message["payload"]["properties"]) == names
    assert set(message["payload"]["required"]) == set(names)


def test_names_that_no_file_can_hold_are_counted_and_left_out(tmp_path: Path) -> None:
    text = draft([b'{"ok": 1, "\\ud800": 1, "%s": 1}' % (b"k" * 101)])
    assert loaded(tmp_path, text).projection == ("/ok",)
    assert "# Not listed: 2 members more at the top" in text


@pytest.mark.parametrize(
    "payloads",
    [
        [{f"customer-{number}": {"sum": number} for number in range(10_000)}],
        [{f"customer-{number}": {"sum": number}} for number in range(200)],
    ],
    ids=["ten thousand in one record", "one in each record"],
)
def test_names_that_are_data_make_no_properties(tmp_path: Path, payloads: list[Any]) -> None:
    text = draft(encoded(*({"by": payload} for payload in payloads)))
    assert schema_of(text)["properties"]["by"] == {
        "type": "object",
        "additionalProperties": {
            "type": "object",
            "required": ["sum"],
            "properties": {"sum": {"type": "integer"}},
        },
    }
    assert "customer" not in text
    assert "different member names, which look like data: none is listed" in text
    assert loaded(tmp_path, text).projection == ("/by",)
    at_the_top = draft(encoded(*payloads))
    assert "customer" not in at_the_top
    assert loaded(tmp_path, at_the_top).projection is None


def test_a_wide_record_is_written_down_as_far_as_a_person_would_edit_it(tmp_path: Path) -> None:
    wide = {f"field{number}": number for number in range(MAX_WIDTH)}
    text = draft(encoded({"a": wide, "b": wide, "c": wide, "d": 1}))
    assert len(loaded(tmp_path, text).projection or ()) <= MAX_MEMBERS
    assert schema_of(text)["properties"]["c"] == {"type": "object"}
    assert "400 members, not written down" in text


def test_deep_records_are_written_down_to_a_level(tmp_path: Path) -> None:
    deep: Any = 1
    # Deeper ones are not JSON to any reader either.
    for _ in range(40):
        deep = {"in": [[deep]], "x": 1}
    text = draft(encoded(deep, {"in": [[[[[[]]]]]]}))
    assert loaded(tmp_path, text).projection == ("/in", "/x")


@pytest.mark.parametrize("value", [b"\x00\x01", b'{"a": 1', b"\xff", b"[" * 200 + b"]" * 200, b"NaN", b""])
def test_one_record_that_is_no_json_makes_the_stream_binary(tmp_path: Path, value: bytes) -> None:
    text = draft([*encoded({"a": 1}, {"a": 2}), value])
    contract = loaded(tmp_path, text)
    assert contract.content_type == "application/octet-stream"
    assert contract.projection is None
    assert "# 1 of 3 payloads are not JSON" in text


@pytest.mark.parametrize(("value", "kind"), [(b"[1]", "array"), (b'"x"', "string"), (b"1", "integer")])
def test_payloads_that_are_no_objects_have_no_projection(tmp_path: Path, value: bytes, kind: str) -> None:
    text = draft([value])
    assert loaded(tmp_path, text).projection is None
    assert schema_of(text)["type"] == kind


def test_tombstones_are_counted_and_tell_nothing_of_the_shape(tmp_path: Path) -> None:
    text = draft([None, *encoded({"a": 1}), None])
    assert schema_of(text)["required"] == ["a"]
    assert "# 2 of 3 samples are tombstones" in text
    only = draft([None])
    assert loaded(tmp_path, only).is_json
    assert "# No payload to look at" in only


def test_the_same_samples_give_the_same_text() -> None:
    values = encoded({"b": 1, "a": {"d": 1, "c": 2}}, {"z": 1, "b": 2})
    assert draft(values) == draft(values)
    assert list(schema_of(draft(values))["properties"]) == ["b", "a", "z"]


NAMES = st.text(max_size=8) | st.sampled_from(["$ref", "type", "properties", "items", "x-gateway", "allOf"])
PAYLOADS = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=4),
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(payloads=st.lists(st.dictionaries(NAMES, PAYLOADS, max_size=5) | PAYLOADS, max_size=4))
def test_whatever_the_payloads_hold_the_draft_is_valid(tmp_path: Path, payloads: list[Any]) -> None:
    values = [json.dumps(payload, ensure_ascii=True).encode() for payload in payloads]
    contract = loaded(tmp_path, draft(values, with_example=True))
    assert contract.lifecycle == "draft"


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(values=st.lists(st.binary(max_size=60) | st.none(), max_size=4))
def test_whatever_bytes_there_are_the_draft_is_valid(tmp_path: Path, values: list[bytes | None]) -> None:
    loaded(tmp_path, draft(values, with_example=True))


def test_a_hostile_topic_gives_a_file_within_bounds(tmp_path: Path) -> None:
    wide = {"\u200b" * 90 + str(number): {"\x00" * 90 + str(inner): 1 for inner in range(30)} for number in range(300)}
    text = draft(encoded(wide))
    assert len(text.encode()) < MAX_FILE_BYTES
    loaded(tmp_path, text)


@pytest.mark.parametrize(
    ("earliest", "until", "count", "start"),
    [
        ((0, 0), (100, 100), 10, (95, 95)),
        ((0, 0), (100, 2), 10, (92, 0)),
        ((0, 0, 0), (3, 3, 3), 10, (0, 0, 0)),
        ((5, 5), (5, 5), 10, (5, 5)),
        ((0, 7), (100, 5), 10, (90, 5)),
        ((0, 0, 0), (9, 9, 9), 1, (8, 9, 9)),
    ],
)
def test_the_newest_records_come_evenly_from_all_partitions(
    earliest: tuple[int, ...], until: tuple[int, ...], count: int, start: tuple[int, ...]
) -> None:
    assert shares(earliest, until, count=count) == start


# The command, on a real Kafka


async def run(*arguments: str, bootstrap: str) -> Result:
    """In a thread: the command runs a loop of its own."""
    words = ["contracts", "new", "--set", f"kafka.bootstrap_servers={bootstrap}", *arguments]
    return await asyncio.to_thread(CliRunner().invoke, main, words, prog_name="gateway")


@pytest.fixture
async def topic(kafka: Kafka) -> str:
    name = f"Drafted_{uuid.uuid4().hex}"
    await kafka.create_topic(name, 3)
    return name


async def test_a_topic_becomes_a_contract_that_passes_lint_at_once(kafka: Kafka, topic: str, tmp_path: Path) -> None:
    for partition in range(3):
        await kafka.produce(
            topic,
            encoded(*({"id": f"private-{number}", "old": True} for number in range(20))),
            partition=partition,
            timestamps=range(20),
        )
        await kafka.produce(
            topic,
            encoded(*({"id": f"private-{number}", "n": number} for number in range(10))),
            partition=partition,
            keys=[b"k"] * 10,
            headers=[("trace", b"private")],
            timestamps=range(100, 110),
        )
    (tmp_path / "streams").mkdir()
    target = tmp_path / "streams" / "drafted.yaml"
    result = await run("--topic", topic, "--sample", "30", "--output", str(target), bootstrap=kafka.bootstrap)
    assert result.exit_code == 0, result.stderr
    assert result.stdout == ""
    assert f"sampled 30 records of {topic} (3 partitions); wrote {target}" in result.stderr
    lint = CliRunner().invoke(main, ["contracts", "lint", "--dir", str(tmp_path)], prog_name="gateway")
    assert lint.exit_code == 0, lint.stderr
    contract = load_contract_files(target)[topic.lower()]
    assert (contract.topic, contract.lifecycle, contract.projection) == (topic, "draft", ("/id", "/n"))
    text = target.read_text()
    assert "private" not in text
    assert "30 of 30 samples have a key" in text
    assert "# headers: [trace]" in text
    again = await run("--topic", topic, "--sample", "30", bootstrap=kafka.bootstrap)
    assert again.stdout == text
    refused = await run("--topic", topic, "--output", str(target), bootstrap=kafka.bootstrap)
    assert refused.exit_code == 2
    assert "exists; name another file" in refused.stderr
    assert target.read_text() == text


async def test_records_behind_holes_are_found(kafka: Kafka, topic: str) -> None:
    await kafka.produce(topic, encoded(*({"n": number} for number in range(5))), partition=0)
    for number in range(30):
        async with kafka.transaction(f"{topic}-{number}", commit=False) as producer:
            await producer.send(topic, b'{"aborted": 1}', partition=0)
    result = await run("--topic", topic, "--sample", "5", "--stream", "found", bootstrap=kafka.bootstrap)
    assert result.exit_code == 0, result.stderr
    assert "sampled 5 records" in result.stderr
    assert "aborted" not in result.stdout
    assert "stream: found" in result.stdout


async def test_an_empty_topic_gives_a_skeleton_and_says_so(kafka: Kafka, topic: str, tmp_path: Path) -> None:
    result = await run("--topic", topic, "--stream", "events", "--with-example", bootstrap=kafka.bootstrap)
    assert result.exit_code == 0
    assert f"the topic {topic} holds no record to look at: the contract is a skeleton" in result.stderr
    assert loaded(tmp_path, result.stdout).topic == topic


@pytest.mark.parametrize("name", ["nobody-made-this-topic", "not/a/topic", "..", ""])
async def test_a_topic_that_is_not_there_is_one_line(kafka: Kafka, name: str) -> None:
    result = await run("--topic", name, bootstrap=kafka.bootstrap)
    assert result.exit_code == 1
    assert result.stdout == ""
    (line,) = result.stderr.splitlines()
    assert line.startswith("gateway: Kafka cluster main: ")
    assert name in line


async def test_kafka_away_is_one_line() -> None:
    result = await run("--topic", "any", bootstrap=f"127.0.0.1:{free_port()}")
    assert result.exit_code == 1
    (line,) = result.stderr.splitlines()
    assert line.startswith("gateway: Kafka cluster main: no answer from 127.0.0.1:")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--cluster", "mian"), "--cluster: no such cluster, got 'mian'; allowed: main; did you mean 'main'?"),
        (("--stream", "Not A Name"), "1 to 63 of a-z 0-9 . _ -"),
        (("--sample", "0"), "0 is not in the range"),
        (("--output", "nowhere/at/all.yaml"), "there is no directory nowhere/at"),
    ],
)
async def test_wrong_words_are_told_before_anything_is_read(arguments: tuple[str, ...], said: str) -> None:
    result = await run("--topic", "any", *arguments, bootstrap="127.0.0.1:1")
    assert result.exit_code == 2
    assert said in result.stderr

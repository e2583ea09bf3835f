"""Contracts: the examples load as they are; whatever is wrong is named with line, value, choices and the nearest."""

from __future__ import annotations

from datetime import date
from pathlib import Path

import pytest

from gateway.catalog.contracts import Contracts, load_contracts
from gateway.catalog.listing import partner_entry
from gateway.catalog.problems import Problems
from gateway.catalog.report import describe_contract
from gateway.catalog.source import MAX_DEPTH, MAX_FILE_BYTES, parse_yaml
from gateway.errors import ConfigurationProblems
from gateway.model import FilterField, Plan, Replay, RowFilter

ASYNCAPI = Path(__file__).parents[1] / "asyncapi"

WEATHER = """\
asyncapi: 3.0.0
id: urn:example:weather
info:
  title: Weather
  version: 1.2.0
defaultContentType: application/json
servers:
  main: {host: 'kafka:9092', protocol: kafka}
channels:
  weather:
    address: weather.v1
    servers: [{$ref: '#/servers/main'}]
    messages:
      report: {$ref: '#/components/messages/report'}
    x-gateway:
      stream: weather
      lifecycle: published
      owner: weather@example.com
      visibility: entitled
      scopes: [streams:read]
      transports: [sse, pull]
      key: {expose: true}
      headers: [trace]
      projection: [/station, /reading]
      filters:
        station: {pointer: /station, type: string}
        kelvin: {pointer: /reading/kelvin, type: number}
        wet: {pointer: /reading/wet, type: boolean}
      row_filter: {field: station, claim: stations}
      replay: {earliest: false, time: true, max_age: PT36H}
operations:
  publish:
    action: send
    channel: {$ref: '#/channels/weather'}
components:
  messages:
    report:
      payload: {$ref: '#/components/schemas/report'}
  schemas:
    report:
      type: object
      properties:
        station: {type: string}
        secret: {type: string}
        count: {type: integer}
        reading: {$ref: '#/components/schemas/reading'}
        history: {type: array, items: {type: number}}
        extra: {}
    reading:
      allOf:
        - properties: {kelvin: {type: [number, 'null']}}
        - properties: {wet: {type: boolean}}
"""


def write(directory: Path, **files: str) -> Path:
    streams = directory / "streams"
    streams.mkdir(exist_ok=True)
    for name, text in files.items():
        (streams / f"{name}.yaml").write_text(text, "utf-8")
    return directory


def load(directory: Path, *edits: tuple[str, str]) -> Contracts:
    return load_contracts(write(directory, weather=edited(*edits)))


def edited(*edits: tuple[str, str]) -> str:
    text = WEATHER
    for old, new in edits:
        assert text.count(old) >= 1, f"nothing to edit: {old}"
        text = text.replace(old, new, 1)
    return text


def problems_of(directory: Path, *edits: tuple[str, str]) -> list[str]:
    with pytest.raises(ConfigurationProblems) as caught:
        load(directory, *edits)
    return caught.value.problems


def test_the_examples_load_unchanged() -> None:
    contracts = load_contracts(ASYNCAPI)
    assert list(contracts) == ["earthquakes", "flights"]
    quakes, flights = contracts["earthquakes"], contracts["flights"]
    assert (quakes.cluster, quakes.topic) == ("main", "seismology.quakes.v1")
    assert (quakes.id, quakes.message_name, quakes.version) == (
        "urn:example:seismology:earthquakes",
        "earthquake",
        "1.0.0",
    )
    assert quakes.key_exposed
    assert quakes.projection is not None
    assert len(quakes.projection) == 7
    assert quakes.replay == Replay(earliest=True, time=True, max_age_seconds=7 * 86400)
    assert quakes.transports == ("sse", "ws", "pull", "ndjson")
    assert quakes.is_json
    assert flights.visibility == "entitled"
    assert flights.projection is None
    assert flights.row_filter == RowFilter("origin", "/origin", "string", claim="airport")
    assert flights.filters[2] == FilterField("delay", "/delay", "number")
    assert flights.source.endswith("flights.yaml:21")


def test_everything_a_contract_says_is_read(tmp_path: Path) -> None:
    contract = load(tmp_path)["weather"]
    assert contract.headers == ("trace",)
    assert contract.projection == ("/station", "/reading")
    assert contract.filters[2] == FilterField("wet", "/reading/wet", "boolean")
    assert contract.replay == Replay(earliest=False, time=True, max_age_seconds=36 * 3600)
    assert contract.content_type == "application/json"
    assert contract.document["info"] == {"title": "Weather", "version": "1.2.0"}


def test_a_snapshot_offers_no_way_to_change_it(tmp_path: Path) -> None:
    contracts = load(tmp_path)
    with pytest.raises(TypeError):
        contracts["other"] = contracts["weather"]  # type: ignore[index]


def test_the_digest_follows_content_and_not_layout(tmp_path: Path) -> None:
    first = load(tmp_path).digest
    assert load(tmp_path, ("servers:\n", "# a comment moves every line\nservers:\n")).digest == first
    assert load(tmp_path, ("PT36H", "PT129600S")).digest != first
    assert load(tmp_path, ("max_age: PT36H", "max_age: PT35H")).digest != first


@pytest.mark.parametrize(
    ("lifecycle", "expected"),
    [
        ("draft", (None, None, None)),
        ("{}", None),
        (
            "deprecated\n      deprecated_on: 2026-01-31\n      sunset_on: 2026-06-30",
            (date(2026, 1, 31), date(2026, 6, 30)),
        ),
        ("retired", (None, None, None)),
    ],
)
def test_each_lifecycle_loads_with_its_dates(tmp_path: Path, lifecycle: str, expected: tuple[date, ...] | None) -> None:
    edit = ("lifecycle: published", f"lifecycle: {lifecycle}")
    if expected is None:
        assert any("x-gateway.lifecycle, got a mapping" in line for line in problems_of(tmp_path, edit))
        return
    contract = load(tmp_path, edit)["weather"]
    assert (contract.deprecated_on, contract.sunset_on) == expected[:2]
    assert contract.lifecycle == lifecycle.split("\n")[0]


def test_a_retired_stream_names_a_successor_that_exists(tmp_path: Path) -> None:
    newer = WEATHER.replace("stream: weather", "stream: weather-2")
    retired = "lifecycle: retired\n      successor: weather-2"
    directory = write(tmp_path, newer=newer, weather=WEATHER.replace("lifecycle: published", retired))
    assert load_contracts(directory)["weather"].successor == "weather-2"
    write(tmp_path, weather=WEATHER.replace("lifecycle: published", retired.replace("weather-2", "weather-3")))
    with pytest.raises(ConfigurationProblems) as caught:
        load_contracts(directory)
    assert caught.value.problems == [
        f"{directory}/streams/weather.yaml:18: x-gateway.successor, got 'weather-3'; allowed: weather-2;"
        " did you mean 'weather-2'?"
    ]


def test_several_channels_of_a_file_are_several_streams(tmp_path: Path) -> None:
    second = """\
  plain:
    title: Plain weather
    address: null
    bindings: {kafka: {topic: weather.plain}}
    messages: {note: {name: note.v1, contentType: text/plain}}
    x-gateway: {stream: plain, lifecycle: published, owner: me, visibility: public, scopes: [], transports: [ws]}
  internal:
    address: internal.v1
operations:
"""
    contracts = load(tmp_path, ("operations:\n", second))
    assert list(contracts) == ["plain", "weather"]
    plain = contracts["plain"]
    assert (plain.title, plain.topic, plain.cluster) == ("Plain weather", "weather.plain", "main")
    assert (plain.message_name, plain.content_type, plain.is_json) == ("note.v1", "text/plain", False)
    assert contracts["weather"].title == "Weather"


# Each case: what is edited, the text that the problem's line holds, and what the problem line must say.
BAD = [
    # the AsyncAPI document
    ("asyncapi: 3.0.0", "asyncapi: 3.1.0", "asyncapi: 3.1", ["asyncapi, got '3.1.0'", "allowed: 3.0.x"]),
    ("asyncapi: 3.0.0", "asyncapi: 3.0", "asyncapi: 3.0", ["asyncapi, got 3.0", "allowed: 3.0.x"]),
    ("asyncapi: 3.0.0\n", "", "id:", ["asyncapi is required, got nothing"]),
    ("channels:", "chanels:", "chanels:", ["unknown key, got 'chanels'", "did you mean 'channels'?"]),
    ("id: urn:example:weather", "id: no uri", "id:", ["id, got 'no uri'", "allowed: a URI"]),
    ("  title: Weather\n", "", "version: 1.2.0", ["info.title is required, got nothing"]),
    ("version: 1.2.0", "version: 1.2", "version: 1.2", ["info.version, got 1.2", "allowed: text such as '1.0.0'"]),
    ("address: weather.v1", "adress: weather.v1", "adress:", ["unknown key, got 'adress'", "did you mean 'address'?"]),
    ("address: weather.v1", "address: weather/{city}", "address:", ["channels.weather.address, got", "a topic: 1 to"]),
    ("address: weather.v1", "address: '..'", "address:", ["channels.weather.address, got '..'"]),
    ("address: weather.v1", "address: null", "address:", ["channels.weather.address, got nothing", "kafka.topic"]),
    ("x-gateway:", "x-gatway:", "x-gatway:", ["unknown key, got 'x-gatway'", "did you mean 'x-gateway'?"]),
    ("action: send", "action: sent", "action:", ["operations.publish.action, got 'sent'", "did you mean 'send'?"]),
    (
        "protocol: kafka}",
        "protocol: kafk}",
        "protocol:",
        ["servers.main.protocol, got 'kafk'", "did you mean 'kafka'?"],
    ),
    ("protocol: kafka}", "protocol: http}", "protocol:", ["got 'http'; allowed: kafka, kafka-secure"]),
    ("    servers: [{$ref: '#/servers/main'}]", "    servers: []", "servers: []", ["names 0 servers", "exactly one"]),
    ("'#/servers/main'", "'#/servers/man'", "#/servers/man", ["a reference to nothing", "mean '#/servers/main'?"]),
    (
        "'#/servers/main'",
        "'other.yaml#/x'",
        "other.yaml",
        ["out of the file; nothing is ever fetched, got 'other.yaml#/x'"],
    ),
    ("'#/servers/main'", "'https://h/x'", "https://h", ["nothing is ever fetched, got 'https://h/x'"]),
    ("'#/components/schemas/reading'", "'#/components/schemas/report'", "reading: {", ["comes back to itself"]),
    (
        "      report: {$ref: '#/components/messages/report'}",
        "      {}",
        "messages:",
        ["holds 0 messages", "exactly one"],
    ),
    ("pplication/json", "pplication json", "defaultContentType", ["got 'application json'; allowed: a media type"]),
    ("application/json", "text/plain", "projection:", ["x-gateway.projection needs a JSON payload", "is text/plain"]),
    # x-gateway
    ("visibility:", "visiblity:", "visiblity:", ["x-gateway: unknown key, got 'visiblity'", "mean 'visibility'?"]),
    ("visibility: entitled\n", "\n", "stream: weather", ["x-gateway.visibility is required", "public, entitled"]),
    ("visibility: entitled", "visibility: private", "visibility:", ["x-gateway.visibility, got 'private'"]),
    ("stream: weather", "stream: Weather!", "stream: W", ["x-gateway.stream, got 'Weather!'", "1 to 63 of a-z"]),
    ("stream: weather", f"stream: {'w' * 64}", "stream: w", ["x-gateway.stream, got 'www"]),
    ("stream: weather", "stream: 7", "stream: 7", ["x-gateway.stream, got 7"]),
    (
        "published",
        "publishd",
        "publishd",
        ["lifecycle, got 'publishd'", "draft, published, deprecated, retired", "'published'?"],
    ),
    ("published", "deprecated", "stream: weather", ["x-gateway.deprecated_on is required", "a date such as"]),
    ("published", "deprecated\n      deprecated_on: 2026-02-30", "2026-02-30", ["got '2026-02-30'; allowed: a date"]),
    (
        "published",
        "published\n      sunset_on: 2026-01-01",
        "sunset_on",
        ["sunset_on, got 2026-01-01", "not published"],
    ),
    (
        "published",
        "published\n      successor: other",
        "successor",
        ["successor, got 'other'", "deprecated or retired"],
    ),
    (
        "published",
        "deprecated\n      deprecated_on: 2026-02-01\n      sunset_on: 2026-01-01",
        "sunset_on",
        ["sunset_on, got 2026-01-01; allowed: a date from 2026-02-01"],
    ),
    ("owner: weather@example.com", "owner: ''", "owner:", ["x-gateway.owner, got ''"]),
    ("[streams:read]", "['streams read']", "scopes:", ["x-gateway.scopes, got 'streams read'", "RFC 6749"]),
    ("[streams:read]", "streams:read", "scopes:", ["x-gateway.scopes, got 'streams:read'; allowed: a list of"]),
    ("[streams:read]", "[a, a]", "scopes:", ["x-gateway.scopes lists a value twice, got 'a'"]),
    ("      scopes: [streams:read]\n", "", "stream: weather", ["x-gateway.scopes is required"]),
    ("[sse, pull]", "[sse, pul]", "transports:", ["got 'pul'; allowed: sse, ws, pull, ndjson; did you mean 'pull'?"]),
    ("[sse, pull]", "[]", "transports:", ["x-gateway.transports is empty", "sse, ws, pull, ndjson"]),
    ("expose: true", "expos: true", "key:", ["x-gateway.key: unknown key, got 'expos'", "did you mean 'expose'?"]),
    ("expose: true", "expose: yes", "key:", ["x-gateway.key.expose, got 'yes'; allowed: true, false"]),
    ("headers: [trace]", "headers: ['']", "headers:", ["x-gateway.headers, got ''"]),
    (
        "[/station, /reading]",
        "[/stations, /reading]",
        "projection:",
        ["got 'stations'", "station, secret", "'station'?"],
    ),
    (
        "[/station, /reading]",
        "[station, /reading]",
        "projection:",
        ["got 'station'; allowed: a JSON pointer (RFC 6901)"],
    ),
    ("[/station, /reading]", "[/station~2, /reading]", "projection:", ["got '/station~2'; allowed: a JSON pointer"]),
    ("[/station, /reading]", "['', /reading]", "projection:", ["x-gateway.projection, got ''"]),
    ("[/station, /reading]", "[/history/0, /station, /reading]", "projection:", ["/history is an array", "got '0'"]),
    ("[/station, /reading]", "[/extra/0, /station, /reading]", "projection:", ["/extra is indexed", "got '0'"]),
    ("[/station, /reading]", "[/station/x, /station, /reading]", "projection:", ["/station is no object", "(string)"]),
    (
        "[/station, /reading]",
        "[/station, /reading/wet, /reading]",
        "projection:",
        ["'/reading/wet' lies within '/reading', which is listed in line 24"],
    ),
    (
        "[/station, /reading]",
        "[/station, /reading, /station]",
        "projection:",
        ["lists a pointer twice, got '/station'"],
    ),
    ("[/station, /reading]", "[]", "projection:", ["x-gateway.projection, got a list", "leave the key out"]),
    ("[/station, /reading]", "", "projection:", ["x-gateway.projection, got nothing", "leave the key out"]),
    ("row_filter: {field: station, claim: stations}", "row_filter:", "row_filter:", ["row_filter, got nothing"]),
    ("max_age: PT36H", "max_age: null", "max_age:", ["replay.max_age, got nothing"]),
    ("kelvin:", "kel vin:", "kel vin:", ["x-gateway.filters: bad name, got 'kel vin'"]),
    (
        "pointer: /reading/kelvin",
        "pointer: /reading/kelvni",
        "kelvni",
        ["got 'kelvni'; allowed: kelvin, wet", "'kelvin'?"],
    ),
    ("type: number}\n        wet", "type: numbr}\n        wet", "numbr", ["kelvin.type, got 'numbr'", "'number'?"]),
    ("type: number}\n        wet", "type: string}\n        wet", "kelvin:", ["the schema says number", "got 'string'"]),
    (
        "{pointer: /reading/wet, type",
        "{ponter: /reading/wet, type",
        "ponter",
        ["got 'ponter'", "did you mean 'pointer'?"],
    ),
    ("kelvin: {pointer: /reading/kelvin", "kelvin: {pointer: /count", "/count", ["field is not in the projection"]),
    (
        "{field: station,",
        "{field: statin,",
        "row_filter:",
        ["got 'statin'; allowed: station, kelvin, wet", "'station'?"],
    ),
    (", claim: stations}", "}", "row_filter:", ["got neither; allowed: exactly one of claim and attribute"]),
    ("claim: stations}", "claim: a, attribute: b}", "row_filter:", ["got both; allowed: exactly one"]),
    ("claim: stations}", "clam: stations}", "row_filter:", ["unknown key, got 'clam'", "did you mean 'claim'?"]),
    ("PT36H", "36h", "replay:", ["replay.max_age, got '36h'", "ISO 8601"]),
    ("PT36H", "P1M", "replay:", ["replay.max_age, got 'P1M'"]),
    ("PT36H", "PT0S", "replay:", ["replay.max_age, got 'PT0S'"]),
    ("earliest: false", "earlist: false", "replay:", ["unknown key, got 'earlist'", "did you mean 'earliest'?"]),
    # YAML
    ("scopes:", "owner:", "owner: [", ["key given twice, first in line 18, got 'owner'"]),
    ("owner: weather@example.com", "owner: !!str me", "owner:", ["tags are not supported", "tag:yaml.org,2002:str"]),
    ("owner: weather@example.com", "owner: !!python/object:os.system {}", "owner:", ["tags are not supported"]),
    ("owner: weather@example.com", "owner: [", "scopes:", ["not YAML", "(begun in line 18)"]),
    ("owner: weather@example.com", 'owner: "a\\0b"', "owner:", ["x-gateway.owner, got 'a\\x00b'"]),
    ("headers: [trace]", "1: 2", "1: 2", ["a key that is not text, got '1'"]),
    ("headers: [trace]", "<<: {a: 1}", "<<:", ["merge keys are not supported"]),
    ("headers: [trace]", "headers: [*nowhere]", "*nowhere", ["alias *nowhere names no finished anchor"]),
    ("headers: [trace]", "headers: &loop [*loop]", "&loop", ["alias *loop names no finished anchor"]),
    ("headers: [trace]", f"headers: [1{'0' * 400}.5]", "headers:", ["a number too large"]),
    ("operations:", "---\noperations:", "---", ["a second document"]),
]


@pytest.mark.parametrize(
    ("old", "new", "line_with", "said"), BAD, ids=[f"{i}-{case[1][:30]!r}" for i, case in enumerate(BAD)]
)
def test_what_is_wrong_is_named_with_line_value_and_choice(
    tmp_path: Path, old: str, new: str, line_with: str, said: list[str]
) -> None:
    text = edited((old, new))
    problems = problems_of(tmp_path, (old, new))
    numbers = {str(number) for number, line in enumerate(text.splitlines(), 1) if line_with in line}
    # A missing member is said where its mapping begins, which in block style is the line of its first key.
    for problem in problems:
        if all(part in problem for part in said):
            place, _, _ = problem.partition(": ")
            assert place.removeprefix(f"{tmp_path}/streams/weather.yaml:") in numbers, problem
            return
    pytest.fail(f"none of these says {said}:\n" + "\n".join(problems))


def test_all_problems_of_all_files_are_told_at_once(tmp_path: Path) -> None:
    directory = write(
        tmp_path,
        a=WEATHER.replace("published", "publishd").replace("visibility: entitled", "visibility: all"),
        b="channels: [",
        c=WEATHER.replace("stream: weather", "stream: other").replace("/station,", "/sation,"),
    )
    with pytest.raises(ConfigurationProblems) as caught:
        load_contracts(directory)
    text = "\n".join(caught.value.problems)
    assert "a.yaml:17:" in text
    assert "a.yaml:19:" in text
    assert "b.yaml:2:" in text or "b.yaml:1:" in text
    assert "c.yaml:24:" in text


@pytest.mark.parametrize(
    "broken",
    [
        ("'#/servers/main'", "'#/servers/nowhere'"),
        ("'#/channels/weather'", "'#/channels/nowhere'"),
        ("'#/components/messages/report'", "'#/components/messages/nowhere'"),
        ("'#/components/schemas/report'", "'https://elsewhere/x'"),
        ("'#/components/schemas/reading'", "'#/components/schemas/report'"),
        ("payload: {$ref: '#/components/schemas/report'}", "$ref: '#/components/messages/report'"),
    ],
)
def test_a_broken_reference_hides_no_other_problem_and_makes_none(tmp_path: Path, broken: tuple[str, str]) -> None:
    found = problems_of(tmp_path, broken, ("published", "publishd"))
    assert len([line for line in found if ": a reference " in line]) == 1
    assert len([line for line in found if "'publishd'" in line]) == 1
    # A message whose schema cannot be read says nothing of the pointers into it.
    assert len(found) == 2 or all("/reading" in line for line in found[2:]), found


def test_a_stream_is_defined_once(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationProblems) as caught:
        load_contracts(write(tmp_path, a=WEATHER, b=WEATHER))
    first = f"{tmp_path}/streams/a.yaml:15"
    assert caught.value.problems == [
        f"{tmp_path}/streams/b.yaml:15: stream defined twice, first in {first}, got 'weather';"
        " allowed: one contract a stream"
    ]


def test_a_cluster_that_is_not_configured_is_named(tmp_path: Path) -> None:
    write(tmp_path, weather=WEATHER)
    assert load_contracts(tmp_path, clusters=["main"])["weather"].cluster == "main"
    with pytest.raises(ConfigurationProblems) as caught:
        load_contracts(tmp_path, clusters=["mains"])
    assert "weather.yaml:8: servers.main is no configured Kafka cluster, got 'main'" in caught.value.problems[0]
    assert "did you mean 'mains'?" in caught.value.problems[0]


def test_a_missing_directory_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationProblems) as caught:
        load_contracts(tmp_path / "nowhere")
    assert caught.value.problems == [
        f"{tmp_path}/nowhere/streams: no such directory; allowed: the directory of contracts.dir, with streams/ in it"
    ]


def test_a_row_filter_may_use_a_field_that_partners_do_not_see(tmp_path: Path) -> None:
    hidden = ("station: {pointer: /station,", "station: {pointer: /secret,")
    contract = load(tmp_path, hidden)["weather"]
    assert contract.row_filter is not None
    assert contract.row_filter.pointer == "/secret"
    entry = partner_entry(contract, Plan("p", 1, "P", "EUR"), "https://api.example")
    assert [one["name"] for one in entry["filters"]] == ["kelvin", "wet"]
    assert "secret" not in str(entry)


def test_ten_thousand_fields_load(tmp_path: Path) -> None:
    fields = "".join(f"        field{number}: {{type: string}}\n" for number in range(10_000))
    pointers = ", ".join(f"/field{number}" for number in range(10_000))
    contract = load(
        tmp_path,
        ("        extra: {}\n", fields),
        ("[/station, /reading]", f"[/station, /reading, {pointers}]"),
    )["weather"]
    assert contract.projection is not None
    assert len(contract.projection) == 10_002


def test_markup_in_texts_is_text(tmp_path: Path) -> None:
    hostile = "</script><img src=x onerror=alert(1)>{{7*7}}${x}"
    assert load(tmp_path, ("title: Weather", f"title: '{hostile}'"))["weather"].title == hostile


def test_references_that_unfold_into_too_much_are_refused(tmp_path: Path) -> None:
    levels = ""
    for level in range(8):
        branches = ", ".join([f"{{$ref: '#/components/schemas/l{level + 1}'}}"] * 10)
        levels += f"    l{level}: {{allOf: [{branches}]}}\n"
    bomb = ("  schemas:\n", f"  schemas:\n{levels}    l8: {{type: object}}\n")
    found = problems_of(tmp_path, bomb, ("extra: {}", "extra: {$ref: '#/components/schemas/l0'}"))
    assert "too many values, references unfolded" in found[0]


def test_a_long_chain_of_references_ends_in_a_clear_line(tmp_path: Path) -> None:
    chain = "".join(f"    c{n}: {{$ref: '#/components/schemas/c{n + 1}'}}\n" for n in range(5_000))
    found = problems_of(tmp_path, ("  schemas:\n", f"  schemas:\n{chain}    c5000: {{type: object}}\n"))
    assert "references nested too deep" in found[0]


def test_data_is_not_searched_for_references(tmp_path: Path) -> None:
    example = "      examples: [{payload: {$ref: 'https://elsewhere/x'}}]\n"
    load(
        tmp_path,
        (
            "      payload: {$ref: '#/components/schemas/report'}\n",
            "      payload: {$ref: '#/components/schemas/report'}\n" + example,
        ),
    )
    load(tmp_path, ("extra: {}", "$ref: {type: string, default: {$ref: 'x'}}"))
    assert "a reference to nothing" in problems_of(tmp_path, ("extra: {}", "examples: {$ref: '#/nowhere'}"))[0]


def yaml_problems(data: bytes) -> list[str]:
    problems = Problems()
    parse_yaml(data, "f.yaml", problems)
    return problems.lines


def test_aliases_that_unfold_into_too_much_are_refused() -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 9)]
    found = yaml_problems("\n".join(lines).encode())
    assert len(found) == 1
    assert "too many values, aliases unfolded; allowed: at most 200000" in found[0]


def test_a_plain_alias_is_read() -> None:
    problems = Problems()
    node = parse_yaml(b"a: &x {b: 2026-01-01}\nc: *x\n", "f.yaml", problems)
    assert node is not None
    assert not problems
    assert node.value["c"].value["b"].value == date(2026, 1, 1)
    assert node.plain() == {"a": {"b": "2026-01-01"}, "c": {"b": "2026-01-01"}}


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"x" * (MAX_FILE_BYTES + 1), "f.yaml: file too large; allowed: at most 1048576 bytes"),
        (b"a: 1\nb: \xff\n", "f.yaml:2: bytes that are not UTF-8"),
        (b"a: 1\nb: \x01\n", "f.yaml:2: not YAML"),
        (b"[" * 100_000, f"f.yaml:1: nested too deep; allowed: at most {MAX_DEPTH} levels"),
        (b"{" * 100_000, "f.yaml:1: "),
        (b"", "f.yaml:1: the file is empty"),
        (b"? [a]\n: 1\n", "f.yaml:1: a key that is not text"),
        (b"a: 1\n2026-01-01: 1\n", "f.yaml:2: a key that is not text"),
        (b"a: 1\n\tb: 2\n", "f.yaml:2: not YAML"),
    ],
)
def test_what_is_no_plain_yaml_is_one_line(data: bytes, said: str) -> None:
    found = yaml_problems(data)
    assert len(found) == 1
    assert found[0].startswith(said)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("no", "no"),
        ("on", "on"),
        ("12:30", "12:30"),
        ("0x1f", "0x1f"),
        ("1_000", "1_000"),
        ("~", None),
        ("'1'", "1"),
        ("1e3", 1000.0),
        ("-7", -7),
        ("true", True),
        ("2026-13-01", "2026-13-01"),
        ("'2026-01-01'", "2026-01-01"),
    ],
)
def test_words_stay_words_and_numbers_are_numbers(text: str, value: object) -> None:
    problems = Problems()
    node = parse_yaml(f"a: {text}".encode(), "f.yaml", problems)
    assert node is not None
    assert node.value["a"].value == value
    assert type(node.value["a"].value) is type(value)


def test_partners_see_no_topic_cluster_owner_or_hidden_field() -> None:
    for contract in load_contracts(ASYNCAPI).values():
        plan = Plan("free", 1, "Free", "EUR", limits={"connections": 2})
        entry = partner_entry(contract, plan, "https://api.example/")
        told = str(entry)
        for secret in (contract.topic, "kafka", "main", contract.owner, "felt", "claim", "urn:"):
            assert secret not in told
        assert entry["name"] == contract.stream
        assert entry["limits"] == {"connections": 2}
        assert entry["links"]["ws"] == f"wss://api.example/v1/streams/{contract.stream}/ws"
        assert entry["links"]["pull"] == f"https://api.example/v1/streams/{contract.stream}/records"
        assert entry["row_filtered"] is (contract.stream == "flights")


def test_operators_see_the_topic() -> None:
    shown = describe_contract(load_contracts(ASYNCAPI)["flights"])
    assert (shown["cluster"], shown["topic"]) == ("main", "aviation.flights.v2")
    assert shown["row_filter"] == {"field": "origin", "claim": "airport", "attribute": None}

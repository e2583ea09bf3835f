"""Logs: one line an event, bounded, without secrets, in both formats."""

from __future__ import annotations

import base64
import io
import json
import logging
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.observability import logs

logger = logging.getLogger("gateway.tests")

DOCUMENT = Path(__file__).parent.parent / "docs/reference/logs.md"
SOURCES = Path(__file__).parent.parent / "gateway"
JWT = ".".join(
    base64.urlsafe_b64encode(part).decode().rstrip("=")
    for part in (b'{"alg":"RS256","kid":"k1"}', b'{"sub":"somebody","exp":1}', b"\x01\x02signature-bytes\xff" * 4)
)


@contextmanager
def logging_to(log_format: logs.LogFormat, *, level: str = "INFO") -> Iterator[io.StringIO]:
    """Logging as ``serve`` sets it, put back afterwards as pytest wants it."""
    names = ["", "gateway", *logs.LIBRARIES]
    before = {
        name: (list(found.handlers), found.level, found.propagate)
        for name in names
        for found in [logging.getLogger(name)]
    }
    stream = io.StringIO()
    show = warnings.showwarning
    try:
        logs.configure_logging(log_format, level=level, stream=stream)
        yield stream
    finally:
        logging.captureWarnings(capture=False)
        warnings.showwarning = show
        for name, (handlers, old_level, propagate) in before.items():
            found = logging.getLogger(name)
            found.handlers[:] = handlers
            found.setLevel(old_level)
            found.propagate = propagate


@pytest.fixture
def output() -> Iterator[io.StringIO]:
    with logging_to("json") as stream:
        yield stream


@pytest.fixture
def text_output() -> Iterator[io.StringIO]:
    with logging_to("text") as stream:
        yield stream


def only_line(output: io.StringIO) -> dict[str, object]:
    lines = output.getvalue().splitlines()
    assert len(lines) == 1, lines
    found = json.loads(lines[0])
    assert isinstance(found, dict)
    return found


def test_an_event_is_one_json_object_with_its_fields(output: io.StringIO) -> None:
    logs.event(logger, logging.INFO, "stream_opened", stream="flights", records=3, share=0.5, live=True, end=None)
    line = only_line(output)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", str(line.pop("time")))
    assert line == {
        "level": "INFO",
        "logger": "gateway.tests",
        "event": "stream_opened",
        "stream": "flights",
        "records": 3,
        "share": 0.5,
        "live": True,
        "end": None,
    }


def test_the_correlation_id_is_on_every_line_of_its_request_and_on_no_other(output: io.StringIO) -> None:
    token = logs.correlation_id.set("abc-1")
    logs.event(logger, logging.INFO, "inside")
    logs.correlation_id.reset(token)
    logs.event(logger, logging.INFO, "outside")
    inside, outside = (json.loads(line) for line in output.getvalue().splitlines())
    assert inside["correlation_id"] == "abc-1"
    assert "correlation_id" not in outside


def test_a_level_that_is_off_writes_nothing(output: io.StringIO) -> None:
    logs.event(logger, logging.DEBUG, "detail")
    assert output.getvalue() == ""


def test_a_wrong_level_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="LOUD"):
        logs.configure_logging("json", level="LOUD")


@pytest.mark.parametrize("library", ["uvicorn.error", "uvicorn.access", "aiokafka.consumer", "websockets.server"])
def test_libraries_are_heard_from_warning_up_and_in_our_format(output: io.StringIO, library: str) -> None:
    logging.getLogger(library).info("GET /v1/streams/flights?ticket=abc")
    logging.getLogger(library).warning("broker %s is away", 7)
    line = only_line(output)
    assert (line["logger"], line["event"], line["level"]) == (library, "broker 7 is away", "WARNING")


def test_a_librarys_own_output_is_replaced() -> None:
    own = io.StringIO()
    library = logging.getLogger("uvicorn.error")
    channel = logging.StreamHandler(own)
    library.addHandler(channel)
    try:
        with logging_to("json") as output:
            library.error("away")
            assert only_line(output)["event"] == "away"
    finally:
        library.removeHandler(channel)
    assert own.getvalue() == ""


def test_a_librarys_arguments_that_do_not_fit_its_message_cost_no_line() -> None:
    record = logging.LogRecord("aiokafka", logging.WARNING, "f", 1, "%d partitions", ("many",), None)
    assert json.loads(logs.JsonFormatter().format(record))["event"] == "%d partitions"


def test_an_exception_is_on_the_same_line_with_its_traceback(output: io.StringIO) -> None:
    try:
        raise ValueError("first\nsecond")
    except ValueError as error:
        logs.event(logger, logging.ERROR, "failed", exception=error)
    line = only_line(output)
    assert line["exception"] == "ValueError: first\nsecond"
    assert "test_logs.py" in str(line["traceback"])


@pytest.mark.parametrize(
    "text",
    [
        JWT,
        f"Authorization: Bearer {JWT}",
        JWT[: len(JWT) // 2],
        f"token={JWT}",
        f"subprotocols gateway.v1, bearer.{base64.urlsafe_b64encode(JWT.encode()).decode()}",
    ],
)
def test_a_token_is_masked_wherever_it_stands(output: io.StringIO, text: str) -> None:
    padding = "x" * (logs.TEXT_CHARACTERS - 40)
    logger.warning("refused %s", text)
    logs.event(logger, logging.WARNING, text, field=text, nested={"a": [text]}, cut=f"{padding} {text}")
    try:
        raise ValueError(text)
    except ValueError as error:
        logs.event(logger, logging.ERROR, "failed", exception=error)
    written = output.getvalue()
    assert len(written.splitlines()) == 3
    secret = text.split()[-1].removeprefix("bearer.").removeprefix("token=")
    for part in secret.split("."):
        assert part[:24] not in written
        assert part[-12:] not in written


@pytest.mark.parametrize(
    ("text", "secret"),
    [
        ("Bearer opaque-credential", "opaque-credential"),
        ("GET /v1/streams/flights?ticket=t0p-secret&x=1", "t0p-secret"),
        ("cursor=AAECAwQF", "AAECAwQF"),
        ('{"token": "opaque"}', "opaque"),
        ("{'cursor': 'AAECAwQF'}", "AAECAwQF"),
        ("Error 111 connecting to redis://user:hunter2@redis:6379", "hunter2"),
    ],
)
def test_a_credential_or_cursor_in_prose_is_masked(text: str, secret: str) -> None:
    assert secret not in logs.mask(text)
    assert logs.MASK in logs.mask(text)


def test_prose_about_tokens_stays_readable() -> None:
    for text in ("Access token refused", "send a bearer token, please", "cursor: expired", "https://host/path@x"):
        assert logs.mask(text) == text


def test_a_field_with_a_secrets_name_is_masked_whole(output: io.StringIO) -> None:
    logs.event(logger, logging.INFO, "x", token="opaque", sasl_password="p", settings={"secret": "s"}, token_id="jti-1")
    line = only_line(output)
    assert line["token"] == line["sasl_password"] == logs.MASK
    assert line["settings"] == {"secret": logs.MASK}
    assert line["token_id"] == "jti-1"


def test_bytes_are_counted_and_not_shown(output: io.StringIO) -> None:
    logs.event(logger, logging.INFO, "x", value=b"a partner's payload")
    assert only_line(output)["value"] == "<19 bytes>"


def test_a_field_cannot_pose_as_a_member_of_the_line(output: io.StringIO) -> None:
    logs.event(logger, logging.INFO, "x", level="FATAL", time="never", event="y", traceback="t")
    line = only_line(output)
    assert (line["event"], line["level"]) == ("x", "INFO")
    assert (line["field_event"], line["field_level"], line["field_time"]) == ("y", "FATAL", "never")


def test_a_line_is_bounded_however_much_is_logged(output: io.StringIO) -> None:
    deep: object = "x"
    for _ in range(100):
        deep = [deep] * 2 if isinstance(deep, str) else [deep]
    many = {f"name{i}": "v" * 10_000 for i in range(1000)}
    logs.event(logger, logging.INFO, "e" * 100_000, deep=deep, long="v" * 1_000_000, **many)
    assert len(output.getvalue()) < 55 * (logs.TEXT_CHARACTERS + 100)


@given(st.text(), st.text(), st.floats(), st.dictionaries(st.text(), st.text()))
def test_whatever_is_logged_is_one_line_of_valid_json(message: str, value: str, number: float, nested: object) -> None:
    record = logging.LogRecord("gateway", logging.INFO, "f", 1, message, None, None)
    record.fields = {value: value, "number": number, "nested": nested, "ends": "\r\n\x00\x1b[31m\x7f\x85\u2028\ud800"}
    line = logs.JsonFormatter().format(record)
    assert line.isascii()
    assert line.isprintable()
    found = json.loads(line, parse_constant=pytest.fail)
    assert found["ends"] == "\r\n\x00\x1b[31m\x7f\x85\u2028\ud800"


def test_text_format_is_one_readable_line_with_an_indented_traceback(text_output: io.StringIO) -> None:
    try:
        raise ValueError("no")
    except ValueError as error:
        logs.event(logger, logging.ERROR, "failed", stream="flights", detail="two words", exception=error)
    first, *rest = text_output.getvalue().splitlines()
    assert first.endswith('ERROR gateway.tests failed stream=flights detail="two words" exception="ValueError: no"'), (
        first
    )
    assert rest
    assert all(line.startswith("    ") for line in rest)


def test_nobody_can_write_a_second_line_or_steer_a_terminal_in_text_format(text_output: io.StringIO) -> None:
    logs.event(logger, logging.INFO, "x\n2026 INFO forged", agent="\x1b[2J\r\nforged\u2028", cursor="AAEC")
    assert len(text_output.getvalue().splitlines()) == 1
    assert text_output.getvalue().rstrip("\n").isprintable()
    assert "AAEC" not in text_output.getvalue()


def test_a_python_warning_is_a_line_too() -> None:
    with warnings.catch_warnings(), logging_to("json") as output:
        warnings.simplefilter("always")
        warnings.warn("soon gone", DeprecationWarning, stacklevel=1)
        assert "soon gone" in str(only_line(output)["event"])


def test_every_event_that_the_product_logs_is_documented() -> None:
    document = DOCUMENT.read_text()
    names = {
        name
        for path in SOURCES.rglob("*.py")
        for name in re.findall(
            r"event\(\s*\w*logger,\s*(?:logging\.[A-Z]+|[\w.]+_level),\s*\"(\w+)\"", path.read_text()
        )
    }
    assert {"request_failed", "access"} <= names
    assert sorted(name for name in names if f"`{name}`" not in document) == []

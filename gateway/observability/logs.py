"""Logs on stderr: one JSON object a line for machines, or a line of text for people; nothing secret in either.

Own code writes ``event(logger, level, "name", field=value)``. Whatever libraries log goes the same way out.
"""

from __future__ import annotations

import json
import logging
import re
import sys
import time
import traceback
from collections.abc import Mapping
from contextvars import ContextVar
from functools import lru_cache
from types import TracebackType
from typing import Final, Literal, TextIO

from gateway.units import format_rfc3339

LogFormat = Literal["json", "text"]

correlation_id: ContextVar[str | None] = ContextVar("correlation_id", default=None)
"""The id of the request that this task works for; every line logged meanwhile carries it."""

LIBRARIES = ("uvicorn", "uvicorn.error", "uvicorn.access", "uvicorn.asgi", "aiokafka", "websockets", "asyncio")
TEXT_CHARACTERS = 2000
TRACEBACK_CHARACTERS = 16_000
MEMBERS = 50
DEPTH = 3
RESERVED = frozenset({"time", "level", "logger", "event", "correlation_id", "exception", "traceback"})

MASK = "[masked]"
_MASKED_NAMES = (
    "access_token|refresh_token|token|ticket|cursor|last_event_id|client_secret|secret|password|authorization"
)
_SECRET_FIELD = re.compile(rf"(?:.*[_-])?(?:{_MASKED_NAMES})", re.IGNORECASE)
# A JWT or the beginning of one: a header's base64url begins with eyJ because JSON begins with {".
_JWT_BEGINS: Final = "eyJ"
_JWT = re.compile(r"eyJ[A-Za-z0-9_-]{4,}(?:\.[A-Za-z0-9_-]*)*")
# As a header and as the WebSocket subprotocol (bearer.<base64url>), but not the prose "bearer token".
_BEARER = re.compile(
    r"\b(bearer)(?:\s+|\.)(?!tokens?(?=[\s,;:]|$)|realm=)[A-Za-z0-9._~+/-]+=*",
    re.IGNORECASE,
)
# As query parameters, as settings and as members of JSON or of a dict's repr.
_NAMED = re.compile(rf"\b({_MASKED_NAMES})(=|[\"']\s*:\s*[\"'])[^\s&\"']+", re.IGNORECASE)
_USER_INFO = re.compile(r"://[^/\s@]+@")
_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


def event(logger: logging.Logger, level: int, name: str, /, **fields: object) -> None:
    """Log ``name`` (a stable slug, listed in docs/reference/logs.md) with structured fields.

    Cheap where the level is off. An exception as ``exception`` adds its class, message and traceback.
    """
    if logger.isEnabledFor(level):
        error = fields.pop("exception", None)
        trace = (type(error), error, error.__traceback__) if isinstance(error, BaseException) else None
        logger.handle(_Event(logger.name, level, name, fields, trace))


class _Event(logging.LogRecord):
    """A record that does not know which line of which thread it came from: nobody reads that here, and to find it out
    takes as long as everything else."""

    def __init__(
        self,
        logger: str,
        level: int,
        name: str,
        fields: Mapping[str, object],
        trace: tuple[type[BaseException], BaseException, TracebackType | None] | None,
    ) -> None:
        self.name, self.msg, self.args = logger, name, ()
        self.levelno, self.levelname = level, logging.getLevelName(level)
        self.created = time.time()
        self.msecs = self.created * 1000 % 1000
        self.relativeCreated = 0.0
        self.exc_info, self.exc_text, self.stack_info = trace, None, None
        self.pathname = self.filename = self.module = self.funcName = ""
        self.lineno = 0
        self.process = self.thread = None
        self.processName = self.threadName = None
        self.fields = fields


def configure_logging(log_format: LogFormat = "json", *, level: str = "INFO", stream: TextIO | None = None) -> None:
    """Send everything logged in this process to ``stream`` (stderr) in ``log_format``, replacing what was set before.

    ``level`` (a name of the logging module) is for our own loggers. Libraries speak from WARNING up: below it they
    log query strings and frames.
    """
    own = logging.getLevelName(level.upper())
    if not isinstance(own, int):
        raise ValueError(f"{level!r} is not a log level: use DEBUG, INFO, WARNING, ERROR or CRITICAL")
    channel = logging.StreamHandler(stream or sys.stderr)
    channel.setFormatter(JsonFormatter() if log_format == "json" else TextFormatter())
    root = logging.getLogger()
    root.handlers[:] = [channel]
    root.setLevel(max(own, logging.WARNING))
    logging.getLogger("gateway").setLevel(own)
    for name in LIBRARIES:
        library = logging.getLogger(name)
        library.handlers.clear()
        library.propagate = True
        library.setLevel(max(own, logging.WARNING))
    # A warning printed by the interpreter would be a line that is no JSON.
    logging.captureWarnings(capture=True)


def mask(text: str) -> str:
    """``text`` without what looks like a credential or a cursor: a belt, for own code logs none.

    Looked at twice is only what holds a character that a pattern cannot do without: most texts hold none.
    """
    if _JWT_BEGINS in text:
        text = _JWT.sub(MASK, text)
    if "bearer" in text.lower():
        text = _BEARER.sub(rf"\1 {MASK}", text)
    if "=" in text or '"' in text or "'" in text:
        text = _NAMED.sub(rf"\1\2{MASK}", text)
    if "@" in text:
        text = _USER_INFO.sub(f"://{MASK}@", text)
    return text


_encode_line = json.JSONEncoder(allow_nan=False).encode


class JsonFormatter(logging.Formatter):
    """``{time, level, logger, event, correlation_id?, …fields, exception?, traceback?}`` in ASCII, on one line."""

    def format(self, record: logging.LogRecord) -> str:
        return _encode_line(_members(record))


class TextFormatter(logging.Formatter):
    """``time LEVEL logger event name=value …``, then the traceback, indented. For people; nothing parses it."""

    def format(self, record: logging.LogRecord) -> str:
        members = _members(record)
        trace = members.pop("traceback", "")
        first = " ".join(_printable(str(members.pop(name))) for name in ("time", "level", "logger", "event"))
        rest = (f"{name}={_printable(_spelled(value))}" for name, value in members.items())
        lines = ["    " + _printable(line) for line in str(trace).splitlines()]
        return "\n".join([" ".join([first, *rest]), *lines])


def _members(record: logging.LogRecord) -> dict[str, object]:
    members: dict[str, object] = {
        "time": format_rfc3339(int(record.created * 1000)),
        "level": record.levelname,
        "logger": record.name,
        "event": _text(_message(record)),
    }
    current = correlation_id.get()
    if current is not None:
        members["correlation_id"] = _text(current)
    fields = getattr(record, "fields", None)
    if isinstance(fields, Mapping):
        for name, value in list(fields.items())[:MEMBERS]:
            members[f"field_{name}" if name in RESERVED else str(name)] = _bounded(value, name=str(name), depth=DEPTH)
    error = record.exc_info[1] if record.exc_info else None
    if error is not None:
        members["exception"] = _text(f"{type(error).__qualname__}: {error}")
        members["traceback"] = _tail("".join(traceback.format_exception(error)))
    return members


def _message(record: logging.LogRecord) -> str:
    try:
        return record.getMessage()
    except (TypeError, ValueError):
        # A library's arguments that do not fit its format: the line is worth more without them than not at all.
        return str(record.msg)


def _bounded(value: object, *, name: str, depth: int) -> object:
    """A field as JSON holds it: nothing long, nothing deep, no bytes (they would be a partner's payload)."""
    if value is None or isinstance(value, bool | int):
        return value
    if _is_secret(name):
        return MASK
    if type(value) is str:
        return _text(value)
    if isinstance(value, float):
        return value if value - value == 0 else str(value)
    if isinstance(value, bytes | bytearray | memoryview):
        return f"<{len(value)} bytes>"
    if isinstance(value, Mapping) and depth:
        return {
            _text(str(key)): _bounded(item, name=str(key), depth=depth - 1)
            for key, item in list(value.items())[:MEMBERS]
        }
    if isinstance(value, list | tuple | set | frozenset) and depth:
        return [_bounded(item, name=name, depth=depth - 1) for item in list(value)[:MEMBERS]]
    return _text(str(value))


@lru_cache(maxsize=1024)
def _is_secret(name: str) -> bool:
    return _SECRET_FIELD.fullmatch(name) is not None


def _text(text: str) -> str:
    """Cut first, masked then: a token that is cut in two still begins like one."""
    return mask(text if len(text) <= TEXT_CHARACTERS else text[: TEXT_CHARACTERS - 1] + "…")


def _tail(trace: str) -> str:
    """The end of a traceback says most. Its first line goes if it was cut: it may begin amid a token."""
    return mask(trace if len(trace) <= TRACEBACK_CHARACTERS else trace[-TRACEBACK_CHARACTERS:].partition("\n")[2])


def _spelled(value: object) -> str:
    if isinstance(value, str):
        return f'"{value}"' if not value or " " in value else value
    return json.dumps(value)


def _printable(text: str) -> str:
    return _UNPRINTABLE.sub(lambda match: f"\\x{ord(match[0]):02x}", text)

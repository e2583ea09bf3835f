"""Kinds of values that settings hold: how each is read and what it must be."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from typing import Annotated, Any
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, SecretStr

_SIZE = re.compile(r"(\d+)\s*(KiB|MiB|GiB)?")
_UNITS = {"": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}
_BEARER = re.compile(r"[A-Za-z0-9._~+/-]+=*")
_HEADER = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+:[ \t]*[\x21-\x7e][\x20-\x7e]*")
_NAME = re.compile(r"[a-z0-9][a-z0-9_-]*")
MAX_URL_LENGTH = 2048
_WILDCARDS = {"0.0.0.0": "localhost", "::": "localhost", "": "localhost"}  # noqa: S104 (recognised, not bound)


def read_size(value: object) -> object:
    if isinstance(value, str) and (match := _SIZE.fullmatch(value.strip())):
        return int(match[1]) * _UNITS[match[2] or ""]
    return value


def read_comma_list(value: object) -> object:
    return [part.strip() for part in value.split(",") if part.strip()] if isinstance(value, str) else value


def check_host_port(value: str) -> str:
    host, colon, port = value.rpartition(":")
    if not (host and colon and port.isdecimal() and 0 < int(port) < 65536):
        raise ValueError("each server must be host:port, with a port from 1 to 65535")
    return value


def check_network(value: str) -> str:
    try:
        ipaddress.ip_network(value, strict=False)
    except ValueError:
        raise ValueError("each proxy must be an IP address or a network such as 10.0.0.0/8") from None
    return value


def check_public_url(value: str) -> str:
    parts = urlsplit(value)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment or parts.username:
        raise ValueError("must be an http or https address without user, query or fragment")
    return value.rstrip("/")


def check_token_url(value: str) -> str:
    parts = urlsplit(value)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.username or parts.fragment:
        raise ValueError("must be an http or https address without user or fragment")
    return value


def check_jwks_url(value: str) -> str:
    if len(value) > MAX_URL_LENGTH or not (value.isascii() and value.isprintable()) or " " in value:
        raise ValueError(f"must be an address of at most {MAX_URL_LENGTH} ASCII characters without spaces")
    try:
        parts = urlsplit(value)
        host, _ = parts.hostname, parts.port
    except ValueError:
        raise ValueError("must be an https address with a host, and a port from 1 to 65535 if any") from None
    if not host or parts.username is not None or parts.fragment:
        raise ValueError("must be an https address without user or fragment")
    if parts.scheme != "https" and not (parts.scheme == "http" and is_this_machine(host)):
        # Whoever stands on the way of a plain answer can put keys of their own into it.
        raise ValueError("must begin with https://; http:// is for 127.0.0.1, [::1] and localhost alone")
    return value


def is_this_machine(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def check_redis_url(value: SecretStr) -> SecretStr:
    if urlsplit(value.get_secret_value()).scheme not in ("redis", "rediss", "unix"):
        raise ValueError("must be an address that begins with redis://, rediss:// or unix://")
    return value


def check_database_url(value: SecretStr) -> SecretStr:
    text = value.get_secret_value()
    if text.startswith("postgres") and not text.startswith("postgresql+psycopg://"):
        raise ValueError("names another driver for Postgres: begin it with postgresql+psycopg://")
    if text and not text.startswith(("sqlite://", "postgresql+psycopg://")):
        raise ValueError("must be an address that begins with sqlite:/// or postgresql+psycopg://")
    return value


def check_bearer(value: SecretStr) -> SecretStr:
    if not _BEARER.fullmatch(value.get_secret_value()):
        raise ValueError("each token must be of letters, digits and - . _ ~ + / (RFC 6750 §2.1)")
    return value


def check_cursor_key(value: SecretStr) -> SecretStr:
    if len(value.get_secret_value()) < 16:
        raise ValueError("each key must have at least 16 characters")
    return value


def check_otlp_header(value: SecretStr) -> SecretStr:
    if not _HEADER.fullmatch(value.get_secret_value()):
        raise ValueError("each header must be Name: value, on one line (RFC 9110 §5.1)")
    return value


def check_name(value: str) -> str:
    if not _NAME.fullmatch(value):
        raise ValueError("must be a name of small letters, digits, - and _")
    return value


Size = Annotated[int, BeforeValidator(read_size)]
HostPort = Annotated[str, AfterValidator(check_host_port)]
Name = Annotated[str, AfterValidator(check_name)]
Servers = Annotated[tuple[HostPort, ...], BeforeValidator(read_comma_list)]
Network = Annotated[str, AfterValidator(check_network)]
PublicUrl = Annotated[str, AfterValidator(check_public_url)]
JwksUrl = Annotated[str, AfterValidator(check_jwks_url)]
TokenUrl = Annotated[str, AfterValidator(check_token_url)]
RedisUrl = Annotated[SecretStr, AfterValidator(check_redis_url)]
DatabaseUrl = Annotated[SecretStr, AfterValidator(check_database_url)]
BearerToken = Annotated[SecretStr, AfterValidator(check_bearer)]
OtlpHeader = Annotated[SecretStr, AfterValidator(check_otlp_header)]
CursorKey = Annotated[SecretStr, AfterValidator(check_cursor_key)]


def address_of(host: str, port: int, *, tls: bool) -> str:
    """The URL at which ``host`` and ``port`` are reached; a wildcard host is reached as ``localhost``."""
    scheme, default_port = ("https", 443) if tls else ("http", 80)
    name = _WILDCARDS.get(host, host)
    name = f"[{name}]" if ":" in name else name
    return f"{scheme}://{name}" if port == default_port else f"{scheme}://{name}:{port}"


def masked(value: Any) -> str:
    """A value as it may be printed: no secret, no whole table, at most 80 characters."""
    if isinstance(value, SecretStr):
        return "***"
    text = "a table" if isinstance(value, Mapping) else repr(value)
    return text if len(text) <= 80 else f"{text[:77]}…"

"""Where an issuer publishes its keys: one GET, bounded in time and size, that goes nowhere but there.

Over https, or over http to this very machine, for development: everybody on the way of a plain answer could put keys
of their own into it. Redirects are not followed, since they lead where nobody checked; environment proxies and
``.netrc`` are not used.
"""

from __future__ import annotations

import asyncio
import re
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Final, Protocol

import httpx

from gateway.auth.apart import Apart
from gateway.auth.keys import MAX_DOCUMENT_BYTES

_MAX_AGE: Final = re.compile(r"(?:^|[,\s])max-age\s*=\s*\"?(\d{1,9})", re.IGNORECASE)
_UNKEPT: Final = re.compile(r"(?:^|[,\s])no-(?:store|cache)(?:$|[,\s=])", re.IGNORECASE)
_REASON_CHARACTERS: Final = 160


class KeysUnreachable(Exception):
    """No document came. The message is for the operator: what happened and, where it is known, what to do."""


@dataclass(frozen=True, slots=True)
class Answer:
    """A document and for how long its sender says that it holds; None where nothing is said."""

    document: bytes
    fresh_seconds: float | None


class Address(Protocol):
    """A place to ask for a JWKS document."""

    url: str

    async def ask(self) -> Answer:
        """One request. Raises KeysUnreachable; it is over within the address's own time limit."""
        ...


class HttpAddress:
    """The address on the network."""

    def __init__(self, url: str, *, apart: Apart, ca_file: Path | None = None, timeout_seconds: float = 5.0) -> None:
        """``url``: as the settings let it pass. ``apart``: where the answer is read; its owner closes it. ``ca_file``:
        PEM authorities to trust instead of the system's."""
        self.url = url
        self._apart = apart
        self._ca_file = ca_file
        self._timeout_seconds = timeout_seconds

    async def ask(self) -> Answer:
        return await self._apart.run(self._ask())

    async def _ask(self) -> Answer:
        try:
            async with asyncio.timeout(self._timeout_seconds):
                return await self._get(self._context())
        except TimeoutError:
            raise KeysUnreachable(f"no whole answer within {self._timeout_seconds:g} s") from None
        except (httpx.HTTPError, httpx.InvalidURL, httpx.StreamError, OSError) as error:
            raise KeysUnreachable(_reason(error)) from None

    def _context(self) -> ssl.SSLContext | bool:
        """Made for each request: the authorities' file may have been renewed."""
        if not self.url.lower().startswith("https:"):
            return False
        try:
            return ssl.create_default_context(cafile=None if self._ca_file is None else str(self._ca_file))
        except (OSError, ValueError) as error:
            place = "the system's authorities" if self._ca_file is None else f"jwks_ca_file {self._ca_file}"
            raise KeysUnreachable(f"{place}: not readable as PEM certificates: {_words(error)}") from None

    async def _get(self, context: ssl.SSLContext | bool) -> Answer:
        headers = {
            "Accept": "application/jwk-set+json, application/json",
            # A compressed answer may be a thousand times as large as it arrives.
            "Accept-Encoding": "identity",
            "Connection": "close",
            "User-Agent": "streaming-gateway",
        }
        timeout = httpx.Timeout(self._timeout_seconds)
        async with (
            httpx.AsyncClient(verify=context, trust_env=False, follow_redirects=False, timeout=timeout) as client,
            client.stream("GET", self.url, headers=headers) as response,
        ):
            _check_head(response)
            document = bytearray()
            async for piece in response.aiter_raw():
                document += piece
                if len(document) > MAX_DOCUMENT_BYTES:
                    raise KeysUnreachable(f"its answer is larger than {MAX_DOCUMENT_BYTES} bytes")
            return Answer(bytes(document), fresh_seconds_of(response.headers))


def fresh_seconds_of(headers: Mapping[str, str]) -> float | None:
    """For how long an answer holds by its ``Cache-Control`` and ``Age`` (RFC 9111 §4.2).

    None where it does not say, or says that it is not to be kept: what is asked then is when to look again, and
    servers that put ``no-cache`` on everything do not mean at once.
    """
    said = headers.get("cache-control", "")
    match = _MAX_AGE.search(said)
    if match is None or _UNKEPT.search(said):
        return None
    age = headers.get("age", "0").strip()
    return max(0.0, float(match[1]) - (int(age) if age.isdecimal() and len(age) < 10 else 0))


def _check_head(response: httpx.Response) -> None:
    status = response.status_code
    if response.is_redirect or 300 <= status < 400:
        raise KeysUnreachable(f"answers {status}, a redirect; set jwks_url to the address it leads to")
    if status != HTTPStatus.OK:
        advice = "; is jwks_url right?" if status in (HTTPStatus.NOT_FOUND, HTTPStatus.GONE) else ""
        raise KeysUnreachable(f"answers {status}{advice}")
    if response.headers.get("content-encoding", "identity").strip().lower() not in ("", "identity"):
        raise KeysUnreachable("its answer is compressed, which was not asked for")
    length = response.headers.get("content-length", "0").strip()
    if length.isdecimal() and int(length[:18]) > MAX_DOCUMENT_BYTES:
        raise KeysUnreachable(f"its answer is larger than {MAX_DOCUMENT_BYTES} bytes")


def _reason(error: BaseException) -> str:
    """What the operator needs to know of a failed request; never what a stranger's server wrote at length."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ssl.SSLCertVerificationError):
            return (
                f"its certificate is not trusted: {cause.verify_message}; "
                "jwks_ca_file names authorities of your own to trust"
            )
        cause = cause.__cause__ or cause.__context__
    if isinstance(error, httpx.TimeoutException):
        return "no answer in time"
    if isinstance(error, httpx.ConnectError):
        return f"cannot connect: {_words(error)}"
    return f"no HTTP answer: {_words(error)}"


def _words(error: BaseException) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return ascii(text)[1:-1][:_REASON_CHARACTERS]

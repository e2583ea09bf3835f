"""What can be wrong with Kafka, in words for the operator and in words that a partner may see."""

from __future__ import annotations

import ssl
from collections.abc import Sequence

from aiokafka.errors import (
    IllegalSaslStateError,
    KafkaConnectionError,
    KafkaError,
    SaslAuthenticationFailed,
    UnsupportedSaslMechanismError,
)

from gateway.errors import Unavailable
from gateway.model import Vector


class KafkaUnavailable(Unavailable):
    """Kafka does not give what was asked, for now.

    ``str()`` and ``reason`` name cluster, topic and cause, for logs and health. ``detail``, which partners see, names
    nothing inside.
    """

    def __init__(self, reason: str, *, retry_after_ms: int | None = 1000) -> None:
        super().__init__("The source of the stream cannot be read at the moment.", retry_after_ms=retry_after_ms)
        self.reason = reason

    def __str__(self) -> str:
        return self.reason


class TopicMissing(KafkaUnavailable):
    """The cluster answers and knows no such topic."""


class AccessDenied(KafkaUnavailable):
    """The cluster knows who asks, and does not let them."""


class LoginRefused(KafkaUnavailable):
    """The cluster does not believe who asks: the SASL settings are wrong, or the brokers'."""


class TokenMissing(LoginRefused):
    """The token endpoint gave no token for SASL OAUTHBEARER."""


class NotTrusted(KafkaUnavailable):
    """The TLS between the gateway and a broker does not come about: a certificate, or no TLS at all."""


class Unsupported(KafkaUnavailable):
    """The brokers are of a kind that does not know this request."""


class OutOfRange(Exception):
    """A position that the topic does not hold (any more). Never shown to a partner; the engine makes a gap of it.

    ``earliest`` and ``latest`` are the topic's own bounds. Where the position lies before ``earliest``, retention
    passed it; where it lies beyond ``latest``, the topic's history itself has changed.
    """

    def __init__(self, *, earliest: Vector, latest: Vector) -> None:
        super().__init__(f"the topic holds {earliest} to {latest}")
        self.earliest = earliest
        self.latest = latest


def describe(fault: BaseException) -> str:
    """One line that names a foreign exception: its class, and its text where it has one."""
    text = " ".join(str(fault).split())
    return f"{type(fault).__name__}: {text}" if text else type(fault).__name__


class NoToken(KafkaError):  # type: ignore[misc]  # aiokafka is untyped to mypy
    """Why there is no token; the text is for the operator and holds no secret."""


def gravest(faults: Sequence[Exception]) -> Exception:
    """The one of several brokers' faults that says most: that one is away matters less than that one refuses."""
    return min(faults, key=lambda fault: (_kind(fault) is KafkaUnavailable, isinstance(fault, TimeoutError)))


def explained(fault: BaseException, *, cluster: str, setting: str, servers: str) -> KafkaUnavailable:
    """Why a connection did not come about, and what to do. ``setting`` is where the cluster's settings are."""
    kind = _kind(fault)
    name = f"Kafka cluster {cluster}"
    if kind is TokenMissing:
        return kind(f"{name}: no token from the token endpoint ({fault}): see {setting}.sasl_oauth_token_url")
    if kind is LoginRefused:
        if isinstance(fault, UnsupportedSaslMechanismError):
            return kind(f"{name}: the brokers do not offer {setting}.sasl_mechanism ({_text(fault)}): take one they do")
        return kind(
            f"{name}: the brokers refuse the login ({_text(fault)}): correct {setting}.sasl_username and "
            f"sasl_password (for OAUTHBEARER the sasl_oauth_ settings), or give the brokers that user"
        )
    cause = _tls_fault(fault)
    if kind is NotTrusted and cause is not None:
        return kind(f"{name}: {_tls_advice(cause, setting)}")
    if _closed_at_once(fault):
        return KafkaUnavailable(
            f"{name}: {servers} took the connection and closed it ({_text(fault)}): if it is not just starting, "
            f"{setting}.security_protocol is not what that port speaks, or it asks for {setting}.ssl_certfile"
        )
    return KafkaUnavailable(
        f"{name}: no answer from {servers} ({describe(fault)}): "
        f"start the brokers, or correct {setting}.bootstrap_servers"
    )


def _kind(fault: BaseException) -> type[KafkaUnavailable]:
    if isinstance(fault, NoToken):
        return TokenMissing
    if isinstance(fault, SaslAuthenticationFailed | UnsupportedSaslMechanismError | IllegalSaslStateError):
        return LoginRefused
    return KafkaUnavailable if _tls_fault(fault) is None else NotTrusted


def _tls_fault(fault: BaseException | None) -> ssl.SSLError | None:
    """The TLS fault that it is or that lies behind it: a refused client hears of it only when it reads."""
    for _ in range(5):
        if fault is None or isinstance(fault, ssl.SSLError):
            return fault
        fault = fault.__cause__ or fault.__context__
    return None


def _tls_advice(fault: ssl.SSLError, setting: str) -> str:
    text = _text(fault)
    if isinstance(fault, ssl.SSLCertVerificationError):
        why = fault.verify_message or text
        if "mismatch" in why or "not valid for" in why:
            return (
                f"the broker's certificate is for another name ({why}): put its name into {setting}.bootstrap_servers"
            )
        return f"the broker's certificate is not trusted ({why}): give its authority as {setting}.ssl_cafile"
    if "WRONG_VERSION_NUMBER" in text or "RECORD_LAYER_FAILURE" in text:
        return f"the broker's port does not speak TLS ({text}): correct {setting}.security_protocol or the port"
    if "ALERT" in text:
        return (
            f"the broker refuses the gateway's certificate ({text}): give one that it trusts as {setting}.ssl_certfile "
            f"and ssl_keyfile"
        )
    return f"TLS fails ({text}): compare {setting}.security_protocol and the ssl_ settings with the brokers' listener"


def _closed_at_once(fault: BaseException) -> bool:
    return isinstance(fault, ConnectionResetError | EOFError) or (
        isinstance(fault, KafkaConnectionError) and str(fault).endswith("closed")
    )


def _text(fault: BaseException) -> str:
    return " ".join(str(fault).split()) or type(fault).__name__

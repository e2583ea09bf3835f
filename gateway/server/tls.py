"""The certificate of one port: read and tried as a pair, taken by new connections, without a word to those open."""

from __future__ import annotations

import datetime
import hashlib
import ssl
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from gateway.errors import ConfigurationProblems


@dataclass(frozen=True, slots=True)
class Certificate:
    """A pair that can be served: what TLS makes of it, and what people want to know of it."""

    context: ssl.SSLContext
    expires: datetime.datetime
    fingerprint: str
    """SHA-256 of the certificate, as browsers and ``openssl x509 -fingerprint -sha256`` show it, without colons."""


class Certificates:
    """Two files and the pair that was last taken from them; where clients show theirs, who may sign those."""

    def __init__(
        self, *, cert_file: str, key_file: str | None = None, client_ca_file: str | None = None, name: str
    ) -> None:
        """``name`` is the port's, for messages. A file may hold both; then ``key_file`` is None.

        With ``client_ca_file`` only clients are let in that show a certificate which one of its authorities signed.
        """
        self._cert_file = cert_file
        self._key_file = key_file or cert_file
        self._client_ca_file = client_ca_file
        self._name = name
        self._current: Certificate | None = None

    @property
    def current(self) -> Certificate:
        """The pair in use."""
        if self._current is None:
            raise RuntimeError(f"{self._name}: no certificate has been taken")
        return self._current

    def read(self, *, now: datetime.datetime | None = None) -> Certificate:
        """The pair as it is on disk now, tried; blocks for two small files.

        Raises ``ConfigurationProblems`` with one line: unreadable, no certificate, no key of it, a key with a
        password, out of its time, or no authority in the file of those.
        """
        authorities = self._authorities()
        try:
            # The leaf comes first in the file, its chain follows (RFC 8446 §4.4.2).
            leaf = x509.load_pem_x509_certificates(Path(self._cert_file).read_bytes())[0]
            context = _context(authorities)
            # Without this, OpenSSL asks the terminal for a password and the process stands still.
            context.load_cert_chain(self._cert_file, self._key_file, password=_no_password)
        except (OSError, ValueError) as error:
            raise self._unusable(_reason(error)) from error
        now = now or datetime.datetime.now(datetime.UTC)
        if now >= leaf.not_valid_after_utc:
            raise self._unusable(f"it expired on {_shown(leaf.not_valid_after_utc)}; renew it")
        if now < leaf.not_valid_before_utc:
            raise self._unusable(f"it is not valid before {_shown(leaf.not_valid_before_utc)}; is the clock right?")
        der = leaf.public_bytes(Encoding.DER)
        return Certificate(context, leaf.not_valid_after_utc, hashlib.sha256(der).hexdigest())

    def take(self, certificate: Certificate) -> None:
        """Serve this pair to connections that begin from now on. Cannot fail."""
        self._current = certificate

    def listening_context(self) -> ssl.SSLContext:
        """A context for a listening socket: each handshake on it is done with the pair that is current then.

        A context into which a second pair is loaded has, for a moment, the new certificate and the old key; and one
        whose loading fails half-way keeps them. So the context is swapped as a whole, at the client's first message.
        """
        # Whether clients are asked for a certificate is settled here; which ones are good, by the context swapped in.
        context = _context("" if self._client_ca_file else None)
        context.sni_callback = self._choose
        return context

    def _choose(self, connection: ssl.SSLObject | ssl.SSLSocket, _: str | None, __: ssl.SSLContext) -> None:
        # Called for every handshake, whether or not the client names a host.
        connection.context = self.current.context

    def _authorities(self) -> str | None:
        """The authorities as they are on disk now, tried; None where clients show nothing."""
        if self._client_ca_file is None:
            return None
        try:
            text = Path(self._client_ca_file).read_bytes().decode("ascii", "ignore")
            found = x509.load_pem_x509_certificates(text.encode())
            _context(text)
        except (OSError, ValueError) as error:
            reason = (error.strerror or str(error)) if isinstance(error, OSError) else "no certificate in PEM in it"
            line = f"{self._name}: cannot use {self._client_ca_file} for clients' certificates: {reason}"
            raise ConfigurationProblems([line]) from error
        now = datetime.datetime.now(datetime.UTC)
        if all(now >= one.not_valid_after_utc for one in found):
            last = max(one.not_valid_after_utc for one in found)
            line = f"{self._name}: cannot use {self._client_ca_file} for clients' certificates: the last in it"
            raise ConfigurationProblems([f"{line} expired on {_shown(last)}; renew it"])
        return text

    def _unusable(self, reason: str) -> ConfigurationProblems:
        line = f"{self._name}: cannot use certificate {self._cert_file} with key {self._key_file}: {reason}"
        return ConfigurationProblems([line])


def _context(authorities: str | None = None) -> ssl.SSLContext:
    """A server's context. ``authorities`` (PEM) sign clients' certificates; None: clients need none."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if authorities is not None:
        context.verify_mode = ssl.CERT_REQUIRED
        # A session that is taken up again is not verified again: whose authority is gone would still come in. Older
        # versions of TLS keep sessions in a way that cannot be turned off here.
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.num_tickets = 0
        if authorities:
            context.load_verify_locations(cadata=authorities)
    context.set_alpn_protocols(["http/1.1"])
    # TLS 1.2 lets a client ask for handshake after handshake on one connection, each at our cost.
    context.options |= ssl.OP_NO_RENEGOTIATION
    return context


def _no_password() -> str:
    raise ValueError("the key has a password: give the file without one, and let only the gateway's user read it")


def _reason(error: OSError | ValueError) -> str:
    if isinstance(error, ssl.SSLError):
        if error.reason == "KEY_VALUES_MISMATCH":
            return "the key is not the certificate's"
        return f"no private key in PEM can be read from it ({error.reason or error})"
    if isinstance(error, OSError):
        return error.strerror or str(error)
    text = str(error)
    return text if text.startswith("the key has a password") else f"no certificate in PEM can be read from it ({text})"


def _shown(moment: datetime.datetime) -> str:
    return moment.strftime("%Y-%m-%d %H:%M UTC")

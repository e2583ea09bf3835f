"""The gateway's side of TLS with brokers: whom it trusts, and with which certificate it shows itself."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from pathlib import Path

from gateway.errors import ConfigurationProblems


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """PEM files. Without ``ca`` the machine's authorities are trusted; without ``cert`` the gateway shows none."""

    ca: str | None = None
    cert: str | None = None
    key: str | None = None

    def check(self, section: str) -> None:
        """Read them all. Raises ConfigurationProblems that say what is wrong with the settings of this section."""
        problems = []
        context = ssl.create_default_context()
        if self.ca is not None:
            try:
                context.load_verify_locations(self.ca)
            except OSError as error:
                problems.append(f"{section}.ssl_cafile: {_wrong_with(error, self.ca)}")
        if self.cert is not None:
            try:
                context.load_cert_chain(self.cert, self.key, password=_no_password)
            except (OSError, ValueError) as error:
                problems.append(
                    f"{section}.ssl_certfile and ssl_keyfile: {_wrong_with(error, f'{self.cert} with {self.key}')}"
                )
        if problems:
            raise ConfigurationProblems(problems)


class TlsContext:
    """The context of these files, made anew when one has changed: certificates are renewed while the process runs."""

    def __init__(self, files: TlsFiles) -> None:
        self._files = files
        self._stamps: tuple[int, ...] = ()
        self._context: ssl.SSLContext | None = None

    def current(self) -> ssl.SSLContext:
        """For the next connection. Raises OSError where the files have never been good; later the last good ones
        stay, since a renewal may be seen half done."""
        files = self._files
        try:
            stamps = tuple(Path(file).stat().st_mtime_ns for file in (files.ca, files.cert, files.key) if file)
            if self._context is None or stamps != self._stamps:
                context = ssl.create_default_context(cafile=files.ca)
                if files.cert is not None:
                    context.load_cert_chain(files.cert, files.key)
                self._context, self._stamps = context, stamps
        except OSError:
            if self._context is None:
                raise
        return self._context


def _wrong_with(error: Exception, file: str) -> str:
    if isinstance(error, ssl.SSLError):
        return f"{file}: not what is wanted ({' '.join(str(error).split())}); allowed: PEM, a key with its certificate"
    if isinstance(error, OSError):
        return f"{file}: {error.strerror}; allowed: a PEM file that the gateway may read"
    return f"{file}: {error}"


def _no_password() -> str:
    # Without this, an encrypted key would ask for its password on the terminal.
    raise ValueError("the key is encrypted; allowed: an unencrypted key")

"""Certificates of our own towards a server: whom we trust, and with which certificate we show ourselves."""

from __future__ import annotations

import ssl
from dataclasses import dataclass

from gateway.errors import ConfigurationProblems


@dataclass(frozen=True, slots=True)
class PemFiles:
    """PEM files. Without ``ca`` the machine's authorities are trusted; without ``cert`` none is shown."""

    ca: str | None = None
    cert: str | None = None
    key: str | None = None

    def check(self, *, ca_setting: str, pair_settings: str) -> None:
        """Read them all. Raises ConfigurationProblems that say what is wrong with the settings of these names."""
        problems = []
        context = ssl.create_default_context()
        if self.ca is not None:
            try:
                context.load_verify_locations(self.ca)
            except OSError as error:
                problems.append(f"{ca_setting}: {_wrong_with(error, self.ca)}")
        if self.cert is not None:
            try:
                context.load_cert_chain(self.cert, self.key, password=_no_password)
            except (OSError, ValueError) as error:
                problems.append(f"{pair_settings}: {_wrong_with(error, f'{self.cert} with {self.key}')}")
        if problems:
            raise ConfigurationProblems(problems)


def _wrong_with(error: Exception, file: str) -> str:
    if isinstance(error, ssl.SSLError):
        return f"{file}: not what is wanted ({' '.join(str(error).split())}); allowed: PEM, a key with its certificate"
    if isinstance(error, OSError):
        return f"{file}: {error.strerror}; allowed: a PEM file that the gateway may read"
    return f"{file}: {error}"


def _no_password() -> str:
    # Without this, an encrypted key would ask for its password on the terminal.
    raise ValueError("the key is encrypted; allowed: an unencrypted key")

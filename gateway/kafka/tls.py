"""The gateway's side of TLS with brokers: whom it trusts, and with which certificate it shows itself."""

from __future__ import annotations

import ssl
from pathlib import Path

from gateway.pem import PemFiles


class TlsContext:
    """The context of these files, made anew when one has changed: certificates are renewed while the process runs."""

    def __init__(self, files: PemFiles) -> None:
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

"""Secrets at rest: sealed by AES-256-GCM under keys that the settings hold and the database does not."""

from __future__ import annotations

import secrets
from base64 import b64decode, b64encode
from collections.abc import Sequence
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

_NONCE_BYTES: Final = 12


class SealBroken(ValueError):
    """None of the keys opens it, or it was changed, or it belongs elsewhere."""


class Sealer:
    """Seals with the first of its keys and opens with any of them, so that keys can be rotated."""

    def __init__(self, keys: Sequence[str], *, purpose: bytes) -> None:
        """``purpose`` keeps equal keys of other uses apart. Raises ValueError without any key."""
        if not keys:
            raise ValueError("there is no key to seal with")
        self._ciphers = [AESGCM(_derive(key, purpose)) for key in keys]

    def seal(self, data: bytes, *, name: str) -> str:
        """As text that opens under the same ``name`` only."""
        nonce = secrets.token_bytes(_NONCE_BYTES)
        return b64encode(nonce + self._ciphers[0].encrypt(nonce, data, name.encode())).decode("ascii")

    def open(self, sealed: str, *, name: str) -> bytes:
        """What was sealed. Raises SealBroken."""
        try:
            raw = b64decode(sealed, validate=True)
        except ValueError:
            raise SealBroken("is not what was sealed") from None
        for cipher in self._ciphers:
            try:
                return cipher.decrypt(raw[:_NONCE_BYTES], raw[_NONCE_BYTES:], name.encode())
            except (InvalidTag, ValueError):
                # Of another key, perhaps; that none opens it is said below.
                continue
        raise SealBroken("opens with none of the sealing keys")


def _derive(key: str, purpose: bytes) -> bytes:
    return HKDF(algorithm=SHA256(), length=32, salt=None, info=purpose).derive(key.encode("utf-8"))

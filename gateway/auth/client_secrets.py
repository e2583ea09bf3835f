"""Client secrets: made once and shown once, kept as a hash, compared in constant time.

A secret is ``gws_``, the 16 hexadecimal digits that name it, ``_``, and 32 random bytes as base64url. With its name in
it one hash is computed for a request, whichever of an application's secrets it brings, and the same one for a name that
nobody has. Its randomness is what makes it safe; scrypt only makes a stolen table useless twice over.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from base64 import b64decode, b64encode
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

MOST_LIVE: Final = 2
"""Secrets of one application at a time: the one in use and the one that takes its place."""

_TEXT: Final = re.compile(r"gws_([0-9a-f]{16})_[A-Za-z0-9_-]{43}")
_COST: Final = 1 << 14
_BLOCK: Final = 8
_SALT_BYTES: Final = 16
_KEY_BYTES: Final = 32
_NOBODY: Final = (
    f"scrypt${_COST}${_BLOCK}$1${b64encode(bytes(_SALT_BYTES)).decode()}${b64encode(bytes(_KEY_BYTES)).decode()}"
)


@dataclass(frozen=True, slots=True)
class ClientSecret:
    """One secret as it is kept; ``made_at`` is in epoch seconds."""

    id: str
    client_id: str
    made_at: int
    hash: str


class ClientSecrets:
    """All that are live; never changed once made."""

    def __init__(self, found: Iterable[ClientSecret] = ()) -> None:
        self._by_id = {one.id: one for one in found}

    def __len__(self) -> int:
        return len(self._by_id)

    def is_secret(self, text: str, *, client_id: str) -> bool:
        """Whether it is one of the client's. Takes the time of one hash whatever the answer: for a thread."""
        match = _TEXT.fullmatch(text)
        found = self._by_id.get(match[1]) if match else None
        is_right = is_hash_of(text, _NOBODY if found is None else found.hash)
        return is_right and found is not None and found.client_id == client_id


def make_secret() -> tuple[str, str]:
    """A new secret, and the name in it."""
    name = secrets.token_hex(8)
    return f"gws_{name}_{secrets.token_urlsafe(32)}", name


def hash_secret(text: str) -> str:
    """How a secret is kept: ``scrypt$N$r$p$salt$key``. Takes some 50 ms and 16 MiB."""
    salt = secrets.token_bytes(_SALT_BYTES)
    key = _derive(text, salt, cost=_COST, block=_BLOCK, parallel=1)
    return f"scrypt${_COST}${_BLOCK}$1${b64encode(salt).decode()}${b64encode(key).decode()}"


def is_hash_of(text: str, kept: str) -> bool:
    """Whether ``hash_secret`` made ``kept`` of this text, at the cost that is written in it."""
    _, cost, block, parallel, salt, key = kept.split("$")
    derived = _derive(text, b64decode(salt), cost=int(cost), block=int(block), parallel=int(parallel))
    return hmac.compare_digest(derived, b64decode(key))


def _derive(text: str, salt: bytes, *, cost: int, block: int, parallel: int) -> bytes:
    return hashlib.scrypt(
        text.encode("utf-8"),
        salt=salt,
        n=cost,
        r=block,
        p=parallel,
        maxmem=256 * cost * block,
        dklen=_KEY_BYTES,
    )

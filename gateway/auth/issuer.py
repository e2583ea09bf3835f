"""Tokens of the built-in issuer, and the demo's key in a file: one ES256 key, made before there is a database.

It is an issuer like any other to the verifier, named ``builtin``, and there only if configured. Whoever can read the
key file can be anybody: it is made with mode 0600 and not read with a wider one.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePrivateKey, generate_private_key
from jwt.algorithms import ECAlgorithm

from gateway.auth.jose import MAX_JSON_DEPTH, Malformed, decode_object, encode_base64url
from gateway.auth.keys import KeySet, VerifyingKey
from gateway.auth.tokens import MAX_TEXT_LENGTH, MAX_TOKEN_BYTES, IssuerSettings
from gateway.clock import Clock
from gateway.errors import ConfigurationProblems

BUILTIN = "builtin"
ALGORITHM = "ES256"
KEY_FILE = "issuer.json"
RESERVED_CLAIMS = frozenset({"iss", "aud", "sub", "client_id", "jti", "iat", "nbf", "exp", "scope"})

_MAX_KEY_FILE_BYTES = 4096


class DevelopmentIssuer:
    """Signs access tokens with the key in ``{data_dir}/issuer.json``; the first to open it makes it."""

    def __init__(self, data_dir: Path, *, issuer: str, audience: str, clock: Clock) -> None:
        """Raises ConfigurationProblems where the key file cannot be made or is not one of ours."""
        self.issuer = issuer
        self.audience = audience
        self._clock = clock
        self._key = _open_key(data_dir / KEY_FILE)
        self._public_jwk = public_jwk(self._key)

    @property
    def kid(self) -> str:
        """The key's RFC 7638 thumbprint."""
        return self._public_jwk["kid"]

    def jwks(self) -> dict[str, list[dict[str, str]]]:
        """The public key as a JWKS document."""
        return {"keys": [dict(self._public_jwk)]}

    def keys(self) -> KeySet:
        """The public key, as verifiers take it."""
        return KeySet((VerifyingKey(self._key.public_key(), kid=self.kid, algorithms=frozenset({ALGORITHM})),))

    def settings(self) -> IssuerSettings:
        """What a TokenVerifier needs to accept these tokens."""
        return IssuerSettings(
            name=BUILTIN,
            issuer=self.issuer,
            audience=self.audience,
            keys=self.keys(),
            algorithms=(ALGORITHM,),
        )

    def mint(
        self,
        client_id: str,
        *,
        scope: str = "",
        ttl_seconds: int = 3600,
        claims: Mapping[str, Any] | None = None,
        subject: str | None = None,
    ) -> str:
        """A signed RFC 9068 access token; ``subject`` is the client itself unless told.

        Raises ValueError for what the verifier would refuse: a reserved claim given again, text it does not take,
        a lifetime that is not positive, a token over ``MAX_TOKEN_BYTES``.
        """
        return sign_token(
            self._key,
            kid=self.kid,
            issuer=self.issuer,
            audience=self.audience,
            issued_at=int(self._clock.now()),
            client_id=client_id,
            scope=scope,
            ttl_seconds=ttl_seconds,
            claims=claims,
            subject=subject,
        )


def sign_token(
    key: EllipticCurvePrivateKey,
    *,
    kid: str,
    issuer: str,
    audience: str,
    issued_at: int,
    client_id: str,
    scope: str,
    ttl_seconds: int,
    claims: Mapping[str, Any] | None = None,
    subject: str | None = None,
) -> str:
    """A signed RFC 9068 access token; see ``DevelopmentIssuer.mint`` for what raises ValueError."""
    extra = dict(claims or {})
    taken = sorted(RESERVED_CLAIMS.intersection(extra))
    if taken:
        raise ValueError(f"claim {', '.join(taken)} is set by the issuer and cannot be given")
    if ttl_seconds <= 0:
        raise ValueError(f"a lifetime of {ttl_seconds} seconds; it has to be positive")
    if not (scope.isascii() and scope.isprintable()):
        raise ValueError(f"scope {scope!r} is not a list of ASCII names separated by spaces")
    payload = extra | {
        "iss": issuer,
        "aud": audience,
        "sub": _checked("subject", client_id if subject is None else subject),
        "client_id": _checked("client_id", client_id),
        "jti": secrets.token_urlsafe(16),
        "iat": issued_at,
        "exp": issued_at + ttl_seconds,
        "scope": scope,
    }
    try:
        decode_object(json.dumps(payload, allow_nan=False).encode("utf-8"))
    except Malformed as error:
        raise ValueError(f"claims that no token can hold: {error} (depth at most {MAX_JSON_DEPTH})") from None
    except (TypeError, RecursionError):
        raise ValueError("claims that are not JSON") from None
    token = jwt.encode(payload, key, algorithm=ALGORITHM, headers={"typ": "at+jwt", "kid": kid})
    if len(token) > MAX_TOKEN_BYTES:
        raise ValueError(f"a token of {len(token)} bytes; at most {MAX_TOKEN_BYTES} are accepted")
    return token


def _checked(name: str, value: str) -> str:
    if not 0 < len(value) <= MAX_TEXT_LENGTH or not value.isprintable():
        raise ValueError(f"{name} {value!r} is not text of 1 to {MAX_TEXT_LENGTH} printable characters")
    return value


def _open_key(path: Path) -> EllipticCurvePrivateKey:
    try:
        if not path.exists():
            _create(path)
        return _load(path)
    except OSError as error:
        raise ConfigurationProblems([f"{path}: cannot be made or read: {error.strerror}"]) from None


def _create(path: Path) -> None:
    """Makes the key file whole or not at all; of processes that race, one wins and all use its key.

    The file appears under its name by ``link``, which fails where one is already there. A crash before it leaves a
    temporary file that nobody reads; a crash after it leaves a complete key.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    private_jwk = {**ECAlgorithm.to_jwk(generate_private_key(SECP256R1()), as_dict=True), "alg": ALGORITHM}
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            json.dump(private_jwk, file)
            file.flush()
            os.fsync(file.fileno())
        try:
            os.link(temporary, path)
        except FileExistsError:
            return
    finally:
        Path(temporary).unlink()
    directory = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def _load(path: Path) -> EllipticCurvePrivateKey:
    with path.open("rb") as file:
        mode = os.fstat(file.fileno()).st_mode & 0o777
        document = file.read(_MAX_KEY_FILE_BYTES)
    if mode & 0o077:
        raise ConfigurationProblems([f"{path}: has mode {mode:04o}; a private key has to be 0600 (chmod 600 {path})"])
    try:
        key = ECAlgorithm.from_jwk(decode_object(document))
        if not isinstance(key, EllipticCurvePrivateKey) or not isinstance(key.curve, SECP256R1):
            raise ValueError
    except (jwt.PyJWTError, ValueError, TypeError):
        raise ConfigurationProblems(
            [f"{path}: is not a private key on P-256; remove the file to have a new one made (old tokens end)"]
        ) from None
    return key


def public_jwk(key: EllipticCurvePrivateKey) -> dict[str, str]:
    """The public half as it is published, named by its RFC 7638 thumbprint."""
    jwk = ECAlgorithm.to_jwk(key.public_key(), as_dict=True)
    # RFC 7638: the required members only, in this order, no spaces.
    digest = hashlib.sha256(json.dumps(jwk, sort_keys=True, separators=(",", ":")).encode("utf-8")).digest()
    return {**jwk, "kid": encode_base64url(digest), "use": "sig", "alg": ALGORITHM}

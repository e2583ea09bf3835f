"""A pretend identity provider: keys, a JWKS document, tokens with anything in them overridden.

    issuer = PretendIssuer()
    issuer.write_jwks(path)
    token = issuer.mint("acme-batch", scope="flights:read", claims={"airport": "ORD"})
    token = issuer.mint("acme-batch", claims={"exp": ABSENT}, header={"typ": "JWT"})

Below it lies what a forger needs: ``compact`` puts any bytes into the three parts.
"""

from __future__ import annotations

import base64
import functools
import json
import secrets
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm

from gateway.auth.keys import DEFAULT_ALGORITHMS, KeySet
from gateway.auth.tokens import IssuerSettings
from gateway.clock import Clock, SystemClock

ABSENT: Any = object()
"""As the value of a claim or header: leave it out."""

ISSUER = "https://idp.example/realms/partners"
AUDIENCE = "https://gateway.example"

_JWS = jwt.PyJWS()
_CURVES: dict[str, Callable[[], ec.EllipticCurve]] = {
    "ES256": ec.SECP256R1,
    "ES384": ec.SECP384R1,
    "ES512": ec.SECP521R1,
    "ES256K": ec.SECP256K1,
}


@functools.cache
def rsa_key(name: str = "", *, bits: int = 2048, exponent: int = 65537) -> rsa.RSAPrivateKey:
    """An RSA key, one for each name in a test run, for those who need no fresh one: making them is slow."""
    return rsa.generate_private_key(exponent, bits)


class SigningKey:
    """A private key with the algorithm it signs with and its ``kid``."""

    def __init__(self, algorithm: str = "ES256", *, kid: str = "key-1", private: Any = None) -> None:
        if private is None:
            if algorithm in _CURVES:
                private = ec.generate_private_key(_CURVES[algorithm]())
            elif algorithm == "Ed448":
                private = ed448.Ed448PrivateKey.generate()
            elif algorithm in ("EdDSA", "Ed25519"):
                private = ed25519.Ed25519PrivateKey.generate()
            else:
                private = rsa.generate_private_key(65537, 2048)
        self.algorithm = algorithm
        self.kid = kid
        self.private = private
        self.public = private.public_key()

    def sign(self, data: bytes, *, algorithm: str | None = None) -> bytes:
        name = algorithm or self.algorithm
        signature: bytes = _JWS.get_algorithm_by_name("EdDSA" if name.startswith("Ed") else name).sign(
            data, self.private
        )
        return signature

    def jwk(self, **members: Any) -> dict[str, Any]:
        """The public key; members replace or, being ABSENT, remove."""
        return _merged({**_to_jwk(self.public), "kid": self.kid, "use": "sig", "alg": self.algorithm}, members)

    def private_jwk(self, **members: Any) -> dict[str, Any]:
        return _merged({**_to_jwk(self.private), "kid": self.kid, "use": "sig", "alg": self.algorithm}, members)


class PretendIssuer:
    """Mints tokens that are right in everything but what a test overrides."""

    def __init__(
        self,
        *keys: SigningKey,
        name: str = "idp",
        issuer: str = ISSUER,
        audience: str = AUDIENCE,
        clock: Clock | None = None,
    ) -> None:
        self.keys = keys or (SigningKey(),)
        self.name = name
        self.issuer = issuer
        self.audience = audience
        self.clock = clock or SystemClock()

    def jwks(self, *more: Mapping[str, Any]) -> bytes:
        """The JWKS document of these keys and further entries."""
        return json.dumps({"keys": [*(key.jwk() for key in self.keys), *more]}).encode()

    def write_jwks(self, path: Path, *more: Mapping[str, Any]) -> Path:
        path.write_bytes(self.jwks(*more))
        return path

    def settings(self, *, algorithms: tuple[str, ...] = DEFAULT_ALGORITHMS, **fields: Any) -> IssuerSettings:
        """What a TokenVerifier needs to accept these tokens."""
        if "keys" not in fields:
            fields["keys"] = KeySet.parse(self.jwks(), algorithms=algorithms)
        return IssuerSettings(
            name=self.name, issuer=self.issuer, audience=self.audience, algorithms=algorithms, **fields
        )

    def claims(
        self,
        client_id: str = "acme-batch",
        *,
        scope: str = "",
        ttl_seconds: int = 3600,
        overrides: Mapping[str, Any] | None = None,
    ) -> dict[str, Any]:
        now = int(self.clock.now())
        right = {
            "iss": self.issuer,
            "aud": self.audience,
            "sub": client_id,
            "client_id": client_id,
            "jti": secrets.token_urlsafe(12),
            "iat": now,
            "exp": now + ttl_seconds,
            "scope": scope,
        }
        return _merged(right, overrides or {})

    def mint(
        self,
        client_id: str = "acme-batch",
        *,
        scope: str = "",
        ttl_seconds: int = 3600,
        claims: Mapping[str, Any] | None = None,
        header: Mapping[str, Any] | None = None,
        key: SigningKey | None = None,
    ) -> str:
        signer = key or self.keys[0]
        right = {"typ": "at+jwt", "alg": signer.algorithm, "kid": signer.kid}
        payload = self.claims(client_id, scope=scope, ttl_seconds=ttl_seconds, overrides=claims)
        return compact(_merged(right, header or {}), payload, sign=signer.sign)


def compact(header: Any, payload: Any, *, sign: Callable[[bytes], bytes]) -> str:
    """Three parts; bytes go in as they are, anything else as JSON."""
    signed = f"{encode(_spelled(header))}.{encode(_spelled(payload))}"
    return f"{signed}.{encode(sign(signed.encode()))}"


def encode(data: bytes) -> str:
    """base64url without padding."""
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def decode(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def _spelled(part: Any) -> bytes:
    # Without spaces, as issuers write it.
    return part if isinstance(part, bytes) else json.dumps(part, separators=(",", ":")).encode()


def _merged(right: dict[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in {**right, **overrides}.items() if value is not ABSENT}


def _to_jwk(key: Any) -> dict[str, Any]:
    if isinstance(key, (rsa.RSAPublicKey, rsa.RSAPrivateKey)):
        jwk = RSAAlgorithm.to_jwk(key, as_dict=True)
    elif isinstance(key, (ec.EllipticCurvePublicKey, ec.EllipticCurvePrivateKey)):
        jwk = ECAlgorithm.to_jwk(key, as_dict=True)
    else:
        jwk = OKPAlgorithm.to_jwk(key, as_dict=True)
    return {name: value for name, value in jwk.items() if name != "key_ops"}

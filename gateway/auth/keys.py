"""The public keys that tokens are verified with, read from JWKS documents (RFC 7517).

What becomes of an entry of ``keys``:

- *skipped*, said at INFO: it is in order and says itself that it is not for us. Foreign ``kty`` or ``crv``, ``use``
  other than ``sig``, ``key_ops`` without ``verify``, an ``alg`` that this issuer is not configured for. Providers
  publish their encryption keys in the same document.
- *refused*, said at WARNING: weak, contradictory, broken, or a secret (private members, ``kty: oct``). A published
  secret is nobody's proof of anything; one bad entry must not take the good ones away, so the others stay.
- The *whole document* is refused where it cannot be told what it says: no strict JSON, over the bounds, the same
  ``kid`` twice, or no usable key in it.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Protocol, cast

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding
from cryptography.hazmat.primitives.asymmetric.ec import (
    ECDSA,
    SECP256R1,
    SECP384R1,
    SECP521R1,
    EllipticCurve,
    EllipticCurvePublicKey,
    EllipticCurvePublicNumbers,
)
from cryptography.hazmat.primitives.asymmetric.ed448 import Ed448PublicKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey, RSAPublicNumbers
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed, encode_dss_signature

from gateway.auth.edwards import ED448, ED25519, is_safe_public_key
from gateway.auth.jose import Malformed, decode_base64url, decode_object
from gateway.errors import ConfigurationProblems

RSA_ALGORITHMS = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512")
DEFAULT_ALGORITHMS = ("RS256", "PS256", "ES256", "ES384", "ES512", "EdDSA")
SUPPORTED_ALGORITHMS = (*RSA_ALGORITHMS, "ES256", "ES384", "ES512", "EdDSA", "Ed25519", "Ed448")
"""``Ed25519`` and ``Ed448`` are RFC 9864's names. Keys on Ed448 are taken only where ``Ed448`` is configured."""

MAX_DOCUMENT_BYTES = 256 * 1024
MAX_KEYS = 100
MAX_CONTAINERS = 1000
"""How many objects and lists a document may hold: counted before it is parsed, which takes a time for each."""

MAX_KID_LENGTH = 256
MIN_RSA_BITS, MAX_RSA_BITS = 2048, 8192

PublicKey = RSAPublicKey | EllipticCurvePublicKey | Ed25519PublicKey | Ed448PublicKey

_LOG = logging.getLogger("gateway.auth")
_EC_CURVES: dict[str, tuple[EllipticCurve, int, str]] = {
    "P-256": (SECP256R1(), 32, "ES256"),
    "P-384": (SECP384R1(), 48, "ES384"),
    "P-521": (SECP521R1(), 66, "ES512"),
}
_SECRET_MEMBERS = ("d", "p", "q", "dp", "dq", "qi", "oth", "k")
_HASHES: dict[str, hashes.HashAlgorithm] = {"256": hashes.SHA256(), "384": hashes.SHA384(), "512": hashes.SHA512()}
_OVER_SHA256 = frozenset({"RS256", "PS256", "ES256"})


class KeySetRefused(ValueError):
    """A document from which no key is taken; ``problems`` are lines for the operator."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("; ".join(problems))
        self.problems = problems


class VerifyingKey:
    """A public key and the algorithms it may be used with: those that fit its kind, its ``alg`` and the settings."""

    __slots__ = ("_checks", "algorithms", "kid", "public_key")

    def __init__(self, public_key: PublicKey, *, kid: str | None, algorithms: frozenset[str]) -> None:
        self.public_key = public_key
        self.kid = kid
        self.algorithms = algorithms
        self._checks = {name: _check_of(public_key, name) for name in algorithms}

    def is_signature(self, signature: bytes, *, of: bytes, algorithm: str, sha256: bytes | None = None) -> bool:
        """Whether the holder of the private key signed ``of``; False too for an algorithm that does not fit.

        ``sha256`` is that of ``of``, for a caller who has it already: most algorithms look at nothing else.
        Straight to the key and not through a reader of tokens: here the bytes that were checked are the bytes that were
        signed. Which kind of key this is, the algorithm tells: none is among ``algorithms`` that does not fit it.
        """
        check = self._checks.get(algorithm)
        if check is None:
            return False
        if algorithm in _OVER_SHA256:
            of = hashlib.sha256(of).digest() if sha256 is None else sha256
        try:
            check(signature, of)
        except InvalidSignature:
            return False
        except (UnsupportedAlgorithm, ValueError, TypeError) as error:
            _LOG.info("signature check failed: %s", type(error).__name__)
            return False
        return True


def _check_of(key: PublicKey, algorithm: str) -> Callable[[bytes, bytes], None]:
    """Raises InvalidSignature where the first is none of the second by this key.

    The second is what was signed, or for an algorithm ``_OVER_SHA256`` the SHA-256 of it. What a check needs is made
    once, since it holds no state: making it is a twentieth of a check.
    """
    digest = _HASHES.get(algorithm[2:], _HASHES["256"])
    hashing = Prehashed(digest) if algorithm in _OVER_SHA256 else digest
    if isinstance(key, RSAPublicKey):
        verify, scheme = key.verify, cast(padding.AsymmetricPadding, padding.PKCS1v15())
        if algorithm.startswith("PS"):
            # RFC 7518 §3.5: the salt is as long as the hash.
            scheme = padding.PSS(padding.MGF1(digest), salt_length=digest.digest_size)
        return lambda signature, signed: verify(signature, signed, scheme, hashing)
    if isinstance(key, EllipticCurvePublicKey):
        return partial(_check_ecdsa, key, ECDSA(hashing), (key.key_size + 7) // 8)
    return key.verify


def _check_ecdsa(key: EllipticCurvePublicKey, scheme: ECDSA, length: int, signature: bytes, signed: bytes) -> None:
    """JWS has the two numbers side by side (RFC 7518 §3.4), ``cryptography`` takes them as X.509 does."""
    if len(signature) != 2 * length:
        raise InvalidSignature
    r, s = int.from_bytes(signature[:length], "big"), int.from_bytes(signature[length:], "big")
    key.verify(encode_dss_signature(r, s), signed, scheme)


class KeySource(Protocol):
    """Where a verifier finds an issuer's keys."""

    def current(self) -> KeySet | None:
        """The keys that hold now, at once: the same object until they change. None: there are none to judge by."""
        ...

    async def look_for(self, kid: str | None, *, algorithm: str) -> None:
        """The current set has no such key: wait for another set, if one can be had. Raises Unavailable where there is
        none at all."""
        ...


class KeySet:
    """The usable keys of one document. Immutable: a rotation is a new set."""

    def __init__(self, keys: tuple[VerifyingKey, ...], *, notes: tuple[str, ...] = ()) -> None:
        self.keys = keys
        self.notes = notes
        self._by_kid = {key.kid: key for key in keys if key.kid is not None}

    def current(self) -> KeySet:
        """Itself: it never changes."""
        return self

    async def look_for(self, kid: str | None, *, algorithm: str) -> None:
        """There is nowhere to look."""

    def find(self, kid: str | None, *, algorithm: str) -> VerifyingKey | None:
        """The key with this ``kid``; without one, the only key that fits ``algorithm``. None: no such key."""
        if kid is not None:
            return self._by_kid.get(kid)
        fitting = [key for key in self.keys if algorithm in key.algorithms]
        # Never a try of one key after the other: a token that could be from several keys has to say which.
        return fitting[0] if len(fitting) == 1 else None

    @classmethod
    def parse(cls, document: bytes, *, algorithms: tuple[str, ...] = DEFAULT_ALGORITHMS) -> KeySet:
        """A JWKS document → its usable keys for these algorithms; ``notes`` say which entries were left out and why.

        Raises KeySetRefused as the module's docstring says.
        """
        entries = _parse_entries(document)
        seen: set[str] = set()
        doubled: list[str] = []
        for entry in entries:
            kid = entry.get("kid") if isinstance(entry, dict) else None
            if isinstance(kid, str):
                if kid in seen:
                    doubled.append(f"kid {_shown(kid)} is there more than once; every key needs its own")
                seen.add(kid)
        if doubled:
            raise KeySetRefused(list(dict.fromkeys(doubled)))
        keys: list[VerifyingKey] = []
        notes: list[str] = []
        for number, entry in enumerate(entries):
            try:
                keys.append(_parse_key(entry, frozenset(algorithms)))
            except _LeftOut as reason:
                kid = entry.get("kid") if isinstance(entry, dict) else None
                note = f"keys[{number}]{f' (kid {_shown(kid)})' if isinstance(kid, str) else ''}: {reason}"
                notes.append(note)
                _LOG.log(reason.level, "key left out: %s", note)
        if not keys:
            raise KeySetRefused([*notes, f"no key here can verify tokens with {', '.join(algorithms)}"])
        return cls(tuple(keys), notes=tuple(notes))


def load_jwks_file(path: Path, *, algorithms: tuple[str, ...] = DEFAULT_ALGORITHMS) -> KeySet:
    """The keys in a file. Raises ConfigurationProblems with a line for each thing that is wrong."""
    try:
        with path.open("rb") as file:
            document = file.read(MAX_DOCUMENT_BYTES + 1)
    except OSError as error:
        raise ConfigurationProblems([f"{path}: cannot be read: {error.strerror}"]) from None
    try:
        return KeySet.parse(document, algorithms=algorithms)
    except KeySetRefused as refused:
        raise ConfigurationProblems([f"{path}: {problem}" for problem in refused.problems]) from None


class _LeftOut(Exception):
    """Why an entry gives no key; ``level`` is how loudly it is said."""

    def __init__(self, reason: str, *, level: int = logging.WARNING) -> None:
        super().__init__(reason)
        self.level = level


def _not_for_us(reason: str) -> _LeftOut:
    return _LeftOut(reason, level=logging.INFO)


def _parse_entries(document: bytes) -> list[Any]:
    if len(document) > MAX_DOCUMENT_BYTES:
        raise KeySetRefused([f"is larger than {MAX_DOCUMENT_BYTES} bytes"])
    if document.count(b"{") + document.count(b"[") > MAX_CONTAINERS:
        raise KeySetRefused([f"is not a JWKS document: it holds more than {MAX_CONTAINERS} objects and lists"])
    try:
        entries = decode_object(document).get("keys")
    except Malformed as error:
        raise KeySetRefused([f"is not a JWKS document: {str(error).replace('_', ' ')}"]) from None
    if not isinstance(entries, list):
        raise KeySetRefused(['is not a JWKS document: it has no list "keys"'])
    if len(entries) > MAX_KEYS:
        raise KeySetRefused([f"has {len(entries)} keys; at most {MAX_KEYS} are read"])
    return entries


def _parse_key(entry: Any, configured: frozenset[str]) -> VerifyingKey:
    if not isinstance(entry, dict):
        raise _LeftOut("is not an object")
    kty = entry.get("kty")
    secrets = [name for name in _SECRET_MEMBERS if name in entry]
    if kty == "oct" or secrets:
        raise _LeftOut(f"is a secret ({', '.join(secrets) or 'kty oct'}); only public keys belong here")
    kid = entry.get("kid")
    if "kid" in entry and not (isinstance(kid, str) and 0 < len(kid) <= MAX_KID_LENGTH and kid.isprintable()):
        raise _LeftOut(f"its kid is not text of 1 to {MAX_KID_LENGTH} printable characters")
    _check_purpose(entry)
    if kty == "RSA":
        public_key, fitting = _parse_rsa(entry)
    elif kty == "EC":
        public_key, fitting = _parse_ec(entry)
    elif kty == "OKP":
        public_key, fitting = _parse_okp(entry, configured)
    else:
        raise _not_for_us(f"kty {_shown(kty)} is not used here; used are RSA, EC, OKP")
    return VerifyingKey(public_key, kid=kid, algorithms=_narrow(entry, fitting=fitting, configured=configured))


def _check_purpose(entry: Mapping[str, Any]) -> None:
    if "use" in entry and entry["use"] != "sig":
        raise _not_for_us(f"its use is {_shown(entry['use'])}, not 'sig'")
    if "key_ops" in entry:
        key_ops = entry["key_ops"]
        if not isinstance(key_ops, list) or not all(isinstance(each, str) for each in key_ops):
            raise _LeftOut("its key_ops is not a list of names")
        if "verify" not in key_ops:
            raise _not_for_us("its key_ops do not hold 'verify'")


def _narrow(entry: Mapping[str, Any], *, fitting: frozenset[str], configured: frozenset[str]) -> frozenset[str]:
    usable = fitting & configured
    if "alg" in entry:
        stated = entry["alg"]
        if stated in SUPPORTED_ALGORITHMS and stated not in fitting:
            raise _LeftOut(f"its alg {_shown(stated)} contradicts its type; with it go {', '.join(sorted(fitting))}")
        if not isinstance(stated, str) or stated not in configured:
            raise _not_for_us(f"its alg {_shown(stated)} is not one of the configured {', '.join(sorted(configured))}")
        usable = frozenset({stated})
    if not usable:
        raise _not_for_us(f"fits none of the configured algorithms {', '.join(sorted(configured))}")
    return usable


def _parse_rsa(entry: Mapping[str, Any]) -> tuple[PublicKey, frozenset[str]]:
    modulus = int.from_bytes(_octets(entry, "n"), "big")
    exponent = int.from_bytes(_octets(entry, "e"), "big")
    bits = modulus.bit_length()
    if not MIN_RSA_BITS <= bits <= MAX_RSA_BITS:
        raise _LeftOut(f"an RSA key of {bits} bits; allowed are {MIN_RSA_BITS} to {MAX_RSA_BITS}")
    # FIPS 186-5 A.1.1: small exponents are what makes sloppy padding checks forgeable.
    if not (modulus & 1 and exponent & 1 and 1 << 16 < exponent < 1 << 256):
        raise _LeftOut("not an RSA key: modulus and exponent have to be odd, the exponent at least 65537")
    try:
        return RSAPublicNumbers(exponent, modulus).public_key(), frozenset(RSA_ALGORITHMS)
    except (ValueError, UnsupportedAlgorithm):
        raise _LeftOut("not an RSA key that can be used") from None


def _parse_ec(entry: Mapping[str, Any]) -> tuple[PublicKey, frozenset[str]]:
    name = entry.get("crv")
    if not isinstance(name, str) or name not in _EC_CURVES:
        raise _not_for_us(f"crv {_shown(name)} is not used here; used are {', '.join(_EC_CURVES)}")
    curve, length, algorithm = _EC_CURVES[name]
    x, y = _octets(entry, "x"), _octets(entry, "y")
    if len(x) != length or len(y) != length:
        raise _LeftOut(f"x and y have to be {length} bytes each on {name}")
    try:
        # Refuses what is not on the curve; these curves have no points of small order.
        numbers = EllipticCurvePublicNumbers(int.from_bytes(x, "big"), int.from_bytes(y, "big"), curve)
        return numbers.public_key(), frozenset({algorithm})
    except (ValueError, UnsupportedAlgorithm):
        raise _LeftOut(f"not a point on {name}") from None


def _parse_okp(entry: Mapping[str, Any], configured: frozenset[str]) -> tuple[PublicKey, frozenset[str]]:
    name = entry.get("crv")
    if name not in ("Ed25519", "Ed448") or (name == "Ed448" and "Ed448" not in configured):
        raise _not_for_us(f"crv {_shown(name)} is not used here; used is Ed25519, and Ed448 where it is configured")
    key = _octets(entry, "x")
    if not is_safe_public_key(key, curve=ED25519 if name == "Ed25519" else ED448):
        raise _LeftOut(f"not a safe point on {name}")
    loaded = Ed25519PublicKey.from_public_bytes(key) if name == "Ed25519" else Ed448PublicKey.from_public_bytes(key)
    return loaded, frozenset({"EdDSA", cast(str, name)})


def _octets(entry: Mapping[str, Any], name: str) -> bytes:
    text = entry.get(name)
    if not isinstance(text, str) or not text.isascii():
        raise _LeftOut(f"its {name} is missing or not base64url")
    try:
        return decode_base64url(text.encode("ascii"))
    except Malformed:
        raise _LeftOut(f"its {name} is missing or not base64url") from None


def _shown(value: object) -> str:
    """A value as an operator may see it: escaped and short."""
    text = ascii(value)
    return text if len(text) <= 64 else f"{text[:61]}…"

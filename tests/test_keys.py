"""Only keys that are safe, public and meant for it verify tokens; what is left out is said."""

from __future__ import annotations

import hashlib
import json
import logging
from pathlib import Path
from typing import Any

import pytest

from gateway.auth.keys import (
    DEFAULT_ALGORITHMS,
    MAX_DOCUMENT_BYTES,
    MAX_KEYS,
    SUPPORTED_ALGORITHMS,
    KeySet,
    KeySetRefused,
    load_jwks_file,
)
from gateway.errors import ConfigurationProblems
from tests.parts.tokens import ABSENT, SigningKey, encode, rsa_key

RSA = SigningKey("RS256", kid="rsa", private=rsa_key("rsa"))
EC = SigningKey("ES256", kid="ec")
ED = SigningKey("EdDSA", kid="ed")
SPARE = SigningKey("ES256", kid="spare")


def document(*entries: Any) -> bytes:
    return json.dumps({"keys": entries}).encode()


def left_out(entry: Any, *, algorithms: tuple[str, ...] = DEFAULT_ALGORITHMS) -> str:
    """The note about the entry, having made sure that its good neighbour stays."""
    keys = KeySet.parse(document(entry, SPARE.jwk(alg=ABSENT)), algorithms=(*algorithms, "ES256"))
    assert [key.kid for key in keys.keys] == ["spare"]
    (note,) = keys.notes
    return note


def refusal_of(text: bytes) -> str:
    with pytest.raises(KeySetRefused) as caught:
        KeySet.parse(text)
    return str(caught.value)


@pytest.mark.parametrize(
    ("key", "fitting"),
    [
        (RSA, {"RS256", "PS256"}),
        (EC, {"ES256"}),
        (SigningKey("ES384"), {"ES384"}),
        (SigningKey("ES512"), {"ES512"}),
        (ED, {"EdDSA"}),
    ],
)
def test_a_key_fits_the_configured_algorithms_of_its_kind_narrowed_by_its_alg(
    key: SigningKey, fitting: set[str]
) -> None:
    (bare,) = KeySet.parse(document(key.jwk(alg=ABSENT, use=ABSENT))).keys
    assert bare.algorithms == fitting
    (stated,) = KeySet.parse(document(key.jwk())).keys
    assert stated.algorithms == {key.algorithm}
    signature = key.sign(b"data")
    assert stated.is_signature(signature, of=b"data", algorithm=key.algorithm)
    assert not stated.is_signature(signature, of=b"other", algorithm=key.algorithm)
    for other in set(SUPPORTED_ALGORITHMS) - {key.algorithm}:
        assert not stated.is_signature(signature, of=b"data", algorithm=other)


@pytest.mark.parametrize("algorithm", [*SUPPORTED_ALGORITHMS])
def test_a_signature_is_one_with_the_hash_at_hand_and_without(algorithm: str) -> None:
    key = SigningKey(algorithm, private=rsa_key("rsa") if algorithm[:2] in ("RS", "PS") else None)
    (verifying,) = KeySet.parse(document(key.jwk()), algorithms=(algorithm,)).keys
    signature, other = key.sign(b"data"), key.sign(b"other")
    for told in (None, hashlib.sha256(b"data").digest()):
        assert verifying.is_signature(signature, of=b"data", algorithm=algorithm, sha256=told)
        for wrong in (other, signature[:-1], signature + b"\0", b"", bytes(len(signature))):
            assert not verifying.is_signature(wrong, of=b"data", algorithm=algorithm, sha256=told)
    # A signature of the hash is none of the text.
    digest = hashlib.sha256(b"data").digest()
    assert not verifying.is_signature(key.sign(digest), of=b"data", algorithm=algorithm, sha256=digest)


@pytest.mark.parametrize("sha256", [b"", bytes(31), bytes(33), bytes(32)])
@pytest.mark.parametrize("key", [RSA, EC])
def test_what_is_no_hash_of_the_text_verifies_nothing(key: SigningKey, sha256: bytes) -> None:
    (verifying,) = KeySet.parse(document(key.jwk())).keys
    signature = key.sign(b"data")
    assert not verifying.is_signature(signature, of=b"data", algorithm=key.algorithm, sha256=sha256)


@pytest.mark.parametrize(
    "members",
    [
        {"key_ops": ["verify"]},
        {"key_ops": ["verify", "sign"]},
        {"x5t": "abc", "x5c": ["MIIB"], "ext": True},
        {"use": ABSENT, "alg": ABSENT},
        {"kid": ABSENT},
    ],
)
def test_a_key_may_say_what_it_is_for_or_not(members: dict[str, Any]) -> None:
    assert len(KeySet.parse(document(EC.jwk(**members))).keys) == 1


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        (EC.jwk(use="enc"), "its use is 'enc'"),
        (EC.jwk(use="SIG"), "its use is 'SIG'"),
        (EC.jwk(use=None), "its use is None"),
        (EC.jwk(use=["sig"]), "its use is ['sig']"),
        (EC.jwk(key_ops=[]), "do not hold 'verify'"),
        (EC.jwk(key_ops=["sign", "deriveKey"]), "do not hold 'verify'"),
        (RSA.jwk(alg="RSA-OAEP"), "'RSA-OAEP' is not one of the configured"),
        (RSA.jwk(alg="RS512"), "'RS512' is not one of the configured"),
        (RSA.jwk(alg=None), "None is not one of the configured"),
        (EC.jwk(alg="none"), "'none' is not one of the configured"),
        (EC.jwk(alg="HS256"), "'HS256' is not one of the configured"),
        ({"kty": "AKP", "alg": "ML-DSA-44", "pub": "x"}, "kty 'AKP' is not used here"),
        ({"kty": "ec"}, "kty 'ec' is not used here"),
        ({"kty": 1}, "kty 1 is not used here"),
        ({}, "kty None is not used here"),
        (SigningKey("ES256K").jwk(), "crv 'secp256k1' is not used here"),
        (EC.jwk(crv="P-224"), "crv 'P-224' is not used here"),
        (EC.jwk(crv=["P-256"]), "crv ['P-256'] is not used here"),
        (ED.jwk(crv="X25519"), "crv 'X25519' is not used here"),
        (SigningKey("Ed448").jwk(), "crv 'Ed448' is not used here"),
    ],
)
def test_a_key_that_is_not_for_us_is_skipped_and_said_quietly(
    entry: dict[str, Any], said: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        assert said in left_out(entry)
    assert [record.levelno for record in caplog.records] == [logging.INFO]


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        (EC.private_jwk(), "is a secret (d)"),
        (RSA.private_jwk(), "is a secret (d, p, q, dp, dq, qi)"),
        (ED.private_jwk(), "is a secret (d)"),
        ({"kty": "oct", "k": "c2VjcmV0", "alg": "HS256"}, "is a secret (k)"),
        ({"kty": "oct"}, "is a secret (kty oct)"),
        (EC.jwk(k="c2VjcmV0"), "is a secret (k)"),
        (EC.jwk(d=None), "is a secret (d)"),
        (EC.jwk(alg="RS256"), "contradicts its type"),
        (RSA.jwk(alg="ES256"), "contradicts its type"),
        (EC.jwk(alg="ES384"), "contradicts its type"),
        (ED.jwk(alg="Ed448"), "contradicts its type"),
        (EC.jwk(key_ops="verify"), "not a list of names"),
        (EC.jwk(key_ops=["verify", 1]), "not a list of names"),
        (EC.jwk(kid=""), "its kid is not text"),
        (EC.jwk(kid=None), "its kid is not text"),
        (EC.jwk(kid=7), "its kid is not text"),
        (EC.jwk(kid="a\nb"), "its kid is not text"),
        (EC.jwk(kid="k" * 257), "its kid is not text"),
        (EC.jwk(x=ABSENT), "its x is missing"),
        (EC.jwk(y=ABSENT), "its y is missing"),
        (EC.jwk(x=1), "its x is missing or not base64url"),
        (EC.jwk(x=EC.jwk()["x"] + "="), "its x is missing or not base64url"),
        (EC.jwk(x="é"), "its x is missing or not base64url"),
        (EC.jwk(x=encode(b"\0" + bytes(32))), "have to be 32 bytes each"),
        (EC.jwk(x=encode(bytes(31))), "have to be 32 bytes each"),
        (EC.jwk(x=encode(bytes(32)), y=encode(bytes(32))), "not a point on P-256"),
        (EC.jwk(y=EC.jwk()["x"]), "not a point on P-256"),
        (EC.jwk(x=encode(b"\xff" * 32)), "not a point on P-256"),
        (SigningKey("ES384").jwk(crv="P-256", alg=ABSENT), "have to be 32 bytes each"),
        (RSA.jwk(n=ABSENT), "its n is missing"),
        (RSA.jwk(e=ABSENT), "its e is missing"),
        (RSA.jwk(n=""), "an RSA key of 0 bits"),
        (RSA.jwk(n=encode((1 << 2046 | 1).to_bytes(256, "big"))), "an RSA key of 2047 bits"),
        (RSA.jwk(n=encode((1 << 8192 | 1).to_bytes(1025, "big"))), "an RSA key of 8193 bits"),
        (RSA.jwk(n=encode((1 << 2047).to_bytes(256, "big"))), "have to be odd"),
        (RSA.jwk(e=encode(b"\1")), "at least 65537"),
        (RSA.jwk(e=encode(b"\3")), "at least 65537"),
        (RSA.jwk(e=encode(b"\1\0\2")), "have to be odd"),
        (RSA.jwk(e=encode(b"\1" + bytes(31) + b"\1")), "at least 65537"),
        (RSA.jwk(e=""), "have to be odd"),
        (SigningKey("RS256", kid="small", private=rsa_key("small", bits=1024)).jwk(), "an RSA key of 1024 bits"),
        (ED.jwk(x=encode(bytes(32))), "not a safe point on Ed25519"),
        (ED.jwk(x=encode(b"\1" + bytes(31))), "not a safe point on Ed25519"),
        (ED.jwk(x=encode(bytes(31))), "not a safe point on Ed25519"),
        ("text", "is not an object"),
        (None, "is not an object"),
        ([], "is not an object"),
    ],
)
def test_a_key_that_is_weak_broken_or_secret_is_refused_and_said_loudly(
    entry: Any, said: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        assert said in left_out(entry)
    assert [record.levelno for record in caplog.records] == [logging.WARNING]


def test_nothing_of_a_secret_key_is_said(caplog: pytest.LogCaptureFixture) -> None:
    entry = RSA.private_jwk()
    note = left_out(entry)
    for member in ("d", "p", "q", "dp", "dq", "qi"):
        assert entry[member] not in note + caplog.text


def test_ed448_is_taken_where_it_is_configured() -> None:
    key = SigningKey("Ed448")
    (taken,) = KeySet.parse(document(key.jwk(alg=ABSENT)), algorithms=("EdDSA", "Ed448")).keys
    assert taken.algorithms == {"EdDSA", "Ed448"}
    assert taken.is_signature(key.sign(b"data"), of=b"data", algorithm="Ed448")
    assert "not a safe point on Ed448" in left_out(key.jwk(x=encode(bytes(57)), alg=ABSENT), algorithms=("Ed448",))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (b"", "not json"),
        (b"{", "not json"),
        (b"[]", "not an object"),
        (b'"keys"', "not an object"),
        (b"\xff", "not utf8"),
        (b"{}", 'no list "keys"'),
        (b'{"keys": {}}', 'no list "keys"'),
        (b'{"keys": null}', 'no list "keys"'),
        (b'{"keys": [], "keys": []}', "duplicate name"),
        (b'{"keys": [{"kty": "EC", "kty": "RSA"}]}', "duplicate name"),
        (b'{"keys": [NaN]}', "not json"),
        (b'{"keys": ' + b"[" * 33 + b"]" * 33 + b"}", "too deep"),
        (b'{"keys": ' + b"[" * 900, "too deep"),
        (b'{"keys": ' + b"[" * 100_000, "more than 1000 objects and lists"),
        (b'{"keys": [' + b"{}," * 80_000 + b"{}]}", "more than 1000 objects and lists"),
        (b'{"keys": []}', "no key here can verify"),
        (document(EC.jwk(use="enc")), "its use is 'enc'"),
        (document(EC.jwk(use="enc")), "no key here can verify"),
        (document(*[EC.jwk(kid=str(number)) for number in range(MAX_KEYS + 1)]), "at most 100"),
        (b'{"keys": []}' + b" " * MAX_DOCUMENT_BYTES, "larger than 262144 bytes"),
    ],
)
def test_a_document_that_cannot_be_told_is_refused_whole(text: bytes, said: str) -> None:
    assert said in refusal_of(text)


@pytest.mark.parametrize("second", [EC.jwk(), RSA.jwk(kid="ec"), EC.jwk(use="enc"), {"kty": "oct", "kid": "ec"}])
def test_a_kid_that_is_there_twice_refuses_the_whole_document_and_is_named(second: dict[str, Any]) -> None:
    assert "kid 'ec' is there more than once" in refusal_of(document(EC.jwk(), second, SPARE.jwk()))


def test_a_kid_finds_its_key_and_no_other() -> None:
    keys = KeySet.parse(document(EC.jwk(), RSA.jwk(alg=ABSENT), SPARE.jwk()))
    found = keys.find("ec", algorithm="ES256")
    assert found is not None
    assert found.kid == "ec"
    for kid in ("EC", "", "ec ", "other"):
        assert keys.find(kid, algorithm="ES256") is None


def test_without_a_kid_only_the_single_fitting_key_is_found() -> None:
    keys = KeySet.parse(document(EC.jwk(), RSA.jwk(alg=ABSENT), SPARE.jwk(kid=ABSENT)))
    found = keys.find(None, algorithm="PS256")
    assert found is not None
    assert found.kid == "rsa"
    assert keys.find(None, algorithm="ES256") is None
    assert keys.find(None, algorithm="EdDSA") is None
    lone = KeySet.parse(document(EC.jwk(kid=ABSENT)))
    assert lone.find(None, algorithm="ES256") is lone.keys[0]
    assert lone.find("ec", algorithm="ES256") is None


def test_a_file_gives_its_keys(tmp_path: Path) -> None:
    path = tmp_path / "jwks.json"
    path.write_bytes(document(EC.jwk(), RSA.jwk()))
    assert [key.kid for key in load_jwks_file(path).keys] == ["ec", "rsa"]
    assert [key.kid for key in load_jwks_file(path, algorithms=("RS256",)).keys] == ["rsa"]


def test_all_problems_of_a_file_are_lines_that_begin_with_its_path(tmp_path: Path) -> None:
    path = tmp_path / "jwks.json"
    path.write_bytes(document(EC.private_jwk(), RSA.jwk(use="enc")))
    with pytest.raises(ConfigurationProblems) as caught:
        load_jwks_file(path, algorithms=("ES256",))
    assert caught.value.problems == [
        f"{path}: keys[0] (kid 'ec'): is a secret (d); only public keys belong here",
        f"{path}: keys[1] (kid 'rsa'): its use is 'enc', not 'sig'",
        f"{path}: no key here can verify tokens with ES256",
    ]


@pytest.mark.parametrize(("name", "said"), [("absent.json", "No such file"), (".", "Is a directory")])
def test_a_file_that_cannot_be_read_is_a_problem(tmp_path: Path, name: str, said: str) -> None:
    with pytest.raises(ConfigurationProblems) as caught:
        load_jwks_file(tmp_path / name)
    assert said in caught.value.problems[0]
    assert caught.value.problems[0].startswith(str(tmp_path))


def test_a_huge_file_is_not_read_whole(tmp_path: Path) -> None:
    path = tmp_path / "jwks.json"
    with path.open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(ConfigurationProblems, match="larger than"):
        load_jwks_file(path)

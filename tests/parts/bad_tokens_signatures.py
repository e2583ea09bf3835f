"""Bad tokens by who signed them, and how."""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from cryptography.hazmat.primitives import hashes, hmac, serialization
from cryptography.hazmat.primitives.asymmetric import padding, utils

from tests.parts.token_corpus import ALGORITHMS, ED25519_BASE, Corpus, Flaw
from tests.parts.tokens import ABSENT, compact, decode, encode

SHA256_INFO = bytes.fromhex("3031300d060960864801650304020105000420")


def always(signature: bytes) -> Callable[[bytes], bytes]:
    return lambda _: signature


def algorithms(corpus: Corpus) -> Iterator[Flaw]:
    for name in ("none", "None", "NONE", "nOnE", "", "HS256", "HS1", "RS1", "es256", "ES256 ", "ES256K", "ES512"):
        yield f"{name!r}", corpus.es(header={"alg": name}), "algorithm_not_allowed"
    for name in ("RS384", "RS512", "PS384", "PS512", "ES521", "EdDSA\0", "Ed25519", "Ed448", "dir", "A128KW"):
        yield f"{name!r}", corpus.es(header={"alg": name}), "algorithm_not_allowed"
    for value in (ABSENT, None, True, 256, ["ES256"], {"ES256": 1}):
        yield f"{type(value).__name__} {value!r:.10}", corpus.es(header={"alg": value}), "no_algorithm"
    for name in ("none", "None", "NONE", "nOnE"):
        unsigned = compact({"typ": "at+jwt", "alg": name}, corpus.issuer.claims(), sign=always(b""))
        yield f"{name} without a signature", unsigned, "not_three_parts"
        yield f"{name} with two parts", unsigned.rstrip("."), "not_three_parts"
        yield f"{name} with a byte for signature", unsigned + "AA", "algorithm_not_allowed"


def confusion(corpus: Corpus) -> Iterator[Flaw]:
    """The public key, in every spelling that could be lying around, as the secret of an HMAC."""
    pem, der = serialization.Encoding.PEM, serialization.Encoding.DER
    spki = serialization.PublicFormat.SubjectPublicKeyInfo
    digests = {"HS256": hashes.SHA256(), "HS384": hashes.SHA384(), "HS512": hashes.SHA512()}
    for key in corpus.good_keys:
        secrets = {
            "PEM": key.public.public_bytes(pem, spki),
            "PEM without its last line end": key.public.public_bytes(pem, spki).strip(),
            "DER": key.public.public_bytes(der, spki),
            "JWK": json.dumps(key.jwk()).encode(),
            "x or n": decode(key.jwk().get("x") or key.jwk()["n"]),
            "nothing": b"",
        }
        for (spelling, secret), (name, digest) in itertools.product(secrets.items(), digests.items()):

            def mac(data: bytes, secret: bytes = secret, digest: Any = digest) -> bytes:
                code = hmac.HMAC(secret, digest)
                code.update(data)
                return code.finalize()

            header = {"typ": "at+jwt", "alg": name, "kid": key.kid}
            token = compact(header, corpus.issuer.claims(), sign=mac)
            yield f"{name} over the {spelling} of {key.kid}", token, "algorithm_not_allowed"
            if name == "HS256":
                token = compact(header | {"alg": key.algorithm}, corpus.issuer.claims(), sign=mac)
                yield f"{key.algorithm} that is an HMAC over the {spelling}", token, "signature"


def wrong_keys(corpus: Corpus) -> Iterator[Flaw]:
    for name, (key, _) in corpus.untrusted.items():
        reason = "no_key" if key.algorithm in ALGORITHMS else "algorithm_not_allowed"
        yield f"signed with {name}", corpus.issuer.mint(key=key), reason
        if key.algorithm == "Ed448":
            yield "Ed448 as EdDSA", corpus.issuer.mint(key=key, header={"alg": "EdDSA"}), "no_key"
        if key.algorithm.startswith("RS"):
            token = compact(
                {"typ": "at+jwt", "alg": "PS256", "kid": name},
                corpus.issuer.claims(),
                sign=partial(key.sign, algorithm="PS256"),
            )
            yield f"signed with {name}, PS256", token, "no_key"
    header = {"typ": "at+jwt", "alg": "EdDSA", "kid": "low-order"}
    forged = ED25519_BASE + (1).to_bytes(32, "little")
    yield "of small order: R = B, S = 1", compact(header, corpus.issuer.claims(), sign=always(forged)), "no_key"
    neutral = b"\1" + bytes(63)
    for kid, reason in (("low-order", "no_key"), ("ed", "signature")):
        token = compact(header | {"kid": kid}, corpus.issuer.claims(), sign=always(neutral))
        yield f"R neutral and S = 0 for {kid}", token, reason
    yield "a stranger's under our kid", corpus.issuer.mint(key=corpus.stranger), "signature"
    for signer, named in itertools.permutations(corpus.good_keys, 2):
        header = {"typ": "at+jwt", "alg": named.algorithm, "kid": named.kid}
        token = compact(header, corpus.issuer.claims(), sign=signer.sign)
        yield f"{named.kid}'s header over {signer.kid}'s signature", token, "signature"
        header = {"typ": "at+jwt", "alg": signer.algorithm, "kid": named.kid}
        token = compact(header, corpus.issuer.claims(), sign=signer.sign)
        yield f"{signer.algorithm} under the kid {named.kid}", token, "key_does_not_fit|signature"


def signatures(corpus: Corpus) -> Iterator[Flaw]:
    for key in corpus.good_keys:
        token = corpus.issuer.mint(key=key)
        signed, _, last = token.rpartition(".")
        signature = decode(last)
        other = decode(corpus.issuer.mint("another", key=key).rpartition(".")[2])
        forged = {
            "a byte short": signature[:-1],
            "half": signature[: len(signature) // 2],
            "one byte": signature[:1],
            "a byte more": signature + b"\0",
            "a byte before": b"\0" + signature,
            "twice": signature * 2,
            "zeros": bytes(len(signature)),
            "ones": b"\xff" * len(signature),
            "another token's": other,
            "backwards": signature[::-1],
            "its digest": hashlib.sha256(signed.encode()).digest(),
            "the payload": signed.encode(),
        }
        for bit in range(0, 8 * len(signature), 8 * len(signature) // 12 + 1):
            flipped = bytearray(signature)
            flipped[bit // 8] ^= 1 << bit % 8
            forged[f"bit {bit} flipped"] = bytes(flipped)
        if key.algorithm.startswith("ES"):
            forged |= _ecdsa_tricks(signature)
        for name, data in forged.items():
            yield f"{name}, {key.algorithm}", f"{signed}.{encode(data)}", "signature"


def rsa_tricks(corpus: Corpus) -> Iterator[Flaw]:
    """Paddings that sloppy verifiers took, each made with the private key, so that only the padding is wrong."""
    numbers = corpus.rsa.private.private_numbers()
    n, d = int(numbers.public_numbers.n), int(numbers.d)
    size = int(corpus.rsa.private.key_size) // 8

    def sealed(block: Callable[[bytes], bytes]) -> Callable[[bytes], bytes]:
        def sign(data: bytes) -> bytes:
            message = block(hashlib.sha256(data).digest())
            sealed_block: int = pow(int.from_bytes(message.ljust(size, b"\0"), "big"), d, n)
            return sealed_block.to_bytes(size, "big")

        return sign

    def padded(tail: bytes, *, kind: bytes = b"\1", fill: bytes = b"\xff") -> bytes:
        return b"\0" + kind + fill * (size - 3 - len(tail)) + b"\0" + tail

    without_null = bytes.fromhex("302f300b0609608648016503040201") + b"\x04\x20"
    long_form = bytes.fromhex("308131300d060960864801650304020105000420")
    sha1_info = bytes.fromhex("3021300906052b0e03021a05000414")
    tricks: dict[str, Callable[[bytes], bytes]] = {
        "short padding, garbage behind": lambda h: b"\0\1" + b"\xff" * 8 + b"\0" + SHA256_INFO + h,
        "garbage behind the digest": lambda h: padded(SHA256_INFO + h + b"garbage!"),
        "no DigestInfo": lambda h: padded(h),
        "parameters left out": lambda h: padded(without_null + h),
        "length in long form": lambda h: padded(long_form + h),
        "another hash named": lambda h: padded(sha1_info + h[:20]),
        "block type 0": lambda h: padded(SHA256_INFO + h, kind=b"\0", fill=b"\0"),
        "block type 2": lambda h: padded(SHA256_INFO + h, kind=b"\2", fill=b"\x55"),
        "padding of zeros": lambda h: padded(SHA256_INFO + h, fill=b"\0"),
        "a hole in the padding": lambda h: padded(SHA256_INFO + h).replace(b"\xff\xff", b"\xff\0", 1),
    }
    header = {"typ": "at+jwt", "alg": "RS256", "kid": "rsa"}
    for name, block in tricks.items():
        yield name, compact(header, corpus.issuer.claims(), sign=sealed(block)), "signature"
    for name, value in (("0", 0), ("1", 1), ("-1", n - 1)):
        raw = value.to_bytes(size, "big")
        yield f"signature {name}", compact(header, corpus.issuer.claims(), sign=always(raw)), "signature"

    def beyond(data: bytes) -> bytes:
        return (int.from_bytes(corpus.rsa.sign(data), "big") + n).to_bytes(size + 1, "big")

    yield "signature plus modulus", compact(header, corpus.issuer.claims(), sign=beyond), "signature"
    for name in ("RS384", "RS512", "PS256"):
        token = compact(header, corpus.issuer.claims(), sign=partial(corpus.rsa.sign, algorithm=name))
        yield f"{name} said to be RS256", token, "signature"
    header = {"typ": "at+jwt", "alg": "PS256", "kid": "rsa-bare"}
    for salt in (0, 20, 64, padding.PSS.MAX_LENGTH):

        def salted(data: bytes, salt: Any = salt) -> bytes:
            scheme = padding.PSS(padding.MGF1(hashes.SHA256()), salt)
            signature: bytes = corpus.rsa_bare.private.sign(data, scheme, hashes.SHA256())
            return signature

        yield f"PSS salt {str(salt)[:3]}", compact(header, corpus.issuer.claims(), sign=salted), "signature"


def tampered(corpus: Corpus) -> Iterator[Flaw]:
    """A good signature over something else."""
    for key in corpus.good_keys:
        token = corpus.issuer.mint(key=key, scope="flights:read")
        header, payload, signature = token.split(".")
        claims = json.loads(decode(payload))
        changes: dict[str, Any] = {
            "client_id": "globex",
            "sub": "globex",
            "scope": "flights:read admin",
            "exp": claims["exp"] + 1,
            "jti": "another",
            "airport": "JFK",
        }
        for name, value in changes.items():
            changed = encode(json.dumps({**claims, name: value}, separators=(",", ":")).encode())
            yield f"{name}, {key.kid}", f"{header}.{changed}.{signature}", "signature"
        respelled = encode(json.dumps(claims).encode())
        yield f"only respelled, {key.kid}", f"{header}.{respelled}.{signature}", "signature"
        retyped = encode(json.dumps({**json.loads(decode(header)), "typ": "AT+JWT"}).encode())
        yield f"header respelled, {key.kid}", f"{retyped}.{payload}.{signature}", "signature"


def _ecdsa_tricks(signature: bytes) -> dict[str, bytes]:
    half = len(signature) // 2
    r, s = signature[:half], signature[half:]
    order = {
        32: 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551,
        48: int("FF" * 24 + "C7634D81F4372DDF581A0DB248B0A77AECEC196ACCC52973", 16),
    }[half]
    n = order.to_bytes(half, "big")
    der = utils.encode_dss_signature(int.from_bytes(r, "big"), int.from_bytes(s, "big"))
    return {
        "DER": der,
        "DER cut to the length": der[: 2 * half],
        "r and s swapped": s + r,
        "r zero": bytes(half) + s,
        "s zero": r + bytes(half),
        "r = s = n": n + n,
        "r = n": n + s,
        "s = n": r + n,
        "r = s = 1": (1).to_bytes(half, "big") * 2,
        "a zero before each": b"\0" + r + b"\0" + s,
    }


GROUPS = {
    "algorithm": algorithms,
    "confusion": confusion,
    "key": wrong_keys,
    "signature": signatures,
    "rsa": rsa_tricks,
    "tampered": tampered,
}

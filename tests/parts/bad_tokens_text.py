"""Bad tokens by how they are written: parts, base64url, JSON, size."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator

from tests.parts.token_corpus import Corpus, Flaw
from tests.parts.tokens import compact


def duplicates(corpus: Corpus) -> Iterator[Flaw]:
    claims = corpus.issuer.claims()
    text = json.dumps(claims)
    for name, value in claims.items():
        for twice in (json.dumps(value), '"other"'):
            payload = f'{{"{name}": {twice}, {text[1:]}'.encode()
            yield f"{name} twice, {twice[:6]} first", corpus.raw(payload=payload), "duplicate_name"
        payload = f'{text[:-1]}, "{name}": "other"}}'.encode()
        yield f"{name} twice, the other last", corpus.raw(payload=payload), "duplicate_name"
    escaped = f'{text[:-1]}, "\\u0065xp": {corpus.now + 9}}}'.encode()
    yield "exp twice, once escaped", corpus.raw(payload=escaped), "duplicate_name"
    nested = f'{text[:-1]}, "cnf": {{"a": 1, "b": {{"c": 1, "c": 2}}}}}}'.encode()
    yield "within a claim", corpus.raw(payload=nested), "duplicate_name"
    listed = f'{text[:-1]}, "roles": [{{"a": 1, "a": 1}}]}}'.encode()
    yield "within a list", corpus.raw(payload=listed), "duplicate_name"
    header = '{"typ":"at+jwt","alg":"ES256","kid":"p256"'
    for name, value in (("alg", "none"), ("alg", "ES256"), ("kid", "p256"), ("kid", "x"), ("typ", "JWT")):
        token = corpus.raw(header=f'{header},"{name}":"{value}"}}'.encode())
        yield f"{name} twice in the header, {value} last", token, "duplicate_name"
        token = corpus.raw(header=f'{{"{name}":"{value}",{header[1:]}}}'.encode())
        yield f"{name} twice in the header, {value} first", token, "duplicate_name"


def not_json(corpus: Corpus) -> Iterator[Flaw]:
    claims = json.dumps(corpus.issuer.claims()).encode()
    header = b'{"typ":"at+jwt","alg":"ES256","kid":"p256"}'
    for where, good in (("header", header), ("payload", claims)):
        spellings: dict[str, tuple[bytes, str]] = {
            "a list": (b"[" + good + b"]", "not_an_object"),
            "text": (b'"text"', "not_an_object"),
            "a number": (b"1", "not_an_object"),
            "null": (b"null", "not_an_object"),
            "true": (b"true", "not_an_object"),
            "a space": (b" ", "not_json"),
            "cut short": (good[:-1], "not_json"),
            "more behind it": (good + b"{}", "not_json"),
            "NUL behind it": (good + b"\0", "not_json"),
            "a comma too many": (good[:-1] + b",}", "not_json"),
            "a comment": (good[:-1] + b"/* */}", "not_json"),
            "single quotes": (good.replace(b'"', b"'"), "not_json"),
            "a line end in text": (good[:-1] + b',"a":"\n"}', "not_json"),
            "NaN": (good[:-1] + b',"a":NaN}', "not_json"),
            "Infinity": (good[:-1] + b',"a":Infinity}', "not_json"),
            "a byte order mark": (b"\xef\xbb\xbf" + good, "not_json"),
            "UTF-16": (good.decode().encode("utf-16"), "not_utf8"),
            "a byte that is no UTF-8": (good[:-1] + b',"a":"\xff"}', "not_utf8"),
            "overlong UTF-8": (good[:-1] + b',"a":"\xc0\xaf"}', "not_utf8"),
            "a surrogate in UTF-8": (good[:-1] + b',"a":"\xed\xa0\x80"}', "not_utf8"),
            "a lone surrogate": (good[:-1] + b',"a":"\\uD800"}', "lone_surrogate"),
            "a lone surrogate as a name": (good[:-1] + b',"\\udc00":1}', "lone_surrogate"),
            "5000 digits": (good[:-1] + b',"a":' + b"9" * 5000 + b"}", "not_json"),
        }
        for name, (spelled, reason) in spellings.items():
            token = corpus.raw(header=spelled) if where == "header" else corpus.raw(payload=spelled)
            yield f"{name}, {where}", token, reason


def sizes(corpus: Corpus) -> Iterator[Flaw]:
    yield "1 MB of claims", corpus.es({"pad": "x" * 1_000_000}), "too_long"
    yield "1 MB of header", corpus.es(header={"pad": "x" * 1_000_000}), "too_long"
    yield "1 MB of dots", "." * 1_000_000, "too_long"
    yield "1 MB of signature", corpus.es() + "A" * 1_000_000, "too_long"
    longest = corpus.es({"pad": "x" * 5500})
    at_bound = (8001 - len(longest)) * 3 // 4 + 5500
    yield "just over the bound", corpus.es({"pad": "x" * (at_bound + 2)}), "too_long"
    for depth in (32, 33, 100, 999, 2000):
        for open_, close in (("[", "]"), ('{"a":', "}")):
            if depth * (len(open_) + 1) > 5000:
                continue
            nested = f'"a": {open_ * depth}1{close * depth}}}'
            name = f"{depth} deep in {open_}"
            payload = f"{json.dumps(corpus.issuer.claims())[:-1]}, {nested}".encode()
            yield name, corpus.raw(payload=payload), "too_deep"
            header = f'{{"typ":"at+jwt","alg":"ES256","kid":"p256",{nested}'.encode()
            yield f"{name}, header", corpus.raw(header=header), "too_deep"
    yield "opened and never closed", corpus.raw(payload=b'{"a":' + b"[" * 5000), "too_deep"
    quotes = b'{"a":' + b"[" * 40 + b'"' + b'\\"' * 2500
    yield "brackets and quotes without end", corpus.raw(payload=quotes), "too_deep"


def spellings(corpus: Corpus) -> Iterator[Flaw]:
    token = corpus.es({"pad": "x"})
    foreign = ("=", "+", "/", " ", "\n", "\r\n", "\t", "\0", "%", "!", "~", ",", ";", '"', "\x7f", "%2E", "&#46;")
    for index, where in enumerate(("header", "payload", "signature")):
        parts = token.split(".")
        for mark in foreign:
            for place, spelled in (
                ("before", mark + parts[index]),
                ("in", parts[index][:10] + mark + parts[index][10:]),
                ("behind", parts[index] + mark),
            ):
                changed = [*parts[:index], spelled, *parts[index + 1 :]]
                yield f"{mark!r} {place} the {where}", ".".join(changed), "not_base64url"
        for mark in ("é", "\uff0e", "\u200b", "\ufeff", "\uff21", "\U0001f511", "\ud800"):
            changed = [*parts[:index], parts[index][:10] + mark + parts[index][10:], *parts[index + 1 :]]
            yield f"{mark!a} in the {where}", ".".join(changed), "not_base64url"
    yield from spare_bits(corpus)


def spare_bits(corpus: Corpus) -> Iterator[Flaw]:
    """The last character of a part may hold bits that decode to nothing: another spelling of the same bytes."""
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    for pad in range(3):
        token = corpus.es({"pad": "x" * pad}, header={"pad": "x" * pad})
        parts = token.split(".")
        for index, part in enumerate(parts):
            if len(part) % 4 == 0:
                continue
            for step in (1, 2, 3):
                last = alphabet[alphabet.index(part[-1]) + step]
                changed = [*parts[:index], part[:-1] + last, *parts[index + 1 :]]
                yield f"spare bits {step}, part {index}, pad {pad}", ".".join(changed), "not_base64url"
    token = corpus.es()
    yield "one character too many", token + "A" * (1 if len(token.split(".")[2]) % 4 == 0 else 3), "not_base64url"


def parts(corpus: Corpus) -> Iterator[Flaw]:
    token = corpus.es()
    header, payload, signature = token.split(".")
    for name, text in {
        "nothing": "",
        "a dot": ".",
        "two dots": "..",
        "three dots": "...",
        "a word": "token",
        "one part": header,
        "two parts": f"{header}.{payload}",
        "no header": f".{payload}.{signature}",
        "no payload": f"{header}..{signature}",
        "no signature": f"{header}.{payload}.",
        "a dot behind": f"{token}.",
        "a dot before": f".{token}",
    }.items():
        yield name, text, "not_three_parts|not_base64url"
    for name, text in {
        "four parts": f"{token}.{signature}",
        "five parts, as in a JWE": f"{header}.{payload}.{payload}.{payload}.{signature}",
        "two tokens": f"{token}.{token}",
        "a dot in the payload": f"{header}.{payload[:9]}.{payload[9:]}.{signature}",
        "with its scheme": f"Bearer {token}",
        "in quotes": f'"{token}"',
        "two with a comma": f"{token},{token}",
        "a line end behind": f"{token}\n",
        "JSON serialization": json.dumps({"protected": header, "payload": payload, "signature": signature}),
        "percent-encoded": token.replace(".", "%2E"),
    }.items():
        yield name, text, "not_base64url|not_three_parts"
    for number, order in enumerate(itertools.permutations((header, payload, signature))):
        if number:
            yield f"swapped {number}", ".".join(order), "no_algorithm|not_utf8|not_json"
    nested = compact({"typ": "at+jwt", "alg": "ES256", "kid": "p256"}, token.encode(), sign=corpus.p256.sign)
    yield "a token in a token", nested, "not_json"


GROUPS = {"name": duplicates, "json": not_json, "size": sizes, "base64": spellings, "parts": parts}

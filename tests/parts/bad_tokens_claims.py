"""Bad tokens by what they say: header members and claims."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from tests.parts.token_corpus import LEEWAY_SECONDS, MAX_LIFETIME_SECONDS, Corpus, Flaw
from tests.parts.tokens import ABSENT, compact


def kids(corpus: Corpus) -> Iterator[Flaw]:
    kid: Any
    unknown = (
        *("unknown", "P256", "p256 ", " p256", "p256\0", "p256\n", "", "../../../../etc/passwd", "/dev/null"),
        *("file:///etc/passwd", "C:\\key.pem", "https://evil.example/key", "p256' OR '1'='1", "%s%n{0}${x}"),
        *("'; DROP TABLE keys; --", "p256\" UNION SELECT 'k", "|whoami", "$(id)", "*", "p25?", "k" * 4000),
        *("\uff50256", "\u202ep256", "__proto__", "None", "0", "%70256"),
    )
    for kid in unknown:
        yield f"{kid[:30]!r}", corpus.es(header={"kid": kid}), "no_key"
    for kid in (None, 0, 1, True, 1.5, ["p256"], {"kid": "p256"}):
        yield f"{kid!r}", corpus.es(header={"kid": kid}), "kid_not_text"
    yield "none where two keys fit", corpus.issuer.mint(key=corpus.rsa, header={"kid": ABSENT}), "no_key"
    yield "a lone surrogate", corpus.raw(header=b'{"typ":"at+jwt","alg":"ES256","kid":"\\ud800"}'), "lone_surrogate"
    for key in corpus.good_keys:
        if key is not corpus.p256:
            yield f"that of {key.kid}", corpus.es(header={"kid": key.kid}), "key_does_not_fit"


def headers(corpus: Corpus) -> Iterator[Flaw]:
    mine = corpus.stranger.jwk()
    refused: dict[str, tuple[Any, ...]] = {
        "jku": (
            "https://evil.example/jwks",
            "http://127.0.0.1/",
            "file:///etc/passwd",
            "",
            None,
            corpus.issuer.issuer,
        ),
        "x5u": ("https://evil.example/cert.pem", "ldap://evil.example", "", None),
        "jwk": (mine, corpus.p256.jwk(), {}, None, "x"),
        "x5c": (["MIIB"], [], "MIIB", None),
        "crit": (["exp"], ["b64"], [], "exp", None, ["http://example.com/UNDEFINED"], [1], {}),
        "b64": (True, False, None, "true"),
        "zip": ("DEF", "", None),
    }
    for name, values in refused.items():
        for number, value in enumerate(values):
            yield f"{name} {number}, {str(value)[:20]!r}", corpus.es(header={name: value}), "header_refused"
    embedded = {"typ": "at+jwt", "alg": "ES256", "kid": "p256", "jwk": mine}
    token = compact(embedded, corpus.issuer.claims(), sign=corpus.stranger.sign)
    yield "a key of one's own, and signed with it", token, "header_refused"
    yield "b64 as RFC 7797 has it", corpus.es(header={"b64": False, "crit": ["b64"]}), "header_refused"


def types(corpus: Corpus) -> Iterator[Flaw]:
    typ: Any
    for typ in (ABSENT, "", "JWT", "jwt", "application/jwt", "JWS", "JOSE", "id+jwt", "logout+jwt", "secevent+jwt"):
        yield f"{typ!r:.20}", corpus.es(header={"typ": typ}), "not_an_access_token"
    for typ in ("dpop+jwt", "token-introspection+jwt", "at+jwt ", " at+jwt", "at+jwt;v=1", "at-jwt", "text/at+jwt"):
        yield f"{typ!r}", corpus.es(header={"typ": typ}), "not_an_access_token"
    for typ in ("application/application/at+jwt", "application/", "at+jwt\0", "at", "refresh+jwt", "mtls+at+jwt"):
        yield f"{typ!r}", corpus.es(header={"typ": typ}), "not_an_access_token"
    for typ in (None, 1, True, ["at+jwt"], {"at+jwt": 1}, "\uff41t+jwt"):
        yield f"{typ!r}", corpus.es(header={"typ": typ}), "typ_not_text"


def claims(corpus: Corpus) -> Iterator[Flaw]:
    value: Any
    texts = ("client_id", "sub", "jti")
    for name in (*texts, "iss", "aud", "exp", "iat"):
        reason = "iss_unknown" if name == "iss" else f"{name}_missing"
        yield f"no {name}", corpus.es({name: ABSENT}), reason
    for name in texts:
        for value in (None, 1, 1.5, True, False, [], ["acme-batch"], {}, {"a": 1}):
            yield f"{name} {value!r}", corpus.es({name: value}), f"{name}_not_text"
        for text in (
            "",
            "a\0",
            "\n",
            "a\rb",
            "\x1b[31m",
            "\x7f",
            "\u0085",
            "\u2028",
            "\ufeff",
            "\u202eb",
            "x" * 257,
        ):
            yield f"{name} {text[:20]!a}", corpus.es({name: text}), f"{name}_not_allowed"
    ours = corpus.issuer.issuer
    for value in ("", "x", ours + "/", ours.upper(), ours + " ", ours[:-1], ours + "\0", ours.replace("s:", ":")):
        yield f"iss {value!r}", corpus.es({"iss": value}), "iss_unknown"
    for value in (None, 1, True, [ours], {"iss": ours}, {}, [], 1.5):
        yield f"iss {value!r}", corpus.es({"iss": value}), "iss_unknown"
    ours = corpus.issuer.audience
    for value in (
        "",
        "x",
        ours + "/",
        ours.upper(),
        ours + " ",
        ours[:-1],
        f"{ours} x",
        "*",
        ours + ".evil.example",
    ):
        yield f"aud {value!r}", corpus.es({"aud": value}), "aud_not_ours"
        yield f"aud [{value!r}]", corpus.es({"aud": [value]}), "aud_not_ours"
    for value in (None, 1, True, {}, {ours: 1}, []):
        yield f"aud {value!r}", corpus.es({"aud": value}), "aud_not_ours"
    for value in ([ours, 1], [ours, None], [[ours]], [{"aud": ours}], [ours] * 33):
        yield f"aud {str(value)[:40]}", corpus.es({"aud": value}), "aud_not_allowed"
    for value in (None, 1, True, [], ["a"], {}, "a\tb", "a\nb", "a\0", "ä", "a\u00a0b"):
        yield f"scope {value!r}", corpus.es({"scope": value}), "scope_not_allowed"


def times(corpus: Corpus) -> Iterator[Flaw]:
    value: Any
    now = corpus.now
    for name in ("exp", "iat", "nbf"):
        for value in (None, True, False, str(now + 60), "", [], [now + 60], {}, "2030-01-01T00:00:00Z"):
            yield f"{name} {value!r}", corpus.es({name: value}), f"{name}_not_a_number"
        for value in (-1, -0.5, 10**12, 10**18, 10**30, 1e300, 2**63, 2**64, -(2**63)):
            yield f"{name} {value!r}", corpus.es({name: value}), f"{name}_out_of_range"
        for spelled in ("1e400", "-1e400", "9" * 400):
            payload = json.dumps(corpus.issuer.claims(overrides={name: 12345})).replace("12345", spelled, 1).encode()
            yield f"{name} {spelled[:10]}", corpus.raw(payload=payload), f"{name}_out_of_range"
        for spelled in ("NaN", "Infinity", "-Infinity", "0x10", "1_000", "+1", "01", "1.", ".5"):
            payload = json.dumps(corpus.issuer.claims(overrides={name: 12345})).replace("12345", spelled, 1).encode()
            yield f"{name} {spelled}", corpus.raw(payload=payload), "not_json"
    for late in (MAX_LIFETIME_SECONDS + 1, MAX_LIFETIME_SECONDS + 0.5, 10**8):
        yield f"lives {late} s", corpus.es({"exp": now + late}), "lifetime"
    yield "exp at iat", corpus.es({"exp": now}), "lifetime"
    yield "exp before iat", corpus.es({"exp": now - 1}), "lifetime"
    yield "long expired, lived too long", corpus.es({"iat": 1, "exp": now - 1}), "lifetime"
    for name in ("iat", "nbf"):
        for ahead in (LEEWAY_SECONDS + 0.001, LEEWAY_SECONDS + 1, 3000):
            yield f"{name} {ahead} s ahead", corpus.es({name: now + ahead}), f"{name}_in_future"
    for ago in (0, 0.5, 1, 3600, 10**6):
        yield f"expired {ago} s ago", corpus.es({"iat": now - ago - 60, "exp": now - ago}), "expired"
    for key in corpus.good_keys:
        token = corpus.issuer.mint(key=key, claims={"iat": now - 60, "exp": now})
        yield f"expired, {key.kid}", token, "expired"
        yield f"expired, {key.kid}, and not signed", token[:-20] + "A" * 20, "signature"
    yield "expired, not for us", corpus.es({"iat": now - 60, "exp": now, "aud": "x"}), "aud_not_ours"


GROUPS = {"kid": kids, "header": headers, "typ": types, "claim": claims, "time": times}

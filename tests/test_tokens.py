"""A token opens something only if everything about it is right; whoever sends a bad one learns nothing but that."""

from __future__ import annotations

import logging
import re
from collections import Counter
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.auth.keys import KeySet, VerifyingKey
from gateway.auth.tokens import IssuerSettings, TokenVerifier, parse_bearer
from gateway.clock import ManualClock
from gateway.errors import TokenExpired, TokenInvalid, TokenMissing, Unavailable
from tests.parts.bad_tokens import bad_tokens
from tests.parts.token_corpus import ALGORITHMS, ED25519_BASE, LEEWAY_SECONDS, MAX_LIFETIME_SECONDS, Corpus
from tests.parts.tokens import ABSENT, AUDIENCE, ISSUER, PretendIssuer, SigningKey, decode

KEY = SigningKey("EdDSA", kid="ed")


@pytest.fixture(scope="module")
def corpus() -> Corpus:
    return Corpus(clock=ManualClock())


@pytest.fixture
def verifier(corpus: Corpus) -> TokenVerifier:
    keys = KeySet.parse(corpus.jwks, algorithms=ALGORITHMS)
    return TokenVerifier(
        [corpus.issuer.settings(keys=keys, algorithms=ALGORITHMS)],
        clock=corpus.issuer.clock,
        max_token_lifetime_seconds=MAX_LIFETIME_SECONDS,
        leeway_seconds=LEEWAY_SECONDS,
    )


def verifier_of(issuer: PretendIssuer, **fields: object) -> TokenVerifier:
    return TokenVerifier([issuer.settings(**fields)], clock=issuer.clock)  # type: ignore[arg-type]


def refusal_of(verifier: TokenVerifier, token: str) -> TokenInvalid | TokenExpired:
    with pytest.raises((TokenInvalid, TokenExpired)) as caught:
        verifier.verify(token)
    assert isinstance(caught.value, (TokenInvalid, TokenExpired))
    return caught.value


def test_no_bad_token_opens_anything_and_each_is_refused_for_its_own_reason(
    corpus: Corpus, verifier: TokenVerifier
) -> None:
    wrong: list[str] = []
    count = 0
    for bad in bad_tokens(corpus):
        count += 1
        try:
            verifier.verify(bad.token)
        except (TokenInvalid, TokenExpired) as refusal:
            if refusal.reason not in bad.reason.split("|") or isinstance(refusal, TokenExpired) is not bad.expired:
                wrong.append(f"{bad.name}: refused as {refusal.reason}, expected {bad.reason}")
        else:
            wrong.append(f"{bad.name}: ACCEPTED")
    assert wrong == []
    assert count >= 1000


def test_every_refusal_looks_the_same_from_outside(corpus: Corpus, verifier: TokenVerifier) -> None:
    seen = set()
    for bad in bad_tokens(corpus):
        refusal = refusal_of(verifier, bad.token)
        if not bad.expired:
            outside = {name: value for name, value in vars(refusal).items() if name != "reason"}
            seen.add((type(refusal), str(refusal), refusal.code, refusal.status, refusal.action, repr(outside)))
            assert refusal.__cause__ is None
            assert refusal.__context__ is None or refusal.__suppress_context__
    assert len(seen) == 1


def test_the_log_says_a_reason_and_nothing_of_the_token(
    corpus: Corpus, verifier: TokenVerifier, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.DEBUG):
        for bad in bad_tokens(corpus):
            caplog.clear()
            refusal = refusal_of(verifier, bad.token)
            said = [record.getMessage() for record in caplog.records]
            assert said == [f"token refused: {refusal.reason}"], bad.name
            assert re.fullmatch(r"[a-z0-9_]{1,32}", refusal.reason), bad.name
            (record,) = caplog.records
            assert (record.name, record.levelno, record.exc_info) == ("gateway.auth", logging.INFO, None)
            assert record.__dict__["reason"] == refusal.reason


def test_the_names_in_the_corpus_are_unique(corpus: Corpus) -> None:
    names = [bad.name for bad in bad_tokens(corpus)]
    assert len(names) == len(set(names))


def test_good_tokens_pass(corpus: Corpus, verifier: TokenVerifier) -> None:
    for name, token in corpus.good_tokens().items():
        assert verifier.verify(token).issuer == "idp", name


@pytest.mark.parametrize("algorithm", ["RS256", "PS256", "ES256", "ES384", "ES512", "EdDSA"])
def test_each_default_algorithm_verifies_with_and_without_a_stated_alg(algorithm: str) -> None:
    key = SigningKey(algorithm)
    issuer = PretendIssuer(key, clock=ManualClock())
    assert verifier_of(issuer).verify(issuer.mint()).client_id == "acme-batch"
    bare = KeySet.parse(b'{"keys":[%s]}' % str(key.jwk(alg=ABSENT)).replace("'", '"').encode())
    assert verifier_of(issuer, keys=bare).verify(issuer.mint()).client_id == "acme-batch"


@pytest.mark.parametrize("algorithm", ["RS384", "RS512", "PS384", "PS512", "Ed25519", "Ed448"])
def test_the_other_algorithms_verify_where_they_are_configured(algorithm: str) -> None:
    issuer = PretendIssuer(SigningKey(algorithm), clock=ManualClock())
    assert verifier_of(issuer, algorithms=(algorithm,)).verify(issuer.mint())
    elsewhere = verifier_of(issuer, keys=KeySet.parse(issuer.jwks(), algorithms=(algorithm,)))
    assert refusal_of(elsewhere, issuer.mint()).reason == "algorithm_not_allowed"


def test_a_principal_is_what_the_token_says() -> None:
    issuer = PretendIssuer(KEY, clock=ManualClock())
    token = issuer.mint(
        "acme-web", scope="flights:read  quakes:read", claims={"sub": "u1", "jti": "j1", "airport": ["ORD", "JFK"]}
    )
    principal = verifier_of(issuer).verify(token)
    assert (principal.issuer, principal.client_id, principal.subject, principal.token_id) == (
        "idp",
        "acme-web",
        "u1",
        "j1",
    )
    assert principal.scopes == {"flights:read", "quakes:read"}
    assert principal.expires_at == int(issuer.clock.now()) + 3600
    assert principal.claims["airport"] == ["ORD", "JFK"]
    with pytest.raises(TypeError):
        principal.claims["airport"] = "LAX"  # type: ignore[index]


def test_no_scope_is_no_scopes() -> None:
    issuer = PretendIssuer(KEY, clock=ManualClock())
    assert verifier_of(issuer).verify(issuer.mint(claims={"scope": ABSENT})).scopes == frozenset()
    assert verifier_of(issuer).verify(issuer.mint(scope="")).scopes == frozenset()


def test_exp_is_exact_whatever_the_leeway() -> None:
    clock = ManualClock()
    issuer = PretendIssuer(KEY, clock=clock)
    verifier = TokenVerifier([issuer.settings()], clock=clock, leeway_seconds=300)
    token = issuer.mint(ttl_seconds=60)
    clock.advance(59.75)
    assert verifier.verify(token)
    clock.advance(0.25)
    with pytest.raises(TokenExpired):
        verifier.verify(token)


def test_a_fraction_of_exp_gives_no_time() -> None:
    clock = ManualClock()
    issuer = PretendIssuer(KEY, clock=clock)
    token = issuer.mint(claims={"exp": clock.now() + 10.75})
    assert verifier_of(issuer).verify(token).expires_at == clock.now() + 10
    clock.advance(10)
    with pytest.raises(TokenExpired):
        verifier_of(issuer).verify(token)


def test_without_leeway_a_clock_ahead_is_not_forgiven() -> None:
    clock = ManualClock()
    issuer = PretendIssuer(KEY, clock=clock)
    strict = TokenVerifier([issuer.settings()], clock=clock, leeway_seconds=0)
    assert strict.verify(issuer.mint(claims={"nbf": clock.now()}))
    assert refusal_of(strict, issuer.mint(claims={"iat": clock.now() + 1})).reason == "iat_in_future"
    assert refusal_of(strict, issuer.mint(claims={"nbf": clock.now() + 1})).reason == "nbf_in_future"


def test_an_issuer_may_be_excused_from_typ_and_that_is_said(caplog: pytest.LogCaptureFixture) -> None:
    issuer = PretendIssuer(KEY, clock=ManualClock())
    excused = verifier_of(issuer, require_typ=False)
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    for typ in ("JWT", "jwt", "application/jwt", ABSENT, "at+jwt"):
        assert excused.verify(issuer.mint(header={"typ": typ})), typ
    for typ in ("id+jwt", "logout+jwt", "dpop+jwt", "secevent+jwt", "JOSE"):
        assert refusal_of(excused, issuer.mint(header={"typ": typ})).reason == "not_an_access_token", typ


@pytest.mark.parametrize("claim", ["nonce", "at_hash", "c_hash", "s_hash", "events"])
def test_an_id_or_logout_token_is_no_access_token_even_where_typ_is_excused(claim: str) -> None:
    issuer = PretendIssuer(KEY, clock=ManualClock())
    excused = verifier_of(issuer, require_typ=False)
    token = issuer.mint(header={"typ": "JWT"}, claims={claim: "x"})
    assert refusal_of(excused, token).reason == "not_an_access_token"
    assert excused.verify(issuer.mint(claims={claim: "x"})), "typ at+jwt has said what it is"


def test_each_issuer_is_believed_only_about_itself() -> None:
    clock = ManualClock()
    first = PretendIssuer(SigningKey("EdDSA", kid="same"), name="first", issuer="https://first.example", clock=clock)
    second = PretendIssuer(SigningKey("EdDSA", kid="same"), name="second", issuer="https://second.example", clock=clock)
    verifier = TokenVerifier([first.settings(), second.settings()], clock=clock)
    assert verifier.verify(first.mint()).issuer == "first"
    assert verifier.verify(second.mint()).issuer == "second"
    assert refusal_of(verifier, first.mint(key=second.keys[0])).reason == "signature"
    assert refusal_of(verifier, second.mint(claims={"iss": first.issuer})).reason == "signature"


def test_an_algorithm_of_one_issuer_is_not_that_of_another() -> None:
    clock = ManualClock()
    first = PretendIssuer(SigningKey("ES256"), name="first", issuer="https://first.example", clock=clock)
    second = PretendIssuer(SigningKey("EdDSA"), name="second", issuer="https://second.example", clock=clock)
    verifier = TokenVerifier(
        [first.settings(algorithms=("ES256",)), second.settings(algorithms=("EdDSA",))], clock=clock
    )
    assert verifier.verify(second.mint())
    assert refusal_of(verifier, first.mint(key=second.keys[0])).reason == "algorithm_not_allowed"


class Source:
    """Keys that a test changes, and what was asked of it."""

    def __init__(self, keys: KeySet | None) -> None:
        self.keys = keys
        self.next: KeySet | None = keys
        self.sought: list[tuple[str | None, str]] = []

    def current(self) -> KeySet | None:
        return self.keys

    async def look_for(self, kid: str | None, *, algorithm: str) -> None:
        self.sought.append((kid, algorithm))
        self.keys = self.next
        if self.keys is None:
            raise Unavailable(retry_after_ms=7000)


def keys_of(issuer: PretendIssuer) -> KeySet:
    return KeySet.parse(issuer.jwks())


async def test_keys_are_looked_for_only_by_a_token_that_lacks_nothing_else() -> None:
    """So that a source that can fetch is not sent out by tokens that could never pass."""
    source = Source(None)
    source.next = KeySet(())
    clock = ManualClock()
    issuer = PretendIssuer(KEY, clock=clock)
    verifier = TokenVerifier([issuer.settings(keys=source)], clock=clock)
    claims: dict[str, Any]
    for claims in ({"aud": "x"}, {"jti": ABSENT}, {"iat": clock.now() + 60}, {"scope": []}, {"iss": "x"}):
        with pytest.raises(TokenInvalid) as caught:
            await verifier.authenticate(issuer.mint(claims=claims))
        assert caught.value.reason != "no_key"
    assert source.sought == []
    with pytest.raises(TokenInvalid) as caught:
        await verifier.authenticate(issuer.mint())
    assert caught.value.reason == "no_key"
    assert source.sought == [("ed", "EdDSA")]
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None


async def test_a_source_may_change_its_keys_under_a_running_verifier() -> None:
    clock = ManualClock()
    old = PretendIssuer(SigningKey("EdDSA", kid="old"), clock=clock)
    new = PretendIssuer(SigningKey("EdDSA", kid="new"), clock=clock)
    source = Source(keys_of(old))
    verifier = TokenVerifier([old.settings(keys=source)], clock=clock)
    assert verifier.verify(old.mint())
    assert refusal_of(verifier, new.mint()).reason == "no_key"
    source.next = keys_of(new)
    assert await verifier.authenticate(new.mint())
    assert refusal_of(verifier, old.mint()).reason == "no_key"


async def test_without_any_key_it_is_not_the_tokens_fault() -> None:
    issuer = PretendIssuer(KEY, clock=ManualClock())
    verifier = verifier_of(issuer, keys=Source(None))
    with pytest.raises(Unavailable) as caught:
        await verifier.authenticate(issuer.mint())
    assert caught.value.retry_after_ms == 7000
    assert refusal_of(verifier, issuer.mint()).reason == "no_key"


class Counted(VerifyingKey):
    """How often a signature was looked at."""

    __slots__ = ("times",)

    def is_signature(self, signature: bytes, *, of: bytes, algorithm: str, sha256: bytes | None = None) -> bool:
        self.times = getattr(self, "times", 0) + 1
        return super().is_signature(signature, of=of, algorithm=algorithm, sha256=sha256)


def counted(key: SigningKey = KEY) -> Counted:
    return Counted(key.public, kid=key.kid, algorithms=frozenset({key.algorithm}))


def test_a_token_that_comes_again_costs_no_signature() -> None:
    key, checks = counted(), Counter[str]()
    issuer = PretendIssuer(KEY, clock=ManualClock())
    verifier = TokenVerifier([issuer.settings(keys=KeySet((key,)))], clock=issuer.clock, checks=checks)
    token = issuer.mint()
    assert verifier.verify(token) is verifier.verify(token)
    assert (key.times, checks) == (1, {"verified": 1, "remembered": 1})
    assert verifier.verify(issuer.mint())
    assert key.times == 2


def test_what_is_remembered_ends_with_the_token_to_the_second() -> None:
    clock = ManualClock()
    issuer = PretendIssuer(KEY, clock=clock)
    verifier = TokenVerifier([issuer.settings()], clock=clock, leeway_seconds=300)
    token = issuer.mint(ttl_seconds=60)
    verifier.verify(token)
    clock.advance(59.75)
    assert verifier.verify(token)
    clock.advance(0.25)
    for _ in range(2):
        with pytest.raises(TokenExpired):
            verifier.verify(token)
    assert len(verifier) == 0


def test_what_is_remembered_ends_with_the_keys_it_was_verified_by() -> None:
    issuer = PretendIssuer(SigningKey("EdDSA", kid="k"), clock=ManualClock())
    other = PretendIssuer(SigningKey("EdDSA", kid="k"), clock=issuer.clock)
    source = Source(keys_of(issuer))
    verifier = verifier_of(issuer, keys=source)
    token = issuer.mint()
    verifier.verify(token)
    source.keys = keys_of(other)
    assert refusal_of(verifier, token).reason == "signature"
    source.keys = None
    assert refusal_of(verifier, token).reason == "no_key"
    source.keys = keys_of(issuer)
    assert verifier.verify(token)
    assert len(verifier) == 1


@pytest.mark.parametrize("algorithm", ["RS256", "ES256", "EdDSA"])
def test_a_remembered_token_lends_nothing_to_another_of_its_parts(algorithm: str) -> None:
    signer = SigningKey(algorithm, kid="k")
    issuer = PretendIssuer(signer, clock=ManualClock())
    verifier = verifier_of(issuer)
    one, two = issuer.mint(), issuer.mint("acme-other")
    assert verifier.verify(one)
    assert verifier.verify(two)
    assert verifier.remembers(one)
    (header, payload, signature), (_, payload_of_two, signature_of_two) = one.split("."), two.split(".")
    for mixed in (
        f"{header}.{payload}.{signature_of_two}",
        f"{header}.{payload_of_two}.{signature}",
        f"{header}.{payload}.{signature[:-4]}AAAA",
        f"{header}.{payload}.AAAA{signature[4:]}",
        f"{header}.{payload}{signature}",
        f"{header}.{payload}.",
        f"{header}{payload}.{signature}",
        f"{one}.",
        f".{one}",
    ):
        assert not verifier.remembers(mixed)
        assert isinstance(refusal_of(verifier, mixed), TokenInvalid)
    assert len(verifier) == 2


def test_no_refusal_is_remembered() -> None:
    key = counted()
    issuer = PretendIssuer(KEY, clock=ManualClock())
    source = Source(KeySet((key,)))
    verifier = verifier_of(issuer, keys=source)
    forged = issuer.mint(key=SigningKey("EdDSA", kid="ed"))
    for _ in range(3):
        assert refusal_of(verifier, forged).reason == "signature"
    assert (key.times, len(verifier)) == (3, 0)
    source.keys = KeySet(())
    token = issuer.mint()
    assert refusal_of(verifier, token).reason == "no_key"
    source.keys = KeySet((key,))
    assert verifier.verify(token)


def test_what_is_remembered_is_bounded_and_the_least_used_goes_first() -> None:
    key = counted()
    issuer = PretendIssuer(KEY, clock=ManualClock())
    verifier = TokenVerifier([issuer.settings(keys=KeySet((key,)))], clock=issuer.clock, remembered_tokens=3)
    first, *others = [issuer.mint() for _ in range(4)]
    for token in (first, *others[:2], first, others[2]):
        verifier.verify(token)
    assert (key.times, len(verifier)) == (4, 3)
    verifier.verify(first)
    assert key.times == 4
    verifier.verify(others[0])
    assert (key.times, len(verifier)) == (5, 3)


def test_those_in_use_outlast_any_number_of_others() -> None:
    key = counted()
    issuer = PretendIssuer(KEY, clock=ManualClock())
    verifier = TokenVerifier([issuer.settings(keys=KeySet((key,)))], clock=issuer.clock, remembered_tokens=64)
    used = [issuer.mint() for _ in range(40)]
    for token in used:
        verifier.verify(token)
    for number in range(1, 200):
        verifier.verify(issuer.mint())
        assert len(verifier) <= 64
        for token in used:
            assert verifier.remembers(token)
            verifier.verify(token)
        assert key.times == 40 + number
    # Room that was made is used: never less than fifteen sixteenths of it.
    assert len(verifier) >= 60


def test_nothing_is_remembered_where_that_is_off() -> None:
    key = counted()
    issuer = PretendIssuer(KEY, clock=ManualClock())
    verifier = TokenVerifier([issuer.settings(keys=KeySet((key,)))], clock=issuer.clock, remembered_tokens=0)
    token = issuer.mint()
    verifier.verify(token)
    verifier.verify(token)
    assert (key.times, len(verifier)) == (2, 0)


def test_no_token_stays_in_memory() -> None:
    issuer = PretendIssuer(KEY, clock=ManualClock())
    verifier = verifier_of(issuer)
    token = issuer.mint()
    principal = verifier.verify(token)
    assert token not in repr(vars(verifier))
    assert token.rpartition(".")[2] not in repr((vars(verifier), principal))


def test_servers_that_do_not_speak_rfc_9068_have_other_names_for_three_claims() -> None:
    issuer = PretendIssuer(KEY, clock=ManualClock())
    entra = verifier_of(issuer, client_id_claim="azp", token_id_claim="uti", scope_claim="roles", require_typ=False)
    said = {"client_id": ABSENT, "jti": ABSENT, "scope": ABSENT, "azp": "app-1", "uti": "u-1"}
    header = {"typ": "JWT"}
    principal = entra.verify(issuer.mint(claims=said | {"roles": ["orders:read", "stock:read"]}, header=header))
    assert (principal.client_id, principal.token_id) == ("app-1", "u-1")
    assert principal.scopes == {"orders:read", "stock:read"}
    assert entra.verify(issuer.mint(claims=said | {"roles": "a b"}, header=header)).scopes == {"a", "b"}
    assert entra.verify(issuer.mint(claims=said, header=header)).scopes == frozenset()
    for claims, reason in [
        ({"azp": ABSENT}, "azp_missing"),
        ({"azp": ["app-1"]}, "azp_not_text"),
        ({"uti": ABSENT}, "uti_missing"),
        ({"roles": [1]}, "scope_not_allowed"),
        ({"roles": ["a b"]}, "scope_not_allowed"),
        ({"roles": {"a": "b"}}, "scope_not_allowed"),
        ({"roles": ["\u00fc"]}, "scope_not_allowed"),
    ]:
        assert refusal_of(entra, issuer.mint(claims=said | claims, header=header)).reason == reason, claims
    assert refusal_of(verifier_of(issuer), issuer.mint(claims={"scope": ["a"]})).reason == "scope_not_allowed"


def test_openssl_itself_takes_a_key_of_small_order_and_anybodys_signature_for_it() -> None:
    """Why such a key must not get past the loading of keys: the signature check does not stop it."""
    neutral = Ed25519PublicKey.from_public_bytes(b"\1" + bytes(31))
    for message in (b"one", b"another"):
        neutral.verify(ED25519_BASE + (1).to_bytes(32, "little"), message)


@given(data=st.data())
@settings(max_examples=300, deadline=None)
def test_no_change_of_a_character_survives(data: st.DataObject) -> None:
    issuer = PretendIssuer(KEY, clock=ManualClock())
    token = issuer.mint()
    position = data.draw(st.integers(0, len(token) - 1))
    replaced = data.draw(st.integers(0, 3))
    changed = token[:position] + data.draw(st.text(max_size=3)) + token[position + replaced :]
    if changed != token:
        refusal = refusal_of(verifier_of(issuer), changed)
        assert isinstance(refusal, TokenInvalid)


@given(text=st.one_of(st.text(), st.binary().map(lambda data: data.decode("latin-1")), st.from_regex(r"[\w.-]*")))
@settings(max_examples=300, deadline=None)
def test_no_text_makes_it_fail_otherwise(text: str) -> None:
    assert isinstance(refusal_of(verifier_of(PretendIssuer(KEY, clock=ManualClock())), text), TokenInvalid)


@pytest.mark.parametrize("algorithms", [(), ("HS256",), ("ES256", "none"), ("es256",), ("ES256K",)])
def test_an_issuer_cannot_be_configured_with_anything_but_known_public_key_algorithms(
    algorithms: tuple[str, ...],
) -> None:
    with pytest.raises(ValueError, match="allowed are"):
        IssuerSettings(name="idp", issuer=ISSUER, audience=AUDIENCE, keys=KeySet(()), algorithms=algorithms)


@pytest.mark.parametrize("empty", ["name", "issuer", "audience"])
def test_an_issuer_needs_its_names(empty: str) -> None:
    fields = {"name": "idp", "issuer": ISSUER, "audience": AUDIENCE} | {empty: ""}
    with pytest.raises(ValueError, match="have to be there"):
        IssuerSettings(keys=KeySet(()), **fields)  # type: ignore[arg-type]


@pytest.mark.parametrize("field", ["name", "issuer"])
def test_two_issuers_cannot_be_one(field: str) -> None:
    names = [{"name": "first", "issuer": "i1"} | {field: "same"}, {"name": "second", "issuer": "i2"} | {field: "same"}]
    pair = [IssuerSettings(**each, audience=AUDIENCE, keys=KeySet(())) for each in names]  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="of its own"):
        TokenVerifier(pair, clock=ManualClock())


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER", "bEaReR"])
def test_a_bearer_is_read_whatever_the_case_of_its_scheme(scheme: str) -> None:
    assert parse_bearer(f"{scheme} abc.DEF-_~+/12==") == "abc.DEF-_~+/12=="
    assert parse_bearer(f"{scheme}   abc") == "abc"
    assert parse_bearer(f" \t{scheme} abc\t ") == "abc"


@pytest.mark.parametrize("value", ["", "Basic dXNlcjpwdw==", "DPoP abc", "abc.def.ghi", "Bearerabc"])
def test_another_scheme_is_no_token(value: str) -> None:
    with pytest.raises(TokenMissing):
        parse_bearer(value)


@pytest.mark.parametrize(
    "value",
    [
        *("Bearer", "Bearer ", "Bearer abc def", "Bearer abc,Bearer def", 'Bearer "abc"', "Bearer abc\0", "Bearer a=b"),
        *("Bearer \tabc", "Bearer abc\n", "Bearer é", "Bearer ==", "bearer token=abc", "Bearer " + "=" * 8000),
    ],
)
def test_what_follows_bearer_is_one_token_or_refused(value: str, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO), pytest.raises(TokenInvalid) as caught:
        parse_bearer(value)
    assert caught.value.reason == "not_a_bearer"
    assert caplog.messages == ["token refused: not_a_bearer"]


def test_the_corpus_holds_what_pyjwt_alone_would_take(corpus: Corpus) -> None:
    """Which of these would pass without our own rules: the reason why they are there."""
    taken = 0
    for bad in bad_tokens(corpus):
        parts = bad.token.split(".")
        try:
            key = next(key for key in corpus.good_keys if key.kid.encode() in decode(parts[0]))
            options = {"verify_aud": False, "verify_exp": False, "verify_iat": False, "verify_nbf": False}
            jwt.decode(bad.token, key.public, algorithms=[key.algorithm], options=options)  # type: ignore[arg-type]
        except (jwt.PyJWTError, ValueError, StopIteration, RecursionError, TypeError):
            continue
        taken += 1
    assert taken > 200

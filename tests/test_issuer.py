"""The built-in issuer makes one key, keeps it to itself, and its tokens are like everybody's."""

from __future__ import annotations

import base64
import hashlib
import json
import multiprocessing
import os
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import jwt
import pytest

from gateway.auth.issuer import KEY_FILE, RESERVED_CLAIMS, DevelopmentIssuer
from gateway.auth.keys import KeySet
from gateway.auth.tokens import IssuerSettings, TokenVerifier
from gateway.clock import ManualClock, SystemClock
from gateway.errors import ConfigurationProblems, TokenExpired

ISSUER = "http://127.0.0.1:8080"


def opened(data_dir: Path, *, clock: ManualClock | None = None) -> DevelopmentIssuer:
    return DevelopmentIssuer(data_dir, issuer=ISSUER, audience=ISSUER, clock=clock or ManualClock())


def open_all(data_dirs: list[str]) -> list[str]:
    """Runs in another process: opens each directory's issuer and says whose key it got."""
    return [
        DevelopmentIssuer(Path(each), issuer=ISSUER, audience=ISSUER, clock=SystemClock()).kid for each in data_dirs
    ]


def problem_of(data_dir: Path) -> str:
    with pytest.raises(ConfigurationProblems) as caught:
        opened(data_dir)
    (problem,) = caught.value.problems
    return problem


def test_its_tokens_are_access_tokens_that_its_settings_accept(tmp_path: Path) -> None:
    clock = ManualClock()
    issuer = opened(tmp_path, clock=clock)
    verifier = TokenVerifier([issuer.settings()], clock=clock)
    token = issuer.mint("acme-batch", scope="flights:read quakes:read", ttl_seconds=60, claims={"airport": "ORD"})
    principal = verifier.verify(token)
    assert (principal.issuer, principal.client_id, principal.subject) == ("builtin", "acme-batch", "acme-batch")
    assert principal.scopes == {"flights:read", "quakes:read"}
    assert principal.claims["airport"] == "ORD"
    assert principal.expires_at == clock.now() + 60
    clock.advance(60)
    with pytest.raises(TokenExpired):
        verifier.verify(token)


def test_its_published_key_verifies_its_tokens(tmp_path: Path) -> None:
    issuer = opened(tmp_path)
    published = issuer.jwks()
    assert set(published["keys"][0]) == {"kty", "crv", "x", "y", "kid", "use", "alg"}
    settings = IssuerSettings(
        name="elsewhere", issuer=ISSUER, audience=ISSUER, keys=KeySet.parse(json.dumps(published).encode())
    )
    token = issuer.mint("acme-batch", subject="somebody")
    assert TokenVerifier([settings], clock=ManualClock()).verify(token).subject == "somebody"
    assert jwt.get_unverified_header(token) == {"alg": "ES256", "kid": issuer.kid, "typ": "at+jwt"}


def test_what_it_publishes_cannot_be_changed_from_outside(tmp_path: Path) -> None:
    issuer = opened(tmp_path)
    before = json.dumps(issuer.jwks())
    issuer.jwks()["keys"][0]["kid"] = "other"
    assert json.dumps(issuer.jwks()) == before


def test_the_kid_is_the_thumbprint_of_rfc_7638(tmp_path: Path) -> None:
    issuer = opened(tmp_path)
    key = issuer.jwks()["keys"][0]
    text = f'{{"crv":"P-256","kty":"EC","x":"{key["x"]}","y":"{key["y"]}"}}'
    digest = base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest())
    assert issuer.kid == digest.rstrip(b"=").decode()


def test_each_token_has_an_id_of_its_own(tmp_path: Path) -> None:
    issuer = opened(tmp_path)
    verifier = TokenVerifier([issuer.settings()], clock=ManualClock())
    assert len({verifier.verify(issuer.mint("acme-batch")).token_id for _ in range(50)}) == 50


def test_the_key_stays_over_restarts_and_is_for_the_owner_alone(tmp_path: Path) -> None:
    data_dir = tmp_path / "deep" / "data"
    first = opened(data_dir)
    second = opened(data_dir)
    assert first.kid == second.kid
    assert [path.name for path in data_dir.iterdir()] == [KEY_FILE]
    assert (data_dir / KEY_FILE).stat().st_mode & 0o777 == 0o600
    assert TokenVerifier([second.settings()], clock=ManualClock()).verify(first.mint("acme-batch"))


def test_the_mode_does_not_depend_on_the_umask(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        opened(tmp_path)
    finally:
        os.umask(before)
    assert (tmp_path / KEY_FILE).stat().st_mode & 0o777 == 0o600


def test_processes_that_start_together_agree_on_one_key(tmp_path: Path) -> None:
    data_dirs = [str(tmp_path / str(number)) for number in range(40)]
    with ProcessPoolExecutor(3, mp_context=multiprocessing.get_context("spawn")) as pool:
        first, second, third = pool.map(open_all, [data_dirs] * 3)
    assert first == second == third
    assert len(set(first)) == 40
    for each in data_dirs:
        assert [path.name for path in Path(each).iterdir()] == [KEY_FILE]


@pytest.mark.parametrize("claim", sorted(RESERVED_CLAIMS))
def test_what_the_issuer_says_cannot_be_said_by_claims(tmp_path: Path, claim: str) -> None:
    with pytest.raises(ValueError, match=rf"claim {claim} "):
        opened(tmp_path).mint("acme-batch", claims={claim: "x", "airport": "ORD"})


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"ttl_seconds": 0}, "positive"),
        ({"ttl_seconds": -1}, "positive"),
        ({"scope": "a\nb"}, "scope"),
        ({"scope": "ä"}, "scope"),
        ({"subject": ""}, "subject"),
        ({"subject": "a\0"}, "subject"),
        ({"subject": "s" * 257}, "subject"),
        ({"claims": {"a": float("nan")}}, "not JSON|not JSON compliant|Out of range"),
        ({"claims": {"a": object()}}, "not JSON"),
        ({"claims": {"a": "\ud800"}}, "lone_surrogate"),
        ({"claims": {"a": "x" * 8000}}, "at most 8000"),
    ],
)
def test_a_token_that_would_be_refused_is_not_made(tmp_path: Path, arguments: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        opened(tmp_path).mint("acme-batch", **arguments)


@pytest.mark.parametrize("client_id", ["", "a\tb", "c" * 257, "\u202e"])
def test_a_client_has_a_name(tmp_path: Path, client_id: str) -> None:
    with pytest.raises(ValueError, match="client_id"):
        opened(tmp_path).mint(client_id, subject="somebody")


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o644])
def test_a_key_that_others_can_read_is_not_used(tmp_path: Path, mode: int) -> None:
    opened(tmp_path)
    (tmp_path / KEY_FILE).chmod(mode)
    assert problem_of(tmp_path) == (
        f"{tmp_path / KEY_FILE}: has mode {mode:04o}; a private key has to be 0600 (chmod 600 {tmp_path / KEY_FILE})"
    )


@pytest.mark.parametrize("text", ["", "{}", "[]", "nonsense", '{"kty":"EC"}', '{"kty":"EC","kty":"EC"}', "\ufeff{}"])
def test_a_file_that_is_no_key_is_said_and_left_alone(tmp_path: Path, text: str) -> None:
    path = tmp_path / KEY_FILE
    path.write_text(text)
    path.chmod(0o600)
    assert problem_of(tmp_path).startswith(f"{path}: is not a private key on P-256")
    assert path.read_text() == text


@pytest.mark.parametrize("change", [{"d": None}, {"d": 1}, {"x": "AA"}, {"crv": "P-384"}, {"kty": "RSA"}, {"d": "AA"}])
def test_a_damaged_key_is_said(tmp_path: Path, change: dict[str, Any]) -> None:
    opened(tmp_path)
    path = tmp_path / KEY_FILE
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    assert "is not a private key on P-256" in problem_of(tmp_path)


def test_a_public_key_alone_is_no_issuer(tmp_path: Path) -> None:
    issuer = opened(tmp_path)
    (tmp_path / KEY_FILE).write_text(json.dumps(issuer.jwks()["keys"][0]))
    assert "is not a private key on P-256" in problem_of(tmp_path)


def test_a_key_whose_halves_do_not_belong_together_is_said(tmp_path: Path) -> None:
    opened(tmp_path)
    other = opened(tmp_path / "other").jwks()["keys"][0]
    path = tmp_path / KEY_FILE
    path.write_text(json.dumps(json.loads(path.read_text()) | {"x": other["x"], "y": other["y"]}))
    assert "is not a private key on P-256" in problem_of(tmp_path)


def test_a_place_where_no_file_can_be_made_is_a_problem(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("a file")
    assert "cannot be made or read" in problem_of(tmp_path / "data")

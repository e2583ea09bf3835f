"""What the token endpoint is made of: secrets, seals, buckets, signing keys that overlap, and their store."""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from gateway.auth.authority import FAILURES_OF_ADDRESS, FAILURES_OF_CLIENT, Authority
from gateway.auth.buckets import Buckets
from gateway.auth.client_secrets import ClientSecret, ClientSecrets, hash_secret, is_hash_of, make_secret
from gateway.auth.issuer import BUILTIN
from gateway.auth.issuer_store import PURPOSE, IssuerStore
from gateway.auth.sealing import SealBroken, Sealer
from gateway.auth.signing import Joined, SigningKeys
from gateway.auth.tokens import IssuerSettings, TokenVerifier
from gateway.catalog.store import Store
from gateway.catalog.tables import CLIENT_SECRETS, SIGNING_KEYS
from gateway.cli import main
from gateway.clock import ManualClock
from gateway.config import Settings, load_settings
from gateway.database.audit import AuditLog, Entry
from gateway.database.database import Bounds, Database
from gateway.database.schema import Schema
from gateway.errors import ConfigurationProblems, OAuthRefusal, TokenInvalid, Unavailable
from gateway.units import format_rfc3339

ISSUER, AUDIENCE = "https://gateway.example", "urn:gateway"
KEYS = ("a sealing key of enough characters", "another sealing key, the one before")
NOTE = Entry(at="2026-01-01T00:00:00.000Z", actor="tests", action="tried", target="it")
LONGEST = 600


# ---- secrets -------------------------------------------------------------------------------------------------------


def test_a_secret_is_one_clients_and_nobody_elses() -> None:
    text, name = make_secret()
    found = ClientSecrets([ClientSecret(name, "acme", 1, hash_secret(text))])
    assert found.is_secret(text, client_id="acme")
    assert not found.is_secret(text, client_id="globex")
    assert not found.is_secret(text[:-1] + ("A" if text[-1] != "A" else "B"), client_id="acme")
    assert not found.is_secret("", client_id="acme")


def test_what_is_kept_of_a_secret_does_not_hold_it_and_differs_each_time() -> None:
    text, _ = make_secret()
    first, second = hash_secret(text), hash_secret(text)
    assert first != second
    assert text not in first
    assert is_hash_of(text, first)
    assert not is_hash_of(text + "x", first)


@pytest.mark.parametrize(
    ("client_id", "secret"),
    [
        ("acme", "gws_0123456789abcdef_" + "A" * 43),
        ("nobody", "gws_0123456789abcdef_" + "A" * 43),
        ("nobody", "hunter2"),
        ("nobody", ""),
        ("nobody", "\u00e9" * 9000),
    ],
)
def test_every_refusal_costs_the_one_hash_that_a_good_secret_costs(
    client_id: str, secret: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    text, name = make_secret()
    found = ClientSecrets([ClientSecret(name, "acme", 1, hash_secret(text))])
    costs: list[tuple[int, int, int]] = []
    real: Callable[..., bytes] = hashlib.scrypt

    def counted(password: bytes, **options: Any) -> bytes:
        costs.append((options["n"], options["r"], options["p"]))
        return real(password, **options)

    monkeypatch.setattr(hashlib, "scrypt", counted)
    assert found.is_secret(text, client_id="acme")
    assert not found.is_secret(secret, client_id=client_id)
    assert len(costs) == 2
    assert costs[0] == costs[1]


# ---- seals ---------------------------------------------------------------------------------------------------------


def test_a_seal_opens_with_any_of_the_keys_and_under_its_own_name_only() -> None:
    old, both = Sealer(KEYS[1:], purpose=PURPOSE), Sealer(KEYS, purpose=PURPOSE)
    sealed = old.seal(b"private", name="kid")
    assert both.open(sealed, name="kid") == b"private"
    for stranger, name in (
        (both, "other"),
        (Sealer(KEYS[:1], purpose=PURPOSE), "kid"),
        (Sealer(KEYS, purpose=b"x"), "kid"),
    ):
        with pytest.raises(SealBroken):
            stranger.open(sealed, name=name)


@given(st.text(max_size=60))
def test_what_was_never_sealed_does_not_open(text: str) -> None:
    with pytest.raises(SealBroken):
        Sealer(KEYS, purpose=PURPOSE).open(text, name="kid")


# ---- buckets -------------------------------------------------------------------------------------------------------


@given(st.lists(st.tuples(st.floats(0, 5), st.booleans()), max_size=60))
def test_no_more_is_taken_than_the_bucket_held_and_gained(steps: list[tuple[float, bool]]) -> None:
    bucket, now, taken = Buckets(capacity=3, per_second=0.5), 0.0, 0
    for pause, gives_back in steps:
        now += pause
        wait = bucket.take("a", now=now)
        if not wait:
            taken += 1
            if gives_back:
                bucket.give_back("a", now=now)
                taken -= 1
        assert taken <= 3 + 0.5 * now + 1e-6
        if wait:
            assert bucket.take("a", now=now + wait + 1e-6) == 0.0
            bucket.give_back("a", now=now + wait + 1e-6)
            now += wait + 1e-6


def test_buckets_stay_few_however_many_keys_come() -> None:
    bucket = Buckets(capacity=2, per_second=1, most=100)
    for number in range(1000):
        bucket.take(f"client-{number}", now=0.0)
    assert len(bucket) == 100
    bucket.give_back("client-999", now=0.0)
    assert len(bucket) == 99


# ---- the store -----------------------------------------------------------------------------------------------------


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    one = Database(f"sqlite:///{tmp_path}/gateway.db", bounds=Bounds(statement_seconds=30))
    Schema(one).upgrade()
    yield one
    one.close()


def store_of(database: Database, *keys: str) -> IssuerStore:
    return IssuerStore(database, Sealer(keys or KEYS, purpose=PURPOSE))


def test_the_first_key_is_made_once(database: Database) -> None:
    store = store_of(database)
    store.ensure_key(now=100.9)
    store.ensure_key(now=200)
    (key,) = store.load().keys
    assert key.signs_from == 100
    assert Store(database).revision() == 1


def test_no_private_key_and_no_secret_can_be_read_in_the_database(database: Database) -> None:
    store = store_of(database)
    store.ensure_key(now=100)
    secret = store.add_secret("acme", now=100, audit=NOTE)
    (key,) = store.load().keys
    with database.reading() as connection:
        told = repr([list(connection.execute(sa.select(table))) for table in (SIGNING_KEYS, CLIENT_SECRETS)])
    assert key.kid in told
    assert secret not in told
    assert secret.split("_", 2)[2] not in told
    assert '"d"' not in told
    assert len(AuditLog(database).read(limit=10)) == 1
    assert secret not in repr(AuditLog(database).read(limit=10))


def test_a_node_with_other_sealing_keys_does_not_start_and_one_that_runs_goes_on(
    database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    store_of(database, KEYS[1]).ensure_key(now=100)
    with pytest.raises(ConfigurationProblems, match=r"auth\.builtin\.sealing_keys: signing key .* opens with none"):
        store_of(database, KEYS[0]).ensure_key(now=100)
    assert store_of(database, KEYS[0]).load().keys == []
    assert "left out: it opens with none of the sealing keys" in caplog.text
    store_of(database, *KEYS).ensure_key(now=100)


def test_an_application_has_two_secrets_at_most(database: Database) -> None:
    store = store_of(database)
    texts = [store.add_secret("acme", now=now, audit=NOTE) for now in (1, 2)]
    with pytest.raises(ConfigurationProblems, match="acme has 2 secrets already"):
        store.add_secret("acme", now=3, audit=NOTE)
    assert store.add_secret("globex", now=3, audit=NOTE) not in texts
    first, second = [one for one in store.secrets() if one.client_id == "acme"]
    assert not store.remove_secret("globex", first.id, audit=NOTE)
    assert store.remove_secret("acme", first.id, audit=NOTE)
    assert not store.remove_secret("acme", first.id, audit=NOTE)
    found = ClientSecrets(store.load().secrets)
    assert [found.is_secret(text, client_id="acme") for text in texts] == [False, True]
    assert [one.id for one in store.secrets() if one.client_id == "acme"] == [second.id]


def test_a_rotation_waits_for_the_one_before_and_forgets_what_is_over(database: Database) -> None:
    store = store_of(database)
    store.ensure_key(now=0)
    second = store.rotate(now=1000, lead_seconds=60, longest_seconds=LONGEST, audit=NOTE)
    with pytest.raises(ConfigurationProblems, match=f"key {second} was made a moment ago"):
        store.rotate(now=1059, lead_seconds=60, longest_seconds=LONGEST, audit=NOTE)
    rows = store.keys(longest_seconds=LONGEST)
    assert [(row.signs_from, row.verifies_until) for row in rows] == [(0, 1060 + LONGEST), (1060, None)]
    third = store.rotate(now=1060 + LONGEST - 1, lead_seconds=60, longest_seconds=LONGEST, audit=NOTE)
    assert len(store.keys(longest_seconds=LONGEST)) == 3
    fourth = store.rotate(now=5000, lead_seconds=60, longest_seconds=LONGEST, audit=NOTE)
    assert [row.kid for row in store.keys(longest_seconds=LONGEST)] == [third, fourth]


def test_a_last_key_that_is_given_up_is_replaced_at_once(database: Database) -> None:
    store = store_of(database)
    store.ensure_key(now=0)
    (key,) = store.load().keys
    assert store.remove_key(key.kid, now=50, audit=NOTE)
    (other,) = store.load().keys
    assert other.kid != key.kid
    assert other.signs_from == 50
    assert not store.remove_key(key.kid, now=50, audit=NOTE)


def test_without_sealing_keys_the_database_holds_one_and_all_nodes_open_what_it_seals(database: Database) -> None:
    one, two = IssuerStore(database, None), IssuerStore(database, None)
    assert one.load().keys == [], "looking makes none"
    one.ensure_key(now=50)
    two.ensure_key(now=50)
    second = two.rotate(now=60, lead_seconds=0, longest_seconds=LONGEST, audit=NOTE)
    assert [key.kid for key in one.load().keys] == [key.kid for key in two.load().keys]
    assert second in {key.kid for key in one.load().keys}
    with database.reading() as connection:
        rows = list(connection.execute(sa.select(SIGNING_KEYS.c.sealed)).scalars())
    assert all("EC" not in row for row in rows), "sealed all the same"


def test_the_databases_own_sealing_key_opens_nothing_where_the_settings_hold_some(database: Database) -> None:
    """Or who can write into the database could have a key of their own believed."""
    IssuerStore(database, None).ensure_key(now=50)
    assert store_of(database, KEYS[0]).load().keys == []
    with pytest.raises(ConfigurationProblems, match="opens with none"):
        store_of(database, KEYS[0]).ensure_key(now=50)


def test_what_the_settings_sealed_opens_only_with_their_keys(database: Database) -> None:
    store_of(database, KEYS[0]).ensure_key(now=50)
    with pytest.raises(ConfigurationProblems, match="opens with none"):
        IssuerStore(database, None).check_keys()


# ---- settings ------------------------------------------------------------------------------------------------------

WHOLE: dict[str, object] = {
    "auth.builtin.token_endpoint": True,
    "auth.builtin.issuer": ISSUER,
    "auth.builtin.sealing_keys": [KEYS[0]],
}


def test_the_endpoint_makes_builtin_an_issuer_that_applications_can_name(tmp_path: Path) -> None:
    assert loaded(tmp_path).auth.issuer_names() == ("builtin",)
    assert loaded(tmp_path, **{"auth.builtin.token_endpoint": False}).auth.issuer_names() == ()


@pytest.mark.parametrize(
    ("changed", "problem"),
    [
        ({"auth.builtin.sealing_keys": []}, "token_endpoint needs sealing_keys"),
        ({"auth.builtin.sealing_keys": ["short"]}, "at least 16 characters"),
        ({"auth.builtin.issuer": "urn:gateway:builtin"}, "token_endpoint needs an address as issuer"),
        ({"auth.builtin.issuer": "http://gateway.example"}, "token_endpoint needs an address as issuer"),
        ({"auth.builtin.issuer": f"{ISSUER}?a=b"}, "without a query"),
        ({"auth.builtin.token_seconds": 90_000}, "at most max_token_lifetime_seconds"),
        (
            {"auth.issuers": [{"name": "a", "issuer": ISSUER, "audience": "x", "jwks_file": "keys.json"}]},
            "is that of builtin",
        ),
    ],
)
def test_settings_that_would_give_useless_tokens_are_refused(
    tmp_path: Path, changed: dict[str, object], problem: str
) -> None:
    with pytest.raises(ConfigurationProblems, match=problem) as caught:
        loaded(tmp_path, **changed)
    assert KEYS[0] not in str(caught.value)


def loaded(folder: Path, **changed: object) -> Settings:
    file = folder / "gateway.toml"
    file.write_text("")
    return load_settings(file, environ={}, overrides=WHOLE | changed)


def checked(folder: Path, *keys: str) -> str:
    """What ``gateway check`` says of the signing keys in the folder's database, under these sealing keys."""
    (folder / "asyncapi").mkdir(exist_ok=True)
    (folder / "gateway.toml").write_text(
        f'[database]\nurl = "sqlite:///{folder}/gateway.db"\n'
        f'[contracts]\ndir = "{folder}/asyncapi"\n'
        f'[auth.builtin]\ntoken_endpoint = true\nissuer = "{ISSUER}"\nsealing_keys = {json.dumps(keys or KEYS)}\n'
    )
    done = CliRunner().invoke(main, ["check", "--config", str(folder / "gateway.toml")])
    return "\n".join(line for line in done.output.splitlines() if "signing keys:" in line)


def test_check_says_how_it_stands_with_the_signing_keys(database: Database, tmp_path: Path) -> None:
    store, now = store_of(database, KEYS[0]), time.time()
    assert checked(tmp_path) == "ok     signing keys: none yet; the first node that starts makes one"
    assert store.load().keys == [], "looking makes none"
    store.ensure_key(now=now + 600)
    assert checked(tmp_path).startswith("FAILED signing keys: none signs before ")
    store.remove_key(store.load().keys[0].kid, now=now - 900_000, audit=NOTE)
    (first,) = store.load().keys
    assert checked(tmp_path) == f"ok     signing keys: {first.kid} signs since {spelt(first.signs_from)}"
    second = store.rotate(now=now - 500_000, lead_seconds=0, longest_seconds=86_400, audit=NOTE)
    assert checked(tmp_path).splitlines() == [
        f"ok     signing keys: {second} signs since {spelt(int(now) - 500_000)}",
        "ok     signing keys: 1 of 2 verify no token any more; the next `gateway keys rotate` forgets them",
    ]
    told = checked(tmp_path, KEYS[1]).splitlines()
    assert len(told) == 2
    for line, kid in zip(sorted(told), sorted((first.kid, second)), strict=True):
        assert line.startswith(
            f"FAILED signing keys: auth.builtin.sealing_keys: signing key {kid} in the database opens"
        )


def spelt(seconds: int) -> str:
    return format_rfc3339(seconds * 1000)


# ---- keys that overlap ---------------------------------------------------------------------------------------------


class Node:
    """A verifier and an authority over one store, as each gateway has them."""

    def __init__(self, store: IssuerStore, clock: ManualClock) -> None:
        self.store = store
        self.keys = SigningKeys(clock=clock, longest_seconds=LONGEST)
        self.authority = Authority(self.keys, issuer=ISSUER, audience=AUDIENCE, token_seconds=LONGEST, clock=clock)
        self.verifier = TokenVerifier(
            [IssuerSettings(name=BUILTIN, issuer=ISSUER, audience=AUDIENCE, keys=self.keys, algorithms=("ES256",))],
            clock=clock,
        )
        self.follow()

    def follow(self) -> None:
        found = self.store.load()
        self.keys.take(found.keys)
        self.authority.take(found.secrets)


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
async def node(database: Database, clock: ManualClock) -> Any:
    store = store_of(database)
    store.ensure_key(now=clock.now())
    one = Node(store, clock)
    yield one
    await one.authority.close()


async def test_tokens_of_before_and_after_a_rotation_are_good_to_their_end(node: Node, clock: ManualClock) -> None:
    old = node.authority.mint("acme", ["s:read"])
    (first,) = node.keys.jwks()["keys"]
    node.store.rotate(now=clock.now(), lead_seconds=60, longest_seconds=LONGEST, audit=NOTE)
    node.follow()
    assert len(node.keys.jwks()["keys"]) == 2
    assert node.keys.signer().kid == first["kid"]
    clock.advance(59)
    last = node.authority.mint("acme", ["s:read"])
    assert node.keys.signer().kid == first["kid"]
    clock.advance(1)
    assert node.keys.signer().kid != first["kid"]
    new = node.authority.mint("acme", ["s:read"])
    for token in (old, last, new):
        assert node.verifier.verify(token).scopes == {"s:read"}
    clock.advance(LONGEST - 2)
    assert node.verifier.verify(last).client_id == "acme"
    clock.advance(2)
    assert [key["kid"] for key in node.keys.jwks()["keys"]] == [node.keys.signer().kid]
    with pytest.raises(TokenInvalid):
        node.verifier.verify(last)


async def test_what_did_not_change_keeps_the_verifiers_memory(node: Node, clock: ManualClock) -> None:
    before = node.keys.current()
    node.follow()
    assert node.keys.current() is before
    node.store.rotate(now=clock.now(), lead_seconds=1, longest_seconds=LONGEST, audit=NOTE)
    node.follow()
    assert node.keys.current() is not before
    clock.advance(LONGEST + 2)
    after = node.keys.current()
    node.follow()
    assert node.keys.current() is after


async def test_a_key_that_a_node_has_not_seen_yet_is_looked_for_once_a_second_at_most(
    node: Node, database: Database, clock: ManualClock
) -> None:
    other = Node(store_of(database), clock)
    asked: list[float] = []

    async def ask() -> None:
        asked.append(clock.now())
        other.follow()

    other.keys.ask = ask
    clock.advance(1)
    node.store.rotate(now=clock.now(), lead_seconds=0, longest_seconds=LONGEST, audit=NOTE)
    clock.advance(1)
    node.follow()
    token = node.authority.mint("acme", [])
    assert (await other.verifier.authenticate(token)).client_id == "acme"
    await other.authority.close()
    assert len(asked) == 1
    for _ in range(5):
        await other.keys.look_for("unknown", algorithm="ES256")
    assert len(asked) == 1
    clock.advance(1)
    await other.keys.look_for("unknown", algorithm="ES256")
    assert len(asked) == 2


async def test_a_database_that_is_away_leaves_known_keys_in_place(node: Node) -> None:
    async def ask() -> None:
        raise Unavailable("away")

    node.keys.ask = ask
    await node.keys.look_for("unknown", algorithm="ES256")
    empty = SigningKeys(clock=ManualClock(), longest_seconds=1)
    with pytest.raises(Unavailable):
        await empty.look_for("unknown", algorithm="ES256")


async def test_the_key_of_the_command_stands_beside_those_of_the_database(
    node: Node, database: Database, clock: ManualClock
) -> None:
    fixed = node.keys.current()
    assert fixed is not None
    empty = SigningKeys(clock=clock, longest_seconds=LONGEST)
    joined = Joined(fixed, empty)
    assert joined.current() is fixed
    node.store.rotate(now=clock.now(), lead_seconds=1, longest_seconds=LONGEST, audit=NOTE)
    empty.take(node.store.load().keys[1:])
    assert len(joined.current().keys) == 2
    assert joined.current() is joined.current()


# ---- tries ---------------------------------------------------------------------------------------------------------


async def refusal(node: Node, client_id: str, address: str, secret: str = "wrong") -> OAuthRefusal:
    with pytest.raises(OAuthRefusal) as caught:
        await node.authority.authenticate(client_id, secret, address=address)
    return caught.value


async def test_guesses_are_counted_by_address(node: Node, clock: ManualClock) -> None:
    for number in range(FAILURES_OF_ADDRESS):
        assert (await refusal(node, f"client-{number}", "2001:db8::1")).status == 401
    # The whole network of one customer counts as one.
    told = await refusal(node, "another", "2001:db8::ffff:1")
    assert (told.status, told.error) == (429, "temporarily_unavailable")
    assert told.retry_after_seconds is not None
    assert (await refusal(node, "another", "192.0.2.1")).status == 401
    clock.advance(math.ceil(told.retry_after_seconds))
    assert (await refusal(node, "another", "2001:db8::1")).status == 401


async def test_who_guesses_at_a_client_does_not_lock_it_out_where_it_is_known(node: Node) -> None:
    secret = node.store.add_secret("acme", now=1, audit=NOTE)
    node.follow()
    await node.authority.authenticate("acme", secret, address="192.0.2.1")
    for number in range(FAILURES_OF_CLIENT):
        assert (await refusal(node, "acme", f"198.51.100.{number}")).status == 401
    assert (await refusal(node, "acme", "203.0.113.9")).status == 429
    # A client that does not exist meets the same.
    for number in range(FAILURES_OF_CLIENT):
        assert (await refusal(node, "nobody", f"198.51.101.{number}")).status == 401
    assert (await refusal(node, "nobody", "203.0.113.9")).status == 429
    for _ in range(FAILURES_OF_CLIENT + 1):
        await node.authority.authenticate("acme", secret, address="192.0.2.1")

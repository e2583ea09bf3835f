"""The built-in issuer's signing keys and client secrets in SQL. Every method blocks; callers use threads.

A change counts as one of the catalog, so that every node takes it over. Private keys are sealed: reading the database
is not enough to sign, and writing it is not enough to have a key of one's own believed. That is so where the settings
hold the sealing keys; for development, where they hold none, the database holds one itself.
"""

from __future__ import annotations

import json
import logging
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import jwt
import sqlalchemy as sa
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePrivateKey, generate_private_key
from jwt.algorithms import ECAlgorithm

from gateway.auth.client_secrets import MOST_LIVE, ClientSecret, hash_secret, make_secret
from gateway.auth.issuer import public_jwk
from gateway.auth.jose import Malformed, decode_object
from gateway.auth.sealing import SealBroken, Sealer
from gateway.auth.signing import SigningKey, last_uses
from gateway.catalog.store import bump_revision, lock_revision
from gateway.catalog.tables import CLIENT_SECRETS, SETTINGS, SIGNING_KEYS
from gateway.database.audit import Entry, append
from gateway.database.database import Database
from gateway.errors import ConfigurationProblems

PURPOSE: Final = b"gateway signing keys 1"
OWN_KEY: Final = "signing_keys.sealing_key"
"""The sealing key in the database, among its settings."""

_LOG = logging.getLogger("gateway.auth")


@dataclass(frozen=True, slots=True)
class Issued:
    """What the database says of the issuer."""

    keys: Sequence[SigningKey]
    secrets: Sequence[ClientSecret]


@dataclass(frozen=True, slots=True)
class KeyRow:
    """A signing key as an operator sees it; ``verifies_until`` None: as long as no other takes its place."""

    kid: str
    signs_from: int
    verifies_until: int | None


class IssuerStore:
    """Keys and secrets in a database that has its schema; safe to use from several threads, and processes, at once."""

    def __init__(self, database: Database, sealer: Sealer | None) -> None:
        """``sealer`` None: seal with a key that is in the database too, made with the first that it seals. It opens
        nothing where there is a sealer."""
        self._reading = database.reading
        self._writing = database.writing
        self._sealer = sealer

    def load(self) -> Issued:
        """All that are there. A key that the sealing keys do not open is left out, and told in the log."""
        with self._reading() as connection:
            sealer = self._sealer_by(connection)
            keys = [_opened(row, sealer) for row in connection.execute(sa.select(SIGNING_KEYS)).mappings()]
            return Issued([key for key in keys if key is not None], _secrets(connection))

    def ensure_key(self, *, now: float) -> None:
        """Make the first key, once, whichever node comes first.

        Raises ConfigurationProblems where there are keys that cannot be opened here: with others than its neighbours a
        node would refuse their tokens.
        """
        if self.check_keys():
            return
        with self._writing() as connection:
            lock_revision(connection)
            if connection.execute(sa.select(SIGNING_KEYS.c.kid)).first() is None:
                self._insert(connection, signs_from=int(now))
                bump_revision(connection)

    def check_keys(self) -> int:
        """How many signing keys there are. Raises ConfigurationProblems where one of them cannot be opened here."""
        with self._reading() as connection:
            sealer = self._sealer_by(connection)
            rows = list(connection.execute(sa.select(SIGNING_KEYS)).mappings())
        shut = [str(row["kid"]) for row in rows if _opened(row, sealer) is None]
        if shut:
            raise ConfigurationProblems(
                [
                    f"auth.builtin.sealing_keys: signing key {kid} in the database opens with none of them; put "
                    f"back the one that sealed it, or give it up with `gateway keys remove {kid}`"
                    for kid in shut
                ]
            )
        return len(rows)

    def rotate(self, *, now: float, lead_seconds: int, longest_seconds: int, audit: Entry) -> str:
        """Make the key that signs after ``lead_seconds``, and forget those whose tokens are over. Returns its kid.

        Raises ConfigurationProblems where another rotation is still to come into force.
        """
        with self._writing() as connection:
            lock_revision(connection)
            for row in _key_rows(connection, longest_seconds=longest_seconds):
                if row.signs_from > now:
                    problem = f"key {row.kid} was made a moment ago and does not sign yet; rotate after that"
                    raise ConfigurationProblems([problem])
                if row.verifies_until is not None and row.verifies_until <= now:
                    connection.execute(SIGNING_KEYS.delete().where(SIGNING_KEYS.c.kid == row.kid))
            kid = self._insert(connection, signs_from=int(now) + lead_seconds)
            append(connection, audit)
            bump_revision(connection)
            return kid

    def keys(self, *, longest_seconds: int) -> list[KeyRow]:
        """Every signing key, oldest first."""
        with self._reading() as connection:
            return _key_rows(connection, longest_seconds=longest_seconds)

    def remove_key(self, kid: str, *, now: float, audit: Entry) -> bool:
        """Forget a key now: tokens that it signed are refused from then on. False: there is no such key.

        Where it was the last one that signs, another takes its place at once.
        """
        with self._writing() as connection:
            lock_revision(connection)
            if not connection.execute(SIGNING_KEYS.delete().where(SIGNING_KEYS.c.kid == kid)).rowcount:
                return False
            signing = sa.select(SIGNING_KEYS.c.kid).where(SIGNING_KEYS.c.signs_from <= int(now))
            if connection.execute(signing).first() is None:
                self._insert(connection, signs_from=int(now))
            append(connection, audit)
            bump_revision(connection)
            return True

    def add_secret(self, client_id: str, *, now: float, audit: Entry) -> str:
        """A new secret, which nobody can read again. Raises ConfigurationProblems where there are enough already."""
        text, name = make_secret()
        # Before the transaction: it takes its time.
        hashed = hash_secret(text)
        with self._writing() as connection:
            lock_revision(connection)
            live = [one for one in _secrets(connection) if one.client_id == client_id]
            if len(live) >= MOST_LIVE:
                told = ", ".join(one.id for one in live)
                problem = (
                    f"{client_id} has {MOST_LIVE} secrets already ({told}); remove the one that is not used any more"
                )
                raise ConfigurationProblems([problem])
            values = {"id": name, "client_id": client_id, "made_at": int(now), "hash": hashed}
            connection.execute(CLIENT_SECRETS.insert().values(values))
            append(connection, audit)
            bump_revision(connection)
        return text

    def secrets(self) -> list[ClientSecret]:
        """Every live secret, by application and age."""
        with self._reading() as connection:
            return _secrets(connection)

    def remove_secret(self, client_id: str, name: str, *, audit: Entry) -> bool:
        """Withdraw a secret. False: the application has none of this name."""
        table = CLIENT_SECRETS
        with self._writing() as connection:
            lock_revision(connection)
            one = sa.and_(table.c.client_id == client_id, table.c.id == name)
            if not connection.execute(table.delete().where(one)).rowcount:
                return False
            append(connection, audit)
            bump_revision(connection)
            return True

    def _insert(self, connection: sa.Connection, *, signs_from: int) -> str:
        key = generate_private_key(SECP256R1())
        kid = public_jwk(key)["kid"]
        private_jwk = json.dumps(ECAlgorithm.to_jwk(key, as_dict=True)).encode("ascii")
        sealed = self._sealer_for(connection).seal(private_jwk, name=kid)
        connection.execute(SIGNING_KEYS.insert().values(kid=kid, signs_from=signs_from, sealed=sealed))
        return kid

    def _sealer_by(self, connection: sa.Connection) -> Sealer:
        """What opens the keys that are there."""
        if self._sealer is not None:
            return self._sealer
        own = connection.execute(sa.select(SETTINGS.c.value).where(SETTINGS.c.name == OWN_KEY)).scalar()
        # Where there is none yet, one that opens nothing.
        return Sealer([secrets.token_hex(32) if own is None else str(own)], purpose=PURPOSE)

    def _sealer_for(self, connection: sa.Connection) -> Sealer:
        """What seals a key, within a transaction that holds the revision: of two at once one makes the sealing key."""
        if self._sealer is None:
            where = SETTINGS.c.name == OWN_KEY
            if connection.execute(sa.select(SETTINGS.c.name).where(where)).first() is None:
                connection.execute(SETTINGS.insert().values(name=OWN_KEY, value=secrets.token_hex(32)))
        return self._sealer_by(connection)


def _opened(row: sa.RowMapping, sealer: Sealer) -> SigningKey | None:
    kid = str(row["kid"])
    try:
        key = ECAlgorithm.from_jwk(decode_object(sealer.open(str(row["sealed"]), name=kid)))
    except (SealBroken, Malformed, jwt.PyJWTError) as error:
        _LOG.error("signing key %s left out: it %s", kid, error)
        return None
    if not isinstance(key, EllipticCurvePrivateKey):
        _LOG.error("signing key %s left out: it is no private key on P-256", kid)
        return None
    return SigningKey(kid, key, int(row["signs_from"]))


def _key_rows(connection: sa.Connection, *, longest_seconds: int) -> list[KeyRow]:
    wanted = sa.select(SIGNING_KEYS.c.kid, SIGNING_KEYS.c.signs_from).order_by(
        SIGNING_KEYS.c.signs_from, SIGNING_KEYS.c.kid
    )
    rows = [(str(kid), int(signs_from)) for kid, signs_from in connection.execute(wanted)]
    ends = last_uses((signs_from for _, signs_from in rows), longest_seconds=longest_seconds)
    last = len(rows) - 1
    return [
        KeyRow(kid, signs_from, None if number == last else int(end))
        for number, ((kid, signs_from), end) in enumerate(zip(rows, ends, strict=False))
    ]


def _secrets(connection: sa.Connection) -> list[ClientSecret]:
    table = CLIENT_SECRETS
    rows = connection.execute(sa.select(table).order_by(table.c.client_id, table.c.made_at, table.c.id)).mappings()
    return [ClientSecret(str(row["id"]), str(row["client_id"]), int(row["made_at"]), str(row["hash"])) for row in rows]

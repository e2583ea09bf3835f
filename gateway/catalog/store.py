"""The catalog in SQL: what files, portal and admins decided, with secrets made once and each topic's incarnation.

SQLAlchemy Core, nothing that ties to one database. Every method blocks; callers use threads. A database that does not
answer raises ``errors.Unavailable``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError

from gateway.catalog.catalog import Catalog, Key
from gateway.catalog.chronicle import write_down
from gateway.catalog.diff import FILE, Change, Diff, plan_changes
from gateway.catalog.history import CatalogChanged, Step, append_step, newest_step
from gateway.catalog.objects import KINDS, Stored, catalog_of, objects_of, problems_of
from gateway.catalog.problems import Problems
from gateway.catalog.tables import LIVES, OBJECTS, SETTINGS, STATE, TOPICS
from gateway.clock import Clock, SystemClock
from gateway.database.audit import Entry, append
from gateway.database.database import Database
from gateway.errors import ConfigurationProblems
from gateway.units import format_rfc3339


class Store:
    """The catalog in a database that has its schema; safe to use from several threads, and processes, at once."""

    def __init__(self, database: Database, *, clock: Clock | None = None) -> None:
        """``clock`` says since when a change holds."""
        self._clock = clock or SystemClock()
        self._reading = database.reading
        self._writing = database.writing

    def revision(self) -> int:
        """A counter that grows with every change of the catalog."""
        with self._reading() as connection:
            return _revision(connection)

    def load_catalog(self, issuers: Sequence[str]) -> tuple[int, Catalog]:
        """The catalog of one moment and its revision."""
        with self._reading() as connection:
            return _revision(connection), catalog_of(_stored(connection), issuers=issuers)

    def apply(
        self,
        catalog: Catalog,
        *,
        dry_run: bool = False,
        prune: bool = False,
        actor: str = "",
        since: int | None = None,
    ) -> Diff:
        """Make the database say what the catalog says, whole or not at all; a second time there is nothing to do.

        Only file-owned objects are touched; those absent from the catalog stay unless ``prune``. An admin's
        suspension stays. ``actor`` is who applies, for the history. Raises ConfigurationProblems where the outcome
        would break a rule, CatalogChanged where the catalog has changed after the revision ``since``. Of two at once
        the second compares with what the first has made. A crash before the commit leaves everything as it was.
        """
        problems = Problems()
        with self._writing() as connection:
            revision = lock_revision(connection)
            last = newest_step(connection)
            if since is not None and last is not None and last.revision > since:
                raise CatalogChanged(since, last)
            stored = _stored(connection)
            planned = plan_changes(stored, objects_of(catalog), prune=prune, places=catalog.places, problems=problems)
            lines = problems.lines + problems_of(planned.after, places=catalog.places)
            if lines:
                raise ConfigurationProblems(list(dict.fromkeys(lines)))
            if dry_run or not planned.diff:
                return replace(planned.diff, revision=revision)
            _write(connection, planned.diff.changes, planned.after)
            write_down(connection, planned.after, now=self._clock.now())
            bump_revision(connection)
            action = "apply --prune" if prune else "apply"
            append_step(connection, Step(revision + 1, self._now(), FILE, actor, action, planned.diff.changes))
            return replace(planned.diff, applied=True, revision=revision + 1)

    def catch_up_history(self) -> None:
        """Write down what the catalog says, where a gateway of an older version changed it without doing so."""
        with self._writing() as connection:
            lock_revision(connection)
            write_down(connection, _stored(connection), now=self._clock.now())

    def suspend(self, tenant: str, *, suspended: bool, audit: Entry | None = None) -> bool:
        """Set or lift an admin's suspension, which outlives every apply. False where there is no such tenant.

        A tenant that its file suspends stays so: what an admin lifts is an admin's suspension.
        """
        tenants = OBJECTS["tenant"]
        with self._writing() as connection:
            revision = lock_revision(connection)
            query = sa.select(tenants.c.suspended_by_admin).where(tenants.c.name == tenant)
            before: bool | None = connection.execute(query).scalar()
            if before is None:
                return False
            connection.execute(tenants.update().where(tenants.c.name == tenant).values(suspended_by_admin=suspended))
            bump_revision(connection)
            if before is not suspended:
                change = Change("changed", ("tenant", tenant), {"suspended_by_admin": (before, suspended)})
                at, actor = (self._now(), "") if audit is None else (audit.at, audit.actor)
                action = "tenant.suspend" if suspended else "tenant.resume"
                append_step(connection, Step(revision + 1, at, "admin", actor, action, (change,)))
            if audit is not None:
                append(connection, audit)
            return True

    def _now(self) -> str:
        return format_rfc3339(round(self._clock.now() * 1000))

    def get_or_create(self, name: str, factory: Callable[[], str]) -> str:
        """A setting's value, made by ``factory`` the first time; processes that race all get the one that won."""
        query = sa.select(SETTINGS.c.value).where(SETTINGS.c.name == name)
        with self._reading() as connection:
            value: str | None = connection.execute(query).scalar()
        if value is not None:
            return value
        made = factory()
        try:
            with self._writing() as connection:
                connection.execute(SETTINGS.insert().values(name=name, value=made))
            return made
        except IntegrityError:
            with self._reading() as connection:
                return str(connection.execute(query).scalar_one())

    def incarnation(self, cluster: str, topic: str, *, topic_id: str | None = None) -> int:
        """Which life of the topic this is: 1 until its history was seen to change.

        ``topic_id`` is Kafka's own id of the topic. The first one to be told belongs to the present life, each other
        begins the next, once, whoever tells it first. Every id keeps its life for ever, so that a broker that is behind
        and still names the one before changes nothing. None, where there are no ids: the present life.
        """
        with self._reading() as connection:
            known = _incarnation(connection, cluster, topic, topic_id=topic_id)
        if known is not None:
            return known
        with self._writing() as connection:
            lock_revision(connection)
            known = _incarnation(connection, cluster, topic, topic_id=topic_id)
            if known is not None:
                return known
            present = _present(connection, cluster, topic)
            others = sa.select(LIVES.c.topic_id).where(LIVES.c.cluster == cluster, LIVES.c.topic == topic)
            if connection.execute(others).first() is not None:
                present += 1
                _set_incarnation(connection, cluster, topic, present)
            life = {"cluster": cluster, "topic": topic, "topic_id": topic_id, "incarnation": present}
            connection.execute(LIVES.insert().values(life))
            return present

    def bump_incarnation(self, cluster: str, topic: str, *, seen: int) -> int:
        """Begin the next life, if ``seen`` is still the present one, and return the present one.

        Nodes that saw the same change all call this; it counts once. For changes that give the topic no other id.
        """
        with self._writing() as connection:
            lock_revision(connection)
            present = _present(connection, cluster, topic)
            if present != seen:
                return present
            _set_incarnation(connection, cluster, topic, seen + 1)
            same = sa.and_(LIVES.c.cluster == cluster, LIVES.c.topic == topic, LIVES.c.incarnation == seen)
            connection.execute(LIVES.update().where(same).values(incarnation=seen + 1))
            return seen + 1


def _revision(connection: sa.Connection) -> int:
    return int(connection.execute(sa.select(STATE.c.revision)).scalar_one())


def lock_revision(connection: sa.Connection) -> int:
    """The revision, held so that changes of the catalog come one after the other."""
    return int(connection.execute(sa.select(STATE.c.revision).with_for_update()).scalar_one())


def bump_revision(connection: sa.Connection) -> None:
    """Make every node look at what changed."""
    connection.execute(STATE.update().values(revision=STATE.c.revision + 1))


def _incarnation(connection: sa.Connection, cluster: str, topic: str, *, topic_id: str | None) -> int | None:
    """The life of this id, None where it was never told."""
    if topic_id is None:
        return _present(connection, cluster, topic)
    named = sa.and_(LIVES.c.cluster == cluster, LIVES.c.topic == topic, LIVES.c.topic_id == topic_id)
    found: int | None = connection.execute(sa.select(LIVES.c.incarnation).where(named)).scalar()
    return found


def _present(connection: sa.Connection, cluster: str, topic: str) -> int:
    query = sa.select(TOPICS.c.incarnation).where(TOPICS.c.cluster == cluster, TOPICS.c.topic == topic)
    return int(connection.execute(query).scalar() or 1)


def _set_incarnation(connection: sa.Connection, cluster: str, topic: str, incarnation: int) -> None:
    where = sa.and_(TOPICS.c.cluster == cluster, TOPICS.c.topic == topic)
    if connection.execute(TOPICS.update().where(where).values(incarnation=incarnation)).rowcount == 0:
        connection.execute(TOPICS.insert().values(cluster=cluster, topic=topic, incarnation=incarnation))


def _stored(connection: sa.Connection) -> dict[Key, Stored]:
    found: dict[Key, Stored] = {}
    for kind in KINDS:
        table = OBJECTS[kind]
        names = [column.name for column in table.primary_key.columns]
        for row in connection.execute(sa.select(table)):
            fields = {str(column.key): row._mapping[column] for column in table.columns}
            key = (kind, *(str(fields.pop(name)) for name in names))
            owner, is_suspended = fields.pop("owner"), fields.pop("suspended_by_admin", False)
            found[key] = Stored(owner, fields, bool(is_suspended))
    return found


def _write(connection: sa.Connection, changes: Sequence[Change], after: Mapping[Key, Stored]) -> None:
    """Write the changes in an order in which no reference ever dangles: leaves away, roots in, roots away."""
    by_kind = {kind: [change for change in changes if change.key[0] == kind] for kind in KINDS}
    for kind in ("entitlement", "application"):
        for change in by_kind[kind]:
            if change.action == "removed" or change.was is not None:
                _delete(connection, change.was or change.key)
    for kind in KINDS:
        table = OBJECTS[kind]
        for change in by_kind[kind]:
            if change.action == "removed":
                continue
            row = {**_identity(change.key), **after[change.key].fields, "owner": after[change.key].owner}
            if change.action == "created" or change.was is not None:
                connection.execute(table.insert().values(row))
            else:
                connection.execute(table.update().where(_is(change.key)).values(row))
    for kind in ("tenant", "plan", "product"):
        for change in by_kind[kind]:
            if change.action == "removed":
                _delete(connection, change.key)


def _delete(connection: sa.Connection, key: Key) -> None:
    connection.execute(OBJECTS[key[0]].delete().where(_is(key)))


def _identity(key: Key) -> dict[str, str | int]:
    if key[0] == "plan":
        return {"name": key[1], "revision": int(key[2])}
    return dict(zip((column.name for column in OBJECTS[key[0]].primary_key.columns), key[1:], strict=True))


def _is(key: Key) -> sa.ColumnElement[bool]:
    table = OBJECTS[key[0]]
    return sa.and_(*(table.c[name] == value for name, value in _identity(key).items()))

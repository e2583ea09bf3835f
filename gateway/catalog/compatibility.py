"""Old contracts against new ones, as the stream's readers see them: what breaks, what does not, what is only told.

Whatever a reader may rely on and could then miss breaks it; so does whatever it could rely on never to meet. Drafts
have no readers and are free to change. A breaking change wants a new major version, or a stream of another name; only
who may read is the owner's to change at any time, and a withdrawal must not wait for a version.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from gateway.catalog.contracts import Contracts
from gateway.catalog.listing import visible_filters
from gateway.catalog.payload_changes import Change, payload_changes
from gateway.catalog.payload_places import visible_payload
from gateway.model import Contract

__all__ = [
    "Change",
    "StreamChanges",
    "access_changes",
    "breaking_without_major",
    "compare",
    "compare_all",
    "is_new_major",
    "refused_by_reload",
]

_MAJOR = re.compile(r"v?([0-9]{1,9})(?![0-9])")
_WHO_MAY_READ: Final = frozenset({"scopes", "visibility", "row_filter", "lifecycle"})
"""The members that say who may read a stream and which of its rows; all others say what is read."""

_HELD = "cursors that readers hold would mean other records"


@dataclass(frozen=True, slots=True)
class StreamChanges:
    """All that changed for one stream. ``old`` is None for a stream that is new, ``new`` for one that is gone."""

    stream: str
    old: Contract | None
    new: Contract | None
    changes: tuple[Change, ...]

    @property
    def is_new_major(self) -> bool:
        """Whether the version announces a break."""
        return self.old is not None and self.new is not None and is_new_major(self.old, self.new)

    @property
    def unannounced(self) -> tuple[Change, ...]:
        """The changes that break readers without a new major version."""
        return () if self.is_new_major else tuple(change for change in self.changes if change.kind == "breaking")

    @property
    def refused(self) -> tuple[Change, ...]:
        """Those of ``unannounced`` that a running gateway does not take."""
        return tuple(change for change in self.unannounced if not _is_of_access(change))

    @property
    def access(self) -> tuple[Change, ...]:
        """The changes, announced or not, by which readers lose access, or get other rows."""
        return tuple(change for change in self.changes if change.kind == "breaking" and _is_of_access(change))


def compare(old: Contract, new: Contract) -> list[Change]:
    """Every difference between two contracts of one stream that a reader could notice, in a fixed order."""
    changes = [*_standing(old, new), *_source(old, new), *_access(old, new), *_reading(old, new), *_payload(old, new)]
    changes += _told(old, new)
    if old.lifecycle == "draft":
        return [_harmless(change, "it was a draft: nobody reads it") for change in changes]
    if new.lifecycle == "retired" and old.lifecycle in ("deprecated", "retired"):
        return [_harmless(change, "it is retired: nobody reads it") for change in changes]
    return changes


def compare_all(old: Contracts, new: Contracts) -> list[StreamChanges]:
    """The streams with differences, by name."""
    found = []
    for stream in sorted(old.keys() | new.keys()):
        before, after = old.get(stream), new.get(stream)
        if before is not None and after is not None:
            changes = compare(before, after)
        elif before is not None:
            changes = [_removal(before)]
        else:
            changes = [Change("compatible", "stream", "added")]
        if changes:
            found.append(StreamChanges(stream, before, after, tuple(changes)))
    return found


def breaking_without_major(old: Contracts, new: Contracts) -> list[str]:
    """A problem line for each change that would break readers unannounced: file, stream, change, what to do."""
    return [_line(one, change) for one in compare_all(old, new) for change in one.unannounced]


def refused_by_reload(old: Contracts, new: Contracts) -> list[str]:
    """The lines of ``breaking_without_major`` for which a running gateway stays with the old contracts."""
    return [_line(one, change) for one in compare_all(old, new) for change in one.refused]


def access_changes(old: Contracts, new: Contracts) -> dict[str, list[str]]:
    """By stream: the changes for which readers lose access, or get other rows."""
    return {one.stream: [str(change) for change in one.access] for one in compare_all(old, new) if one.access}


def is_new_major(old: Contract, new: Contract) -> bool:
    """Whether the first number of the version went up; a version without a number only has to be another one."""
    before, after = _major(old.version), _major(new.version)
    if before is None:
        return old.version != new.version
    return after is not None and after > before


def _is_of_access(change: Change) -> bool:
    return change.where in _WHO_MAY_READ


def _line(one: StreamChanges, change: Change) -> str:
    contract = one.new or one.old
    assert contract is not None, "a difference between nothing and nothing"
    return f"{contract.source}: stream {one.stream}: breaks its readers: {change}; {_remedy(one, change)}"


def _major(version: str) -> int | None:
    found = _MAJOR.match(version)
    return int(found[1]) if found else None


def _remedy(one: StreamChanges, change: Change) -> str:
    if one.new is None:
        return "bring it back with lifecycle deprecated, later retired, and remove it then"
    major = _major(one.old.version) if one.old is not None else None
    raised = f"raise the version to {major + 1}.0.0" if major is not None else "give it another version"
    if _is_of_access(change):
        first = "deprecate it first, or " if change.where == "lifecycle" and one.new.lifecycle == "retired" else ""
        return f"a reload takes it, and reads that it shuts out end; to announce it, {first}{raised}"
    return f"{raised}, or publish it as a stream of another name"


def _removal(old: Contract) -> Change:
    if old.lifecycle in ("draft", "retired"):
        return Change("compatible", "stream", "removed", f"it was {_a(old.lifecycle)}: nobody reads it")
    return Change("breaking", "stream", "removed", f"it is {old.lifecycle}, and its readers get 404")


def _a(lifecycle: str) -> str:
    return "a draft" if lifecycle == "draft" else lifecycle


def _harmless(change: Change, reason: str) -> Change:
    return Change("compatible", change.where, change.what, reason) if change.kind == "breaking" else change


def _standing(old: Contract, new: Contract) -> Iterator[Change]:
    before, after = _major(old.version), _major(new.version)
    if before is not None and after is not None and after < before:
        yield Change("breaking", "version", _arrow(old.version, new.version), "a major version only goes up")
    elif old.version != new.version:
        yield Change("documentation", "version", _arrow(old.version, new.version))
    if old.lifecycle == new.lifecycle:
        return
    said = _arrow(old.lifecycle, new.lifecycle)
    if new.lifecycle == "draft" and old.lifecycle != "retired":
        yield Change("breaking", "lifecycle", said, "a draft cannot be read")
    elif new.lifecycle == "retired" and old.lifecycle not in ("deprecated", "draft"):
        yield Change("breaking", "lifecycle", said, "readers were not told before: no Deprecation header, no sunset")
    else:
        yield Change("compatible", "lifecycle", said)


def _source(old: Contract, new: Contract) -> Iterator[Change]:
    # Names of topics and clusters are the operator's; these lines are for operators and never reach a partner.
    if old.cluster != new.cluster:
        yield Change("breaking", "cluster", _arrow(old.cluster, new.cluster), _HELD)
    if old.topic != new.topic:
        yield Change("breaking", "topic", _arrow(old.topic, new.topic), _HELD)
    for where, before, after in (("id", old.id, new.id), ("message", old.message_name, new.message_name)):
        if before != after:
            yield Change("breaking", where, _arrow(before, after), "the type of the CloudEvents changes with it")


def _access(old: Contract, new: Contract) -> Iterator[Change]:
    if old.visibility != new.visibility:
        said = _arrow(old.visibility, new.visibility)
        hidden = new.visibility == "entitled"
        yield (
            Change("breaking", "visibility", said, "who is not entitled sees it no more")
            if hidden
            else Change("compatible", "visibility", said)
        )
    for scope in _gone(new.scopes, old.scopes):
        yield Change("breaking", "scopes", f"{scope} added", "tokens without it are refused")
    for scope in _gone(old.scopes, new.scopes):
        yield Change("compatible", "scopes", f"{scope} removed")
    for transport in _gone(old.transports, new.transports):
        yield Change("breaking", "transports", f"{transport} removed", "its readers are refused")
    for transport in _gone(new.transports, old.transports):
        yield Change("compatible", "transports", f"{transport} added")
    yield from _row_filter(old, new)


def _row_filter(old: Contract, new: Contract) -> Iterator[Change]:
    before, after = (
        None if row is None else (row.pointer, row.type, row.claim, row.attribute)
        for row in (old.row_filter, new.row_filter)
    )
    if before == after:
        return
    if before is None:
        yield Change("breaking", "row_filter", "added", "readers miss rows, and those without the claim are refused")
    elif after is None:
        yield Change("breaking", "row_filter", "removed", "readers get rows that were kept from them before")
    else:
        yield Change("breaking", "row_filter", "changed", "readers get other rows")


def _reading(old: Contract, new: Contract) -> Iterator[Change]:
    if old.key_exposed and not new.key_exposed:
        yield Change("breaking", "key", "no longer exposed", "readers look for it")
    elif new.key_exposed and not old.key_exposed:
        yield Change("compatible", "key", "exposed")
    for name in _gone(old.headers, new.headers):
        yield Change("breaking", f"headers.{name}", "removed", "readers look for it")
    for name in _gone(new.headers, old.headers):
        yield Change("compatible", f"headers.{name}", "added")
    yield from _filters(old, new)
    for name in ("earliest", "time"):
        before, after = getattr(old.replay, name), getattr(new.replay, name)
        if before and not after:
            yield Change(
                "breaking", f"replay.{name}", "no longer allowed", "readers that start in the past are refused"
            )
        elif after and not before:
            yield Change("compatible", f"replay.{name}", "allowed")
    first, then = old.replay.max_age_seconds, new.replay.max_age_seconds
    if first != then:
        said = f"{_age(first)} → {_age(then)}"
        shorter = then is not None and (first is None or then < first)
        yield (
            Change("breaking", "replay.max_age", said, "readers that were away so long would find a gap")
            if shorter
            else Change("compatible", "replay.max_age", said)
        )


def _filters(old: Contract, new: Contract) -> Iterator[Change]:
    before = {one.name: one for one in visible_filters(old)}
    after = {one.name: one for one in visible_filters(new)}
    for name in sorted(before.keys() | after.keys()):
        was, is_now = before.get(name), after.get(name)
        if is_now is None:
            yield Change("breaking", f"filters.{name}", "removed", "requests that use it are refused")
        elif was is None:
            yield Change("compatible", f"filters.{name}", "added")
        elif was.type != is_now.type:
            reason = "requests that use it may be refused"
            yield Change("breaking", f"filters.{name}", f"type {_arrow(was.type, is_now.type)}", reason)
        elif was.pointer != is_now.pointer:
            said = f"looks at {is_now.pointer} instead of {was.pointer}"
            yield Change("breaking", f"filters.{name}", said, "requests that use it find other records")


def _payload(old: Contract, new: Contract) -> Iterator[Change]:
    first, then = (_media_type(one.content_type) for one in (old, new))
    if first != then:
        said = _arrow(old.content_type, new.content_type)
        yield Change("breaking", "content type", said, "readers decode what they get by it")
        if old.is_json != new.is_json:
            return
    elif old.content_type != new.content_type:
        yield Change("documentation", "content type", _arrow(old.content_type, new.content_type))
    projection = new.projection

    def is_shown(pointer: str) -> bool:
        return projection is None or any(
            pointer == one or pointer.startswith(one + "/") or one.startswith(pointer + "/") for one in projection
        )

    for change in payload_changes(visible_payload(old), visible_payload(new), is_shown=is_shown):
        # What is sent as base64 comes in no schema's shape: there the schema is a description.
        yield change if new.is_json else Change("documentation", change.where, change.what)


def _told(old: Contract, new: Contract) -> Iterator[Change]:
    for name in ("title", "description", "owner", "deprecated_on", "sunset_on", "successor"):
        if getattr(old, name) != getattr(new, name):
            yield Change("documentation", name, "changed")


def _media_type(content_type: str) -> str:
    return content_type.partition(";")[0].strip().lower()


def _age(seconds: int | None) -> str:
    return "any age" if seconds is None else f"{seconds} s"


def _gone(before: Iterable[str], after: Iterable[str]) -> list[str]:
    kept = set(after)
    return [one for one in before if one not in kept]


def _arrow(before: str, after: str) -> str:
    return f"{before} → {after}"

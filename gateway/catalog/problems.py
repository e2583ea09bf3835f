"""Problem lines for people who write files: where, what, the value, what is allowed, the nearest valid name."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from datetime import date
from typing import Any

_SHOWN_CHARACTERS = 80
_SHOWN_CHOICES = 24
_COMPARED_CHOICES = 2_000
_COMPARISONS = 40_000


class Problems:
    """Collects the problem lines of one load, so that an operator sees all of them at once."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self._seen: set[str] = set()
        self._comparisons = 0

    def __bool__(self) -> bool:
        return bool(self.lines)

    def add(
        self, place: str, what: str, *, got: object = ..., allowed: str = "", choices: Iterable[str] | None = None
    ) -> None:
        """Add a line, once. ``got`` is the value met (None: nothing); ``choices`` fill ``allowed``, suggest a name.

        Of thousands of mistakes among thousands of names the last get no suggestion: to find them would take minutes.
        """
        if choices is not None:
            names = list(choices)
            choices = names
            self._comparisons += min(len(names), _COMPARED_CHOICES)
            if self._comparisons > _COMPARISONS:
                choices, allowed = None, allowed or _listed(names)
        line = problem_line(place, what, got=got, allowed=allowed, choices=choices)
        if line not in self._seen:
            self._seen.add(line)
            self.lines.append(line)


def problem_line(
    place: str, what: str, *, got: object = ..., allowed: str = "", choices: Iterable[str] | None = None
) -> str:
    """``place: what, got value; allowed: …; did you mean …?`` with only the parts that are known."""
    line = one_line(f"{place}: {what}")
    if got is not ...:
        line += f", got {spell(got)}"
    names = list(choices) if choices is not None else []
    if choices is not None and not allowed:
        allowed = _listed(names)
    if allowed:
        line += f"; allowed: {one_line(allowed)}"
    near = nearest(got, names) if isinstance(got, str) else None
    return f"{line}; did you mean {near!r}?" if near else line


def one_line(text: str) -> str:
    """The text as one line that draws nothing and colours nothing: whatever cannot be printed is escaped."""
    if text.isprintable():
        return text
    return "".join(one if one.isprintable() else one.encode("unicode_escape").decode("ascii") for one in text)


def nearest(name: str, choices: Iterable[str]) -> str | None:
    """The choice most like ``name``, or None where none is near."""
    by_folded = {choice.lower(): choice for choice in list(choices)[:_COMPARED_CHOICES]}
    found = difflib.get_close_matches(name.lower()[:_SHOWN_CHARACTERS], by_folded, n=1, cutoff=0.6)
    return by_folded[found[0]] if found else None


def spell(value: Any) -> str:
    """A value as a problem line shows it: short, on one line, control characters escaped."""
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return repr(value if len(value) <= _SHOWN_CHARACTERS else value[:_SHOWN_CHARACTERS] + "…")
    if isinstance(value, date):
        return value.isoformat()
    if isinstance(value, Mapping):
        return "a mapping"
    if isinstance(value, Sequence):
        return "a list"
    return str(value)


def _listed(names: Sequence[str]) -> str:
    if not names:
        return "none exist"
    shown = ", ".join(names[:_SHOWN_CHOICES])
    return shown if len(names) <= _SHOWN_CHOICES else f"{shown}, … ({len(names)} in all)"

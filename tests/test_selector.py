"""A choice among many records is the same as asking of each, and look-ups compare as JSON does."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.hub.log import TopicLog
from gateway.model import FilterField, Record
from gateway.subscription.filter import ABSENT, Term, chooser, parse_terms, predicate
from gateway.subscription.selector import UNDECODABLE, FieldIndex, RecordSelector, key_of, selector

FIELDS = [
    FilterField("s", "/s", "string"),
    FilterField("n", "/n", "number"),
    FilterField("i", "/i", "integer"),
    FilterField("b", "/b", "boolean"),
]
TERMS = [
    *(f"s:{op}:m" for op in ("eq", "ne", "lt", "le", "gt", "ge", "prefix")),
    *(f"{name}:{op}:1" for name in "ni" for op in ("eq", "ne", "lt", "le", "gt", "ge")),
    *(f"b:{op}:true" for op in ("eq", "ne")),
    *(f"{name}:exists:{said}" for name in "snib" for said in ("true", "false")),
    "s:in:a,m",
    "n:in:1,2.5",
]
VALUES = st.one_of(
    st.sampled_from([ABSENT, UNDECODABLE, None, True, False, 0, 1, 1.0, 2.5, "", "m", "ma", "z"]),
    st.integers(),
    st.floats(allow_nan=False),
    st.text(max_size=3),
    st.lists(st.integers(), max_size=2),
    st.dictionaries(st.text(max_size=1), st.integers(), max_size=1),
)


def term(text: str) -> Term:
    (found,) = parse_terms([text], FIELDS)
    return found


@pytest.mark.parametrize("text", TERMS)
@given(values=st.lists(VALUES, max_size=12))
def test_a_choice_among_many_is_the_same_as_asking_of_each(text: str, values: list[Any]) -> None:
    holds = predicate(term(text))
    wanted = [at for at, value in enumerate(values) if value is UNDECODABLE or holds(value)]
    assert chooser(term(text), always=UNDECODABLE)(range(len(values)), values) == wanted


def test_look_ups_compare_as_json_does() -> None:
    assert key_of(1) == key_of(1.0)
    assert key_of(True) != key_of(1)
    assert key_of(False) != key_of(0)
    assert key_of("1") != key_of(1)
    assert key_of(None) == key_of([1]) == key_of({}) == key_of(ABSENT)
    assert key_of(None) not in {key_of(value) for value in ("", 0, False, UNDECODABLE)}


def chosen(filters: list[str], *, log: TopicLog, shard: tuple[int, int] = (0, 1)) -> RecordSelector:
    found = selector(
        rows=None,
        terms=parse_terms(filters, FIELDS),
        shard=shard,
        index=lambda pointer: FieldIndex(log, pointer),
    )
    assert found is not None
    return found


@given(
    rows=st.lists(
        st.fixed_dictionaries(
            {},
            optional={
                "s": st.sampled_from(["a", "m", "z"]),
                "n": st.sampled_from([0, 1, 1.0, True]),
                "b": st.booleans(),
            },
        ),
        max_size=20,
    ),
    filters=st.lists(st.sampled_from(TERMS), min_size=1, max_size=3, unique=True),
    cut=st.integers(0, 20),
)
def test_a_page_that_grows_gives_the_same_records_as_one_by_one(
    rows: list[dict[str, Any]], filters: list[str], cut: int
) -> None:
    log = TopicLog(max_records=100, max_bytes=1 << 20, page_records=100)
    log.restart((0, 0))
    records = [
        Record(at % 2, at, at + 1, 0, None, b"{" if at % 7 == 6 else json.dumps(row).encode())
        for at, row in enumerate(rows)
    ]
    choice = chosen(filters, log=log, shard=(0, 2) if len(filters) == 3 else (0, 1))
    found: list[int] = []
    for part in (records[:cut], records[cut:]):
        before = log.head - log.first
        log.extend(part)
        if part:
            page = log.page_at(log.first)
            found += choice.choose(page, before, len(page.records))
    assert found == [at for at, record in enumerate(records) if choice.matches(record)]

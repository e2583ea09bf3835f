"""Usage as it is read: stretches of a zone's time, rows made of cells, pages, JSON and CSV; events to export."""

from __future__ import annotations

import csv
import io
import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from datetime import UTC, datetime
from itertools import islice
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.errors import InvalidParameter, UnknownParameter
from gateway.metering.export import PREVIEW_TYPE, TYPE, events, line
from gateway.metering.grain import GRANULARITIES, LATEST, Grain, Granularity, spell
from gateway.metering.question import OPERATOR_GROUPS, Question, parse_next, parse_question
from gateway.metering.report import (
    PARTNER_MEASURES,
    UNITS,
    Cells,
    _windows,
    csv_header,
    csv_lines,
    csv_rows,
    document,
    group,
    members,
    read_page,
)
from gateway.usage import BUCKET_SECONDS, MEASURES, Usage, UsageKey, bucket_of

ZONES = [
    "UTC",
    "Europe/Berlin",
    "America/Chicago",
    "Asia/Kathmandu",
    "Australia/Lord_Howe",
    "America/Havana",
    "Africa/Cairo",
]
BERLIN, UTC_ZONE = ZoneInfo("Europe/Berlin"), ZoneInfo("UTC")


def at(text: str) -> int:
    return int(datetime.fromisoformat(text).timestamp())


NOW = at("2026-11-23T10:20:00+00:00")


def key(bucket: int | str = NOW, **parts: Any) -> UsageKey:
    moment = bucket if isinstance(bucket, int) else at(bucket)
    named = UsageKey("acme", "acme-web", "flights", "standard", 1, "sse", True, bucket_of(moment))
    return named._replace(**parts)


def cell(bucket: int | str = NOW, usage: Usage | None = None, *, seconds: int = 900, **parts: Any) -> Any:
    return key(bucket, **parts), seconds, usage or Usage(records=1, bytes=10, units=1)


def ask(zone: ZoneInfo = UTC_ZONE, *, now: float = NOW, **given: str) -> Question:
    return parse_question({name.rstrip("_"): value for name, value in given.items()}, zone=zone, now=now)


# ---- stretches -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("zone", ZONES)
@pytest.mark.parametrize("granularity", GRANULARITIES)
def test_stretches_lie_side_by_side_through_every_change_of_clocks(zone: str, granularity: Granularity) -> None:
    grain = Grain(granularity, ZoneInfo(zone))
    for month in ("2026-03", "2026-04", "2026-10", "2026-11"):
        moment = at(f"{month}-01T00:00:00+00:00")
        known = (grain.start(moment), grain.end(moment))
        for quarter in range(moment, moment + 31 * 86_400, BUCKET_SECONDS):
            start, end = grain.start(quarter), grain.end(quarter)
            assert start <= quarter < end
            assert (start, end) == known or start == known[1]
            known = (start, end)


def test_days_and_months_are_those_of_the_zone() -> None:
    summer = Grain("day", BERLIN)
    spring_day = at("2026-03-29T12:00:00+02:00")
    assert (summer.start(spring_day), summer.end(spring_day)) == (
        at("2026-03-29T00:00:00+01:00"),
        at("2026-03-30T00:00:00+02:00"),
    )
    assert summer.end(spring_day) - summer.start(spring_day) == 23 * 3600
    assert Grain("day", BERLIN).end(at("2026-10-25T12:00:00+01:00")) == at("2026-10-26T00:00:00+01:00")
    month = Grain("month", BERLIN)
    assert (month.start(spring_day), month.end(spring_day)) == (
        at("2026-03-01T00:00:00+01:00"),
        at("2026-04-01T00:00:00+02:00"),
    )
    assert month.end(at("2026-12-31T23:59:00+01:00")) == at("2027-01-01T00:00:00+01:00")


def test_an_hour_that_comes_twice_is_two() -> None:
    hours = Grain("hour", BERLIN)
    first, second = at("2026-10-25T02:15:00+02:00"), at("2026-10-25T02:15:00+01:00")
    assert hours.start(first) == at("2026-10-25T02:00:00+02:00")
    assert hours.start(second) == hours.end(first) == at("2026-10-25T02:00:00+01:00")


def test_a_day_whose_midnight_clocks_skip_begins_with_the_skip() -> None:
    havana = ZoneInfo("America/Havana")
    day = Grain("day", havana)
    assert spell(day.start(at("2026-03-08T12:00:00-04:00")), havana) == "2026-03-08T01:00:00-04:00"


# ---- questions -----------------------------------------------------------------------------------------------------


def test_without_anything_said_it_is_this_month_by_day_and_all_groups() -> None:
    question = ask(BERLIN)
    assert question.start == at("2026-11-01T00:00:00+01:00")
    assert question.end == at("2026-11-24T00:00:00+01:00")
    assert (question.grain.granularity, question.by) == ("day", ("stream", "transport", "application"))


def test_what_is_only_begun_is_taken_whole() -> None:
    question = ask(from_="2026-11-23T10:07:00Z", to="2026-11-23T10:30:00.001Z", granularity="15m")
    assert (question.start, question.end) == (at("2026-11-23T10:00:00Z"), at("2026-11-23T10:45:00Z"))
    whole = ask(from_="2026-11-23T10:15:00Z", to="2026-11-23T10:30:00Z", granularity="15m")
    assert (whole.start, whole.end) == (at("2026-11-23T10:15:00Z"), at("2026-11-23T10:30:00Z"))


def test_the_end_may_lie_ahead_and_the_beginning_long_ago() -> None:
    assert ask(from_="2026-11-23T10:00:00Z", to="2031-01-01T00:00:00Z").end == at("2031-01-01T00:00:00Z")
    ever = ask(from_="0001-01-01T00:00:00Z", to="9999-12-31T23:59:59Z", granularity="month")
    assert 0 <= ever.start < at("1971-01-01T00:00:00Z")
    assert ever.end <= LATEST + 62 * 86_400
    assert ask(from_="2027-01-01T00:00:00Z", to="2027-01-01T00:00:01Z").end == at("2027-01-02T00:00:00Z")
    # A day that has begun: whose clock is a little ahead of ours is not in the wrong.
    assert ask(from_="2026-11-23T23:59:59Z").end == at("2026-11-24T00:00:00Z")
    assert ask(to="2026-09-15T00:00:00Z").start == at("2026-09-01T00:00:00Z")
    assert ask(to="2026-09-01T00:00:00Z").start == at("2026-08-01T00:00:00Z")
    # What has not begun holds nothing: without a beginning it is this month.
    assert ask(to="2027-09-01T00:00:00Z").start == at("2026-11-01T00:00:00Z")


@pytest.mark.parametrize("granularity", GRANULARITIES)
@pytest.mark.parametrize("zone", ["UTC", "Pacific/Kiritimati", "America/Los_Angeles", "Asia/Kathmandu"])
def test_the_end_of_all_calendars_is_reached_in_few_steps(zone: str, granularity: Granularity) -> None:
    question = ask(ZoneInfo(zone), from_="9998-12-30T00:00:00Z", to="9999-12-31T23:59:59Z", granularity=granularity)
    assert question.end >= LATEST
    assert len(list(islice(_windows(question, lambda: None), 100))) < 10


def test_a_plus_that_arrived_as_a_space_is_understood() -> None:
    assert ask(from_="2026-11-23T00:00:00 01:00", granularity="15m").start == at("2026-11-23T00:00:00+01:00")


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"form": "x"}, "form is not known here; allowed: from, to, by, granularity, limit, next"),
        ({"tenant": "globex"}, "tenant is not known"),
        ({"from": "yesterday"}, "RFC 3339"),
        ({"to": "2026-02-30T00:00:00Z"}, "RFC 3339"),
        ({"from": "2026-11-23T00:00:00+99:99"}, "RFC 3339"),
        ({"from": "2026-11-23T00:00:00Z", "to": "2026-11-22T00:00:00Z"}, "from must be before to"),
        ({"from": "2026-11-23T00:00:00Z", "to": "2026-11-23T00:00:00Z"}, "from must be before to"),
        (
            {"from": "2026-11-24T00:00:00Z"},
            "lies ahead, and without to it is asked up to now, 2026-11-23T10:20:00.000Z",
        ),
        ({"from": "2026-11-23T10:30:00Z", "granularity": "15m"}, "lies ahead"),
        ({"from": "9999-12-31T23:59:59Z"}, "lies ahead"),
        ({"from": "9998-12-31T00:00:00Z", "to": "9999-12-31T23:59:59Z"}, "from=9998-12-31T00:00:00Z is not allowed"),
        ({"by": "tenant"}, "give some of stream,transport,application, each once, or none"),
        ({"by": "stream,stream"}, "each once"),
        ({"by": "stream,"}, "each once"),
        ({"granularity": "minute"}, "allowed: 15m, hour, day, month"),
        ({"limit": "0"}, "from 1 to 10000"),
        ({"limit": "10001"}, "from 1 to 10000"),
        ({"limit": "1\u0661"}, "from 1 to 10000"),
        ({"next": "x"}, "use it as the page before gave it"),
        ({"next": "W10"}, "use it as the page before gave it"),
        ({"next": "é"}, "use it as the page before gave it"),
        ({"next": "WzEsMixbImEiXSx0cnVlXQ"}, "use it as the page before gave it"),
    ],
)
def test_a_mistake_is_named_with_what_is_allowed(given: dict[str, str], said: str) -> None:
    with pytest.raises((InvalidParameter, UnknownParameter)) as caught:
        parse_question(given, zone=UTC_ZONE, now=NOW)
    assert said in caught.value.detail
    assert next(iter(given)) in caught.value.detail or said.startswith("from")


# ---- rows ----------------------------------------------------------------------------------------------------------


def test_cells_are_added_up_by_what_is_asked_for() -> None:
    cells = [
        cell("2026-11-23T10:00:00Z", Usage(records=1, bytes=5)),
        cell("2026-11-23T10:45:00Z", Usage(records=2, bytes=6)),
        cell("2026-11-23T11:00:00Z", Usage(records=4)),
        cell("2026-11-23T10:15:00Z", Usage(records=8), transport="ws"),
        cell("2026-11-23T10:15:00Z", Usage(records=16), application="acme-batch"),
    ]
    rows = group(cells, ask(by="transport", granularity="hour"))
    assert [(spell(one.start, UTC_ZONE), one.about, one.usage.records, one.usage.bytes) for one in rows] == [
        ("2026-11-23T10:00:00Z", ("sse",), 19, 11),
        ("2026-11-23T10:00:00Z", ("ws",), 8, 0),
        ("2026-11-23T11:00:00Z", ("sse",), 4, 0),
    ]
    (everything,) = group(cells, ask(by="none"))
    assert (everything.about, everything.usage.records) == ((), 31)


def test_what_is_not_priced_stands_alone_however_it_is_grouped() -> None:
    cells = [cell(), cell(application="acme-test", is_billable=False)]
    assert [one.is_billable for one in group(cells, ask(by="none"))] == [True, False]


def test_what_a_row_filter_hid_is_nothing_to_a_partner() -> None:
    cells = [
        cell(usage=Usage(hidden_records=7)),
        cell(usage=Usage(filtered_records=3, hidden_records=2), stream="quakes"),
    ]
    question = ask()
    (row,) = group(cells, question, measures=PARTNER_MEASURES)
    told = document(
        read_page(Held(cells), question, tenant="acme", measures=PARTNER_MEASURES), question, complete_until=NOW
    )
    assert row.about[0] == "quakes"
    assert told["rows"][0]["filtered_records"] == 3
    assert "hidden" not in json.dumps(told)
    assert "hidden" not in csv_header(question) + csv_rows([row], question)
    assert len(group(cells, question)) == 2, "the operator sees both"


def test_a_cell_longer_than_the_stretch_asked_for_is_a_row_of_its_own_length() -> None:
    day = cell("2026-06-01T00:00:00Z", Usage(records=9), seconds=86_400)
    rows = group([day, cell("2026-06-01T00:15:00Z")], ask(granularity="hour", from_="2026-06-01T00:00:00Z"))
    assert [(one.end - one.start, one.usage.records) for one in rows] == [(3600, 1), (86_400, 9)]
    (month,) = group([day], ask(granularity="month"))
    assert (month.start, month.end) == (at("2026-06-01T00:00:00Z"), at("2026-07-01T00:00:00Z"))


names = st.sampled_from(["a", "b", "=c", "d,e"])
made_up = st.builds(
    lambda quarter, stream, application, transport, free, records: cell(
        at("2026-10-24T00:00:00Z") + quarter * 900,
        Usage(records=records, bytes=records * 3),
        stream=stream,
        application=application,
        transport=transport,
        is_billable=not free,
    ),
    st.integers(0, 4 * 24 * 4),
    names,
    names,
    st.sampled_from(["sse", "ws", "pull"]),
    st.booleans(),
    st.integers(1, 1000),
)


class Held:
    """Cells in memory; ``asked`` counts how often they were."""

    def __init__(self, cells: Iterable[Any]) -> None:
        self._cells = list(cells)
        self.asked = 0

    def cells(self, *, tenant: str | None, start: int, end: int) -> Cells:
        self.asked += 1
        return [one for one in self._cells if start <= one[0].bucket < end]

    def extent(self, *, tenant: str | None) -> tuple[int, int] | None:
        begun = [one[0].bucket for one in self._cells]
        return (min(begun), max(begun)) if begun else None

    def complete_until(self, *, now: float) -> int:
        return 0


def test_thousands_of_years_are_looked_up_as_fast_as_what_there_is_of_them() -> None:
    held = Held([cell("2025-01-01T00:00:00Z"), cell(NOW)])
    question = ask(from_="0001-01-01T00:00:00Z", to="9999-12-31T00:00:00Z", granularity="15m")
    assert len(read_page(held, question, tenant="acme").rows) == 2
    assert held.asked < 800
    nothing = Held([])
    assert read_page(nothing, question, tenant="acme").rows == []
    assert nothing.asked == 0


@given(
    cells=st.lists(made_up, max_size=40),
    granularity=st.sampled_from(GRANULARITIES),
    zone=st.sampled_from(ZONES),
    by=st.sampled_from(["none", "stream", "application,stream", "stream,transport,application"]),
    limit=st.integers(1, 5),
)
@settings(max_examples=150, deadline=None)
def test_pages_together_are_the_whole_in_one_order_and_nothing_gets_lost(
    cells: list[Any], granularity: Granularity, zone: str, by: str, limit: int
) -> None:
    question = ask(
        ZoneInfo(zone), from_="2026-10-20T00:00:00Z", to="2026-10-30T00:00:00Z", granularity=granularity, by=by
    )
    whole = read_page(Held(cells), replace(question, limit=None), tenant="acme")
    assert whole.next is None
    assert [one.place for one in whole.rows] == sorted({one.place for one in whole.rows})
    total = Counter({name: sum(getattr(one[2], name) for one in cells) for name in ("records", "bytes")})
    assert (
        Counter({name: sum(getattr(one.usage, name) for one in whole.rows) for name in ("records", "bytes")}) == total
    )
    paged, after = [], None
    while True:
        page = read_page(Held(cells), replace(question, limit=limit, after=after), tenant="acme")
        assert len(page.rows) <= limit
        paged += page.rows
        if page.next is None:
            break
        after = parse_next(page.next, question.by)
    assert paged == whole.rows


# ---- spelling ------------------------------------------------------------------------------------------------------


def test_json_names_the_unit_of_every_number() -> None:
    question = ask(BERLIN, from_="2026-11-23T00:00:00+01:00")
    told = document(read_page(Held([cell()]), question, tenant="acme"), question, complete_until=NOW)
    assert told["complete_until"] == "2026-11-23T11:20:00+01:00"
    assert (told["time_zone"], told["granularity"], told["by"]) == ("Europe/Berlin", "day", list(question.by))
    (row,) = told["rows"]
    assert row == {
        "from": "2026-11-23T00:00:00+01:00",
        "to": "2026-11-24T00:00:00+01:00",
        "stream": "flights",
        "transport": "sse",
        "application": "acme-web",
        "billable": True,
        **dict.fromkeys(PARTNER_MEASURES, 0),
        "records": 1,
        "bytes": 10,
        "units": 1,
    }
    assert told["units"].keys() == {name for name, value in row.items() if type(value) is int}
    assert UNITS.keys() == set(MEASURES)


def test_csv_is_rfc_4180_and_no_formula() -> None:
    question = ask(by="stream,application")
    rows = group([cell(stream='=cmd|"x"', application="a,b"), cell(stream="@sum", application="-1")], question)
    text = csv_header(question) + csv_rows(rows, question)
    assert text.count("\r\n") == 3
    header, first, second = csv.reader(io.StringIO(text, newline=""))
    assert header[:5] == ["from", "to", "stream", "application", "billable"]
    assert header == list(members(rows[0], question)), "the columns are JSON's members"
    assert first[2:5] == ['\'=cmd|"x"', "a,b", "true"]
    assert second[2:4] == ["'@sum", "'-1"]
    for begins in "=+-@\t\r":
        assert csv_lines([[begins + "x", -1]]).lstrip('"').startswith("'" + begins)
        assert csv_lines([[-1]]) == "-1\r\n", "a number is no text"


# ---- events --------------------------------------------------------------------------------------------------------


def exported(cells: list[Any], *, complete_until: int = NOW, granularity: str = "hour") -> list[dict[str, Any]]:
    question = replace(
        parse_question(
            {"from": "2026-11-23T00:00:00Z", "granularity": granularity},
            zone=UTC_ZONE,
            now=NOW,
            groups=OPERATOR_GROUPS,
        ),
        limit=None,
    )
    rows = iter(read_page(Held(cells), question, tenant=None).rows)
    return list(events(rows, granularity=granularity, source="https://g.example", complete_until=complete_until))


def test_an_event_holds_what_cloudevents_asks_for_and_the_same_id_every_time() -> None:
    cells = [cell("2026-11-23T08:00:00Z"), cell("2026-11-23T08:30:00Z"), cell("2026-11-23T08:30:00Z", plan="basic")]
    first, again = exported(cells), exported(list(reversed(cells)))
    assert first == again
    assert len({one["id"] for one in first}) == len(first) == 2
    event = json.loads(line(first[1]))
    assert {name: event[name] for name in ("specversion", "source", "type", "subject", "time")} == {
        "specversion": "1.0",
        "source": "https://g.example",
        "type": TYPE,
        "subject": "acme",
        "time": "2026-11-23T08:00:00.000Z",
    }
    assert (event["data"]["records"], event["data"]["plan"], event["data"]["revision"]) == (2, "standard", 1)
    assert "hidden_records" not in event["data"]
    assert datetime.fromisoformat(event["data"]["to"]) == datetime(2026, 11, 23, 9, tzinfo=UTC)


def test_what_may_still_grow_is_an_event_of_another_type() -> None:
    done, begun = exported([cell("2026-11-23T09:00:00Z"), cell("2026-11-23T10:00:00Z")])
    assert (done["type"], begun["type"]) == (TYPE, PREVIEW_TYPE)
    assert begun["id"] != exported([cell("2026-11-23T10:00:00Z")], complete_until=NOW + 3600)[0]["id"]


def test_other_pieces_of_the_same_time_are_other_events() -> None:
    cells = [cell("2026-11-23T08:00:00Z")]
    assert exported(cells)[0]["id"] != exported(cells, granularity="15m")[0]["id"]

"""What stands before a request: addresses of bad credentials, the plan that counts, the fields of an answer."""

from __future__ import annotations

import math
import re
from datetime import date
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.catalog.catalog import Catalog
from gateway.clock import ManualClock
from gateway.errors import TooManyAttempts
from gateway.limits.addresses import Addresses, network_of
from gateway.limits.busiest import merged, ranked
from gateway.limits.plans import plan_of
from gateway.limits.standing import Standing, fields, spelt, used_percent
from gateway.model import Application, Entitlement, Plan, Principal, Product, Tenant

# ---- addresses -----------------------------------------------------------------------------------------------------


def addresses(clock: ManualClock, *, per_minute: int = 6, exempt: tuple[str, ...] = ("127.0.0.0/8", "::1/128")) -> Any:
    return Addresses(per_minute=per_minute, exempt=exempt, clock=clock, most=100)


def bad(found: Addresses, address: str | None) -> bool:
    """One bad credential from there; whether it was looked at."""
    try:
        found.check(address)
    except TooManyAttempts as error:
        assert error.retry_after_ms
        return False
    found.refused(address)
    return True


def test_bad_credentials_cost_an_address_and_time_heals() -> None:
    clock = ManualClock()
    found = addresses(clock)
    assert [bad(found, "192.0.2.1") for _ in range(10)] == [True] * 6 + [False] * 4
    assert bad(found, "192.0.2.2")
    clock.advance(10.5)
    assert [bad(found, "192.0.2.1") for _ in range(2)] == [True, False]
    clock.advance(600)
    assert [bad(found, "192.0.2.1") for _ in range(7)] == [True] * 6 + [False]
    assert found.turned_away == 6


def test_a_customer_has_one_network_of_addresses() -> None:
    found = addresses(ManualClock())
    assert [bad(found, f"2001:db8:0:1::{n:x}") for n in range(8)] == [True] * 6 + [False] * 2
    assert bad(found, "2001:db8:0:2::1")
    assert network_of("::ffff:192.0.2.1") == network_of("192.0.2.1") == "192.0.2.1"
    assert network_of("::1") == "::/64"


@pytest.mark.parametrize("address", ["127.0.0.1", "::1", "::ffff:127.0.0.1", "127.8.9.1", None, "", "unix"])
def test_who_may_stand_for_everybody_is_never_held_up(address: str | None) -> None:
    found = addresses(ManualClock())
    assert all(bad(found, address) for _ in range(2000))


def test_without_a_number_nobody_is_held_up() -> None:
    found = addresses(ManualClock(), per_minute=0)
    assert all(bad(found, "192.0.2.1") for _ in range(2000))


def test_memory_is_bounded_whoever_comes() -> None:
    found = addresses(ManualClock())
    for number in range(5000):
        bad(found, f"10.0.{number // 250}.{number % 250}")
    assert len(found._refusals) <= 100


@given(st.text(max_size=60))
def test_any_text_is_an_address_of_its_own(text: str) -> None:
    network_of(text)
    assert bad(addresses(ManualClock()), text)


# ---- the plan that counts ------------------------------------------------------------------------------------------


def plan(name: str, rate: int | None) -> Plan:
    limit = "unlimited" if rate is None else {"rate": rate, "burst": rate}
    return Plan(name, 1, name, "EUR", limits={"requests_per_second": limit})


def world(*rights: tuple[str, str, date]) -> Catalog:
    tenant = Tenant(
        "acme",
        "Acme",
        "active",
        "UTC",
        applications=(Application("app", "acme", "App", issuer="idp"),),
        entitlements=tuple(Entitlement("acme", product, name, start) for product, name, start in rights),
    )
    products = [Product("one", "One", ("first",)), Product("two", "Two", ("second",))]
    return Catalog.build(products, [plan("small", 10), plan("large", 100), plan("endless", None)], [tenant])


def counted(catalog: Catalog, stream: str | None, *, client: str = "app") -> str | None:
    found = plan_of(Principal("idp", client, "s", frozenset(), "j", 2**40), stream, catalog, now=1_700_000_000.0)
    return None if found is None else found[1].name


def test_a_request_counts_against_the_plan_of_its_stream_else_against_the_most_generous() -> None:
    past, future = date(2020, 1, 1), date(2099, 1, 1)
    both = world(("one", "small", past), ("two", "large", past))
    assert [counted(both, stream) for stream in ("first", "second", "absent", None)] == [
        *("small", "large"),
        *("large", "large"),
    ]
    assert counted(world(("one", "large", past), ("two", "endless", past)), None) == "endless"
    assert counted(world(("one", "small", past), ("two", "endless", future)), "second") == "small"
    assert counted(world(("two", "endless", future)), None) is None
    assert counted(both, "first", client="nobody") is None


# ---- who is busy ---------------------------------------------------------------------------------------------------


def busy(tenant: str, **told: Any) -> dict[str, Any]:
    return {"tenant": tenant, "plan": "free", "open_reads": 0, "is_paced": False, "refused": {}, "quotas": {}} | told


def test_what_nodes_tell_is_added_up_and_the_busiest_come_first() -> None:
    told = [
        busy("calm", open_reads=5),
        busy("paced", is_paced=True),
        busy("near", quotas={"records_per_day": 70}),
        busy("pressing", refused={"connections": 2}, open_reads=1),
        busy("pressing", refused={"connections": 1, "requests_per_second": 4}, open_reads=2),
        busy("near", quotas={"records_per_day": 90}),
    ]
    found = ranked(merged(told))
    assert [one["tenant"] for one in found] == ["pressing", "paced", "near", "calm"]
    assert found[0] == busy("pressing", refused={"connections": 3, "requests_per_second": 4}, open_reads=3)
    assert found[2]["quotas"] == {"records_per_day": 90}
    assert told[3]["refused"] == {"connections": 2}


# ---- what is told --------------------------------------------------------------------------------------------------


def bucket(name: str, rate: float, burst: float, *, remaining: float) -> Standing:
    """A bucket of ``burst`` that fills with ``rate`` a second and holds ``remaining`` now; a debt is below zero."""
    return Standing(
        name,
        rate,
        window_seconds=1,
        burst=burst,
        remaining=max(0, math.floor(remaining)),
        resets_in_seconds=max(0.0, (burst - remaining) / rate),
    )


def test_fields_are_whole_numbers_and_leave_out_what_is_unlimited() -> None:
    told = dict(
        fields(
            [
                bucket("requests_per_second", 100, 200, remaining=199.7),
                Standing("connections", 2, remaining=1),
                Standing("records_per_second", None),
                Standing("records_per_month", 1000, 2_592_000.0, remaining=-3, resets_in_seconds=10.2, resets_at=5.0),
                Standing("bytes_per_day", 10**15, 86_400.0, remaining=7, resets_in_seconds=0.0, resets_at=5.0),
            ]
        )
    )
    assert told[b"ratelimit-policy"] == (
        b'"requests_per_second";q=200;w=2, "connections";q=2;qu="concurrent-requests", '
        b'"records_per_month";q=1000;gateway-unit="records";w=2592000, '
        b'"bytes_per_day";q=999999999999999;qu="content-bytes";w=86400'
    )
    assert told[b"ratelimit"] == (
        b'"requests_per_second";r=199;t=1, "connections";r=1, "records_per_month";r=0;t=11, "bytes_per_day";r=7;t=0'
    )
    assert fields([Standing("connections", None)]) == []


@pytest.mark.parametrize(("rate", "burst"), [(10**15, 10**15), (6 * 10**14, 10**15), (0.001, 10**15)])
def test_no_field_holds_a_number_of_more_than_fifteen_digits(rate: float, burst: float) -> None:
    """RFC 9651 has none, and a client that reads strictly refuses the whole field."""
    standings = [
        bucket("records_per_second", rate, burst, remaining=burst),
        Standing("bytes_per_month", 10**15, 86_400.0, remaining=10**15, resets_in_seconds=1e18, resets_at=5.0),
    ]
    numbers = [int(one) for _, value in fields(standings) for one in re.findall(rb"=([0-9]+)", value)]
    assert max(numbers) == 10**15 - 1


@given(st.floats(0.001, 1e6), st.floats(1, 1e7), st.floats(-1e6, 1e7))
def test_a_rate_is_told_as_whole_numbers_of_about_the_same_rate(rate: float, burst: float, remaining: float) -> None:
    one = bucket("requests_per_second", rate, burst, remaining=min(remaining, burst))
    (_, policy), (_, state) = fields([one])
    quota, window = (int(part.split("=")[1]) for part in policy.decode().split(";")[1:])
    assert quota >= 1
    assert window >= 1
    assert quota / window <= rate * 1.0001 or quota == 1
    assert rate * window - quota < 1.001
    r, t = (int(part.split("=")[1]) for part in state.decode().split(";")[1:])
    assert r >= 0
    assert t >= 1
    assert spelt(one)["resets_in_ms"] >= 0


def test_what_is_used_is_rounded_down_and_never_above_the_whole() -> None:
    assert used_percent(Standing("records_per_day", 1000, remaining=201)) == 79
    assert used_percent(Standing("records_per_day", 1000, remaining=-5)) == 100
    assert used_percent(Standing("records_per_day", None)) is None
    assert spelt(Standing("connections", 5, remaining=2)) == {"limit": 5, "remaining": 2, "used": 3}

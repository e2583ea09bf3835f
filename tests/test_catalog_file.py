"""catalog.yaml: the example loads as it is; each rule is broken once, and the line says where, what and what else."""

from __future__ import annotations

import json
from datetime import date
from pathlib import Path

import pytest
import yaml

from gateway.catalog.catalog import Catalog
from gateway.catalog.file import load_catalog, validate_catalog
from gateway.catalog.validation import unmatched_applications
from gateway.errors import ConfigurationProblems
from gateway.limits.scopes import limits_on
from gateway.model import Application, Entitlement, Plan, Product, Tenant

EXAMPLE = Path(__file__).parents[1] / "asyncapi" / "catalog.yaml"
STREAMS = ("earthquakes", "flights")

SHOP = """\
products:
  - name: geo
    title: Geo
    streams: [earthquakes]
  - name: all
    title: All
    streams: [earthquakes, flights]
plans:
  - name: free
    revision: 1
    title: Free
    currency: EUR
    limits:
      requests_per_second: 10
      connections: 2
      records_per_second: {rate: 0.5}
      bytes_per_second: {rate: 100, burst: 300}
      replay_records_per_second: unlimited
      records_per_day: 500
    charges:
      - {name: Base, model: flat, amount: '49.00', billed: in_advance}
      - {name: Records, meter: records, model: volume, tiers: [{up_to: 10, unit_price: '1'}, {unit_price: '0.5'}]}
  - name: pro
    revision: 1
    title: Pro
    currency: EUR
    limits: {requests_per_second: 1, connections: unlimited, records_per_second: 1, bytes_per_second: 1, \
replay_records_per_second: 1}
    charges: []
tenants:
  - name: acme
    title: Acme
    status: active
    time_zone: Europe/Berlin
    attributes: {region: eu, airports: [ORD, SFO]}
    spend_limit: '500.00'
    applications:
      - {client_id: acme-web, title: Web, origins: ['https://acme.example']}
      - {client_id: acme-test, title: Test, billable: false}
    entitlements:
      - {product: geo, plan: free, from: 2026-01-01, to: 2026-07-01}
      - {product: all, plan: pro, from: 2026-07-01}
  - name: globex
    title: Globex
    time_zone: UTC
    applications:
      - {client_id: globex-app, title: App}
    entitlements: []
"""


def load(directory: Path, *edits: tuple[str, str], issuers: tuple[str, ...] = ("builtin",)) -> Catalog:
    text = SHOP
    for old, new in edits:
        assert old in text, f"nothing to edit: {old}"
        text = text.replace(old, new, 1)
    path = directory / "catalog.yaml"
    path.write_text(text, "utf-8")
    return load_catalog(path, contracts=STREAMS, issuers=issuers)


def test_the_example_loads_unchanged() -> None:
    catalog = load_catalog(EXAMPLE, contracts=STREAMS, issuers=["builtin"])
    found = catalog.application("builtin", "acme-web")
    assert found is not None
    tenant, application = found
    assert (tenant.name, tenant.time_zone, tenant.attributes) == ("acme", "Europe/Berlin", {"region": "eu"})
    assert application.origins == ("https://claims.acme.example",)
    assert catalog.accounts["acme"] == {"spend_limit": "500.00", "credit": "0"}
    pro = catalog.plan("pro")
    assert pro is not None
    assert pro.limits["requests_per_second"] == {"rate": 100, "burst": 200}
    assert pro.limits["replay_records_per_second"] == "unlimited"
    assert pro.pricing["minimum"] == "49.00"
    assert len(pro.pricing["charges"]) == 4
    test = catalog.application("builtin", "acme-test")
    assert test is not None
    assert not test[1].billable
    assert catalog.application("other", "acme-web") is None


def test_rates_are_spelled_out_and_a_burst_lets_one_request_through(tmp_path: Path) -> None:
    plan = load(tmp_path).plan("free")
    assert plan is not None
    assert plan.limits == {
        "requests_per_second": {"rate": 10, "burst": 10},
        "connections": 2,
        "records_per_second": {"rate": 0.5, "burst": 1},
        "bytes_per_second": {"rate": 100, "burst": 300},
        "replay_records_per_second": "unlimited",
        "records_per_day": 500,
    }


def test_a_plan_may_be_tighter_for_a_stream_and_for_each_application(tmp_path: Path) -> None:
    narrow = "streams: {earthquakes: {bytes_per_second: 10}}, each_application: {replay_records_per_second: 5}}"
    pro = load(
        tmp_path,
        ("bytes_per_second: 1,", "bytes_per_second: 20,"),
        ("replay_records_per_second: 1}", f"replay_records_per_second: 9, {narrow}"),
    ).plan("pro")
    assert pro is not None
    assert pro.limits["streams"] == {"earthquakes": {"bytes_per_second": {"rate": 10, "burst": 10}}}
    assert pro.limits["each_application"] == {"replay_records_per_second": {"rate": 5, "burst": 5}}
    assert limits_on(pro.limits, "earthquakes")["replay_records_per_second"] == {"rate": 5, "burst": 5}
    assert limits_on(pro.limits, "earthquakes")["bytes_per_second"] == {"rate": 10, "burst": 10}
    assert limits_on(pro.limits, "flights")["bytes_per_second"] == {"rate": 20, "burst": 20}
    assert not {"streams", "each_application"} & set(limits_on(pro.limits, "earthquakes"))


def test_an_application_without_issuer_belongs_to_the_only_one(tmp_path: Path) -> None:
    assert load(tmp_path, issuers=("idp",)).application("idp", "acme-web") is not None


def test_entitlements_follow_each_other_on_different_plans(tmp_path: Path) -> None:
    catalog = load(tmp_path)
    plans = [(right.plan.name, right.entitlement.start) for right in catalog.entitlements_for("acme", "earthquakes")]
    assert sorted(plans) == [("free", date(2026, 1, 1)), ("pro", date(2026, 7, 1))]
    assert [right.plan.name for right in catalog.entitlements_for("acme", "flights")] == ["pro"]
    assert catalog.entitlements_for("globex", "flights") == ()


IN_DOLLARS = ("EUR\n    limits: {requests_per_second: 1,", "USD\n    limits: {requests_per_second: 1,")


def test_a_tenant_moves_to_another_currency_where_a_month_begins(tmp_path: Path) -> None:
    assert load(tmp_path, IN_DOLLARS).tenant("acme") is not None
    with pytest.raises(ConfigurationProblems) as caught:
        load(tmp_path, IN_DOLLARS, ("plan: pro, from: 2026-07-01", "plan: pro, from: 2026-06-30"))
    (line,) = [line for line in caught.value.problems if "is in USD" in line]
    assert "tenant acme: plan pro is in USD, plan free in EUR, got 'pro'; allowed: plans of one currency" in line


def test_a_plan_keeps_its_currency_over_all_revisions(tmp_path: Path) -> None:
    free = SHOP[SHOP.index("  - name: free\n") : SHOP.index("  - name: pro\n")]
    second = free.replace("revision: 1", "revision: 2").replace("EUR", "GBP")
    with pytest.raises(ConfigurationProblems) as caught:
        load(tmp_path, ("  - name: pro\n", second + "  - name: pro\n"))
    assert "plan free revision 2: currency, got 'GBP'; allowed: EUR as before" in str(caught.value)


def test_several_files_are_one_catalog(tmp_path: Path) -> None:
    head, tail = SHOP.split("tenants:")
    (tmp_path / "a.yaml").write_text(head)
    (tmp_path / "b.yaml").write_text("tenants:" + tail)
    assert load_catalog(tmp_path / "b.yaml", tmp_path / "a.yaml", contracts=STREAMS).tenant("acme") is not None
    with pytest.raises(ConfigurationProblems) as caught:
        load_catalog(tmp_path / "a.yaml", tmp_path / "a.yaml")
    assert f"{tmp_path}/a.yaml:2: product given twice, first in {tmp_path}/a.yaml:2, got 'geo'" in str(caught.value)


TIERS = "tiers: [{up_to: 10, unit_price: '1'}, {unit_price: '0.5'}]"

# Each case: what is edited, the text that the problem's line holds, and what the problem line must say.
BAD = [
    ("products:", "product:", "product:", ["the document: unknown key, got 'product'", "did you mean 'products'?"]),
    ("products:\n", "products: {}\nproducts_:\n", "products:", ["products, got a mapping; allowed: a list"]),
    # products
    (
        "    title: Geo\n",
        "    titel: Geo\n",
        "titel:",
        ["product geo: unknown key, got 'titel'", "did you mean 'title'?"],
    ),
    ("    title: Geo\n", "", "name: geo", ["product geo.title is required, got nothing"]),
    ("name: geo", "name: Geo Data", "Geo Data", ["product Geo Data.name, got 'Geo Data'; allowed: 1 to 63"]),
    ("- name: all", "- name: geo", "streams: [earthquakes, f", []),
    (
        "streams: [earthquakes]",
        "streams: [earthquake]",
        "[earthquake]",
        ["no contract for the stream, got 'earthquake'", "earthquakes, flights", "'earthquakes'?"],
    ),
    (
        "streams: [earthquakes]",
        "streams: []",
        "streams: []",
        ["product geo.streams, got a list; allowed: at least one"],
    ),
    ("streams: [earthquakes]", "streams: [earthquakes, earthquakes]", "streams:", ["lists a value twice"]),
    (
        "streams: [earthquakes]",
        "streams: [earthquakes]\n    masks: {flights: {/id: drop}}",
        "masks:",
        ["product geo.masks: no stream of the product, got 'flights'; allowed: earthquakes"],
    ),
    (
        "streams: [earthquakes]",
        "streams: [earthquakes]\n    masks: {earthquakes: {/id: null}}",
        "masks:",
        ["product geo.masks.earthquakes./id, got nothing; allowed: drop, 'null' (in quotes)"],
    ),
    (
        "streams: [earthquakes]",
        "streams: [earthquakes]\n    masks: {earthquakes: {/id: hide}}",
        "masks:",
        ["product geo.masks.earthquakes./id, got 'hide'; allowed: drop, 'null' (in quotes)"],
    ),
    (
        "streams: [earthquakes]",
        "streams: [earthquakes]\n    masks: {earthquakes: {id: drop}}",
        "masks:",
        ["product geo.masks.earthquakes, got 'id'; allowed: a JSON pointer"],
    ),
    (
        "streams: [earthquakes]",
        "streams: [earthquakes]\n    masks: {earthquakes: {/a~2: drop}}",
        "masks:",
        ["product geo.masks.earthquakes, got '/a~2'; allowed: a JSON pointer"],
    ),
    (
        "streams: [earthquakes]",
        "streams: [earthquakes]\n    masks: {earthquakes: {/id: drop, /id/x: 'null'}}",
        "masks:",
        ["product geo.masks.earthquakes: within /id, got '/id/x'; allowed: one mask"],
    ),
    (
        "streams: [earthquakes]",
        "streams: [earthquakes]\n    masks: {earthquakes: {}}",
        "masks:",
        ["product geo.masks.earthquakes, got a mapping; allowed: a mapping of 1 to 100 JSON pointers"],
    ),
    (
        "streams: [earthquakes]",
        "streams: [earthquakes]\n    masks: {earthquakes: /id}",
        "masks:",
        ["product geo.masks.earthquakes, got '/id'; allowed: a mapping"],
    ),
    (
        "streams: [earthquakes]",
        "streams: [earthquakes]\n    masks: [earthquakes]",
        "masks:",
        ["product geo.masks, got a list; allowed: a mapping of streams"],
    ),
    (
        "streams: [earthquakes]",
        "streams: [earthquakes]\n    masks: ~",
        "masks:",
        ["product geo.masks, got nothing; allowed: a value"],
    ),
    # plans
    ("revision: 1", "revision: 0", "revision: 0", ["plan free.revision, got 0; allowed: a whole number from 1"]),
    ("revision: 1", "revision: '1'", "revision:", ["plan free.revision, got '1'"]),
    (
        "currency: EUR",
        "currency: euro",
        "currency:",
        ["plan free.currency, got 'euro'; allowed: three capital letters"],
    ),
    ("- name: pro", "- name: free", "- name: free", ["plan given twice, first in", "got 'free 1'"]),
    ("      connections: 2\n", "", "requests_per_second: 10", ["limits.connections is required, got nothing"]),
    (
        "requests_per_second: 10",
        "request_per_second: 10",
        "request_",
        ["got 'request_per_second'", "mean 'requests_per_"],
    ),
    (
        "requests_per_second: 10",
        "requests_per_second: 0",
        "requests_",
        ["limits.requests_per_second, got 0; allowed: a"],
    ),
    ("requests_per_second: 10", "requests_per_second: -1", "requests_", ["limits.requests_per_second, got -1"]),
    ("requests_per_second: 10", "requests_per_second: true", "requests_", ["requests_per_second, got true"]),
    ("requests_per_second: 10", "requests_per_second: '10'", "requests_", ["requests_per_second, got '10'"]),
    ("requests_per_second: 10", "requests_per_second: unlimitd", "requests_", ["got 'unlimitd'; allowed: a number"]),
    ("requests_per_second: 10", f"requests_per_second: 1{'0' * 18}", "requests_", ["requests_per_second, got 1000000"]),
    ("requests_per_second: 10", "requests_per_second:", "requests_", ["requests_per_second, got nothing"]),
    ("connections: 2", "connections: 2.5", "connections:", ["limits.connections, got 2.5; allowed: a whole number"]),
    ("connections: 2", "connections: {rate: 2, burst: 3}", "connections:", ["limits.connections, got a mapping"]),
    ("{rate: 0.5}", "{rate: 0}", "{rate: 0}", ["records_per_second.rate, got 0"]),
    ("{rate: 0.5}", "{burst: 5}", "{burst: 5}", ["records_per_second.rate is required"]),
    ("burst: 300", "burst: 0", "burst: 0", ["bytes_per_second.burst, got 0; allowed: a number from 1"]),
    ("burst: 300", "brust: 300", "brust", ["unknown key, got 'brust'", "did you mean 'burst'?"]),
    ("records_per_day: 500", "records_per_day: 0", "records_per_day", ["limits.records_per_day, got 0"]),
    ("records_per_day: 500", "records_per_dya: 5", "records_per_dya", ["got 'records_per_dya'", "'records_per_day'?"]),
    ("records_per_day: 500", "records_per_day:", "records_per_day", ["records_per_day, got nothing"]),
    (
        "records_per_day: 500",
        "streams: {geo: {}}",
        "streams",
        ["limits.streams.geo, got", "at least one of records_per_"],
    ),
    ("records_per_day: 500", "streams: [geo]", "streams", ["limits.streams, got a list", "a mapping of streams"]),
    ("records_per_day: 500", "streams:", "streams", ["limits.streams, got nothing"]),
    (
        "records_per_day: 500",
        "streams: {geo: {bytes_per_second: 101}}",
        "streams",
        ["limits.streams.geo.bytes_per_second, got 101; allowed: a rate that is not above the plan's own"],
    ),
    (
        "records_per_day: 500",
        "each_application: {requests_per_second: 1, bytes_per_second: 1}",
        "each_application",
        ["limits.each_application: unknown key, got 'requests_per_second'"],
    ),
    (
        "records_per_day: 500",
        "each_application: {replay_records_per_second: unlimited}",
        "each_application",
        ["replay_records_per_second, got 'unlimited'; allowed: a rate that is not"],
    ),
    # charges
    ("amount: '49.00'", "amount: 49.00", "amount:", ["charges.amount, got 49.0; allowed: a decimal number in quotes"]),
    ("amount: '49.00'", "amount: '-1'", "amount:", ["charges.amount, got '-1'"]),
    ("amount: '49.00'", "amount: '1e3'", "amount:", ["charges.amount, got '1e3'"]),
    ("amount: '49.00'", f"amount: '0.{'1' * 13}'", "amount:", ["at most 12 decimals"]),
    ("amount: '49.00', ", "", "Base", ["charges.amount is required"]),
    (
        "model: flat",
        "model: flatt",
        "flatt",
        ["got 'flatt'; allowed: flat, unit, graduated, volume, package", "'flat'?"],
    ),
    ("billed: in_advance", "billed: advance", "advance", ["got 'advance'; allowed: in_advance, in_arrears"]),
    (
        "billed: in_advance",
        "billed: in_advance, tiers: []",
        "Base",
        ["does not belong to model flat, got 'tiers'"],
    ),
    ("billed: in_advance", "billed: in_advance, meter: records", "Base", ["charges.overage is required"]),
    (
        "billed: in_advance",
        "billed: in_advance, meter: records, overage: '1'",
        "Base",
        ["charges.included is required, got nothing; allowed: a whole number: the units that the amount includes"],
    ),
    (
        "billed: in_advance",
        "billed: in_advance, discount: {units: 5}",
        "Base",
        ["charges.discount: unknown key, got 'units'"],
    ),
    ("meter: records", "discount: {}, meter: records", "Records", ["discount, got a mapping; allowed: a mapping with"]),
    ("meter: records", "discount: {percent: '101'}, meter: records", "Records", ["percent, got '101'", "at most 100"]),
    ("meter: records", "discount: {units: -1}, meter: records", "Records", ["units, got -1; allowed: a whole number"]),
    (TIERS, TIERS.replace("'1'}", "'1', flat_amount: 2}"), "tiers:", ["tiers.flat_amount, got 2; allowed: a decimal"]),
    ("charges: []", "charges: []\n    discount: {units: 1}", "discount:", ["plan pro.discount: unknown key"]),
    ("charges: []", "charges: []\n    tax: []", "tax:", ["plan pro.tax, got a list", "a list of 1 to 8"]),
    (
        "charges: []",
        "charges: []\n    tax: [{name: VAT, percent: '1'}, {name: VAT, percent: '2'}]",
        "tax:",
        ["plan pro.tax.name, got 'VAT'; allowed: a name once in a plan"],
    ),
    ("billed: in_advance", "biled: in_advance", "biled", ["unknown key, got 'biled'", "did you mean 'billed'?"]),
    ("name: Records,", "name: Base,", "Base, meter", ["charges.name, got 'Base'; allowed: a name once in a plan"]),
    ("meter: records", "meter: recods", "recods", ["charges.meter, got 'recods'", "did you mean 'records'?"]),
    (TIERS, "tiers: []", "tiers:", ["charges.tiers, got a list; allowed: at least one tier"]),
    (TIERS, "tiers: [{up_to: 10, unit_price: '1'}]", "tiers:", ["tiers.up_to, got 10; allowed: no up_to in the last"]),
    (TIERS, TIERS.replace("[{", "[{up_to: 20, unit_price: '2'}, {"), "tiers:", ["tiers.up_to, got 10", "from 21 to"]),
    (TIERS, TIERS.replace("'0.5'", "0.5"), "tiers:", ["tiers.unit_price, got 0.5; allowed: a decimal"]),
    ("charges: []", "charges: []\n    minimum: 5", "minimum:", ["plan pro.minimum, got 5; allowed: a decimal"]),
    ("charges: []", "charges: []\n    tax: {nam: VAT, percent: '19'}", "tax:", ["got 'nam'", "did you mean 'name'?"]),
    # tenants
    (
        "status: active",
        "status: activ",
        "activ",
        ["tenant acme.status, got 'activ'; allowed: active, suspended", "'active'?"],
    ),
    ("Europe/Berlin", "Europe/Berln", "Berln", ["time_zone, got 'Europe/Berln'; allowed: an IANA", "'Europe/Berlin'?"]),
    ("Europe/Berlin", "../../etc/passwd", "etc/passwd", ["tenant acme.time_zone, got '../../etc/passwd'"]),
    ("Europe/Berlin", "Europe", "time_zone: Europe", ["tenant acme.time_zone, got 'Europe'"]),
    ("region: eu", "region: {a: b}", "region:", ["attributes.region, got a mapping; allowed: a text, number"]),
    ("region: eu", "region: []", "region:", ["attributes.region, got a list"]),
    ("spend_limit: '500.00'", "spend_limit: 500", "spend_limit", ["tenant acme.spend_limit, got 500"]),
    ("- name: globex", "- name: acme", "- name: acme", ["tenant given twice, first in", "got 'acme'"]),
    ("client_id: acme-web", "client: acme-web", "client:", ["unknown key, got 'client'", "did you mean 'client_id'?"]),
    ("client_id: acme-web", "client_id: 'acme web'", "acme web", ["client_id, got 'acme web'"]),
    ("client_id: globex-app", "client_id: acme-web", "title: App", ["client_id given twice", "got 'acme-web'"]),
    ("'https://acme.example'", "'https://acme.example/'", "origins", ["origins, got 'https://acme.example/'"]),
    ("'https://acme.example'", "'*'", "origins", ["applications.origins, got '*'; allowed: origins such as"]),
    ("'https://acme.example'", "'https://*.acme.example'", "origins", ["origins, got 'https://*.acme.example'"]),
    ("'https://acme.example'", "'https://ACME.example'", "origins", ["origins, got 'https://ACME.example'"]),
    ("'https://acme.example'", "'https://acme.example:99999'", "origins", ["origins, got"]),
    ("billable: false", "billable: no", "billable", ["applications.billable, got 'no'; allowed: true, false"]),
    ("{product: geo,", "{product: goe,", "goe", ["tenant acme: product, got 'goe'; allowed: all, geo", "'geo'?"]),
    ("plan: free, from", "plan: fre, from", "fre,", ["tenant acme: plan, got 'fre'; allowed: free, pro", "'free'?"]),
    ("from: 2026-01-01", "from: 2026-02-30", "2026-02-30", ["entitlements.from, got '2026-02-30'; allowed: a date"]),
    *(
        ("from: 2026-01-01", f"from: {text}", "from: ", ["entitlements.from, got", "; allowed: a date such as"])
        for text in (
            "'2026-02-30'",
            "'20260101'",
            "2026-W01-1",
            "'2026-1-1'",
            "' 2026-01-01'",
            "2026-01-01T00:00:00Z",
            "1",
        )
    ),
    ("from: 2026-01-01, ", "", "to: 2026", ["entitlements.from is required, got nothing"]),
    ("to: 2026-07-01", "to: 2026-01-01", "to: 2026-01-01", ["entitlements.to, got 2026-01-01; allowed: a date after"]),
    (
        "to: 2026-07-01",
        "until: 2026-07-01",
        "until",
        ["entitlements: unknown key, got 'until'", "product, plan, revision, from, to"],
    ),
    (
        "from: 2026-07-01}",
        "from: 2026-06-30}",
        "from: 2026-06-30",
        ["stream earthquakes through two plans, geo at free and all at pro, got 'pro'; allowed: one plan a stream"],
    ),
    (
        "{product: all, plan: pro, from: 2026-07-01}",
        "{product: geo, plan: free, from: 2026-03-01}",
        "from: 2026-03-01",
        ["entitlement to geo overlaps the one from 2026-01-01 to 2026-07-01, got 2026-03-01"],
    ),
    (
        "{product: all, plan: pro, from: 2026-07-01}",
        "{product: geo, plan: pro, from: 2026-01-01}",
        "plan: pro, from: 2026-01-01",
        ["entitlement to geo overlaps the one in", "got 2026-01-01"],
    ),
]


@pytest.mark.parametrize(
    ("old", "new", "line_with", "said"), BAD, ids=[f"{i}-{case[1][:30]!r}" for i, case in enumerate(BAD)]
)
def test_what_is_wrong_is_named_with_line_value_and_choice(
    tmp_path: Path, old: str, new: str, line_with: str, said: list[str]
) -> None:
    with pytest.raises(ConfigurationProblems) as caught:
        load(tmp_path, (old, new))
    if not said:
        return
    text = SHOP.replace(old, new, 1)
    numbers = [str(number) for number, line in enumerate(text.splitlines(), 1) if line_with in line]
    for problem in caught.value.problems:
        if all(part in problem for part in said):
            place = problem.partition(": ")[0].removeprefix(f"{tmp_path}/catalog.yaml:")
            # A required member that is missing is said where its mapping begins.
            assert place in numbers, problem
            return
    pytest.fail(f"none of these says {said}:\n" + "\n".join(caught.value.problems))


def test_all_problems_are_told_at_once_and_none_follows_from_another(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationProblems) as caught:
        load(
            tmp_path,
            ("currency: EUR", "currency: 1"),
            ("Europe/Berlin", "Mars"),
            ("streams: [earthquakes]", "streams: 1"),
        )
    assert len(caught.value.problems) == 3


def test_with_several_issuers_an_application_that_names_none_is_told_and_matches_no_token(tmp_path: Path) -> None:
    issuers = ("idp", "builtin")
    catalog = load(tmp_path, ("billable: false", "billable: false, issuer: idp"), issuers=issuers)
    assert [line.removeprefix(f"{tmp_path}/catalog.yaml:") for line in unmatched_applications(catalog, issuers)] == [
        "37: tenant acme: application acme-web: no token matches it without an issuer, several are configured,"
        " got nothing; allowed: idp, builtin",
        "46: tenant globex: application globex-app: no token matches it without an issuer, several are configured,"
        " got nothing; allowed: idp, builtin",
    ]
    assert all(catalog.application(issuer, "acme-web") is None for issuer in issuers)
    assert catalog.application("idp", "acme-test") is not None
    assert unmatched_applications(load(tmp_path), ["builtin"]) == []


def test_an_issuer_that_is_not_configured_is_a_problem(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationProblems) as caught:
        load(tmp_path, ("billable: false", "billable: false, issuer: ipd"), issuers=("idp", "builtin"))
    assert caught.value.problems == [
        f"{tmp_path}/catalog.yaml:38: tenant acme: application acme-test: issuer, got 'ipd';"
        " allowed: idp, builtin; did you mean 'idp'?"
    ]


def test_the_examples_load_unchanged_where_several_issuers_are_configured() -> None:
    issuers = ["idp", "builtin"]
    catalog = load_catalog(EXAMPLE, contracts=STREAMS, issuers=issuers)
    assert len(unmatched_applications(catalog, issuers)) == 4


@pytest.mark.parametrize("quote", ["'", '"'])
def test_a_date_may_be_quoted(tmp_path: Path, quote: str) -> None:
    edits = [
        (f"{key}: {day}", f"{key}: {quote}{day}{quote}") for key, day in (("from", "2026-01-01"), ("to", "2026-07-01"))
    ]
    assert load(tmp_path, *edits) == load(tmp_path)


def test_a_catalog_may_be_json(tmp_path: Path) -> None:
    path = tmp_path / "catalog.json"
    path.write_text(json.dumps(yaml.safe_load(SHOP), default=date.isoformat))
    assert load_catalog(path, contracts=STREAMS, issuers=["builtin"]) == load(tmp_path)


def test_one_client_id_of_one_issuer_belongs_to_one_tenant(tmp_path: Path) -> None:
    taken = ("{client_id: globex-app,", "{client_id: acme-web, issuer: idp,")
    with pytest.raises(ConfigurationProblems) as caught:
        load(tmp_path, taken, issuers=("idp",))
    assert "client_id is taken by tenant acme" in caught.value.problems[0]
    both = (("{client_id: acme-web,", "{client_id: acme-web, issuer: a,"), (taken[0], taken[1].replace("idp", "b")))
    catalog = load(tmp_path, *both, ("{client_id: acme-test,", "{client_id: acme-test, issuer: a,"), issuers=("a", "b"))
    first, second = catalog.application("a", "acme-web"), catalog.application("b", "acme-web")
    assert first is not None
    assert second is not None
    assert (first[0].name, second[0].name) == ("acme", "globex")


def test_a_catalog_without_places_is_validated_too() -> None:
    start = date(2026, 1, 1)
    catalog = Catalog.build(
        [Product("geo", "Geo", ("quakes",))],
        [Plan("free", 1, "Free", "EUR")],
        [
            Tenant(
                "acme",
                "Acme",
                "active",
                "UTC",
                {},
                (Application("a", "acme", "A"),),
                (Entitlement("acme", "goe", "free", start),),
            )
        ],
    )
    with pytest.raises(ConfigurationProblems) as caught:
        validate_catalog(catalog, ["earthquakes"], ["one", "two"])
    assert caught.value.problems == [
        "catalog: product geo: no contract for the stream, got 'quakes'; allowed: earthquakes;"
        " did you mean 'earthquakes'?",
        "catalog: tenant acme: product, got 'goe'; allowed: geo; did you mean 'geo'?",
    ]


@pytest.mark.parametrize("text", ["", "a", "[]", "products: [1]", "tenants: [{}]", "plans: [[]]", "- a", "null"])
def test_a_file_of_another_shape_is_a_problem_and_no_crash(tmp_path: Path, text: str) -> None:
    path = tmp_path / "catalog.yaml"
    path.write_text(text)
    with pytest.raises(ConfigurationProblems) as caught:
        load_catalog(path)
    assert caught.value.problems[0].startswith(f"{path}:1: ")


def test_a_missing_file_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationProblems) as caught:
        load_catalog(tmp_path / "nowhere.yaml")
    assert caught.value.problems == [f"{tmp_path}/nowhere.yaml: cannot be read (No such file or directory)"]


def test_a_stream_with_limits_of_its_own_must_have_a_contract(tmp_path: Path) -> None:
    limited = ("records_per_day: 500", "streams: {earthquake: {bytes_per_second: 10}}")
    with pytest.raises(ConfigurationProblems) as caught:
        load(tmp_path, limited)
    number = next(
        n for n, line in enumerate((tmp_path / "catalog.yaml").read_text().splitlines(), 1) if "earthquake:" in line
    )
    assert caught.value.problems == [
        f"{tmp_path}/catalog.yaml:{number}: plan free: limits.streams: no contract for the stream, got 'earthquake';"
        " allowed: earthquakes, flights; did you mean 'earthquakes'?"
    ]
    assert load_catalog(tmp_path / "catalog.yaml").plan("free") is not None, (
        "where contracts are not known, nobody knows"
    )


def test_a_revision_that_cannot_be_changed_any_more_may_name_a_stream_that_went() -> None:
    limits = {"streams": {"gone": {"bytes_per_second": {"rate": 10, "burst": 10}}}}
    plans = [Plan("free", 1, "Free", "EUR", limits=limits), Plan("free", 2, "Free", "EUR")]
    validate_catalog(Catalog.build([], plans, []), ["earthquakes"], ["one"])
    with pytest.raises(ConfigurationProblems):
        validate_catalog(Catalog.build([], plans[:1], []), ["earthquakes"], ["one"])


@pytest.mark.parametrize("name", ["a\r\nb", "a\x1b[31mb", "a\u2028b", "a\u202eb"])
def test_a_problem_is_one_line_that_draws_nothing(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigurationProblems) as caught:
        load(tmp_path, ("- name: acme", f"- name: {json.dumps(name)}"), ("Europe/Berlin", "Mars"))
    assert len(caught.value.problems) == 2
    assert all(line.isprintable() for line in caught.value.problems)
    assert any(f"tenant {name.encode('unicode_escape').decode()}.time_zone" in line for line in caught.value.problems)


# What contradicts itself or names what is not there: edits of the shop, and the whole line of each problem.
CONTRADICTIONS: dict[str, tuple[list[tuple[str, str]], list[str]]] = {
    "a product that is not there": (
        [("{product: geo, plan: free,", "{product: goe, plan: free,")],
        ["40: tenant acme: product, got 'goe'; allowed: all, geo; did you mean 'geo'?"],
    ),
    "a plan that is not there": (
        [("{product: geo, plan: free,", "{product: geo, plan: fre,")],
        ["40: tenant acme: plan, got 'fre'; allowed: free, pro; did you mean 'free'?"],
    ),
    "a stream that is not there": (
        [("streams: [earthquakes, flights]", "streams: [earthquakes, fligths]")],
        [
            "7: product all: no contract for the stream, got 'fligths'; allowed: earthquakes, flights;"
            " did you mean 'flights'?"
        ],
    ),
    "entitlements that overlap": (
        [("{product: all, plan: pro, from: 2026-07-01}", "{product: geo, plan: free, from: 2026-06-30}")],
        [
            "41: tenant acme: entitlement to geo overlaps the one from 2026-01-01 to 2026-07-01,"
            " got 2026-06-30; allowed: dates apart, each from the day the other ends"
        ],
    ),
    "one issuer and client_id twice": (
        [("{client_id: globex-app, title: App}", "{client_id: acme-web, title: App, issuer: builtin}")],
        [
            "46: tenant globex: application acme-web: client_id is taken by tenant acme (catalog.yaml:37),"
            " got 'acme-web'; allowed: a client_id once for each issuer, over all tenants"
        ],
    ),
    "a stream through two plans": (
        [("plan: pro, from: 2026-07-01", "plan: pro, from: 2026-06-30")],
        [
            "41: tenant acme: stream earthquakes through two plans, geo at free and all at pro,"
            " got 'pro'; allowed: one plan a stream, here free"
        ],
    ),
    "masks that contradict each other": (
        [
            ("streams: [earthquakes]", "streams: [earthquakes]\n    masks: {earthquakes: {/id: drop}}"),
            ("{product: all, plan: pro, from: 2026-07-01}", "{product: all, plan: free, from: 2026-06-30}"),
        ],
        [
            "42: tenant acme: stream earthquakes under two different masks, /id drop by geo and none by all,"
            " got 'all'; allowed: the same masks in both products, or dates apart"
        ],
    ),
}


@pytest.mark.parametrize("what", CONTRADICTIONS)
def test_a_contradiction_is_refused_at_its_line(tmp_path: Path, what: str) -> None:
    edits, lines = CONTRADICTIONS[what]
    with pytest.raises(ConfigurationProblems) as caught:
        load(tmp_path, *edits)
    assert [line.replace(f"{tmp_path}/", "") for line in caught.value.problems] == [
        f"catalog.yaml:{one}" for one in lines
    ]

"""Who may read what: every combination of the rule's conditions, and what each refusal tells and does not tell."""

from __future__ import annotations

import itertools
from dataclasses import replace
from datetime import UTC, date, datetime
from typing import Any

import pytest
from msgspec import structs

from gateway.auth.explain import TOLD, explain
from gateway.auth.policy import CONDITIONS, decide, readable
from gateway.auth.revocation import Revocation, Revocations
from gateway.catalog.catalog import Catalog
from gateway.errors import (
    AccessWithdrawn,
    ClaimMissing,
    GatewayError,
    InsufficientScope,
    NotEntitled,
    StreamNotFound,
    StreamRetired,
    TenantSuspended,
    TokenInvalid,
    TransportNotOffered,
    Unavailable,
)
from gateway.model import (
    Application,
    Contract,
    Entitlement,
    FieldType,
    Grant,
    Lifecycle,
    Masks,
    Plan,
    Principal,
    Product,
    RowFilter,
    RowMatch,
    Tenant,
    Transport,
    Visibility,
)

NOON = datetime(2026, 6, 15, 12, tzinfo=UTC).timestamp()
FREE = Plan("free", 1, "Free", "EUR", {"connections": 2})


def contract_of(
    *,
    lifecycle: Lifecycle = "published",
    visibility: Visibility = "entitled",
    transports: tuple[Transport, ...] = ("sse", "pull"),
    row_filter: RowFilter | None = None,
    stream: str = "flights",
    content_type: str = "application/json",
) -> Contract:
    return Contract(
        stream=stream,
        id="urn:example:flights",
        title="Flights",
        version="1.0.0",
        description="",
        lifecycle=lifecycle,
        owner="me",
        visibility=visibility,
        scopes=("streams:read", "flights:read"),
        transports=transports,
        cluster="main",
        topic="secret.topic.v1",
        content_type=content_type,
        message_name="flight",
        row_filter=row_filter,
        successor="flights-2" if lifecycle == "retired" else None,
    )


def catalog_of(
    *,
    status: str = "active",
    entitled: bool = True,
    start: date = date(2026, 1, 1),
    end: date | None = None,
    zone: str = "UTC",
    attributes: dict[str, Any] | None = None,
    issuers: tuple[str, ...] = ("idp",),
    masks: Masks = (),
) -> Catalog:
    entitlements = (Entitlement("acme", "aviation", "free", start, end),) if entitled else ()
    tenant = Tenant(
        name="acme",
        title="Acme",
        status="suspended" if status == "suspended" else "active",
        time_zone=zone,
        attributes=attributes or {},
        applications=(Application("acme-web", "acme", "Web"),),
        entitlements=entitlements,
    )
    product = Product("aviation", "Aviation", ("flights",), {"flights": masks} if masks else {})
    return Catalog.build([product], [FREE], [tenant], issuers=issuers)


def principal_of(
    *, client_id: str = "acme-web", scopes: str = "streams:read flights:read", claims: dict[str, Any] | None = None
) -> Principal:
    return Principal(
        issuer="idp",
        client_id=client_id,
        subject="user",
        scopes=frozenset(scopes.split()),
        token_id="t1",
        expires_at=int(NOON) + 60,
        claims=claims or {},
    )


def decided(**parts: Any) -> Grant | GatewayError:
    try:
        return decide(
            parts.get("principal", principal_of()),
            parts.get("contract", contract_of()),
            parts.get("catalog", catalog_of()),
            transport=parts.get("transport", "sse"),
            now=parts.get("now", NOON),
        )
    except GatewayError as error:
        return error


def test_a_grant_holds_what_a_read_needs() -> None:
    contract = contract_of(row_filter=RowFilter("origin", "/origin", "string", claim="airport"))
    principal = principal_of(claims={"airport": "ORD"})
    grant = decided(contract=contract, principal=principal)
    assert grant == Grant(
        principal=principal,
        tenant="acme",
        application="acme-web",
        contract=contract,
        plan=FREE,
        rows=RowMatch("/origin", frozenset({"ORD"})),
    )
    assert grant.expires_at == principal.expires_at


APPLICATION = ("known", "unknown")
STATUS = ("active", "suspended")
STREAM = ("absent", "draft", "published", "deprecated", "retired")
VISIBILITY = ("public", "entitled")
ENTITLED = (True, False)
SCOPES = ("streams:read flights:read", "streams:read", "")
TRANSPORTS = ("sse", "ws")
CLAIM = ("ORD", None)


def expected(
    application: str,
    status: str,
    stream: str,
    visibility: str,
    entitled: bool,
    scopes: str,
    transport: str,
    claim: str | None,
) -> type[GatewayError] | type[Grant]:
    """The rule as a list of sentences, the first that holds decides."""
    sentences: list[tuple[bool, type[GatewayError]]] = [
        (application == "unknown", TokenInvalid),
        (status == "suspended", TenantSuspended),
        (stream in ("absent", "draft"), StreamNotFound),
        (visibility == "entitled" and not entitled, StreamNotFound),
        (stream == "retired", StreamRetired),
        (not entitled, NotEntitled),
        (scopes != SCOPES[0], InsufficientScope),
        (transport == "ws", TransportNotOffered),
        (claim is None, ClaimMissing),
    ]
    return next((error for holds, error in sentences if holds), Grant)


@pytest.mark.parametrize(("application", "status", "stream"), list(itertools.product(APPLICATION, STATUS, STREAM)))
def test_every_combination_of_the_conditions_has_its_answer(application: str, status: str, stream: str) -> None:
    for rest in itertools.product(VISIBILITY, ENTITLED, SCOPES, TRANSPORTS, CLAIM):
        visibility, entitled, scopes, transport, claim = rest
        contract = (
            None
            if stream == "absent"
            else contract_of(
                lifecycle=stream,  # type: ignore[arg-type]
                visibility=visibility,  # type: ignore[arg-type]
                row_filter=RowFilter("origin", "/origin", "string", claim="airport"),
            )
        )
        principal = principal_of(
            client_id="acme-web" if application == "known" else "stranger",
            scopes=scopes,
            claims={"airport": claim} if claim else {},
        )
        catalog = catalog_of(status=status, entitled=entitled)
        answer = decided(principal=principal, contract=contract, catalog=catalog, transport=transport)
        wanted = expected(application, status, stream, *rest)
        assert type(answer) is wanted, (application, status, stream, *rest)
        listed: list[str] = []
        if application == "known" and status == "active":
            contracts = [contract] if contract is not None else []
            listed = [one.contract.stream for one in readable(principal, contracts, catalog, now=NOON)]
        over_sse = decided(principal=principal, contract=contract, catalog=catalog, transport="sse")
        assert bool(listed) is isinstance(over_sse, Grant), "the list holds exactly what can be read"
        told = explain(principal, contract, catalog, Revocations(), transport=transport, now=NOON)  # type: ignore[arg-type]
        assert type(told.refusal) is (type(None) if wanted is Grant else wanted), "explained as it is decided"
        assert [one.condition for one in told.verdicts] == ["revocations", *(one.name for one in CONDITIONS)]
        for one in told.verdicts:
            assert one.told
            assert (one.refusal is not None) is (one.outcome == "not met")


def test_absent_draft_and_foreign_streams_answer_alike() -> None:
    answers = [
        decided(contract=None),
        decided(contract=contract_of(lifecycle="draft")),
        decided(contract=contract_of(), catalog=catalog_of(entitled=False)),
        decided(contract=contract_of(lifecycle="retired"), catalog=catalog_of(entitled=False)),
        decided(contract=contract_of(), catalog=catalog_of(start=date(2027, 1, 1))),
        decided(contract=None, principal=principal_of(scopes="")),
    ]
    told = {(type(one), one.detail, tuple(one.headers)) for one in answers if isinstance(one, GatewayError)}
    assert len(answers) == 6
    assert told == {(StreamNotFound, "There is no stream of this name that you may read.", ())}


def test_no_refusal_tells_topic_or_cluster() -> None:
    for lifecycle, visibility in itertools.product(("draft", "published", "retired"), ("public", "entitled")):
        contract = contract_of(lifecycle=lifecycle, visibility=visibility)  # type: ignore[arg-type]
        for catalog, scopes in itertools.product((catalog_of(), catalog_of(entitled=False)), SCOPES):
            answer = decided(contract=contract, catalog=catalog, principal=principal_of(scopes=scopes), transport="ws")
            assert isinstance(answer, GatewayError)
            assert "secret.topic" not in f"{answer.detail}{answer.headers}"


def test_a_missing_scope_is_named_and_the_challenge_lists_all() -> None:
    answer = decided(principal=principal_of(scopes="streams:read other"))
    assert isinstance(answer, InsufficientScope)
    assert answer.detail == "The token lacks the scope flights:read."
    assert answer.scopes == ("streams:read", "flights:read")


def test_a_retired_stream_names_its_successor() -> None:
    answer = decided(contract=contract_of(lifecycle="retired"))
    assert isinstance(answer, StreamRetired)
    assert answer.detail == "The stream flights is retired; its successor is flights-2."


def test_another_transport_is_refused_with_those_offered() -> None:
    answer = decided(transport="ws")
    assert isinstance(answer, TransportNotOffered)
    assert answer.detail == "This stream is offered over sse, pull, not ws."


@pytest.mark.parametrize(
    ("kind", "held", "values"),
    [
        ("string", "ORD", {"ORD"}),
        ("string", ["ORD", "SFO"], {"ORD", "SFO"}),
        ("string", 7, None),
        ("string", [], None),
        ("string", ["ORD", 7], None),
        ("string", {"a": "b"}, None),
        ("string", None, None),
        ("string", [["ORD"]], None),
        ("string", True, None),
        ("number", 7, {7}),
        ("number", 7.5, {7.5}),
        ("number", True, None),
        ("number", "7", None),
        ("number", float("nan"), None),
        ("number", [1, 2.5], {1, 2.5}),
        ("integer", 7, {7}),
        ("integer", 7.0, {7.0}),
        ("integer", 7.5, None),
        ("integer", float("inf"), None),
        ("integer", False, None),
        ("boolean", True, {True}),
        ("boolean", 1, None),
        ("boolean", [True, False], {True, False}),
    ],
)
@pytest.mark.parametrize("by", ["claim", "attribute"])
def test_a_row_filter_takes_scalars_of_its_type_and_nothing_else(
    by: str, kind: FieldType, held: Any, values: set[Any] | None
) -> None:
    row = RowFilter("f", "/f", kind, **{by: "region"})
    contract = contract_of(row_filter=row)
    claims, attributes = ({"region": held}, {}) if by == "claim" else ({}, {"region": held})
    answer = decided(
        contract=contract, principal=principal_of(claims=claims), catalog=catalog_of(attributes=attributes)
    )
    if values is None:
        assert isinstance(answer, ClaimMissing)
        assert "region" in answer.detail
        assert kind in answer.detail
    else:
        assert isinstance(answer, Grant)
        assert answer.rows == RowMatch("/f", frozenset(values))


def test_a_claim_never_stands_in_for_an_attribute() -> None:
    contract = contract_of(row_filter=RowFilter("f", "/f", "string", attribute="region"))
    assert isinstance(decided(contract=contract, principal=principal_of(claims={"region": "eu"})), ClaimMissing)


def moment(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()


@pytest.mark.parametrize(
    ("zone", "begins", "ends"),
    [
        ("UTC", "2026-03-29T00:00:00+00:00", "2026-11-01T00:00:00+00:00"),
        ("Europe/Berlin", "2026-03-29T00:00:00+01:00", "2026-11-01T00:00:00+01:00"),
        ("America/New_York", "2026-03-29T00:00:00-04:00", "2026-11-01T00:00:00-04:00"),
        ("Pacific/Kiritimati", "2026-03-29T00:00:00+14:00", "2026-11-01T00:00:00+14:00"),
        # Clocks in Beirut go from 00:00 to 01:00 that night: the day begins with the skip.
        ("Asia/Beirut", "2026-03-28T22:00:00+00:00", "2026-11-01T00:00:00+02:00"),
    ],
)
def test_an_entitlement_holds_from_its_first_day_to_before_its_last_in_the_tenants_zone(
    zone: str, begins: str, ends: str
) -> None:
    catalog = catalog_of(zone=zone, start=date(2026, 3, 29), end=date(2026, 11, 1))
    assert isinstance(decided(catalog=catalog, now=moment(begins) - 0.001), StreamNotFound)
    assert isinstance(decided(catalog=catalog, now=moment(begins)), Grant)
    assert isinstance(decided(catalog=catalog, now=moment(ends) - 0.001), Grant)
    assert isinstance(decided(catalog=catalog, now=moment(ends)), StreamNotFound)


def test_without_an_issuer_no_token_matches_where_several_are_configured() -> None:
    assert isinstance(decided(catalog=catalog_of(issuers=("idp", "builtin"))), TokenInvalid)
    assert isinstance(decided(catalog=catalog_of(issuers=())), TokenInvalid)
    assert isinstance(decided(principal=structs.replace(principal_of(), issuer="other")), TokenInvalid)


def test_the_plan_is_that_of_the_entitlement_in_force() -> None:
    pro = Plan("pro", 3, "Pro", "EUR")
    old = replace(pro, revision=2)
    tenant = replace(
        catalog_of().tenants[0],
        entitlements=(
            Entitlement("acme", "aviation", "free", date(2026, 1, 1), date(2026, 6, 15)),
            Entitlement("acme", "aviation", "pro", date(2026, 6, 15)),
        ),
    )
    catalog = Catalog.build(catalog_of().products, [FREE, pro, old], [tenant], issuers=["idp"])
    before, after = decided(catalog=catalog, now=NOON - 86_400), decided(catalog=catalog)
    assert isinstance(before, Grant)
    assert isinstance(after, Grant)
    assert before.plan == FREE
    assert after.plan == pro


def test_the_list_is_sorted_and_holds_entitlement_and_plan() -> None:
    tenant = catalog_of().tenants[0]
    catalog = Catalog.build([Product("aviation", "A", ("b", "a", "c"))], [FREE], [tenant], issuers=["idp"])
    contracts = [contract_of(stream=stream, visibility="public") for stream in ("c", "d", "a", "b")]
    contracts[0] = replace(contracts[0], lifecycle="deprecated")
    found = readable(principal_of(), contracts, catalog, now=NOON)
    assert [one.contract.stream for one in found] == ["a", "b", "c"]
    assert [one.plan for one in found] == [FREE] * 3
    assert found[0].entitlement == tenant.entitlements[0]


def test_a_suspended_or_unknown_caller_gets_no_list() -> None:
    with pytest.raises(TenantSuspended):
        readable(principal_of(), [contract_of()], catalog_of(status="suspended"), now=NOON)
    with pytest.raises(TokenInvalid):
        readable(principal_of(client_id="stranger"), [contract_of()], catalog_of(), now=NOON)


MASKED: Masks = (("/delay", "null"), ("/tail", "drop"))


def test_a_grant_holds_the_masks_of_the_product_it_is_by() -> None:
    answer = decided(catalog=catalog_of(masks=MASKED))
    assert isinstance(answer, Grant)
    assert answer.masks == MASKED
    (listed,) = readable(principal_of(), [contract_of()], catalog_of(masks=MASKED), now=NOON)
    assert listed.masks == MASKED
    plain = decided()
    assert isinstance(plain, Grant)
    assert plain.masks == ()


def test_what_cannot_be_masked_is_not_given() -> None:
    contract = contract_of(content_type="text/plain")
    assert isinstance(decided(contract=contract, catalog=catalog_of(masks=MASKED)), Unavailable)
    assert isinstance(decided(contract=contract), Grant)
    assert readable(principal_of(), [contract], catalog_of(masks=MASKED), now=NOON) == []


def test_every_condition_can_be_explained() -> None:
    assert list(TOLD) == [one.name for one in CONDITIONS]


def test_scopes_that_nobody_knows_are_assumed_and_refuse_nothing() -> None:
    def told(*, scopes_are_known: bool, **members: Any) -> Any:
        principal, contract = principal_of(scopes=""), contract_of(**members)
        return explain(
            principal,
            contract,
            catalog_of(),
            Revocations(),
            transport=None,
            now=NOON,
            scopes_are_known=scopes_are_known,
        )

    assert isinstance(told(scopes_are_known=True).refusal, InsufficientScope)
    explanation = told(scopes_are_known=False)
    assert explanation.refusal is None
    (scopes,) = [one for one in explanation.verdicts if one.condition == "scopes"]
    assert (scopes.outcome, scopes.told) == (
        "assumed",
        "needed: streams:read flights:read; assumed that the token has them",
    )
    assert {one.outcome for one in explanation.verdicts if one is not scopes} == {"met"}
    assert isinstance(told(scopes_are_known=False, lifecycle="retired").refusal, StreamRetired)


def test_a_draft_does_not_meet_its_lifecycle() -> None:
    told = explain(
        principal_of(), contract_of(lifecycle="draft"), catalog_of(), Revocations(), transport=None, now=NOON
    )
    assert isinstance(told.refusal, StreamNotFound)
    assert [(one.outcome, one.told) for one in told.verdicts if one.condition == "lifecycle"] == [("not met", "draft")]


@pytest.mark.parametrize(
    ("kind", "value", "error"),
    [
        ("jti", "t1", TokenInvalid),
        ("sub", "user", TokenInvalid),
        ("client_id", "acme-web", AccessWithdrawn),
        ("tenant", "acme", AccessWithdrawn),
    ],
)
def test_a_revocation_is_explained_before_all_else(kind: Any, value: str, error: type[GatewayError]) -> None:
    told = explain(
        principal_of(),
        contract_of(),
        catalog_of(),
        Revocations([Revocation(kind, value, NOON + 1)]),
        transport=None,
        now=NOON,
    )
    assert isinstance(told.refusal, error)
    assert [one.outcome for one in told.verdicts] == ["not met"] + ["met"] * len(CONDITIONS)


def test_an_explanation_tells_what_each_condition_rests_on() -> None:
    row = RowFilter("origin", "/origin", "string", claim="airport")
    catalog = catalog_of(masks=MASKED, end=date(2026, 6, 1), zone="Europe/Berlin")
    principal = principal_of(scopes="streams:read", claims={"airport": ["ORD", "SFO"]})
    contract = contract_of(row_filter=row, lifecycle="retired")
    told = explain(principal, contract, catalog, Revocations(), transport="ws", now=NOON)
    assert [(one.condition, one.outcome, one.told) for one in told.verdicts] == [
        ("revocations", "met", "none holds of subject user, application acme-web, tenant acme"),
        ("application", "met", "acme-web of issuer idp is 'Web' of tenant acme"),
        ("tenant", "met", "acme is active"),
        ("contract", "met", "flights 1.0.0 is retired, visibility entitled"),
        (
            "entitlement",
            "not met",
            "aviation at free revision 1 from 2026-01-01 to 2026-06-01 exclusive: over (days of Europe/Berlin)",
        ),
        ("lifecycle", "not met", "retired, successor flights-2"),
        ("scopes", "not met", "needed: streams:read flights:read; the token has: streams:read"),
        ("transport", "not met", "offered: sse, pull; asked for: ws"),
        ("row_filter", "met", "/origin must be one of 'ORD', 'SFO', by claim airport"),
        ("masks", "unknown", "without an entitlement in force there is nothing to look at"),
    ]

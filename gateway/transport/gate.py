"""The way in, the same for every protocol: who is asking, for what, and may they."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING

from starlette.types import Scope

from gateway.auth.authority import Authority
from gateway.auth.policy import decide, member
from gateway.auth.tickets import Held, Ticket, Tickets
from gateway.catalog.listing import visible_filters
from gateway.clock import Clock
from gateway.counters import Counters
from gateway.errors import (
    BadRequest,
    GatewayError,
    InvalidParameter,
    OriginNotAllowed,
    RateLimited,
    TokenInvalid,
    TokenMissing,
    Unauthorized,
    Unavailable,
)
from gateway.limits.admission import Admission
from gateway.limits.plans import plan_of
from gateway.limits.seats import Seat
from gateway.metering.desk import UsageDesk
from gateway.model import Application, Grant, Plan, Principal, Transport
from gateway.subscription import events
from gateway.subscription.budget import Budget
from gateway.subscription.encode import Framing
from gateway.subscription.opening import Opening, Openings
from gateway.subscription.outlet import Outlet
from gateway.subscription.registry import Registry
from gateway.subscription.request import ReadRequest, parse_read
from gateway.subscription.sessions import Sessions
from gateway.subscription.shape import Shape, shape_of
from gateway.subscription.subscription import Subscription
from gateway.tracing import current_span
from gateway.transport.again import SAME_SECONDS, RefusedAgain
from gateway.transport.cors import origin_of, own_origin
from gateway.transport.credentials import credential_of
from gateway.transport.lifecycle import lifecycle_headers
from gateway.transport.snapshot import Snapshot

if TYPE_CHECKING:
    from gateway.transport.office import Statements


class Gate:
    """Lets reads in: token, grant, request, start, in this order, so that a refusal tells no more than it must."""

    def __init__(
        self,
        *,
        snapshot: Callable[[], Snapshot],
        openings: Openings,
        registry: Registry,
        sessions: Sessions,
        tickets: Tickets,
        counters: Counters,
        clock: Clock,
        public_url: Callable[[], str],
        authority: Authority | None = None,
        usage: UsageDesk | None = None,
        statements: Statements | None = None,
        admission: Admission | None = None,
    ) -> None:
        """``authority`` None: we give no tokens away ourselves; ``usage`` None: nothing is metered here;
        ``statements`` None: none are made; ``admission`` None: nothing is limited."""
        self.snapshot = snapshot
        self.authority = authority
        self.usage = usage
        self.statements = statements
        self.admission = admission
        self.registry = registry
        self.sessions = sessions
        self.tickets = tickets
        self.counters = counters
        self.public_url = public_url
        self._openings = openings
        self._clock = clock

    def now(self) -> float:
        """Epoch seconds."""
        return self._clock.now()

    async def principal(self, scope: Scope, *, takes_ticket: bool = False) -> Principal:
        """Who the request's one credential says it is, which counts as one of its plan's requests.

        Raises Unauthorized and AmbiguousCredentials; Unavailable where what it takes to tell cannot be had;
        RateLimited, and TooManyAttempts where too much of what came from there was refused.
        """
        try:
            holder = await self._credential_holder(scope, takes_ticket=takes_ticket)
        except TokenMissing:
            raise
        except Unauthorized:
            self._note_refused(scope)
            raise
        principal = holder.principal if isinstance(holder, Ticket) else holder
        scope["state"]["access_fields"].update(client_id=principal.client_id, issuer=principal.issuer)
        await self._count_request(scope, principal)
        self._check_origin(scope, principal)
        if isinstance(holder, Ticket):
            self._check_ticket(scope, holder)
        return principal

    def _note_refused(self, scope: Scope) -> None:
        if self.admission is not None:
            self.admission.addresses.refused(_address(scope))

    async def _credential_holder(self, scope: Scope, *, takes_ticket: bool) -> Principal | Ticket:
        credential = credential_of(scope)
        # Who was found good before goes on: others at the same address are no reason to turn them away.
        held = None if self.admission is None else self.admission.addresses
        if held is not None and held.has_some and not self.snapshot().verifier.remembers(credential.text):
            held.check(_address(scope))
        if credential.kind == "token":
            return await self.verify(credential.text)
        if takes_ticket:
            return await self._ticket_holder(scope, credential.text)
        raise InvalidParameter("A ticket opens a read over SSE, WebSocket or NDJSON, and nothing else.")

    async def _count_request(self, scope: Scope, principal: Principal) -> None:
        found = plan_of(principal, scope["path_params"].get("stream"), self.snapshot().catalog, now=self._clock.now())
        if self.admission is None or found is None:
            return
        # Spelt when the answer begins: what this request takes is in it, and refusals have it too.
        headers = scope["state"]["answer_headers"] = partial(self.admission.fields, *found)
        try:
            await self.admission.request(*found)
        except RateLimited:
            scope["state"]["again"] = RefusedAgain(
                partial(self._refusal, self._until(principal), found), headers=headers
            )
            raise

    def _until(self, principal: Principal) -> tuple[Snapshot, float]:
        return self.snapshot(), min(principal.expires_at, self._clock.now() + SAME_SECONDS)

    def _refusal(self, known: tuple[Snapshot, float], found: tuple[str, Plan]) -> RateLimited | None:
        snapshot, until = known
        if self.admission is None or self.registry.draining.is_set():
            return None
        if self.snapshot() is not snapshot or self._clock.now() >= until:
            return None
        return self.admission.refusal(*found)

    async def _ticket_holder(self, scope: Scope, text: str) -> Ticket:
        try:
            shown = await self.tickets.look(text)
            self.snapshot().check_revoked(shown.ticket.principal, now=self._clock.now())
        except TokenInvalid as error:
            self.counters.count_refused_token(error.reason)
            raise
        scope["state"]["ticket"] = shown
        return shown.ticket

    def _check_ticket(self, scope: Scope, ticket: Ticket) -> None:
        try:
            ticket.check(stream=scope["path_params"]["stream"], origin=origin_of(scope))
        except TokenInvalid as error:
            self.counters.count_refused_token(error.reason)
            self._note_refused(scope)
            raise

    async def verify(self, token: str) -> Principal:
        """Who the token says is calling, if nobody has taken it back. Raises Unauthorized and AccessWithdrawn."""
        try:
            principal = await self.snapshot().verifier.authenticate(token)
            self.snapshot().check_revoked(principal, now=self._clock.now())
        except TokenInvalid as error:
            self.counters.count_refused_token(error.reason)
            raise
        return principal

    def grant(self, principal: Principal, stream: str, transport: Transport) -> Grant:
        """What policy allows now. Raises the GatewayError that says why nothing."""
        return self.snapshot().grant(principal, stream, transport, now=self._clock.now())

    def application(self, principal: Principal) -> Application:
        """The principal's application. Raises TokenInvalid where there is none, TenantSuspended."""
        return member(principal, self.snapshot().catalog)[1]

    def tenant(self, principal: Principal) -> str:
        """The principal's organisation, by name. Raises TokenInvalid where there is none, TenantSuspended."""
        return member(principal, self.snapshot().catalog)[0].name

    def _check_origin(self, scope: Scope, principal: Principal) -> None:
        """A page may use an application's token only where the application lists its origin; our own pages may."""
        origin = origin_of(scope)
        if origin is None or origin == own_origin(self.public_url()):
            return
        if origin not in self.application(principal).origins:
            raise OriginNotAllowed("The application does not list this origin.")

    async def admit(self, scope: Scope, *, transport: Transport) -> tuple[Grant, ReadRequest, Shape]:
        """The grant, the parsed request and the shape of a read."""
        stream = scope["path_params"]["stream"]
        known = self.snapshot().contracts
        contract = known.get(stream)
        fields = scope["state"]["access_fields"]
        fields["transport"] = transport
        if contract is not None:
            # A name that no contract has is the client's word, and stays out of the log.
            fields["stream"] = stream
        try:
            self.registry.refuse_while_draining()
            principal = await self.principal(scope, takes_ticket=transport != "pull")
            # Asking for keys may have taken a while: what holds is what holds now.
            contract = self.snapshot().contracts.get(stream)
            grant = decide(principal, contract, self.snapshot().catalog, transport=transport, now=self._clock.now())
            request = parse_read(scope["query_string"], transport=transport, last_event_id=_last_event_id(scope))
            filters = visible_filters(grant.contract, grant.masks)
            shape = shape_of(grant.contract, request, transport=transport, filters=filters, masks=grant.masks)
        except GatewayError as error:
            name = stream if contract else None
            self.counters.count_open(name, protocol=transport, outcome=error.code)
            again = scope["state"].get("again")
            if again is not None:
                again.on_refusal = lambda code: self.counters.count_open(name, protocol=transport, outcome=code)
            raise
        fields.update(tenant=grant.tenant, plan=grant.plan.name)
        return grant, request, shape

    def open(self, scope: Scope, grant: Grant, request: ReadRequest, shape: Shape, *, transport: Transport) -> _Way:
        """Where the read starts; the topic, the read's seat and the request's ticket stay in use until the block is
        left."""
        return _Way(self, scope, grant, request, shape, transport)

    async def enter(
        self, scope: Scope, grant: Grant, request: ReadRequest, shape: Shape, transport: Transport, way: _Way
    ) -> Opening:
        """Everything that ``way`` has to give back is noted in it as soon as it is had."""
        ticket = scope["state"].get("ticket")
        try:
            if ticket is not None:
                way.ticket = await self.tickets.take(ticket)
            if self.admission is not None:
                way.seat = await self.admission.begin(grant, is_held=transport != "pull")
                scope["state"]["seat"] = way.seat
            way.opening = await self._openings.open(grant.contract, request)
            self.registry.admit(way.opening, grant, shape)
        except GatewayError as error:
            self.counters.count_open(grant.contract.stream, protocol=transport, outcome=error.code)
            raise
        self.counters.count_open(grant.contract.stream, protocol=transport)
        return way.opening

    async def leave(self, way: _Way) -> None:
        """Give back what the way in has taken."""
        if way.opening is not None:
            self.registry.release(way.opening)
        if self.admission is not None:
            self.admission.end(way.seat)
        if way.ticket is not None:
            await self.tickets.give_back(way.ticket)

    def check_still_granted(self, grant: Grant, *, transport: Transport) -> None:
        """For what was waited for: raises what a new request would meet, Unavailable where it would be served other
        records."""
        now = self.grant(grant.principal, grant.contract.stream, transport)
        if now.contract is not grant.contract or (now.rows, now.masks) != (grant.rows, grant.masks):
            raise Unavailable("Your access has changed while this request waited.", retry_after_ms=0)

    @contextmanager
    def counted(self, scope: Scope, grant: Grant, *, transport: Transport) -> Iterator[Budget]:
        """The budget of a read that is no subscription, open until the block is left."""
        session = scope["state"]["correlation_id"]
        budget = self.registry.budget(grant, session=session, transport=transport)
        try:
            yield budget
        finally:
            budget.end()
            self.counters.end_read(budget.tally)

    def subscribe(
        self,
        scope: Scope,
        opening: Opening,
        grant: Grant,
        shape: Shape,
        *,
        session: str,
        transport: Transport,
        outlet: Outlet,
    ) -> Subscription:
        """An open stream over ``outlet``; what there is to say of it at its end goes into the access line."""
        subscription = self.registry.subscribe(
            opening, grant, shape, session=session, transport=transport, outlet=outlet
        )
        seat = scope["state"].pop("seat", None)
        if seat is not None:
            seat.bind(subscription)
        # What was withdrawn while the way in was gone through was told to those who were open then.
        self.sessions.look_at(subscription)
        scope["state"]["access_fields"]["session"] = session
        scope["state"]["access_summary"] = subscription.summary
        span = current_span.get()
        if span is not None:
            # The way in is over; the stream itself may go on for days.
            span.end()
        # What was noted on the way in, the subscription knows: it need not be kept twice for as long as it lasts.
        scope["state"]["access_fields"].clear()
        return subscription

    def welcome(self, opening: Opening, grant: Grant, shape: Shape, *, session: str, framing: Framing) -> bytes:
        """The first frame of a WebSocket or NDJSON read."""
        said = events.welcome(grant, session=session, heartbeat_seconds=self.registry.heartbeat_seconds)
        return framing.event("welcome", said, cursor=self.registry.start_cursor(opening, grant, shape))

    def stream_headers(self, opening: Opening, grant: Grant, shape: Shape) -> list[tuple[bytes, bytes]]:
        """Headers that every read's answer has."""
        headers = [(b"gateway-start-cursor", self.registry.start_cursor(opening, grant, shape).encode("ascii"))]
        return headers + lifecycle_headers(grant)


class _Way:
    """One read's way in and out. Written out, since a generator or an exit stack would weigh as much as the rest of an
    idle read's way in."""

    __slots__ = ("_asked", "_gate", "opening", "seat", "ticket")

    def __init__(
        self, gate: Gate, scope: Scope, grant: Grant, request: ReadRequest, shape: Shape, transport: Transport
    ) -> None:
        self._gate = gate
        self._asked: tuple[Scope, Grant, ReadRequest, Shape, Transport] | None
        self._asked = (scope, grant, request, shape, transport)
        self.ticket: Held | None = None
        self.seat: Seat | None = None
        self.opening: Opening | None = None

    async def __aenter__(self) -> Opening:
        asked, self._asked = self._asked, None
        if asked is None:
            raise RuntimeError("a way in is gone once")
        try:
            return await self._gate.enter(*asked, self)
        except BaseException:
            await self._gate.leave(self)
            raise

    async def __aexit__(self, *_: object) -> None:
        await self._gate.leave(self)


def _address(scope: Scope) -> str | None:
    return scope["client"][0] if scope.get("client") else None


def _last_event_id(scope: Scope) -> str | None:
    sent = [value for name, value in scope["headers"] if name == b"last-event-id"]
    if len(sent) > 1:
        raise BadRequest("The request holds more than one Last-Event-ID header.")
    # An EventSource that saw no id yet sends none, or an empty one.
    return sent[0].decode("latin-1").strip() or None if sent else None

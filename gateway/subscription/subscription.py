"""One open stream: takes slices, writes them, counts them, keeps its appointments, and ends once."""

from __future__ import annotations

import logging
import math
import random
import time
from collections.abc import Callable
from functools import partial
from typing import Any, Final

from gateway.clock import Clock
from gateway.counters import CLIENT_GONE, Counters
from gateway.errors import GatewayError, Internal, TooSlow
from gateway.hub.feed import TopicFeed
from gateway.hub.pump import Pump
from gateway.model import Grant, Transport, Vector
from gateway.subscription import events
from gateway.subscription.budget import Budget
from gateway.subscription.outlet import Outlet
from gateway.subscription.reading import Reading
from gateway.subscription.term import Term
from gateway.subscription.wheel import Timer, TimerWheel

log = logging.getLogger("gateway.subscription")
TOO_SLOW_SECONDS: Final = 20.0
EXPLAIN_SECONDS: Final = 0.2
"""By then it is known whether a read waits for a rate, or for the answer to its tenant's first question only."""


class Subscription:
    """The actor between one reading and one outlet. All its methods are synchronous and run on the loop.

    Takes turns at the pump; hears of records from the feed; a paused outlet leaves both until it resumes. Whatever
    ends it goes through ``end``, once.
    """

    __slots__ = (
        "_clock",
        "_cursor",
        "_explaining",
        "_heartbeat",
        "_heartbeat_seconds",
        "_idle",
        "_on_end",
        "_outlet",
        "_pacing",
        "_paused_by_client",
        "_pump",
        "_routed",
        "_term",
        "_wheel",
        "budget",
        "counters",
        "ended",
        "feed",
        "grant",
        "opened_at",
        "queued",
        "reading",
        "session",
        "transport",
    )

    def __init__(
        self,
        *,
        session: str,
        grant: Grant,
        transport: Transport,
        feed: TopicFeed,
        outlet: Outlet,
        cursor: Callable[[Vector], str],
        pump: Pump,
        wheel: TimerWheel,
        clock: Clock,
        counters: Counters,
        budget: Budget,
        heartbeat_seconds: float,
        on_end: Callable[[Subscription], None],
    ) -> None:
        self.budget = budget
        self.session = session
        self.grant = grant
        self.opened_at = clock.now()
        self.transport = transport
        self.feed = feed
        self.reading: Reading | None = None
        self.counters = counters
        self.queued = False
        self.ended: GatewayError | bool = False
        self._outlet = outlet
        self._clock = clock
        self._cursor = cursor
        self._pump = pump
        self._wheel = wheel
        self._heartbeat_seconds = heartbeat_seconds
        self._on_end = on_end
        self._paused_by_client = False
        self._idle = False
        self._routed = False
        self._heartbeat: Timer | None = None
        self._pacing: Timer | None = None
        self._explaining: Timer | None = None
        self._term = Term(wheel, clock)

    def start(self, reading: Reading) -> None:
        """Begin to deliver."""
        self.reading = reading
        self.budget.begin(reading.vector())
        self._outlet.on_resume = self.wake
        self._outlet.on_close = self.leave
        # The first beat is anywhere in the interval, so that streams opened together do not beat together.
        first = random.uniform(0.5, 1.0) * self._heartbeat_seconds  # noqa: S311
        self._heartbeat = self._wheel.schedule(first, self._beat)
        self._term.run(self.grant, self)
        self.wake()

    def renew(self, grant: Grant) -> None:
        """Go on under another grant of the same stream; what it lets through is ``go_on_with``'s concern."""
        self._settle_idle()
        self.budget.renew(grant, self.reading, now=self._clock.now())
        self.grant = grant
        self._term.run(grant, self)
        # It may have waited for the rates of the plan before.
        self.wake()

    def go_on_with(self, make: Callable[[Vector], Reading]) -> None:
        """From the next record on, read by what ``make`` returns for the vector reached."""
        before = self.reading
        if before is None or self.ended is not False:
            return
        self._settle_idle()
        self.budget.settle(before, now=self._clock.now())
        # What was found out on the way to here is told now: the other reading would not find it again.
        while (news := before.take_news()) is not None:
            self._outlet.write(news)
        self.reading = make(before.vector())
        before.close()
        self._idle = self._routed = False
        self.wake()

    # ---- delivering ----------------------------------------------------------------------------------------------

    def wake(self) -> None:
        """There may be something to send, and room to send it."""
        if self.ended is False and not self._paused_by_client:
            self._listen_to_all()
            self._pump.ready(self)

    def overtaken(self, index: int) -> None:
        """Records have come, and nothing before ``index`` was for this reader. See ``RoutedReader``."""
        if self._idle and self.reading is not None:
            self._idle = False
            self.reading.skip_to(index)

    def _listen_to_all(self) -> None:
        self._settle_idle()
        self.feed.forget(self)
        self.feed.listen(self)
        self._idle = self._routed = False

    def _rest(self, reading: Reading) -> None:
        """Nothing to send: wait for news, and where a look-up can tell, for those only that may be for this reader."""
        route = reading.route if reading.at_head else None
        if route is None:
            if self._routed:
                self._listen_to_all()
            return
        if not self._routed:
            self.feed.forget(self)
            self.feed.listen_for(self, route)
            self._routed = True
        self._idle = True

    def pump(self) -> bool:
        """Write one slice. See ``Pumped``."""
        reading = self.reading
        if reading is None or self.ended is not False:
            return False
        outlet = self._outlet
        if outlet.paused or self._paused_by_client:
            self._stand_aside()
            return False
        try:
            piece = self.budget.take(reading)
            if piece is None:
                if reading.failed is not None:
                    self.end(reading.failed)
                elif self.budget.is_held(reading):
                    self._hold()
                else:
                    self._rest(reading)
                return False
            if piece.body:
                outlet.write(piece)
                if self.budget.took(piece):
                    self._say_quota()
            if reading.more:
                return True
            if reading.is_routed:
                self._rest(reading)
            return False
        except GatewayError as error:
            # A quota is used up.
            self.end(error)
            return False
        except Exception as error:
            log.error("a stream failed", exc_info=error)
            self.end(Internal("The stream failed."))
            return False

    def _hold(self) -> None:
        """The plan's rates allow no more for now: nothing is dropped, and the order stays."""
        self._leave_feed()
        self.budget.wait(self)
        self._say_throttled()

    def _say_throttled(self, again_in_seconds: float = EXPLAIN_SECONDS) -> None:
        """Tell why nothing comes; where that is not known yet, soon after it is: a rate's answer comes at once, a
        quota's portion may take as long as the stores are away."""
        if self._explaining is not None:
            self._explaining.cancel()
            self._explaining = None
        if self.ended is not False or self.budget.is_told or not self.budget.was_held or self._outlet.paused:
            return
        if self.budget.hindrance() is None:
            later = min(2 * again_in_seconds, self._heartbeat_seconds)
            self._explaining = self._wheel.schedule(again_in_seconds, partial(self._say_throttled, later))
            return
        hindrance = self.budget.news()
        if hindrance is not None:
            behind_ms, left_ms = self._standing()
            self.say("throttled", events.throttled(hindrance, behind_ms=behind_ms, retention_in_ms=left_ms))

    def _leave_feed(self) -> None:
        self.feed.forget(self)
        self._settle_idle()
        # From here on nobody says what comes, so standing still no longer means that nothing did.
        self._idle = self._routed = False

    def _stand_aside(self) -> None:
        """Leave the wake list until the outlet resumes, and watch that it does."""
        self._leave_feed()
        self.budget.forget(self)
        if self._outlet.paused and self._pacing is None:
            self._pacing = self._wheel.schedule(TOO_SLOW_SECONDS, self._check_pace)

    def _check_pace(self) -> None:
        self._pacing = None
        if not self._outlet.paused or self.ended is not False:
            return
        waited = time.monotonic() - self._outlet.accepted_monotonic()
        if waited >= TOO_SLOW_SECONDS:
            self.end(TooSlow(f"No byte was accepted for {TOO_SLOW_SECONDS:.0f} s."))
        else:
            self._pacing = self._wheel.schedule(TOO_SLOW_SECONDS - waited, self._check_pace)

    def pause(self) -> None:
        """The client asks for silence; checkpoints go on."""
        self._paused_by_client = True

    def resume(self) -> None:
        """The client takes records again."""
        self._paused_by_client = False
        self.wake()

    # ---- saying --------------------------------------------------------------------------------------------------

    def say(self, name: str, data: dict[str, Any], *, with_cursor: bool = False) -> None:
        """A control event, between slices."""
        self._outlet.say(self._outlet.framing.event(name, data, cursor=self.cursor() if with_cursor else None))

    def cursor(self) -> str:
        """The cursor of the next record that was not sent."""
        if self.reading is None:
            raise RuntimeError("the subscription was not started")
        self._settle_idle()
        return self._cursor(self.reading.vector())

    def _settle_idle(self) -> None:
        """Bring a reader that rests up to the head: it was not woken, so nothing on the way was for it."""
        if self._idle and self.reading is not None:
            self.reading.skip_to(self.feed.log.head)

    def say_checkpoint(self, *, quota: dict[str, object] | None = None) -> None:
        """Where the stream stands: its cursor, how old the next record to send is, and how long that one is there.

        ``quota`` is news of another allowance than the read's own quota, which is told where there is none.
        """
        self._say_checkpoint(self.budget.quota_news() if quota is None else quota)

    def _say_quota(self) -> None:
        """So much of a quota is used that a reader wants to know at once: it may be gone before the next heartbeat."""
        news = self.budget.quota_news()
        if news is not None:
            self._say_checkpoint(news)

    def _say_checkpoint(self, quota: dict[str, object] | None) -> None:
        self._settle_idle()
        if self.reading is not None:
            self.budget.settle(self.reading, now=self._clock.now())
        behind_ms, left_ms = self._standing()
        said = events.checkpoint(behind_ms=behind_ms, retention_in_ms=left_ms, quota=quota)
        self.say("checkpoint", said, with_cursor=True)

    def _standing(self) -> tuple[int, int | None]:
        """How old the next record to send is, and how long it can still be read, in milliseconds."""
        following = self.reading.next_time() if self.reading is not None else None
        age_ms = None if following is None else int(time.time() * 1000) - following
        return max(0, age_ms or 0), self._left_ms(age_ms)

    def _left_ms(self, age_ms: int | None) -> int | None:
        """How long a record of this age can still be read, as Kafka keeps it and the contract allows."""
        kept_ms = self.feed.retention_ms
        if age_ms is None or kept_ms is None:
            return None
        max_age_seconds = self.grant.contract.replay.max_age_seconds
        kept_ms = kept_ms if max_age_seconds is None else min(kept_ms, max_age_seconds * 1000)
        return None if kept_ms == math.inf else max(0, int(kept_ms) - age_ms)

    def _beat(self) -> None:
        if self.ended is not False:
            return
        self._heartbeat = self._wheel.schedule(self._heartbeat_seconds, self._beat)
        if self._outlet.paused:
            self._stand_aside()
        else:
            self.say_checkpoint()

    def say_expiring(self) -> None:
        """The token's end is near; see ``Term``."""
        self.say("auth_expiring", events.auth_expiring(self.grant, session=self.session))

    # ---- ending --------------------------------------------------------------------------------------------------

    def leave(self) -> None:
        """The client has gone."""
        self.end(None)

    def end(self, error: GatewayError | None) -> None:
        """End the stream: say goodbye where somebody can hear it, and let go of everything. Idempotent."""
        if self.ended is not False:
            return
        self.ended = True if error is None else error
        for timer in (self._heartbeat, self._pacing, self._explaining):
            if timer is not None:
                timer.cancel()
        self._term.close()
        self.feed.forget(self)
        self._outlet.on_resume = self._outlet.on_close = None
        self._close_account(error)
        if self.reading is not None:
            self.reading.close()
        try:
            if error is not None:
                self._say_goodbye(error)
        except Exception as failure:
            # Whatever is wrong with it, its response ends and its things are given back.
            log.error("a goodbye failed", exc_info=failure)
        try:
            if isinstance(error, TooSlow):
                self._outlet.abort()
            self._outlet.finish(error)
        finally:
            self._on_end(self)

    def _close_account(self, error: GatewayError | None) -> None:
        budget, tally = self.budget, self.budget.tally
        budget.forget(self)
        if self.reading is not None:
            self._settle_idle()
            if error is None or isinstance(error, TooSlow):
                budget.take_back(self.reading, self._outlet.unsent())
            budget.settle(self.reading, now=self._clock.now())
        budget.end()
        self.counters.end_read(tally)
        self.counters.count_close(tally.kind.stream, protocol=self.transport, reason=self._close_reason())

    def _close_reason(self) -> str:
        return self.ended.code if isinstance(self.ended, GatewayError) else CLIENT_GONE

    def summary(self) -> dict[str, object]:
        """What there is to log of it when it is over."""
        grant = self.grant
        return {
            "client_id": grant.principal.client_id,
            "issuer": grant.principal.issuer,
            "tenant": grant.tenant,
            "plan": grant.plan.name,
            "stream": grant.contract.stream,
            "transport": self.transport,
            "session": self.session,
            "records": self.budget.tally.records,
            "bytes": self.budget.tally.bytes,
            "close_reason": self._close_reason(),
        }

    def _say_goodbye(self, error: GatewayError) -> None:
        if self.reading is not None:
            cursor = self.cursor()
            self._outlet.say(self._outlet.framing.event("goodbye", events.goodbye(error, cursor=cursor), cursor=cursor))

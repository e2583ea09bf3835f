"""Buckets, loans and leases as arithmetic: what is let through is never more than the rate gives, and never lost."""

from __future__ import annotations

import random
from fractions import Fraction

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from redis.asyncio import Redis

from gateway.limits.bucket import LARGEST, Bucket, Rate
from gateway.limits.lease import Lease
from gateway.limits.lending import NODE_US, Account, Ask, Given, decode_given, encode_exchanges
from gateway.limits.store import Script
from tests.parts.redis import RedisServer

SECOND = 1_000_000
START = 1_700_000_000 * SECOND
RATES = st.one_of(
    st.integers(1, 10**15),
    st.integers(1, 10**6).map(lambda thousandths: thousandths / 1000),
)


class Spent:
    """When how much was let through."""

    def __init__(self, rate: Rate) -> None:
        self.rate = rate
        self.times: list[tuple[int, int]] = []

    def add(self, now_us: int, count: int) -> None:
        if count:
            self.times.append((now_us, count))

    def worst_excess(self) -> Fraction:
        """By how many tokens the worst of all windows is over rate x time + burst; below zero where none is."""
        worst = Fraction(-(10**18))
        per_us = self.rate.per_second / SECOND
        # Kadane: the best sum of spends minus what the time between them gives back.
        best, last = Fraction(0), None
        for now_us, count in self.times:
            if last is not None:
                best = max(Fraction(0), best - per_us * (now_us - last))
            best += count
            last = now_us
            worst = max(worst, best - self.rate.capacity)
        return worst


# ---- the fixed point -------------------------------------------------------------------------------------------------


@given(RATES, st.integers(1, 10**15))
def test_a_rate_is_counted_closely_and_fits_a_double(rate: int | float, burst: int) -> None:
    counted = Rate.of(rate, burst)
    assert 1 <= counted.capacity <= burst
    assert counted.capacity * counted.unit <= LARGEST
    exact = Fraction(rate).limit_denominator(1000)
    assert abs(counted.per_second - exact) <= exact / 100
    if burst <= 60 * rate:
        assert abs(counted.per_second - exact) <= exact / 1_000_000


@pytest.mark.parametrize(
    ("rate", "nodes", "share"), [(100, 4, 25), (100, 3, 33), (3, 4, 1), (1, 9, 1), (5000, 1, 5000), (7.5, 2, 3)]
)
def test_a_node_alone_gives_its_whole_part_of_the_rate_and_at_least_one(rate: float, nodes: int, share: int) -> None:
    assert Rate.of(rate, 10).share(nodes).per_second == share


def test_a_rate_below_one_a_second_is_not_raised_by_being_shared() -> None:
    assert Rate.of(0.25, 1).share(4).per_second == Fraction(1, 4)


# ---- the bucket of one process ---------------------------------------------------------------------------------------


@given(
    RATES,
    st.integers(1, 10**6),
    st.lists(st.tuples(st.integers(0, 3 * SECOND), st.integers(1, 10**6)), min_size=1, max_size=60),
)
def test_a_bucket_gives_never_more_than_rate_and_burst(
    rate: int | float, burst: int, steps: list[tuple[int, int]]
) -> None:
    counted = Rate.of(rate, burst)
    bucket, spent, now = Bucket(counted, level=counted.capacity, now_us=0), Spent(counted), 0
    for passed, wanted in steps:
        now += passed
        count = min(wanted, bucket.level(now_us=now))
        bucket.spend(count)
        spent.add(now, count)
    assert spent.worst_excess() <= 0


def test_a_record_larger_than_the_bucket_leaves_a_debt_that_time_pays() -> None:
    bucket = Bucket(Rate.of(100, 10), level=10, now_us=0)
    bucket.spend(210)
    assert bucket.level(now_us=0) == -200
    assert bucket.wait_us() == 2_010_000
    assert bucket.level(now_us=2_000_000) == 0
    assert bucket.level(now_us=2_010_000) == 1


@given(st.lists(st.integers(-(10**15), 10**15), max_size=20))
def test_a_jump_of_the_clock_gives_at_most_one_burst(jumps: list[int]) -> None:
    bucket, now = Bucket(Rate.of(5, 10), level=0, now_us=START), START
    for jump in jumps:
        now += jump
        before = bucket.level(now_us=now - jump)
        assert 0 <= bucket.level(now_us=now) - before <= 10


# ---- lending ---------------------------------------------------------------------------------------------------------


class Network:
    """Nodes that borrow from one account over a network that loses, repeats and delays answers."""

    def __init__(self, rate: Rate, nodes: int) -> None:
        self.rate = rate
        self.account = Account()
        self.now = START
        self.leases = [Lease("r", "records_per_second", rate, 1) for _ in range(nodes)]
        self.numbers = [0] * nodes
        self.open: list[Ask | None] = [None] * nodes
        self.asked = [START] * nodes
        self.delayed: list[tuple[int, list[Given]] | None] = [None] * nodes
        self.spent = Spent(rate)

    def spend(self, node: int, wanted: int) -> int:
        lease = self.leases[node]
        lease.ripen(now_us=self.now)
        count = max(0, min(wanted, lease.left))
        lease.left -= count
        self.spent.add(self.now, count)
        return count

    def ask(self, node: int, *, fate: str, gives_back: bool = False) -> None:
        """``fate``: what becomes of the answer."""
        lease = self.leases[node]
        ask = self.open[node]
        if ask is None:
            self.numbers[node] += 1
            ask = self.open[node] = lease.ask(now_us=self.now, gives_back=gives_back)
        self.asked[node] = self.now
        found = self.account.lend(f"n{node}", self.numbers[node], [ask], now_us=self.now)
        if fate == "repeated":
            found = self.account.lend(f"n{node}", self.numbers[node], [ask], now_us=self.now)
        if fate == "late":
            self.delayed[node] = (self.numbers[node], found)
        elif fate != "lost":
            self._take(node, found)

    def arrive(self, node: int) -> None:
        """What was delayed comes; if it was answered again meanwhile, nobody waits for it any more."""
        late, self.delayed[node] = self.delayed[node], None
        if late is not None and self.open[node] is not None and late[0] == self.numbers[node]:
            self._take(node, late[1])

    def _take(self, node: int, found: list[Given]) -> None:
        self.open[node] = None
        for one in found:
            self.leases[node].take(one, now_us=self.now)

    def report(self) -> None:
        """Who holds something must be heard of: those who were not for long."""
        for node, asked in enumerate(self.asked):
            if self.now - asked > NODE_US // 2:
                self.arrive(node)
                self.ask(node, fate="good")


STEPS = st.lists(
    st.tuples(
        st.integers(0, 2),
        st.integers(0, SECOND // 2),
        st.integers(0, 300),
        st.sampled_from(["good", "good", "good", "repeated", "lost", "late", "none"]),
        st.booleans(),
    ),
    min_size=1,
    max_size=80,
)


@settings(max_examples=150, deadline=None)
@given(st.sampled_from([(1, 1), (10, 10), (10, 50), (1000, 100), (1000, 1000), (0.5, 3), (50, 7)]), STEPS)
def test_nodes_together_let_through_never_more_than_rate_and_burst_whatever_the_network_does(
    told: tuple[float, int], steps: list[tuple[int, int, int, str, bool]]
) -> None:
    network = Network(Rate.of(*told), 3)
    for node, passed, wanted, fate, gives_back in steps:
        network.now += passed
        network.report()
        network.arrive(node)
        if fate != "none":
            network.ask(node, fate=fate, gives_back=gives_back)
        network.spend(node, wanted)
    # For each node one token, or what comes in 20 ms: it counts where the burst is small.
    assert network.spent.worst_excess() <= 3 * max(1, told[0] // 50)


@settings(max_examples=40, deadline=None)
@given(
    st.sampled_from([(10, 10), (100, 100), (1000, 1000), (65_536, 65_536)]),
    st.integers(1, 6),
    st.integers(0, 10**9),
)
def test_nodes_that_always_want_more_get_all_of_the_rate_and_each_its_part(
    told: tuple[int, int], nodes: int, seed: int
) -> None:
    chance = random.Random(seed)
    network = Network(Rate.of(*told), nodes)
    due = [START + chance.randrange(100_000) for _ in range(nodes)]
    got = [0] * nodes
    began = START + 3 * SECOND
    while network.now < began + 10 * SECOND:
        network.now = min(due)
        node = due.index(network.now)
        # Answers get lost; whoever hears none asks again.
        fate = chance.choice(["good", "good", "good", "lost", "repeated"])
        network.ask(node, fate=fate)
        count = network.spend(node, 10**9)
        if network.now >= began:
            got[node] += count
        lease = network.leases[node]
        again = 100_000 if network.open[node] else max(5_000, lease.ask_in_us(now_us=network.now))
        due[node] = network.now + again
    whole = told[0] * 10
    assert abs(sum(got) - whole) <= max(nodes, whole // 20)
    assert min(got) >= whole // nodes // 2 - 1


@given(st.integers(1, 100), st.integers(0, 100))
def test_what_is_given_back_is_there_for_others(taken: int, used: int) -> None:
    rate = Rate.of(1, 100)
    account = Account()
    given_tokens = account.lend("a", 1, [Ask("r", rate, want=taken, start=100)], now_us=START)[0].now
    assert given_tokens == taken
    used = min(used, taken)
    account.lend("a", 2, [Ask("r", rate, credit=taken - used)], now_us=START)
    assert account.lend("b", 1, [Ask("r", rate, want=100)], now_us=START)[0].now == 100 - used


def test_a_node_that_is_gone_costs_what_it_held_for_half_a_minute_and_no_longer() -> None:
    rate = Rate.of(100, 100)
    account = Account()
    account.lend("a", 1, [Ask("r", rate, want=60, start=100)], now_us=START)
    assert account.lend("b", 1, [Ask("r", rate)], now_us=START + 5 * SECOND)[0].level == 40
    assert account.lend("b", 2, [Ask("r", rate)], now_us=START + 31 * SECOND)[0].level == 100


@given(st.lists(st.integers(-(10**13), 10**13), max_size=20))
def test_a_jump_of_the_shared_clock_gives_at_most_one_burst_and_stops_nothing(jumps: list[int]) -> None:
    rate, account, now = Rate.of(5, 10), Account(), 2 * 10**15
    account.lend("a", 0, [Ask("r", rate, want=10, start=10)], now_us=now)
    for number, jump in enumerate(jumps, start=1):
        now += jump
        assert account.lend("a", number, [Ask("r", rate, want=100)], now_us=now)[0].now <= 10
    # However it jumped: what was promised ahead and the burst are there again after so long.
    account.lend("a", 1000, [Ask("r", rate)], now_us=now)
    assert account.lend("a", 1001, [Ask("r", rate)], now_us=now + 12 * SECOND)[0].level >= 9


def test_what_was_let_through_alone_is_charged_once_and_never_below_nothing() -> None:
    rate = Rate.of(10, 100)
    account = Account()
    assert account.lend("a", 1, [Ask("r", rate, late=30, start=100)], now_us=START)[0].level == 70
    assert account.lend("a", 1, [Ask("r", rate, late=30, start=100)], now_us=START)[0].level == 70
    assert account.lend("b", 1, [Ask("r", rate, late=300, start=100)], now_us=START)[0].level == 0


def test_a_plan_that_changes_its_burst_takes_what_was_there_along() -> None:
    account = Account()
    account.lend("a", 1, [Ask("r", Rate.of(1, 10**9), start=500)], now_us=START)
    assert account.lend("a", 2, [Ask("r", Rate.of(1, 100), want=1000)], now_us=START)[0].now == 100


# ---- a lease ---------------------------------------------------------------------------------------------------------


def lease_of(rate: float = 100, burst: int = 100) -> Lease:
    return Lease("r", "records_per_second", Rate.of(rate, burst), rate)


def test_promised_tokens_come_evenly() -> None:
    lease = lease_of()
    lease.ask(now_us=0)
    lease.take(Given("r", 0, 10, 50_000, 150_000, 0, -10), now_us=0)
    seen = []
    for now in (0, 50_000, 60_000, 100_000, 149_999, 150_000, 900_000):
        lease.ripen(now_us=now)
        seen.append(lease.left)
    assert seen == [0, 0, 1, 5, 9, 10, 10]


def test_a_debt_is_told_with_the_next_question_and_once() -> None:
    lease = lease_of()
    lease.ask(now_us=0)
    lease.take(Given("r", 10, 0, 0, 0, 0, 90), now_us=0)
    lease.left -= 500
    assert lease.ask(now_us=1000).credit == -490
    assert lease.ask(now_us=2000).credit == 0


def test_alone_a_lease_fills_at_its_share_and_tells_afterwards_what_it_let_through() -> None:
    lease = lease_of(100, 100)
    lease.ask(now_us=0)
    lease.take(Given("r", 10, 0, 0, 0, 0, 0), now_us=0)
    lease.go_alone(4, now_us=0)
    assert lease.left == 10
    lease.left -= 10
    lease.ripen(now_us=SECOND)
    assert lease.left == 25
    lease.left -= 20
    lease.go_shared(now_us=SECOND)
    assert lease.left == 0
    assert lease.ask(now_us=SECOND).late == 30


def test_a_lease_whose_plan_changes_while_it_is_alone_gives_no_new_burst() -> None:
    lease = lease_of(100, 100)
    lease.ask(now_us=0)
    lease.take(Given("r", 10, 0, 0, 0, 0, 0), now_us=0)
    lease.go_alone(4, now_us=0)
    lease.left -= 10
    lease.change(Rate.of(1000, 1000), 1000, now_us=0)
    lease.go_alone(4, now_us=0)
    assert lease.left == 0
    lease.ripen(now_us=SECOND // 10)
    assert lease.left == 25
    lease.go_shared(now_us=SECOND // 10)
    assert lease.ask(now_us=SECOND // 10).late == 10


@settings(max_examples=80, deadline=None)
@given(st.lists(st.tuples(st.integers(0, SECOND), st.integers(0, 60)), min_size=1, max_size=50), st.integers(1, 5))
def test_alone_a_node_lets_through_no_more_than_its_share_and_what_it_held(
    steps: list[tuple[int, int]], nodes: int
) -> None:
    lease, now = lease_of(40, 40), 0
    lease.ask(now_us=0)
    lease.take(Given("r", 5, 0, 0, 0, 0, -1), now_us=0)
    lease.go_alone(nodes, now_us=0)
    spent = Spent(lease.rate.share(nodes))
    for passed, wanted in steps:
        now += passed
        lease.ripen(now_us=now)
        count = max(0, min(wanted, lease.left))
        lease.left -= count
        spent.add(now, count)
    assert spent.worst_excess() <= 5


# ---- the twin in Redis -----------------------------------------------------------------------------------------------

ASKS = st.builds(
    Ask,
    name=st.sampled_from(["r", "b"]),
    rate=st.sampled_from([(10, 10), (0.5, 3), (10**7, 10**7), (65_536, 10**6), (3, 10**12)]).map(
        lambda told: Rate.of(*told)
    ),
    held=st.integers(0, 50),
    want=st.integers(0, 2000),
    credit=st.integers(-500, 50),
    late=st.integers(0, 50),
    start=st.integers(0, 100),
)
SCRIPT_STEPS = st.lists(
    st.tuples(
        st.integers(-SECOND, 12 * SECOND),
        st.sampled_from(["a", "b", "c"]),
        st.integers(1, 4),
        st.lists(ASKS, min_size=1, max_size=2, unique_by=lambda ask: ask.name),
    ),
    min_size=1,
    max_size=12,
)


async def test_the_script_in_redis_says_what_the_rules_say(redis_server: RedisServer) -> None:
    text = Script("borrow").text.replace("local now_us, node = clock_us()", "local now_us, node = tonumber(ARGV[1])")
    text = text.replace(", ARGV[1]\n", ", ARGV[2]\n", 1).replace("unpack(ARGV[2])", "unpack(ARGV[3])")
    assert "clock_us()," not in text
    client = Redis.from_url(redis_server.url)
    run = client.register_script(text)
    examples: list[list[tuple[int, str, int, list[Ask]]]] = []

    @settings(max_examples=150, deadline=None, database=None)
    @given(SCRIPT_STEPS)
    def gather(steps: list[tuple[int, str, int, list[Ask]]]) -> None:
        examples.append(steps)

    gather()
    try:
        for number, steps in enumerate(examples):
            account, now, key = Account(), START, f"twin:{number}:{{x}}"
            for passed, node, exchange, asks in steps:
                now += passed
                expected = account.lend(node, exchange, asks, now_us=now)
                answer = await run(keys=[key], args=[now, node, encode_exchanges([(exchange, asks)])])
                found = decode_given(answer)[0]
                assert [one.name for one in found] == [one.name for one in expected]
                for one, other in zip(found, expected, strict=True):
                    # Doubles round the last of 2^53 parts; nobody sees that but in the last token or microsecond.
                    differences = [abs(a - b) for a, b in zip(one[1:], other[1:], strict=True)]
                    assert max(differences) <= 1, (one, other, asks)
            assert await client.pttl(key) > 0
            await client.delete(key)
    finally:
        await client.aclose()


async def test_a_key_that_holds_something_else_is_begun_anew(redis_server: RedisServer) -> None:
    client = Redis.from_url(redis_server.url)
    run = client.register_script(Script("borrow").text)
    ask = Ask("r", Rate.of(10, 10), want=3, start=10)
    try:
        for garbage in (b"", b"\xff\xff", b"{}", msgspec.msgpack.encode({"b": 1, "n": []}), msgspec.msgpack.encode(7)):
            await client.set("garbage:{x}", garbage)
            answer = await run(keys=["garbage:{x}"], args=["a", encode_exchanges([(1, [ask])])])
            assert decode_given(answer)[0][0].now == 3
    finally:
        await client.delete("garbage:{x}")
        await client.aclose()

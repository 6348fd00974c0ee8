"""Who leads: never two at once, whatever the clocks of the others say."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from hypothesis import given, settings
from hypothesis import strategies as st

from vpccni.shared.kube.election import LEASE_S, RENEW_WITHIN_S, Elector, Lease, Move, lease_spec, micro_time


def lease(holder: str, *, version: str = "1", renewed: str = "r", transitions: int = 0) -> Lease:
    return Lease(holder, int(LEASE_S), "a", renewed, transitions, version)


def test_a_lease_that_nobody_has_is_made_or_taken_at_once() -> None:
    assert Elector("me").seen(None, 0.0) is Move.CREATE
    assert Elector("me").seen(lease(""), 0.0) is Move.TAKE


def test_anothers_lease_is_taken_when_it_has_not_changed_for_its_time_by_our_clock() -> None:
    me = Elector("me")
    assert me.seen(lease("other"), 100.0) is Move.WAIT
    assert me.seen(lease("other"), 100.0 + LEASE_S - 0.1) is Move.WAIT
    assert me.seen(lease("other", renewed="s", version="2"), 100.0 + LEASE_S) is Move.WAIT
    assert me.seen(lease("other", renewed="s", version="2"), 100.0 + 2 * LEASE_S) is Move.TAKE


def test_a_leader_that_did_not_renew_for_long_leads_no_more_and_has_lost() -> None:
    me = Elector("me")
    me.written(10.0)
    assert me.leads(10.0 + RENEW_WITHIN_S - 0.1)
    assert not me.leads(10.0 + RENEW_WITHIN_S)
    assert me.has_lost(10.0 + RENEW_WITHIN_S)


def test_a_leader_that_sees_another_holder_stops_at_once() -> None:
    me = Elector("me")
    me.written(10.0)
    assert me.seen(lease("other"), 10.1) is Move.WAIT
    assert not me.leads(10.1)
    assert me.has_lost(10.1)


def test_our_own_lease_of_before_is_renewed() -> None:
    assert Elector("me").seen(lease("me"), 0.0) is Move.RENEW


def test_a_lease_says_who_has_it_since_when_and_how_often_it_changed_hands() -> None:
    taken = lease_spec(Move.TAKE, "me", lease("other", transitions=3), now="now")
    assert taken == {"holderIdentity": "me", "leaseDurationSeconds": 15, "acquireTime": "now", "renewTime": "now", "leaseTransitions": 4}  # fmt: skip
    renewed = lease_spec(Move.RENEW, "me", lease("me", transitions=4), now="later")
    assert (renewed["acquireTime"], renewed["renewTime"], renewed["leaseTransitions"]) == ("a", "later", 4)
    assert micro_time(1_000_000_001_500) == "1970-01-01T00:16:40.000001Z"


@dataclass
class Cluster:
    """One lease with versions, and candidates with clocks of their own."""

    candidates: list[Elector]
    offsets: list[float]
    lease: Lease | None = None
    version: int = 0
    now: float = 0.0
    read: dict[int, tuple[Lease | None, Move]] = field(default_factory=dict)

    def look(self, who: int) -> None:
        self.read[who] = (self.lease, self.candidates[who].seen(self.lease, self.now + self.offsets[who]))

    def write(self, who: int) -> None:
        """Carry out what the last look said, if the lease is still as it was then."""
        seen, move = self.read.pop(who, (None, Move.WAIT))
        if move is Move.WAIT or seen != self.lease:
            return
        self.version += 1
        me = self.candidates[who]
        transitions = (self.lease.transitions if self.lease else 0) + 1
        self.lease = lease(me.identity, version=str(self.version), renewed=str(self.now), transitions=transitions)
        me.written(self.now + self.offsets[who])

    def leaders(self) -> list[str]:
        return [one.identity for one, offset in zip(self.candidates, self.offsets, strict=True) if one.leads(self.now + offset)]  # fmt: skip


steps = st.one_of(
    st.tuples(st.just("look"), st.integers(0, 2)),
    st.tuples(st.just("write"), st.integers(0, 2)),
    st.tuples(st.just("wait"), st.sampled_from((0.5, 2.0, 9.0, 16.0))),
)


@settings(max_examples=300, deadline=None)
@given(st.lists(steps, max_size=60), st.lists(st.floats(0, 1e6), min_size=3, max_size=3))
def test_there_are_never_two_leaders(steps: list[tuple[str, float]], offsets: list[float]) -> None:
    cluster = Cluster([Elector(f"c{number}") for number in range(3)], offsets)
    for what, value in steps:
        if what == "wait":
            cluster.now += value
        else:
            getattr(cluster, what)(int(value))
        assert len(cluster.leaders()) <= 1


def test_the_version_alone_is_no_sign_of_life() -> None:
    me = Elector("me")
    me.seen(lease("other"), 0.0)
    assert me.seen(replace(lease("other"), version="77"), LEASE_S) is Move.TAKE

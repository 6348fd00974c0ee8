"""IPv6 nodes: one prefix a card, none taken silently in place of a lost one."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.eni_manager.test_inventory import RULES, SUBNET, cloud, metadata

from vpccni.components.eni_manager.facts import CloudEni
from vpccni.components.eni_manager.inventory import DOUBT_S, Picture, differs, look
from vpccni.components.eni_manager.ipv6 import PREFIX_LOST, READS_BEHIND_S, Watch, plan_prefixes
from vpccni.components.eni_manager.planner import AssignTo, CreateOn, Terms
from vpccni.shared.messages.inventory import CardLimit
from vpccni.shared.names import EniId, SubnetId

FIRST, SECOND, THIRD = (f"2001:db8:0:100:{number}::/80" for number in (1, 2, 3))
ONE_CARD = [CardLimit(0, 3)]
TERMS = Terms(slots=9, unit=1 << 48)
TWO_CARDS = replace(RULES, cards=frozenset({0, 1}))


def seen(*enis: CloudEni, before: Picture | None = None, now: float = 0.0) -> Picture:
    listed = [replace(metadata(one.device_number), eni_id=one.eni_id, prefixes=one.prefixes) for one in enis]
    return look(before or Picture(), TWO_CARDS, listed, enis, now=now)[0]


def prefixed(number: int, *prefixes: str, **changes: object) -> CloudEni:
    return replace(cloud(number, **changes), prefixes=prefixes)


def test_the_primary_gets_the_prefix_and_then_nothing_is_left_to_do() -> None:
    plan = plan_prefixes(seen(cloud(0), cloud(1)), ONE_CARD, TERMS, growing=(), blocked=())
    assert plan.assign == (AssignTo(EniId("eni-0"), 1),)
    assert not plan.create
    settled = plan_prefixes(seen(prefixed(0, FIRST), cloud(1)), ONE_CARD, TERMS, growing=(), blocked=())
    assert not settled.grows


def test_a_card_without_an_eni_gets_one_and_then_its_prefix() -> None:
    cards = [CardLimit(0, 3), CardLimit(1, 2)]
    alone = seen(prefixed(0, FIRST))
    assert plan_prefixes(alone, cards, TERMS, growing=(), blocked=()).create == (CreateOn(1, 1),)
    assert not plan_prefixes(alone, cards, TERMS, growing={1}, blocked=()).grows
    attached = seen(prefixed(0, FIRST), replace(cloud(1), card=1))
    assert plan_prefixes(attached, cards, TERMS, growing=(), blocked=()).assign == (AssignTo(EniId("eni-1"), 1),)


@pytest.mark.spec("ipam.W41")
def test_an_excluded_primary_gets_an_eni_beside_it_as_far_as_there_is_room() -> None:
    excluded = seen(prefixed(0, FIRST)).with_excluded(frozenset({SUBNET}))
    assert plan_prefixes(excluded, ONE_CARD, TERMS, growing=(), blocked=()).create == (CreateOn(0, 1),)
    full = plan_prefixes(excluded, [CardLimit(0, 1)], TERMS, growing=(), blocked=())
    assert (full.create, full.short > 0) == ((), True)
    closed = plan_prefixes(excluded, ONE_CARD, replace(TERMS, may_create=False), growing=(), blocked=())
    assert (closed.create, closed.held_back > 0) == ((), True)
    beside = seen(prefixed(0, FIRST), replace(cloud(1), subnet_id=SubnetId("other"))).with_excluded(frozenset({SUBNET}))
    assert plan_prefixes(beside, ONE_CARD, TERMS, growing=(), blocked=()).assign == (AssignTo(EniId("eni-1"), 1),)


def test_of_several_prefixes_the_one_that_was_seen_first_stays_in_use() -> None:
    before = seen(prefixed(0, SECOND))
    more = seen(prefixed(0, FIRST, SECOND, THIRD), before=before, now=100.0)
    assert more.enis[EniId("eni-0")].message().prefixes == [SECOND, FIRST, THIRD]
    restarted = seen(prefixed(0, FIRST, SECOND)).ordered_as([prefixed(0, SECOND)])
    assert restarted.enis[EniId("eni-0")].message().prefixes == [SECOND, FIRST]


@pytest.mark.spec("ipam.W7")
def test_a_prefix_that_goes_is_doubted_then_lost_and_nothing_is_taken_instead() -> None:
    before = seen(prefixed(0, FIRST))
    watch = Watch().after(before, [0], now=0.0)
    listed = [metadata(0)]
    assert differs(before, listed, now=100.0)
    doubted, findings = look(before, RULES, listed, [cloud(0)], now=100.0)
    assert [finding.kind for finding in findings] == ["addressDoubted"]
    assert not doubted.enis[EniId("eni-0")].message().confirmed
    assert not watch.after(doubted, [0], now=100.0).lost
    gone, findings = look(doubted, RULES, listed, [cloud(0)], now=101.0 + DOUBT_S)
    assert [finding.kind for finding in findings] == ["addressGone"]
    lost = watch.after(gone, [0], now=160.0)
    plan = plan_prefixes(gone, ONE_CARD, TERMS, growing=(), blocked=lost.blocked(now=1e9))
    assert (plan.grows, plan.restraint) == (False, PREFIX_LOST)
    back = seen(prefixed(0, SECOND), before=gone, now=300.0)
    again = lost.after(back, [0], now=300.0)
    assert (again.used, again.lost) == ({0: SECOND}, {})


def test_a_start_that_misses_the_remembered_prefix_waits_for_ec2_and_then_takes_another() -> None:
    empty = seen(cloud(0))
    watch = Watch.remembered([prefixed(0, FIRST)]).after(empty, [0], now=10.0)
    assert watch.next_at(now=10.0) == 10.0 + READS_BEHIND_S
    assert watch.blocked(now=10.0) == {0}
    later = watch.after(empty, [0], now=10.0 + READS_BEHIND_S)
    assert not later.blocked(now=10.0 + READS_BEHIND_S)
    taken = later.after(seen(prefixed(0, SECOND)), [0], now=30.0)
    assert (taken.used, taken.lost) == ({0: SECOND}, {})


ENIS = st.lists(
    st.tuples(st.integers(0, 2), st.lists(st.sampled_from([FIRST, SECOND, THIRD]), max_size=2, unique=True)),
    max_size=4,
)


@given(ENIS, st.sets(st.integers(0, 2)), st.booleans())
def test_carrying_the_plan_out_leaves_each_card_with_room_one_prefix_more_at_most(
    enis: list[tuple[int, list[str]]], blocked: set[int], may_create: bool
) -> None:
    rules = replace(RULES, cards=frozenset({0, 1, 2}))
    described = [prefixed(number, *prefixes, card=card) for number, (card, prefixes) in enumerate(enis)]
    listed = [replace(metadata(one.device_number), prefixes=one.prefixes) for one in described]
    picture = look(Picture(), rules, listed, described, now=0.0)[0]
    cards = [CardLimit(card, 2) for card in range(3)]
    terms = replace(TERMS, may_create=may_create)
    plan = plan_prefixes(picture, cards, terms, growing=(), blocked=blocked)
    for step in plan.assign:
        picture = picture.with_items(step.eni_id, {f"2001:db8:0:100:f:{len(picture.settling)}::/96"}, now=1.0)
    touched = [picture.enis[step.eni_id].cloud.card for step in plan.assign] + [step.card for step in plan.create]
    assert len(touched) == len(set(touched))
    assert not blocked & set(touched)
    again = plan_prefixes(picture, cards, terms, growing={step.card for step in plan.create}, blocked=blocked)
    assert not again.grows

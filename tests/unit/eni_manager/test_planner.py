"""The planner: fewest calls, never above the limits, nothing taken that was not surrendered, twice is nothing."""

from __future__ import annotations

import itertools
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from vpccni.components.eni_manager.facts import CloudEni
from vpccni.components.eni_manager.inventory import HeldEni, Picture
from vpccni.components.eni_manager.planner import AssignTo, Busy, CreateOn, Plan, Terms, UnassignFrom, plan
from vpccni.shared.messages.inventory import CapacityTarget, CardLimit, CardTarget
from vpccni.shared.names import EniId, SubnetId

SLOTS = 9


def eni(number: int, count: int, *, managed: bool = True, doubted: bool = False, kind: str = "interface") -> HeldEni:
    cloud = CloudEni(
        eni_id=EniId(f"eni-{number}"), mac=f"02:00:00:00:00:{number:02x}", status="in-use", interface_type=kind,
        subnet_id=SubnetId("subnet-1"), primary_address=f"10.0.{number}.1", device_number=number,
        addresses=tuple(f"10.0.{number}.{host + 10}" for host in range(count)),
    )  # fmt: skip
    return HeldEni(
        cloud=cloud, subnet_cidr="10.0.0.0/16", is_primary=number == 0, managed=managed, attached_at=0.0,
        doubted_since=0.0 if doubted else None,
    )  # fmt: skip


def picture(*enis: HeldEni) -> Picture:
    return Picture({one.eni_id: one for one in enis})


def wish(
    total: int, *, addresses: list[tuple[str, str]] | None = None, enis: list[str] | None = None
) -> CapacityTarget:
    card = CardTarget(card=0, total_addresses=total, surrendered_addresses=addresses or [], surrendered_enis=enis or [])
    return CapacityTarget(cards=[card], reason="test")


def planned(wanted: CapacityTarget, seen: Picture, *, enis: int = 3, busy: Busy | None = None) -> Plan:
    return plan(wanted, seen, [CardLimit(0, enis)], Terms(SLOTS), busy or Busy())


def test_the_fullest_eni_that_has_room_enough_is_filled() -> None:
    assert planned(wish(12), picture(eni(0, 2), eni(1, 7))).assign == (AssignTo(EniId("eni-0"), 3),)
    assert planned(wish(11), picture(eni(0, 2), eni(1, 7))).assign == (AssignTo(EniId("eni-1"), 2),)


def test_a_new_eni_is_made_only_for_what_the_others_cannot_take() -> None:
    todo = planned(wish(20), picture(eni(0, 4)))
    assert todo.assign == (AssignTo(EniId("eni-0"), 5),)
    assert todo.create == (CreateOn(0, 9), CreateOn(0, 2))


def test_what_the_limits_do_not_allow_is_told() -> None:
    todo = planned(wish(40), picture(eni(0, 9)))
    assert (len(todo.create), todo.short) == (2, 40 - 27)


def test_what_is_under_way_counts_as_done() -> None:
    busy = Busy(enis={EniId("eni-0"): 5}, creating=[(0, 9)])
    assert planned(wish(18), picture(eni(0, 4)), busy=busy) == Plan()


def test_an_eni_on_its_way_out_keeps_its_place_until_it_is_gone() -> None:
    todo = planned(wish(18), picture(eni(0, 9), eni(1, 9)), enis=2, busy=Busy(freeing=frozenset({EniId("eni-1")})))
    assert (todo.create, todo.short) == ((), 9)


def test_a_doubted_trunk_or_unmanaged_eni_gets_nothing() -> None:
    for odd in (eni(1, 0, doubted=True), eni(1, 0, managed=False), eni(1, 0, kind="trunk")):
        assert planned(wish(12), picture(eni(0, 9), odd), enis=2).assign == ()


def test_surrendered_addresses_go_in_one_call_an_eni() -> None:
    given_up = [("eni-0", "10.0.0.11"), ("eni-0", "10.0.0.10"), ("eni-1", "10.0.1.10"), ("eni-1", "10.9.9.9")]
    todo = planned(wish(0, addresses=given_up), picture(eni(0, 4), eni(1, 4)))
    assert todo.unassign == (
        UnassignFrom(EniId("eni-0"), ("10.0.0.10", "10.0.0.11")),
        UnassignFrom(EniId("eni-1"), ("10.0.1.10",)),
    )


def test_primary_trunk_and_efa_are_never_freed() -> None:
    seen = picture(eni(0, 0), eni(1, 0, kind="trunk"), eni(2, 0, kind="efa"), eni(3, 0))
    assert planned(wish(0, enis=["eni-0", "eni-1", "eni-2", "eni-3"]), seen).free == (EniId("eni-3"),)


def apply(todo: Plan, seen: Picture) -> Picture:
    numbers = itertools.count(50)
    for step in todo.assign:
        number = next(numbers)
        seen = seen.with_items(step.eni_id, [f"10.1.{number}.{host}" for host in range(step.count)], now=0.0)
    for new in todo.create:
        number = next(numbers)
        made = eni(number, new.count)
        seen = seen.with_eni(replace(made, is_primary=False), now=0.0)
    for taken in todo.unassign:
        seen = seen.without_items(taken.eni_id, taken.items, now=0.0)
    for eni_id in todo.free:
        seen = seen.without_eni(eni_id, now=0.0)
    return seen


@st.composite
def cases(draw: st.DrawFn) -> tuple[Picture, CapacityTarget, int]:
    counts = draw(st.lists(st.integers(0, SLOTS), min_size=1, max_size=4))
    enis = [
        eni(number, count, managed=number == 0 or draw(st.integers(0, 9)) > 0) for number, count in enumerate(counts)
    ]
    pairs = [(one.eni_id, address) for one in enis for address in one.addresses]
    given_up = draw(st.lists(st.sampled_from(pairs), unique=True)) if pairs else []
    leaving = draw(st.lists(st.sampled_from([one.eni_id for one in enis]), unique=True))
    leaving = [name for name in leaving if name != "eni-0"]  # the allocator does not surrender the primary
    total = draw(st.integers(0, 60))
    return (
        picture(*enis),
        wish(total, addresses=[(str(a), b) for a, b in given_up], enis=[str(n) for n in leaving]),
        total,
    )


@given(cases(), st.integers(1, 6))
def test_the_plan_reaches_the_goal_within_the_limits_and_planning_again_gives_nothing(
    case: tuple[Picture, CapacityTarget, int], max_enis: int
) -> None:
    seen, wanted, total = case
    todo = planned(wanted, seen, enis=max_enis)
    after = apply(todo, seen)
    card = wanted.cards[0]
    gone = {address for _, address in card.surrendered_addresses}
    before_all = {address for one in seen.enis.values() for address in one.addresses}
    after_all = {address for one in after.enis.values() for address in one.addresses}
    for eni_id, one in seen.enis.items():
        if eni_id not in card.surrendered_enis:
            assert set(one.addresses) - gone <= set(after.enis[eni_id].addresses)
        if not one.managed:
            assert after.enis[eni_id] == one
    assert all(one.items <= SLOTS for one in after.enis.values())
    assert not todo.create or len([one for one in seen.enis.values() if one.managed]) + len(todo.create) <= max_enis
    ours = {address for one in after.enis.values() if one.managed for address in one.addresses}
    assert len(ours) + todo.short >= total
    assert todo.short == 0 or len(ours) < total
    assert before_all - after_all <= gone | {
        address for name in card.surrendered_enis for address in seen.enis[EniId(name)].addresses
    }
    again = planned(wanted, after, enis=max_enis)
    assert (again.assign, again.unassign, again.free) == ((), (), ()) or todo.short > 0
    assert again.create == () or todo.free


@given(st.lists(st.integers(0, SLOTS), min_size=1, max_size=5), st.integers(0, 45))
def test_no_choice_of_enis_needs_fewer_calls(counts: list[int], total: int) -> None:
    seen = picture(*(eni(number, count) for number, count in enumerate(counts)))
    todo = planned(wish(total), seen, enis=len(counts))
    missing = min(total, SLOTS * len(counts)) - sum(counts)
    rooms = sorted((SLOTS - count for count in counts), reverse=True)
    least = next(calls for calls in range(len(rooms) + 1) if sum(rooms[:calls]) >= missing)
    assert len(todo.assign) == least


def with_prefixes(number: int, prefixes: int, addresses: int = 0) -> HeldEni:
    one = eni(number, addresses)
    return replace(one, cloud=replace(one.cloud, prefixes=tuple(f"10.{number}.{i}.0/28" for i in range(prefixes))))


def by_prefix(wanted: CapacityTarget, seen: Picture, *, enis: int = 3) -> Plan:
    return plan(wanted, seen, [CardLimit(0, enis)], Terms(SLOTS, unit=16), Busy())


def test_prefixes_are_counted_in_addresses_and_rounded_up() -> None:
    assert by_prefix(wish(17), picture(with_prefixes(0, 0))).assign == (AssignTo(EniId("eni-0"), 2),)
    assert not by_prefix(wish(32), picture(with_prefixes(0, 2))).grows
    assert by_prefix(wish(10 * 16), picture(with_prefixes(0, 8))).create == (CreateOn(0, 1),)
    assert by_prefix(wish(40 * 16), picture(with_prefixes(0, 9))).short == 13 * 16


def test_items_of_the_other_mode_occupy_slots_and_nothing_else() -> None:
    todo = by_prefix(wish(3 * 16), picture(with_prefixes(0, 1, addresses=7)))
    assert (todo.assign, todo.create) == ((AssignTo(EniId("eni-0"), 1),), (CreateOn(0, 1),))
    single = planned(wish(9), picture(with_prefixes(0, 3)))
    assert (single.assign, single.create) == ((AssignTo(EniId("eni-0"), 6),), (CreateOn(0, 3),))


def test_what_is_surrendered_goes_kind_by_kind() -> None:
    given_up = [("eni-0", "10.0.0.10"), ("eni-0", "10.0.0.0/28")]
    seen = picture(with_prefixes(0, 1, addresses=1))
    first = by_prefix(wish(0, addresses=given_up), seen)
    assert first.unassign == (UnassignFrom(EniId("eni-0"), ("10.0.0.10",)),)
    second = by_prefix(wish(0, addresses=given_up), apply(first, seen))
    assert second.unassign == (UnassignFrom(EniId("eni-0"), ("10.0.0.0/28",)),)


def test_an_excluded_eni_serves_nobody_but_keeps_its_place() -> None:
    seen = picture(replace(eni(0, 5), excluded=True), eni(1, 2))
    todo = planned(wish(14), seen, enis=2)
    assert (todo.assign, todo.create, todo.short) == ((AssignTo(EniId("eni-1"), 7),), (), 5)


def test_a_closed_subnet_is_left_alone_and_told_apart_from_the_limits() -> None:
    closed = Terms(SLOTS, closed=frozenset({SubnetId("subnet-1")}), may_create=False)
    todo = plan(wish(30), picture(eni(0, 4)), [CardLimit(0, 3)], closed, Busy())
    assert (todo.grows, todo.held_back, todo.short) == (False, 23, 3)
    creating = plan(wish(30), picture(eni(0, 4)), [CardLimit(0, 3)], replace(closed, may_create=True), Busy())
    assert creating.create == (CreateOn(0, 9), CreateOn(0, 9))
    assert (creating.held_back, creating.short) == (5, 3)


def test_with_custom_networking_the_primary_gets_nothing_more_and_what_it_has_counts() -> None:
    spared = Terms(SLOTS, spare_primary=True)
    todo = plan(wish(12), picture(eni(0, 2), eni(1, 5)), [CardLimit(0, 3)], spared, Busy())
    assert (todo.assign, todo.create) == ((AssignTo(EniId("eni-1"), 4),), (CreateOn(0, 1),))
    assert plan(wish(40), picture(eni(0, 2)), [CardLimit(0, 3)], spared, Busy()).short == 40 - 2 - 2 * SLOTS


def test_what_an_eni_under_way_will_have_room_for_waits_for_it() -> None:
    made = Busy(creating=[(0, 1)])
    assert planned(wish(9 + 4), picture(eni(0, 9)), busy=made) == Plan()
    assert planned(wish(9 + 9 + 4), picture(eni(0, 9)), busy=made).create == (CreateOn(0, 4),)
    going = Busy(creating=[(0, 0)])
    assert planned(wish(9 + 4), picture(eni(0, 9)), busy=going).create == (CreateOn(0, 4),)
    changed = Busy(enis={EniId("eni-0"): 2})
    assert planned(wish(9), picture(eni(0, 4)), busy=changed) == Plan()
    assert planned(wish(12), picture(eni(0, 4)), busy=changed).create == (CreateOn(0, 3),)

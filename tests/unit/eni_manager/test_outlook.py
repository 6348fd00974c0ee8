"""Why growing does not go on, in the word an operator looks up; and the ENI room, counted anew each time."""

from __future__ import annotations

from dataclasses import replace

import pytest
from tests.unit.eni_manager.test_inventory import INSTANCE, RULES, SUBNET, cloud, first, metadata
from tests.unit.eni_manager.test_subnets import picture, subnet

from vpccni.components.eni_manager.facts import TAG_NO_MANAGE
from vpccni.components.eni_manager.hindrance import Hindrance
from vpccni.components.eni_manager.inventory import look
from vpccni.components.eni_manager.kube_facts import NOT_KNOWN_YET, EniConfig
from vpccni.components.eni_manager.limits import InstanceLimits
from vpccni.components.eni_manager.network_cards import card_limits
from vpccni.components.eni_manager.outlook import growth_of
from vpccni.components.eni_manager.planner import CORDONED, PROVISIONING_OFF, AssignTo, Plan, UnassignFrom, restrained
from vpccni.components.eni_manager.state import State
from vpccni.components.eni_manager.subnets import Subnets
from vpccni.shared.messages.inventory import Growth
from vpccni.shared.names import EniId

LIMITS = InstanceLimits(10, 0, ((0, 3),), "nitro", False)
GROWING = Plan(assign=(AssignTo(EniId("eni-0"), 3),), unassign=(UnassignFrom(EniId("eni-0"), ("10.0.0.9",)),))
ALL_EXCLUDED = picture(subnet(SUBNET, role="0"))


def growth(
    plan: Plan,
    *,
    hindrance: Hindrance | None = None,
    subnets: Subnets | None = None,
    custom: EniConfig | str | None = None,
) -> Growth:
    state = State(INSTANCE, LIMITS, subnets or picture(), by_prefix=False, custom=custom)
    return growth_of(hindrance or Hindrance(), plan, state, now=10.0)


def test_what_nothing_hinders_has_no_cause() -> None:
    assert growth(Plan()) == Growth()
    assert growth(GROWING) == Growth()


def test_causes_in_their_order() -> None:
    full = picture(subnet(SUBNET, role="1")).with_refusal(SUBNET, "FRAGMENTED", now=0.0)
    refused = Hindrance("DENIED", "no", 12.0, 1)
    assert growth(Plan(held_back=3), hindrance=refused, subnets=full).cause == "DENIED"
    assert growth(Plan(held_back=3, short=2), subnets=full).cause == "FRAGMENTED"
    assert SUBNET in growth(Plan(held_back=3), subnets=full).detail
    assert growth(Plan(held_back=3), subnets=ALL_EXCLUDED).cause == "NO_SUBNET"
    assert growth(Plan(short=2)).cause == "ENI_LIMIT"
    no_config = growth(Plan(held_back=3), custom="No ENIConfig 'a' for this node")
    assert (no_config.cause, no_config.detail) == ("NO_ENI_CONFIG", "No ENIConfig 'a' for this node")


def test_what_only_an_operator_ends_has_no_end_and_an_api_that_has_not_answered_yet_may_answer_now() -> None:
    assert growth(Plan(held_back=3), custom="No ENIConfig 'a' for this node").until == 0.0
    assert growth(Plan(held_back=3), subnets=ALL_EXCLUDED).until == 0.0
    assert growth(Plan(short=2)).until == 0.0
    not_yet = growth(Plan(held_back=3), custom=NOT_KNOWN_YET)
    assert (not_yet.cause, not_yet.until) == ("NO_ENI_CONFIG", 10.0)


def test_with_custom_networking_new_enis_are_the_configs_and_groups_are_not_kept() -> None:
    state = State(INSTANCE, LIMITS, picture(subnet(SUBNET, role="1")), by_prefix=False, groups=("sg-1",))
    assert (state.candidates(), state.groups_of_new(), state.groups_kept()) == ((SUBNET,), ("sg-1",), ("sg-1",))
    state.custom = EniConfig("zone-a", "subnet-pods", ("sg-3", "sg-2"))
    assert (state.candidates(), state.groups_of_new()) == (("subnet-pods",), ("sg-2", "sg-3"))
    assert state.groups_kept() == ()
    state.custom = EniConfig("zone-a", "subnet-pods")
    assert state.groups_of_new() == ("sg-1",)
    state.custom = "none"
    assert state.candidates() == ()


@pytest.mark.parametrize("restraint", [CORDONED, PROVISIONING_OFF])
def test_a_restraint_forbids_growth_and_freeing_and_is_told_only_where_something_is_wished(restraint: str) -> None:
    todo = restrained(replace(GROWING, free=(EniId("eni-1"),)), restraint)
    assert (todo.assign, todo.create, todo.free) == ((), (), ())
    assert growth(todo).cause == restraint
    assert growth(restrained(Plan(), restraint)) == Growth()
    assert restrained(GROWING, "") == GROWING


def test_a_cordoned_node_still_gives_addresses_back_and_one_without_provisioning_does_not() -> None:
    assert restrained(GROWING, CORDONED).unassign == GROWING.unassign
    assert restrained(GROWING, PROVISIONING_OFF).unassign == ()


@pytest.mark.spec("ipam.W29")
def test_a_hundred_looks_at_an_unmanaged_eni_leave_the_room_as_it_was() -> None:
    told = cloud(1, tags={TAG_NO_MANAGE: "true"})
    seen = first(cloud(0), told)
    for turn in range(100):
        seen, _ = look(seen, RULES, [metadata(0), metadata(1)], [cloud(0), told], now=float(turn))
        assert [limit.max_enis for limit in card_limits(seen, LIMITS, 0, (0,))] == [2]


@pytest.mark.spec("ipam.W30")
def test_the_tag_is_honoured_both_ways_at_the_next_look_and_the_addresses_stay() -> None:
    seen = first(cloud(0), cloud(1, "10.0.0.9"))
    told = cloud(1, "10.0.0.9", tags={TAG_NO_MANAGE: "true"})
    off, _ = look(seen, RULES, [metadata(0), metadata(1, "10.0.0.9")], [cloud(0), told], now=1.0)
    assert (off.enis[EniId("eni-1")].managed, off.enis[EniId("eni-1")].addresses) == (False, ("10.0.0.9",))
    on, _ = look(off, RULES, [metadata(0), metadata(1, "10.0.0.9")], [cloud(0), cloud(1, "10.0.0.9")], now=2.0)
    assert on.enis[EniId("eni-1")].managed

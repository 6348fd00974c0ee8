"""Growth that nobody waits for is spread over the nodes of a large cluster; what somebody waits for is not."""

from __future__ import annotations

import pytest

from vpccni.components.eni_manager.patience import LONGEST_S, SMALL_CLUSTER, Patience, spread_s, urgent_part
from vpccni.components.eni_manager.planner import AssignTo, CreateOn, Plan, UnassignFrom
from vpccni.shared.names import EniId

GROWS = Plan(
    assign=(AssignTo(EniId("eni-1"), 4),),
    create=(CreateOn(0, 9), CreateOn(0, 9)),
    unassign=(UnassignFrom(EniId("eni-2"), ("10.0.0.9",)),),
    free=(EniId("eni-3"),),
)


@pytest.mark.parametrize(
    ("nodes", "seconds"), [(None, 0.0), (1, 0.0), (SMALL_CLUSTER, 0.0), (100, 25.0), (5000, LONGEST_S)]
)
def test_the_spread_grows_with_the_cluster_to_a_bound(nodes: int | None, seconds: float) -> None:
    assert spread_s(nodes) == seconds


@pytest.mark.parametrize(
    ("items", "assigns", "creates"), [(-5, 0, 0), (0, 0, 0), (1, 1, 0), (4, 1, 0), (5, 1, 1), (14, 1, 2), (99, 1, 2)]
)
def test_only_as_much_growth_is_urgent_as_somebody_waits_for(items: int, assigns: int, creates: int) -> None:
    part = urgent_part(GROWS, items)
    assert (len(part.assign), len(part.create)) == (assigns, creates)
    assert (part.unassign, part.free) == (GROWS.unassign, GROWS.free)


def test_growing_is_put_off_once_and_not_longer_by_asking_again() -> None:
    patience = Patience()
    assert patience.wait_s(waits=True, nodes=100, now=10.0, random=0.5) == 12.5
    assert patience.wait_s(waits=True, nodes=100, now=20.0, random=0.9) == 2.5
    assert patience.wait_s(waits=True, nodes=100, now=23.0, random=0.9) == 0.0


def test_when_nothing_is_left_to_grow_the_next_growth_waits_anew() -> None:
    patience = Patience()
    patience.wait_s(waits=True, nodes=100, now=10.0, random=0.5)
    assert patience.wait_s(waits=False, nodes=100, now=11.0, random=0.5) == 0.0
    assert patience.wait_s(waits=True, nodes=100, now=30.0, random=0.5) == 12.5


def test_a_small_cluster_never_waits() -> None:
    assert Patience().wait_s(waits=True, nodes=3, now=10.0, random=0.99) == 0.0

"""Subnets: who admits new ENIs, who excludes, who is full; the table of spec ipam.md 14."""

from __future__ import annotations

import pytest

from vpccni.components.eni_manager.subnets import FULL_S, TAG_CLUSTER, TAG_ROLE, Subnet, Subnets
from vpccni.shared.names import SubnetId

OWN, OTHER, THIRD = SubnetId("subnet-own"), SubnetId("subnet-other"), SubnetId("subnet-third")
MINE, THEIRS = {TAG_CLUSTER + "mine": ""}, {TAG_CLUSTER + "theirs": ""}


def subnet(subnet_id: SubnetId, free: int = 100, **tags: str) -> Subnet:
    return Subnet(subnet_id, "10.0.0.0/24", free, {key.replace("role", TAG_ROLE): value for key, value in tags.items()})


def tagged(role: str | None, cluster_tags: dict[str, str]) -> Subnet:
    return Subnet(OWN, "10.0.0.0/24", 1, {**({} if role is None else {TAG_ROLE: role}), **cluster_tags})


def picture(*seen: Subnet, cluster: str = "mine", discovery: bool = True) -> Subnets:
    return Subnets(OWN, cluster, discovery).with_seen(seen)


@pytest.mark.parametrize(
    ("role", "cluster_tags", "own_admits", "other_admits", "excludes"),
    [
        (None, {}, True, False, False),
        ("", {}, True, False, False),
        (None, THEIRS, True, False, False),
        ("0", {}, False, False, True),
        ("0", MINE, False, False, True),
        ("1", {}, True, True, False),
        ("yes", MINE, True, True, False),
        ("1", THEIRS, False, False, True),
        ("1", {**MINE, **THEIRS}, True, True, False),
    ],
)
def test_tags_decide(
    role: str | None, cluster_tags: dict[str, str], own_admits: bool, other_admits: bool, excludes: bool
) -> None:
    one = tagged(role, cluster_tags)
    assert one.admits("mine", is_own=True) == own_admits
    assert one.admits("mine", is_own=False) == other_admits
    assert one.excludes("mine") == excludes


def test_without_a_cluster_name_cluster_tags_do_not_count() -> None:
    one = tagged("1", THEIRS)
    assert one.admits("", is_own=False)
    assert not one.excludes("")


def test_the_subnet_with_most_free_addresses_comes_first() -> None:
    seen = picture(subnet(OWN, 5), subnet(OTHER, 50, role="1"), subnet(THIRD, 20, role="1"))
    assert seen.candidates() == (OTHER, THIRD, OWN)


def test_nothing_read_yet_means_the_own_subnet_and_nothing_excluded() -> None:
    assert picture().candidates() == (OWN,)
    assert picture().excluded() == frozenset()


def test_without_discovery_the_own_subnet_alone_counts_unless_it_is_excluded() -> None:
    assert picture(subnet(OWN), subnet(OTHER, role="1"), discovery=False).candidates() == (OWN,)
    assert picture(subnet(OWN, role="0"), discovery=False).candidates() == ()
    assert picture(subnet(OWN, role="0"), discovery=False).excluded() == frozenset()


def test_excluded_subnets_are_those_with_the_tag_whoever_owns_them() -> None:
    assert picture(subnet(OWN, role="0"), subnet(OTHER), subnet(THIRD, role="0")).excluded() == {OWN, THIRD}


@pytest.mark.spec("ipam.W6")
def test_a_full_subnet_is_closed_and_then_tried_by_one_call_alone() -> None:
    full = picture(subnet(OWN), subnet(OTHER, role="1")).with_refusal(OWN, "SUBNET_FULL", now=0.0)
    assert full.closed(now=FULL_S - 1) == {OWN}
    assert full.closed(now=FULL_S) == frozenset()
    assert full.with_try(OWN, now=FULL_S).closed(now=FULL_S) == {OWN}
    assert full.with_try(OWN, now=FULL_S).with_untried(OWN, now=FULL_S + 1).closed(now=FULL_S + 1) == frozenset()
    assert full.with_success(OWN).full == {}
    assert full.with_try(OTHER, now=0.0) == full


def test_what_a_full_subnet_still_has_is_asked_for_once() -> None:
    full = picture(subnet(OWN, free=3)).with_refusal(OWN, "SUBNET_FULL", now=0.0)
    rest = full.with_rest(OWN, 9, now=1.0)
    assert rest.closed(now=1.0) == frozenset()
    assert rest.ask_at_most(OWN, 9) == 3
    assert full.with_rest(OWN, 3, now=1.0) == full
    assert full.ask_at_most(OTHER, 9) == 9


def test_the_obstacle_is_the_refusal_that_ends_first() -> None:
    full = picture().with_refusal(OWN, "SUBNET_FULL", now=5.0).with_refusal(OTHER, "FRAGMENTED", now=0.0)
    obstacle = full.obstacle(now=10.0)
    assert obstacle is not None
    assert obstacle.cause == "FRAGMENTED"
    assert full.obstacle(now=200.0) is None

"""Subnets that are full, excluded or tagged for pods: ENIs come from where there is room, and pods' addresses stay."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest
from tests.lab.eni_manager.conftest import Manager, addresses

ROLE = "kubernetes.io/role/cni"
CLUSTER = "cni.networking.k8s.aws/cluster/"
OWN, OTHER = "nodes-a", "pods-a"


def subnet_id(manager: Manager, name: str) -> str:
    return next(row["id"] for row in manager.lab.facts["subnets"] if row["name"] == name)


def refusals(manager: Manager) -> list[str]:
    return [call["action"] for call in manager.lab.ec2_calls() if call["error"]]


@pytest.fixture
def tagged(manager: Manager) -> Iterator[Manager]:
    """A manager that starts with a second subnet for pods; tags and fills are taken back."""
    manager.lab.ec2_subnet(OTHER, tags={ROLE: "1"})
    manager.restart()
    manager.wait(lambda one: True)
    yield manager
    for name in (OWN, OTHER):
        manager.lab.ec2_subnet(name, tags={ROLE: None, CLUSTER + "another": None}, give_back=True)


def test_a_new_eni_comes_from_the_tagged_subnet_with_more_room(tagged: Manager) -> None:
    tagged.wish(12)
    inventory = tagged.wait(lambda one: len(addresses(one)) == 12)
    second = next(eni for eni in inventory.enis if not eni.is_primary)
    assert second.subnet_id == subnet_id(tagged, OTHER)
    assert second.subnet_cidr == "10.0.160.0/19"
    assert second.confirmed


@pytest.mark.spec("ipam.W31")
def test_growth_goes_on_at_once_in_another_subnet_when_one_is_full(tagged: Manager) -> None:
    tagged.lab.ec2_subnet(OTHER, leave=0)
    begin = time.monotonic()
    tagged.wish(20)
    inventory = tagged.wait(lambda one: len(addresses(one)) == 20, within_s=10)
    assert time.monotonic() - begin < 5
    assert {eni.subnet_id for eni in inventory.enis} == {subnet_id(tagged, OWN)}
    assert not inventory.growth.cause


@pytest.mark.spec("ipam.W6")
def test_exhausted_subnets_are_asked_once_and_named(tagged: Manager) -> None:
    for name in (OWN, OTHER):
        tagged.lab.ec2_subnet(name, leave=0)
    tagged.lab.ec2_forget_calls()
    tagged.wish(27)
    told = tagged.wait(lambda one: one.growth.cause == "SUBNET_FULL" and not one.pending_addresses)
    assert subnet_id(tagged, OWN) in told.growth.detail
    assert subnet_id(tagged, OTHER) in told.growth.detail
    assert len(refusals(tagged)) <= 6  # what began before the first refusals: one assign, creates at once
    tagged.lab.ec2_forget_calls()
    time.sleep(6)
    assert refusals(tagged) == []


@pytest.mark.full
@pytest.mark.spec("ipam.W6")
def test_an_exhausted_subnet_is_tried_by_one_call_every_two_minutes(manager: Manager) -> None:
    manager.lab.ec2_subnet(OWN, leave=0)
    manager.wish(27)
    manager.wait(lambda one: one.growth.cause == "SUBNET_FULL" and not one.pending_addresses)
    manager.lab.ec2_forget_calls()
    time.sleep(250)
    assert len(refusals(manager)) == 2
    manager.lab.ec2_subnet(OWN, give_back=True)
    manager.wait(lambda one: len(addresses(one)) == 27, within_s=125)


def test_the_last_addresses_of_a_subnet_are_had(manager: Manager) -> None:
    manager.lab.ec2_subnet(OWN, leave=3)
    manager.wish(9)
    inventory = manager.wait(lambda one: len(addresses(one)) == 3 and one.growth.cause == "SUBNET_FULL")
    assert inventory.growth.until > 0


@pytest.mark.spec("ipam.W14")
def test_a_subnet_excluded_by_tag_excludes_its_enis_and_gives_no_new_ones(tagged: Manager) -> None:
    tagged.wish(9)
    tagged.wait(lambda one: len(addresses(one)) == 9)
    tagged.lab.ec2_subnet(OWN, tags={ROLE: "0"})
    tagged.restart()
    tagged.wait(lambda one: one.enis[0].excluded)
    tagged.wish(4)
    inventory = tagged.wait(lambda one: len(one.enis) == 2 and not one.pending_addresses)
    assert {eni.subnet_id for eni in inventory.enis if not eni.excluded} == {subnet_id(tagged, OTHER)}
    assert [len(eni.addresses) for eni in inventory.enis if not eni.excluded] == [4]


def test_a_subnet_of_another_cluster_gives_no_enis(tagged: Manager) -> None:
    tagged.lab.ec2_subnet(OTHER, tags={CLUSTER + "another": ""})
    tagged.restart()
    tagged.wait(lambda one: True)
    tagged.wish(12)
    inventory = tagged.wait(lambda one: len(addresses(one)) == 12)
    assert {eni.subnet_id for eni in inventory.enis} == {subnet_id(tagged, OWN)}


def test_without_any_subnet_for_pods_the_cause_says_so(manager: Manager) -> None:
    manager.lab.ec2_subnet(OWN, tags={ROLE: "0"})
    try:
        manager.restart()
        manager.wait(lambda one: one.enis[0].excluded)
        manager.wish(3)
        assert "kubernetes.io/role/cni" in manager.wait(lambda one: one.growth.cause == "NO_SUBNET").growth.detail
    finally:
        manager.lab.ec2_subnet(OWN, tags={ROLE: None})


@pytest.mark.spec("ipam.W1", "ipam.W2")
def test_subnets_that_cannot_be_read_hide_no_address(manager: Manager) -> None:
    manager.wish(12)
    before = manager.wait(lambda one: len(addresses(one)) == 12)
    manager.lab.ec2_permissions(deny=["DescribeSubnets"])
    manager.restart()
    after = manager.wait(lambda one: True)
    assert addresses(after) == addresses(before)
    assert all(eni.confirmed and not eni.excluded for eni in after.enis)
    manager.wish(14)
    manager.wait(lambda one: len(addresses(one)) == 14)
    assert any("DescribeSubnets" in reason for reason in manager.peer.status().reasons)


@pytest.mark.full
@pytest.mark.spec("ipam.W14")
def test_a_tag_changed_at_run_time_is_honoured_within_two_minutes(manager: Manager) -> None:
    manager.wish(3)
    manager.wait(lambda one: len(addresses(one)) == 3)
    manager.lab.ec2_subnet(OWN, tags={ROLE: "0"})
    try:
        manager.wait(lambda one: one.enis[0].excluded, within_s=120)
    finally:
        manager.lab.ec2_subnet(OWN, tags={ROLE: None})
    manager.wait(lambda one: not one.enis[0].excluded, within_s=120)

"""The manager on an IPv6 node: one /80 on the primary ENI, had for ever, watched, never exchanged silently."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from ipaddress import IPv6Address, IPv6Network

import pytest
from support.waiting import until
from tests.lab.eni_manager.conftest import Manager, prefixes, primary
from tests.lab.eni_manager.test_subnets import OTHER, OWN, ROLE
from tests.lab_self.conftest import Ec2InVpc

from vpccni.lab.api import Lab
from vpccni.shared.errors import BusError

MUTATING = ("Assign", "Unassign", "Create", "Attach", "Detach", "Delete", "Modify")


@pytest.fixture(scope="module")
def ipv6_lab() -> Iterator[Lab]:
    with Lab.up(f"eni6-{os.getpid() % 10000}", nodes=1, ipv6=True, start_processes=False, transition_s=0.1) as lab:
        yield lab


@pytest.fixture
def stopped(ipv6_lab: Lab) -> Iterator[Manager]:
    """A manager not started yet, on a node whose primary ENI has no prefix."""
    manager = Manager(ipv6_lab)
    yield manager
    ipv6_lab.ec2_clear()
    for name in (OWN, OTHER):
        ipv6_lab.ec2_subnet(name, tags={ROLE: None})
    manager.stop()
    for file in ("eni_manager.enis", "eni_manager.journal"):
        (manager.run_dir / file).unlink(missing_ok=True)
    ec2 = Ec2InVpc(ipv6_lab)
    for eni in ipv6_lab.ec2_picture():
        if eni["prefixes"]:
            ec2.unassign_ipv6_addresses(NetworkInterfaceId=eni["NetworkInterfaceId"], Ipv6Prefixes=eni["prefixes"])
    ec2.remove_all_extra_enis()


@pytest.fixture
def manager(stopped: Manager) -> Manager:
    """A started manager whose node has its prefix."""
    stopped.start()
    stopped.wait(lambda one: len(prefixes(one)) == 1)
    return stopped


def test_the_primary_has_one_prefix_and_others_learn_all_of_ipv6(manager: Manager) -> None:
    inventory = manager.wait(lambda one: True)
    eni, lab = primary(inventory), manager.lab.status()
    assert inventory.ipv6
    assert eni.primary_ipv6 == manager.node.primary_ipv6
    assert IPv6Address(eni.primary_ipv6) in IPv6Network(eni.subnet_ipv6_cidr)
    assert inventory.vpc_ipv6_cidrs == [lab["vpc_cidr_v6"]]
    assert IPv6Network(eni.prefixes[0]).prefixlen == 80
    assert eni.addresses == []
    manager.wish(1000)
    time.sleep(1.0)
    counts = manager.lab.ec2_counts()
    assert counts.get("AssignIpv6Addresses") == 1
    assert "AssignPrivateIpAddresses" not in counts


@pytest.mark.spec("ipam.W24")
def test_a_restart_on_a_settled_ipv6_node_makes_two_calls_and_changes_nothing(manager: Manager) -> None:
    before = prefixes(manager.wait(lambda one: True))
    deadline = time.monotonic() + 10
    while not primary_tags(manager) and time.monotonic() < deadline:
        time.sleep(0.1)
    manager.kill()
    manager.lab.ec2_forget_calls()
    manager.start()
    assert prefixes(manager.wait(lambda one: bool(prefixes(one)))) == before
    time.sleep(1.0)
    counts = manager.lab.ec2_counts()
    assert sum(counts.values()) <= 2
    assert not [action for action in counts if action.startswith(MUTATING)]


def primary_tags(manager: Manager) -> list[dict[str, str]]:
    (eni,) = [one for one in manager.ec2_enis() if one["node"]]
    return list(eni["TagSet"])


@pytest.mark.spec("ipam.W7")
@pytest.mark.parametrize("error", ["UnauthorizedOperation", "InternalError", "InsufficientCidrBlocks"])
def test_a_prefix_that_cannot_be_had_is_asked_for_until_it_can(stopped: Manager, error: str) -> None:
    stopped.lab.ec2_fault("AssignIpv6Addresses", error)
    stopped.start()
    told = stopped.wait(lambda one: bool(one.growth.cause))
    assert error in told.growth.detail
    time.sleep(12.0)  # the pauses are at their longest then
    stopped.lab.ec2_clear()
    stopped.wait(lambda one: len(prefixes(one)) == 1 and not one.growth.cause, within_s=10.0)


def test_a_lost_reply_does_not_give_a_second_prefix(stopped: Manager) -> None:
    stopped.lab.ec2_fault("AssignIpv6Addresses", times=1, lost_reply=True)
    stopped.start()
    stopped.wait(lambda one: len(prefixes(one)) == 1)
    time.sleep(2.0)
    (eni,) = [one for one in stopped.ec2_enis() if one["node"]]
    assert len(eni["prefixes"]) == 1


@pytest.mark.parametrize("before", [True, False])
def test_a_kill_around_the_call_leaves_one_prefix(stopped: Manager, before: bool) -> None:
    stopped.lab.ec2_fault("AssignIpv6Addresses", "UnauthorizedOperation")
    stopped.start()
    stopped.wait(lambda one: bool(one.growth.cause))
    stopped.arm("ec2.AssignIpv6Addresses", before=before)
    stopped.lab.ec2_clear()
    stopped.wait_for_death()
    stopped.start()
    stopped.wait(lambda one: len(prefixes(one)) == 1)
    (eni,) = [one for one in stopped.ec2_enis() if one["node"]]
    assert len(eni["prefixes"]) == 1


@pytest.mark.spec("ipam.W41")
def test_an_eni_beside_an_excluded_primary_has_the_primarys_groups(stopped: Manager) -> None:
    stopped.lab.ec2_subnet(OWN, tags={ROLE: "0"})
    stopped.lab.ec2_subnet(OTHER, tags={ROLE: "1"})
    stopped.start()
    inventory = stopped.wait(lambda one: len(prefixes(one)) == 1, within_s=30.0)
    (made,) = [eni for eni in inventory.enis if not eni.is_primary]
    assert primary(inventory).excluded
    assert made.prefixes
    assert made.primary_ipv6
    groups = {one["NetworkInterfaceId"]: one["Groups"] for one in stopped.ec2_enis()}
    assert groups[made.eni_id] == groups[primary(inventory).eni_id]


@pytest.mark.full
@pytest.mark.spec("ipam.W7")
@pytest.mark.timeout(300)
def test_a_prefix_taken_away_by_hand_is_noticed_told_and_not_exchanged(manager: Manager) -> None:
    eni = primary(manager.wait(lambda one: True))
    ec2, gone = Ec2InVpc(manager.lab), eni.prefixes
    time.sleep(60.0)  # until the manager no longer believes its own call against EC2
    ec2.unassign_ipv6_addresses(NetworkInterfaceId=eni.eni_id, Ipv6Prefixes=gone)
    manager.wait(lambda one: not primary(one).confirmed, within_s=60.0)
    manager.wait(lambda one: one.growth.cause == "PREFIX_LOST", within_s=120.0)
    assert gone[0] in " ".join(manager.peer.status().reasons)
    assert manager.lab.ec2_counts()["AssignIpv6Addresses"] == 1
    ec2.assign_ipv6_addresses(NetworkInterfaceId=eni.eni_id, Ipv6Prefixes=gone)
    manager.wait(lambda one: primary(one).prefixes == gone and not one.growth.cause, within_s=60.0)


def test_a_type_that_has_no_prefixes_is_told_and_nothing_is_asked_of_ec2() -> None:
    name = f"eni6x-{os.getpid() % 10000}"
    with Lab.up(name, nodes=1, instance_type="m4.large", ipv6=True, start_processes=False) as lab:
        manager = Manager(lab)
        manager.start()
        try:
            until(lambda: "m4.large" in reasons(manager), "the type is named", within_s=20.0)
            assert not lab.ec2_counts()
        finally:
            manager.stop()


def reasons(manager: Manager) -> str:
    try:
        return " ".join(manager.peer.status().reasons)
    except BusError:
        return ""

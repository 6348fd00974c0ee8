"""The manager against the lab's EC2: it reaches a wish, gives back what is surrendered, and says why it cannot go on."""

from __future__ import annotations

import time

import pytest
from tests.lab.eni_manager.conftest import Manager, addresses, primary

MUTATIONS = {
    "CreateNetworkInterface", "AttachNetworkInterface", "ModifyNetworkInterfaceAttribute", "AssignPrivateIpAddresses",
    "UnassignPrivateIpAddresses", "DetachNetworkInterface", "DeleteNetworkInterface", "CreateTags",
}  # fmt: skip


def mutations(manager: Manager) -> dict[str, int]:
    return {action: count for action, count in manager.lab.ec2_counts().items() if action in MUTATIONS}


def test_a_small_wish_is_one_assign_on_the_primary(manager: Manager) -> None:
    manager.lab.ec2_forget_calls()
    manager.wish(5)
    inventory = manager.wait(lambda one: len(addresses(one)) == 5)
    assert len(inventory.enis) == 1
    assert mutations(manager) == {"AssignPrivateIpAddresses": 1}


@pytest.mark.spec("ipam.W12", "ipam.W26")
def test_a_full_node_takes_the_fewest_calls(manager: Manager) -> None:
    manager.lab.ec2_forget_calls()
    manager.wish(27)
    inventory = manager.wait(lambda one: len(addresses(one)) == 27)
    assert [len(eni.addresses) for eni in inventory.enis] == [9, 9, 9]
    assert {eni.device_number for eni in inventory.enis} == {0, 1, 2}
    assert all(eni.confirmed and eni.subnet_cidr for eni in inventory.enis)
    counts = mutations(manager)
    assert counts == {
        "AssignPrivateIpAddresses": 1, "CreateNetworkInterface": 2, "AttachNetworkInterface": 2, "ModifyNetworkInterfaceAttribute": 2,
    }  # fmt: skip
    assert manager.lab.ec2_counts()["DescribeNetworkInterfaces"] <= 2 * 3


def test_a_new_eni_carries_tags_in_the_create_call_and_goes_with_the_instance(manager: Manager) -> None:
    manager.lab.ec2_forget_calls()
    manager.wish(10)
    manager.wait(lambda one: len(addresses(one)) == 10)
    create = next(call["params"] for call in manager.lab.ec2_calls() if call["action"] == "CreateNetworkInterface")
    tags = {tag["Key"]: tag["Value"] for tag in create["TagSpecifications"][0]["Tags"]}
    assert tags["node.k8s.amazonaws.com/instance_id"] == manager.node.instance_id
    assert tags["cluster.k8s.amazonaws.com/name"] == manager.lab.name
    assert tags["eks:eni:owner"] == "amazon-vpc-cni"
    assert "node.k8s.amazonaws.com/createdAt" in tags
    assert create["Description"] == f"aws-K8S-{manager.node.instance_id}"
    assert create["ClientToken"]


def test_a_wish_above_the_limits_says_so_and_serves_what_there_is(manager: Manager) -> None:
    manager.wish(40)
    inventory = manager.wait(lambda one: len(addresses(one)) == 27 and not one.pending_addresses)
    assert inventory.growth.cause == "ENI_LIMIT"
    assert "13" in inventory.growth.detail


def test_only_what_is_surrendered_is_taken_away(manager: Manager) -> None:
    manager.wish(12)
    full = manager.wait(lambda one: len(addresses(one)) == 12)
    first = primary(full)
    manager.wish(0)
    time.sleep(0.5)
    assert addresses(manager.wait(lambda one: True)) == addresses(full)
    given = [(first.eni_id, address) for address in first.addresses[:2]]
    manager.wish(10, addresses=given)
    left = manager.wait(lambda one: len(addresses(one)) == 10)
    assert addresses(full) - addresses(left) == {address for _, address in given}


def test_a_surrendered_eni_is_detached_and_deleted(manager: Manager) -> None:
    manager.wish(12)
    full = manager.wait(lambda one: len(addresses(one)) == 12)
    second = next(eni for eni in full.enis if not eni.is_primary)
    manager.wish(9, enis=[second.eni_id])
    manager.wait(lambda one: len(one.enis) == 1)
    deadline = time.monotonic() + 10
    while len(manager.ec2_enis()) > 1 and time.monotonic() < deadline:
        time.sleep(0.05)
    assert [eni["NetworkInterfaceId"] for eni in manager.ec2_enis()] == [primary(full).eni_id]


@pytest.mark.spec("ipam.W24")
def test_a_restart_on_a_settled_node_changes_nothing_with_two_reads(manager: Manager) -> None:
    manager.wish(12)
    before = manager.wait(lambda one: len(addresses(one)) == 12)
    manager.lab.ec2_forget_calls()
    manager.restart()
    after = manager.wait(lambda one: True)
    manager.wish(12)
    time.sleep(1.0)
    assert addresses(after) == addresses(before)
    assert manager.lab.ec2_counts() == {"DescribeNetworkInterfaces": 1, "DescribeSubnets": 1}


@pytest.mark.parametrize(
    ("action", "error", "cause"),
    [
        ("AssignPrivateIpAddresses", "RequestLimitExceeded", "THROTTLED"),
        ("AssignPrivateIpAddresses", "UnauthorizedOperation", "DENIED"),
        ("CreateNetworkInterface", "UnauthorizedOperation", "DENIED"),
        ("AttachNetworkInterface", "UnauthorizedOperation", "DENIED"),
        ("ModifyNetworkInterfaceAttribute", "UnauthorizedOperation", "DENIED"),
        ("CreateNetworkInterface", "InternalError", "EC2_DOWN"),
    ],
)
@pytest.mark.spec("ipam.W4", "ipam.W28")
def test_a_refusal_is_named_and_growth_goes_on_after_it(manager: Manager, action: str, error: str, cause: str) -> None:
    if not action.startswith("Assign"):
        manager.wish(9)
        manager.wait(lambda one: len(addresses(one)) == 9)
    had = addresses(manager.wait(lambda one: True))
    manager.lab.ec2_fault(action, error)
    manager.wish(len(had) + 3)
    refused = manager.wait(lambda one: one.growth.cause == cause)
    assert addresses(refused) == had
    assert refused.growth.until > 0
    manager.lab.ec2_clear()
    manager.wait(lambda one: len(addresses(one)) == len(had) + 3 and not one.growth.cause, within_s=12)


@pytest.mark.spec("ipam.W5")
def test_throttling_is_answered_with_ever_fewer_calls(manager: Manager) -> None:
    manager.lab.ec2_fault("AssignPrivateIpAddresses", "RequestLimitExceeded")
    manager.lab.ec2_forget_calls()
    manager.wish(3)
    time.sleep(7.0)
    assert 2 <= mutations(manager)["AssignPrivateIpAddresses"] <= 5


@pytest.mark.spec("ipam.W13")
@pytest.mark.parametrize("action", ["CreateNetworkInterface", "AttachNetworkInterface", "AssignPrivateIpAddresses"])
def test_a_lost_reply_makes_no_second_eni_and_no_second_address(manager: Manager, action: str) -> None:
    total = 4 if action.startswith("Assign") else 12
    manager.lab.ec2_fault(action, times=1, lost_reply=True)
    manager.wish(total)
    inventory = manager.wait(lambda one: len(addresses(one)) == total and not one.pending_addresses)
    time.sleep(0.5)
    assert len(manager.ec2_enis()) == len(inventory.enis)


def test_a_denied_describe_at_start_is_waited_for_and_told(manager: Manager) -> None:
    manager.kill()
    manager.forget()
    manager.lab.ec2_fault("DescribeNetworkInterfaces", "UnauthorizedOperation")
    manager.start()
    deadline = time.monotonic() + 15
    while time.monotonic() < deadline:
        status = manager.peer.status()
        if status.reasons:
            break
        time.sleep(0.1)
    assert manager.peer.inventory() is None
    assert "DescribeNetworkInterfaces" in status.reasons[0]
    manager.lab.ec2_clear()
    manager.wait(lambda one: True, within_s=12)
    assert manager.peer.status().state == "serving"

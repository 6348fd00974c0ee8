"""EC2 and metadata that lag, hide, stall: growth goes on, and nothing that pods use is lost."""

from __future__ import annotations

import time

import pytest
from tests.lab.eni_manager.conftest import Manager, addresses


@pytest.mark.spec("ipam.W12")
def test_a_stuck_detach_does_not_delay_growth(manager: Manager) -> None:
    manager.wish(12)
    full = manager.wait(lambda one: len(addresses(one)) == 12)
    second = next(eni for eni in full.enis if not eni.is_primary)
    manager.lab.ec2_fault("DetachNetworkInterface", latency_ms=6000)
    manager.wish(9, enis=[second.eni_id])
    time.sleep(0.3)
    begin = time.monotonic()
    manager.wish(14, enis=[second.eni_id])
    manager.wait(lambda one: len(addresses(one) - set(second.addresses)) == 14)
    assert time.monotonic() - begin < 4


@pytest.mark.spec("ipam.W12")
def test_growth_starts_within_100_ms_of_the_wish(manager: Manager) -> None:
    manager.lab.ec2_forget_calls()
    begin = time.time()
    manager.wish(27)
    manager.wait(lambda one: len(addresses(one)) == 27)
    calls = manager.lab.ec2_calls()
    creates = [call["at"] for call in calls if call["action"] == "CreateNetworkInterface"]
    attaches = [call["at"] for call in calls if call["action"] == "AttachNetworkInterface"]
    assert calls[0]["at"] - begin < 0.1
    assert max(creates) < max(attaches)  # both at once, not one after the other


def test_describes_that_lag_behind_cost_no_eni(manager: Manager) -> None:
    manager.lab.ec2_settings(describe_lag_s=2.0)
    try:
        manager.wish(20)
        inventory = manager.wait(lambda one: len(addresses(one)) == 20 and not one.pending_addresses)
        assert len(inventory.enis) == 3
        time.sleep(2.5)
        assert len(manager.ec2_enis()) == 3
    finally:
        manager.lab.ec2_settings(describe_lag_s=0.0)


@pytest.mark.spec("ipam.W2")
def test_a_restart_with_metadata_that_hides_an_eni_loses_nothing(manager: Manager) -> None:
    manager.wish(12)
    full = manager.wait(lambda one: len(addresses(one)) == 12)
    second = next(eni for eni in full.enis if not eni.is_primary)
    manager.lab.imds_fault(manager.node.name, missing_enis=[second.eni_id])
    manager.restart()
    after = manager.wait(lambda one: True)
    assert addresses(after) == addresses(full)


def test_a_failing_delete_is_repeated_until_it_works(manager: Manager) -> None:
    manager.wish(12)
    full = manager.wait(lambda one: len(addresses(one)) == 12)
    second = next(eni for eni in full.enis if not eni.is_primary)
    manager.lab.ec2_fault("DeleteNetworkInterface", "InternalError", times=2)
    manager.wish(9, enis=[second.eni_id])
    manager.wait(lambda one: len(one.enis) == 1)
    deadline = time.monotonic() + 10
    while len(manager.ec2_enis()) > 1:
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.full
@pytest.mark.spec("ipam.W3")
def test_a_metadata_listing_without_an_eni_makes_ec2_be_asked_once_and_nothing_is_lost(manager: Manager) -> None:
    manager.wish(12)
    full = manager.wait(lambda one: len(addresses(one)) == 12)
    second = next(eni for eni in full.enis if not eni.is_primary)
    manager.restart()  # a picture that is settled: our own changes are believed for a minute
    manager.wait(lambda one: True)
    manager.lab.ec2_forget_calls()
    manager.lab.imds_fault(manager.node.name, missing_enis=[second.eni_id])
    time.sleep(65)
    assert manager.lab.ec2_counts() == {"DescribeNetworkInterfaces": 1}
    assert addresses(manager.wait(lambda one: True)) == addresses(full)


def denied(manager: Manager) -> set[str]:
    return {one.labels["api"] for one in manager.peer.status().gauges if one.name == "vpccni_ec2_denied" and one.value}


@pytest.mark.spec("ipam.W28")
@pytest.mark.parametrize(
    ("action", "code"),
    [
        ("UnassignPrivateIpAddresses", "UnauthorizedOperation"),
        ("DetachNetworkInterface", "UnauthorizedOperation"),
        ("DetachNetworkInterface", "AccessDenied"),
        ("DeleteNetworkInterface", "UnauthorizedOperation"),
        ("DescribeSubnets", "UnauthorizedOperation"),
    ],
)
def test_a_denied_way_back_is_told_once_and_leaves_growth_working(manager: Manager, action: str, code: str) -> None:
    manager.wish(12)
    full = manager.wait(lambda one: len(addresses(one)) == 12 and not one.pending_addresses)
    second = next(eni for eni in full.enis if not eni.is_primary)
    manager.lab.ec2_fault(action, code)
    if action == "DescribeSubnets":
        manager.restart()
        manager.wait(lambda one: True)
    first = next(eni for eni in full.enis if eni.is_primary)
    manager.wish(8, addresses=[(first.eni_id, first.addresses[0])], enis=[second.eni_id])
    deadline = time.monotonic() + 10
    while denied(manager) != {action}:
        assert time.monotonic() < deadline, denied(manager)
        time.sleep(0.1)
    manager.wish(10, enis=[second.eni_id])
    grown = manager.wait(lambda one: len(addresses(one) - set(second.addresses)) >= 10)
    assert not grown.growth.cause
    manager.lab.ec2_clear()


@pytest.mark.spec("ipam.W18")
def test_a_refused_unassign_neither_grows_the_pool_nor_forgets_the_address(manager: Manager) -> None:
    manager.wish(5)
    full = manager.wait(lambda one: len(addresses(one)) == 5)
    given = [(full.enis[0].eni_id, address) for address in full.enis[0].addresses[:2]]
    manager.lab.ec2_fault("UnassignPrivateIpAddresses", "InternalError", times=2)
    manager.lab.ec2_forget_calls()
    manager.wish(3, addresses=given)
    left = manager.wait(lambda one: len(addresses(one)) == 3)
    counts = manager.lab.ec2_counts()
    assert counts["UnassignPrivateIpAddresses"] == 3
    assert "AssignPrivateIpAddresses" not in counts
    assert not addresses(left) & {address for _, address in given}


@pytest.mark.spec("ipam.W19")
def test_metadata_that_fails_leaves_the_vpcs_cidrs_in_force(manager: Manager) -> None:
    before = manager.wait(lambda one: bool(one.vpc_cidrs)).vpc_cidrs
    manager.lab.imds_fault(manager.node.name, statuses={"meta-data": 500})
    manager.wish(3)
    assert manager.wait(lambda one: len(addresses(one)) == 3).vpc_cidrs == before


@pytest.mark.spec("ipam.W33")
def test_the_endpoint_setting_counts_for_ec2_and_not_for_metadata(manager: Manager) -> None:
    manager.restart(AWS_EC2_ENDPOINT="http://127.0.0.1:9")
    deadline = time.monotonic() + 15
    manager.lab.ec2_forget_calls()
    while not any("DescribeNetworkInterfaces" in reason for reason in manager.peer.status().reasons):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert not [reason for reason in manager.peer.status().reasons if "metadata" in reason]
    assert manager.lab.ec2_counts() == {}


@pytest.mark.full
@pytest.mark.spec("ipam.W34")
def test_steady_small_changes_do_not_put_off_the_looks(manager: Manager) -> None:
    manager.wait(lambda one: True)
    manager.lab.ec2_forget_calls()
    for turn in range(26):
        manager.wish(1 + turn)
        time.sleep(5)
    looks = [call["at"] for call in manager.lab.ec2_calls()
             if call["action"] == "DescribeNetworkInterfaces" and "Filters" in call["params"]]  # fmt: skip
    assert len(looks) >= 1

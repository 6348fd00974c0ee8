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

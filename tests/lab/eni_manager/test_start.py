"""Starting while EC2 is slow, away or refusing, and the modes in which EC2 is not to be changed or not to be asked."""

from __future__ import annotations

import signal
import time

import pytest
from tests.lab.eni_manager.conftest import Manager, addresses
from tests.lab.eni_manager.test_growth import mutations


@pytest.fixture
def grown(manager: Manager) -> Manager:
    """A manager whose node has two ENIs with twelve addresses."""
    manager.wish(12)
    manager.wait(lambda one: len(addresses(one)) == 12 and not one.pending_addresses)
    time.sleep(0.5)
    return manager


def start_with_ec2_silent(manager: Manager) -> float:
    """Restart while EC2 takes its time; return how long the first inventory took."""
    manager.kill()
    manager.lab.ec2_fault("*", latency_ms=8000)
    begin = time.monotonic()
    manager.start()
    manager.wait(lambda one: True)
    return time.monotonic() - begin


@pytest.mark.spec("ipam.W35")
def test_existing_capacity_is_served_two_seconds_after_a_start_with_slow_ec2(grown: Manager) -> None:
    before = grown.wait(lambda one: True)
    took = start_with_ec2_silent(grown)
    after = grown.wait(lambda one: True)
    assert took < 4.0  # a loaded machine; the process itself waits 0.7 s for EC2
    assert addresses(after) == addresses(before)
    assert all(eni.confirmed and eni.subnet_cidr for eni in after.enis)
    grown.lab.ec2_clear()


@pytest.mark.spec("ipam.W2", "ipam.W35")
def test_what_metadata_does_not_vouch_for_waits_for_ec2(grown: Manager) -> None:
    before = grown.wait(lambda one: True)
    second = next(eni for eni in before.enis if not eni.is_primary)
    grown.lab.imds_fault(grown.node.name, missing_enis=[second.eni_id])
    start_with_ec2_silent(grown)
    after = grown.wait(lambda one: True)
    assert addresses(after) == addresses(before)
    assert {eni.eni_id for eni in after.enis if not eni.confirmed} == {second.eni_id}
    grown.lab.ec2_forget_calls()
    grown.wish(20)
    time.sleep(0.5)
    assert mutations(grown) == {}
    grown.lab.ec2_clear()
    grown.wait(lambda one: all(eni.confirmed for eni in one.enis))
    grown.wait(lambda one: len(addresses(one)) == 20)


@pytest.mark.spec("ipam.W28")
def test_a_describe_that_is_denied_at_start_leaves_existing_capacity_and_growth_waits_for_it(grown: Manager) -> None:
    before = grown.wait(lambda one: True)
    grown.lab.ec2_permissions(deny=["DescribeNetworkInterfaces"])
    grown.restart()
    assert addresses(grown.wait(lambda one: True)) == addresses(before)
    assert any("DescribeNetworkInterfaces" in reason for reason in grown.peer.status().reasons)
    grown.wish(14)
    grown.lab.ec2_permissions(allow=["*"])
    grown.wait(lambda one: len(addresses(one)) == 14, within_s=10)


def test_a_memory_of_another_instance_or_of_junk_is_not_used(grown: Manager) -> None:
    path = grown.run_dir / "eni_manager.enis"
    whole = path.read_bytes()
    for junk in (whole.replace(grown.node.instance_id.encode(), b"i-0000000000000000"), whole[:50], b"[]"):
        grown.kill()
        path.write_bytes(junk)
        grown.lab.ec2_fault("DescribeNetworkInterfaces", "UnauthorizedOperation")
        grown.start()
        deadline = time.monotonic() + 10
        while not grown.peer.status().reasons:
            assert time.monotonic() < deadline
            time.sleep(0.1)
        assert grown.peer.inventory() is None
        grown.lab.ec2_clear()
        grown.wait(lambda one: len(addresses(one)) == 12, within_s=12)


def test_with_provisioning_off_nothing_is_changed_and_the_cause_says_so(grown: Manager) -> None:
    grown.restart(DISABLE_NETWORK_RESOURCE_PROVISIONING="true")
    before = grown.wait(lambda one: True)
    grown.lab.ec2_forget_calls()
    grown.wish(20)
    told = grown.wait(lambda one: one.growth.cause == "PROVISIONING_OFF")
    assert addresses(told) == addresses(before)
    second = next(eni.eni_id for eni in told.enis if not eni.is_primary)
    grown.wish(9, enis=[second])
    time.sleep(1)
    assert mutations(grown) == {}


def test_with_imds_only_ec2_is_never_asked(grown: Manager) -> None:
    before = grown.wait(lambda one: True)
    grown.kill()
    grown.lab.ec2_forget_calls()
    grown.lab.ec2_permissions(deny=["*"])
    grown.forget()
    grown.restart(ENABLE_IMDS_ONLY_MODE="true")
    after = grown.wait(lambda one: True)
    assert addresses(after) == addresses(before)
    assert all(eni.confirmed and eni.managed for eni in after.enis)
    time.sleep(1)
    assert grown.lab.ec2_counts() == {}


@pytest.mark.spec("ipam.W27")
def test_one_eni_that_metadata_cannot_tell_leaves_the_others_working(grown: Manager) -> None:
    second = next(eni for eni in grown.wait(lambda one: True).enis if not eni.is_primary)
    path = f"meta-data/network/interfaces/macs/{second.mac}/subnet-id"
    grown.lab.imds_fault(grown.node.name, statuses={path: 500})
    grown.restart()
    odd = grown.wait(lambda one: len(one.enis) == 2)
    assert {eni.eni_id for eni in odd.enis if not eni.confirmed} == {second.eni_id}
    assert len(addresses(odd)) == 12
    grown.wish(12)
    told = [reason for reason in grown.peer.status().reasons if second.eni_id in reason]
    assert told
    assert "unusable" in told[0]
    grown.lab.ec2_clear()
    grown.wait(lambda one: all(eni.confirmed for eni in one.enis), within_s=75)
    assert not [reason for reason in grown.peer.status().reasons if second.eni_id in reason]


@pytest.mark.spec("ipam.W42")
def test_a_termination_while_an_address_is_given_back_leaves_ec2_and_inventory_the_same(grown: Manager) -> None:
    full = grown.wait(lambda one: True)
    given = [(full.enis[0].eni_id, full.enis[0].addresses[0])]
    grown.lab.ec2_fault("UnassignPrivateIpAddresses", latency_ms=700, times=1)
    grown.wish(11, addresses=given)
    time.sleep(0.2)
    assert grown.process is not None
    grown.process.send_signal(signal.SIGTERM)
    grown.wait_for_death()
    grown.start()
    grown.wait(lambda one: True)
    grown.wish(11, addresses=given)
    left = grown.wait(lambda one: given[0][1] not in addresses(one))
    shown = {address for eni in grown.ec2_enis() for address in eni["addresses"]}
    assert addresses(left) == shown - {eni.primary_address for eni in left.enis}

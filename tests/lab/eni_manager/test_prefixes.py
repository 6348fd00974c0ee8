"""Prefix mode: whole /28 blocks in the fewest calls, leftovers of the other mode given back, fragmented subnets gone round."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest
from tests.lab.eni_manager.conftest import Manager, addresses, prefixes, primary
from tests.lab.eni_manager.test_subnets import OTHER, OWN, ROLE, subnet_id

ON = {"ENABLE_PREFIX_DELEGATION": "true", "WARM_PREFIX_TARGET": "1"}


@pytest.fixture
def by_prefix(manager: Manager) -> Iterator[Manager]:
    """The manager in prefix mode; subnets are as they were afterwards."""
    manager.restart(**ON)
    manager.wait(lambda one: one.by_prefix)
    yield manager
    for name in (OWN, OTHER):
        manager.lab.ec2_subnet(name, tags={ROLE: None}, give_back=True)


def reports(manager: Manager) -> dict[str, float]:
    status = manager.peer.status()
    return {one.labels["reason"]: one.value for one in status.counters if one.name == "vpccni_reports"}


def test_a_wish_is_rounded_up_to_whole_prefixes_in_one_call(by_prefix: Manager) -> None:
    by_prefix.lab.ec2_forget_calls()
    by_prefix.wish(17)
    inventory = by_prefix.wait(lambda one: len(prefixes(one)) == 2)
    assert addresses(inventory) == set()
    assert by_prefix.lab.ec2_counts() == {"AssignPrivateIpAddresses": 1}
    by_prefix.wish(32)
    time.sleep(0.5)
    assert by_prefix.lab.ec2_counts() == {"AssignPrivateIpAddresses": 1}


def test_a_new_eni_is_made_with_its_prefixes(by_prefix: Manager) -> None:
    by_prefix.lab.ec2_forget_calls()
    by_prefix.wish(11 * 16)
    inventory = by_prefix.wait(lambda one: len(prefixes(one)) == 11)
    assert [len(eni.prefixes) for eni in inventory.enis] in ([9, 2], [2, 9])
    create = next(call for call in by_prefix.lab.ec2_calls() if call["action"] == "CreateNetworkInterface")
    assert create["params"]["Ipv4PrefixCount"] == 2
    assert by_prefix.lab.ec2_counts()["AssignPrivateIpAddresses"] == 1


def test_pending_prefixes_are_told_in_addresses(by_prefix: Manager) -> None:
    by_prefix.lab.ec2_fault("AssignPrivateIpAddresses", latency_ms=1000)
    by_prefix.wish(20)
    by_prefix.wait(lambda one: one.pending_addresses == 32)
    by_prefix.wait(lambda one: one.pending_addresses == 0 and len(prefixes(one)) == 2)


def test_a_surrendered_prefix_is_given_back(by_prefix: Manager) -> None:
    by_prefix.wish(48)
    full = by_prefix.wait(lambda one: len(prefixes(one)) == 3)
    gone = primary(full).prefixes[0]
    by_prefix.wish(32, addresses=[(primary(full).eni_id, gone)])
    assert gone not in prefixes(by_prefix.wait(lambda one: len(prefixes(one)) == 2))


@pytest.mark.spec("ipam.W16")
def test_leftovers_of_either_mode_hold_their_slots_and_go_when_surrendered(manager: Manager) -> None:
    manager.wish(7)
    old = manager.wait(lambda one: len(addresses(one)) == 7)
    manager.restart(**ON)
    manager.wait(lambda one: one.by_prefix)
    manager.wish(3 * 16)  # two slots are left on the primary
    both = manager.wait(lambda one: len(prefixes(one)) == 3)
    assert addresses(both) == addresses(old)
    assert {len(eni.prefixes) for eni in both.enis} == {1, 2}
    given = [(primary(both).eni_id, item) for item in (*primary(both).addresses, *primary(both).prefixes)]
    manager.wish(16, addresses=given)
    manager.wait(lambda one: not addresses(one) and len(prefixes(one)) == 1)
    manager.restart(ENABLE_PREFIX_DELEGATION="false")
    manager.wait(lambda one: not one.by_prefix)
    manager.wish(4)
    assert len(prefixes(manager.wait(lambda one: len(addresses(one)) == 4))) == 1


@pytest.mark.spec("ipam.W8")
def test_prefixes_that_metadata_does_not_show_yet_are_usable_at_once(by_prefix: Manager) -> None:
    by_prefix.lab.imds_fault(by_prefix.node.name, stale_s=300)
    by_prefix.lab.ec2_forget_calls()
    begin = time.monotonic()
    by_prefix.wish(11 * 16)
    inventory = by_prefix.wait(lambda one: len(prefixes(one)) == 11)
    assert time.monotonic() - begin < 3.5  # 1.5 s of it metadata was waited for
    assert by_prefix.lab.ec2_counts()["DescribeNetworkInterfaces"] <= 2
    assert all(eni.confirmed for eni in inventory.enis)


@pytest.mark.spec("ipam.W32")
def test_a_fragmented_subnet_is_gone_round_and_told_once_with_advice(by_prefix: Manager) -> None:
    by_prefix.lab.ec2_subnet(OTHER, tags={ROLE: "1"})
    by_prefix.restart()
    by_prefix.wait(lambda one: one.by_prefix)
    by_prefix.lab.ec2_subnet(OWN, fragment=True)
    by_prefix.wish(32)
    inventory = by_prefix.wait(lambda one: len(prefixes(one)) == 2)
    assert {eni.subnet_id for eni in inventory.enis if eni.prefixes} == {subnet_id(by_prefix, OTHER)}
    assert reports(by_prefix)["FRAGMENTED"] == 1


@pytest.mark.spec("ipam.W32")
def test_without_another_subnet_the_cause_is_told_and_nothing_falls_back(by_prefix: Manager) -> None:
    by_prefix.lab.ec2_subnet(OWN, fragment=True)
    by_prefix.wish(32)
    told = by_prefix.wait(lambda one: one.growth.cause == "FRAGMENTED" and not one.pending_addresses)
    assert subnet_id(by_prefix, OWN) in told.growth.detail
    assert told.by_prefix
    assert not addresses(told)


@pytest.mark.spec("ipam.W32")
def test_the_fall_back_to_single_addresses_is_asked_for_by_name(by_prefix: Manager) -> None:
    by_prefix.lab.ec2_subnet(OWN, fragment=True)
    by_prefix.restart(VPCCNI_PREFIX_FALLBACK="true")
    by_prefix.wait(lambda one: one.by_prefix)
    by_prefix.wish(5)
    by_prefix.wait(lambda one: not one.by_prefix and len(addresses(one)) == 5)
    assert reports(by_prefix)["PrefixFallback"] == 1

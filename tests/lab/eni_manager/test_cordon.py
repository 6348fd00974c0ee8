"""A cordoned node: nothing is added and no ENI freed, addresses are given back all the same (spec ipam.md 21)."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest
from tests.lab.eni_manager.conftest import Manager, addresses, primary

TAINT = {"key": "node.kubernetes.io/unschedulable", "effect": "NoSchedule"}


def cordon(manager: Manager, *, on: bool) -> None:
    taints = [TAINT] if on else []
    manager.lab.kube("PATCH", f"/api/v1/nodes/{manager.node.name}", {"spec": {"taints": taints}})


@pytest.fixture
def cordoned(manager: Manager) -> Iterator[Manager]:
    """A manager with two ENIs and twelve addresses on a node that was cordoned a moment ago."""
    manager.wish(12)
    manager.wait(lambda one: len(addresses(one)) == 12 and not one.pending_addresses)
    cordon(manager, on=True)
    time.sleep(1)
    yield manager
    cordon(manager, on=False)
    time.sleep(0.5)


def test_nothing_grows_until_the_node_is_uncordoned(cordoned: Manager) -> None:
    cordoned.wish(20)
    told = cordoned.wait(lambda one: one.growth.cause == "CORDONED")
    assert len(addresses(told)) == 12
    cordon(cordoned, on=False)
    cordoned.wait(lambda one: len(addresses(one)) == 20 and not one.growth.cause)


def test_addresses_are_given_back_and_enis_stay(cordoned: Manager) -> None:
    full = cordoned.wait(lambda one: True)
    second = next(eni for eni in full.enis if not eni.is_primary)
    given = (primary(full).eni_id, primary(full).addresses[0])
    cordoned.wish(8, addresses=[given], enis=[second.eni_id])
    left = cordoned.wait(lambda one: given[1] not in addresses(one))
    time.sleep(0.5)
    assert len(left.enis) == 2
    assert len(cordoned.ec2_enis()) == 2


def test_the_setting_goes_on_growing(cordoned: Manager) -> None:
    cordoned.restart(AWS_MANAGE_ENIS_NON_SCHEDULABLE="true")
    cordoned.wait(lambda one: True)
    cordoned.wish(14)
    cordoned.wait(lambda one: len(addresses(one)) == 14)


def test_a_node_cordoned_before_the_start_is_known_to_be(cordoned: Manager) -> None:
    cordoned.restart()
    cordoned.wait(lambda one: True)
    time.sleep(1)
    cordoned.wish(20)
    assert len(addresses(cordoned.wait(lambda one: one.growth.cause == "CORDONED"))) == 12

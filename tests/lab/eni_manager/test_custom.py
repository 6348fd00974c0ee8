"""Custom networking: ENIs come from the node's ENIConfig, the primary is left alone, a change counts for the next ENI."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest
from tests.lab.eni_manager.conftest import Manager, addresses, primary
from tests.lab.eni_manager.test_subnets import subnet_id
from tests.lab.eni_manager.test_upkeep import groups_of, rows

CONFIGS = "/apis/crd.k8s.amazonaws.com/v1alpha1/eniconfigs"
CNI_NODES = "/apis/vpcresources.k8s.aws/v1alpha1/cninodes"
LABEL = "k8s.amazonaws.com/eniConfig"


def write_config(manager: Manager, name: str, subnet: str, *groups: str) -> None:
    """Create or replace an ENIConfig."""
    manager.lab.kube("DELETE", f"{CONFIGS}/{name}", expect=(200, 404))
    spec = {"subnet": subnet_id(manager, subnet), "securityGroups": list(groups)}
    manager.lab.kube("POST", CONFIGS, {"metadata": {"name": name}, "spec": spec})


def label_node(manager: Manager, value: str | None) -> None:
    manager.lab.kube("PATCH", f"/api/v1/nodes/{manager.node.name}", {"metadata": {"labels": {LABEL: value}}})


@pytest.fixture
def custom(manager: Manager) -> Iterator[Manager]:
    """The manager with custom networking on and the config of the zone; nothing of it is left afterwards."""
    write_config(manager, "zone-a", "pods-a", "sg-pods")
    label_node(manager, "zone-a")
    manager.restart(AWS_VPC_K8S_CNI_CUSTOM_NETWORK_CFG="true")
    manager.wait(lambda one: True)
    yield manager
    label_node(manager, None)
    for name in ("zone-a", "other"):
        manager.lab.kube("DELETE", f"{CONFIGS}/{name}", expect=(200, 404))


def test_enis_come_from_the_config_and_the_primary_gets_nothing(custom: Manager) -> None:
    custom.wish(12)
    inventory = custom.wait(lambda one: len(addresses(one)) == 12)
    assert primary(inventory).addresses == []
    others = [eni for eni in inventory.enis if not eni.is_primary]
    assert {eni.subnet_id for eni in others} == {subnet_id(custom, "pods-a")}
    assert {tuple(groups_of(rows(custom)[eni.eni_id])) for eni in others} == {("sg-pods",)}
    custom.lab.ec2_forget_calls()
    custom.restart()
    custom.wait(lambda one: len(addresses(one)) == 12)
    time.sleep(1)
    assert "ModifyNetworkInterfaceAttribute" not in custom.lab.ec2_counts()


def test_a_change_counts_for_the_next_eni_without_a_restart(custom: Manager) -> None:
    custom.wish(9)
    custom.wait(lambda one: len(addresses(one)) == 9)
    write_config(custom, "other", "small-a")
    label_node(custom, "other")
    time.sleep(1)
    custom.wish(12)
    inventory = custom.wait(lambda one: len(addresses(one)) == 12)
    by_subnet = {eni.subnet_id: len(eni.addresses) for eni in inventory.enis if not eni.is_primary}
    assert by_subnet == {subnet_id(custom, "pods-a"): 9, subnet_id(custom, "small-a"): 3}
    primary_groups = groups_of(rows(custom)[primary(inventory).eni_id])
    small = next(eni for eni in inventory.enis if eni.subnet_id == subnet_id(custom, "small-a"))
    assert groups_of(rows(custom)[small.eni_id]) == primary_groups  # none named: the primary's


def test_a_missing_config_is_the_cause_until_it_is_there(custom: Manager) -> None:
    label_node(custom, "other")
    time.sleep(1)
    custom.wish(5)
    told = custom.wait(lambda one: one.growth.cause == "NO_ENI_CONFIG")
    assert "'other'" in told.growth.detail
    assert "zone-a" in told.growth.detail
    write_config(custom, "other", "pods-a")
    custom.wait(lambda one: len(addresses(one)) == 5 and not one.growth.cause, within_s=10)


@pytest.mark.spec("ipam.19")
def test_custom_networking_alone_leaves_the_cninode_alone(custom: Manager) -> None:
    features = [{"name": "SecurityGroupsForPods"}]
    made = custom.lab.kube("POST", CNI_NODES, {"metadata": {"name": custom.node.name}, "spec": {"features": features}})
    custom.restart()
    custom.wish(9)
    custom.wait(lambda one: len(addresses(one)) == 9)
    assert custom.lab.kube("GET", f"{CNI_NODES}/{custom.node.name}") == made
    custom.lab.kube("DELETE", f"{CNI_NODES}/{custom.node.name}")
    custom.restart()
    custom.wait(lambda one: len(addresses(one)) == 9)
    assert custom.lab.kube("GET", CNI_NODES)["items"] == []


@pytest.mark.spec("ipam.W36")
def test_without_the_api_existing_capacity_is_served_and_growth_goes_on_when_it_is_back(custom: Manager) -> None:
    custom.wish(9)
    before = custom.wait(lambda one: len(addresses(one)) == 9)
    custom.lab.kube_fault(503)
    try:
        custom.restart()
        assert addresses(custom.wait(lambda one: True)) == addresses(before)
        custom.wish(12)
        custom.wait(lambda one: one.growth.cause == "NO_ENI_CONFIG")
    finally:
        custom.lab.kube_fault(None)
    custom.wait(lambda one: len(addresses(one)) == 12, within_s=40)

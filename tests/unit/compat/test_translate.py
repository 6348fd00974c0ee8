"""The replies of spec rpc.md 3 to 6 from our own messages."""

from __future__ import annotations

import dataclasses

import pytest
from support.facts import an_eni, an_inventory

from vpccni.components.compat import http2, translate
from vpccni.components.compat.messages import AddNetworkRequest, DelNetworkRequest, IPAllocationMetadata
from vpccni.shared.messages.allocation import AssignedInterface
from vpccni.shared.messages.base import PodRef, Sandbox
from vpccni.shared.settings import Settings, read

INVENTORY = an_inventory(
    an_eni(0, primary_ipv6="2001:db8::4"), vpc_cidrs=["10.0.0.0/16"], vpc_ipv6_cidrs=["2001:db8::/56"]
)


def settings(**texts: str) -> Settings:
    return read(texts).settings


def test_addresses_come_with_what_their_wiring_needs() -> None:
    reply = translate.added(
        [AssignedInterface("10.0.0.9", "eni-1", 0, 0, 254), AssignedInterface("10.0.1.9", "eni-2", 1, 1, 10101)],
        INVENTORY,
        settings(NETWORK_POLICY_ENFORCING_MODE="strict"),
    )
    assert reply.success
    assert reply.addresses == [
        IPAllocationMetadata(ipv4="10.0.0.9", route_table=254),
        IPAllocationMetadata(ipv4="10.0.1.9", device_number=1, route_table=10101),
    ]
    assert (reply.vpc_cidrs, reply.external_snat, reply.network_policy_mode) == (["10.0.0.0/16"], False, "strict")


def test_excluded_ranges_follow_the_vpcs_unless_nat_is_external() -> None:
    excluded = {"AWS_VPC_K8S_CNI_EXCLUDE_SNAT_CIDRS": "192.0.2.0/24"}
    assert translate.added([], INVENTORY, settings(**excluded)).vpc_cidrs == ["10.0.0.0/16", "192.0.2.0/24"]
    external = translate.added([], INVENTORY, settings(**excluded, AWS_VPC_K8S_CNI_EXTERNALSNAT="true"))
    assert (external.vpc_cidrs, external.external_snat) == (["10.0.0.0/16"], True)


def test_an_ipv6_node_tells_ipv6_alone() -> None:
    inventory = an_inventory(*INVENTORY.enis, vpc_ipv6_cidrs=["2001:db8::/56"], ipv6=True)
    reply = translate.added([AssignedInterface("2001:db8::1:5", "eni-1", 0, 0, 254)], inventory, settings())
    assert reply.addresses == [IPAllocationMetadata(ipv6="2001:db8::1:5", route_table=254)]
    assert (reply.vpc_cidrs, reply.vpc_ipv6_cidrs) == ([], ["2001:db8::/56"])
    config = translate.policy_config(inventory, settings(NETWORK_POLICY_ENFORCING_MODE="standard"))
    assert (config.mode, config.node_ipv4, config.node_ipv6) == ("standard", "", "2001:db8::4")


def test_a_key_with_a_part_missing_is_nobodys() -> None:
    whole = AddNetworkRequest(container_id="c", ifname="eth0", network_name="aws-cni")
    assert translate.sandbox_of(whole) == Sandbox("c", "eth0", "aws-cni")
    for part in ("container_id", "ifname", "network_name"):
        assert translate.sandbox_of(dataclasses.replace(whole, **{part: ""})) is None
    assert translate.pod_of(DelNetworkRequest(pod_name="p", pod_namespace="n", pod_uid="u")) == PodRef("n", "p", "u")


def test_the_host_veth_is_named_as_the_contract_says() -> None:
    assert translate.host_veth("default", "sample-pod", "eni", 0) == "enicc21c2d7785"
    assert translate.host_veth("kube-system", "web-2", "eni", 1) == "eni7cd2485543c"


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("", 20.0), ("5S", 5.0), ("250m", 0.25), ("3M", 20.0), ("1H", 20.0), ("100u", 1e-4), ("x", 20.0), ("9" * 9 + "S", 20.0), ("1", 20.0)],
)  # fmt: skip
def test_deadlines_of_calls(text: str, seconds: float) -> None:
    assert http2.timeout_s(text) == pytest.approx(seconds)

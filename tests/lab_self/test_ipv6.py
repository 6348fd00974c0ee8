"""A lab of an IPv6 cluster: what EC2, metadata and the fabric do with IPv6 addresses and prefixes."""

from __future__ import annotations

import os
from collections.abc import Iterator
from ipaddress import IPv6Address, IPv6Network
from typing import Any

import pytest
from tests.lab_self.conftest import Ec2InVpc
from tests.lab_self.test_imds import read

from vpccni.lab.api import Lab, Node
from vpccni.lab.fabric import INTERNET_ADDRESS_V6


@pytest.fixture(scope="module")
def shared_lab() -> Iterator[Lab]:
    with Lab.up(f"v6-{os.getpid()}", ipv6=True, start_processes=False) as lab:
        yield lab


def eni_of(lab: Lab, node: Node) -> dict[str, Any]:
    return next(eni for eni in lab.ec2_picture() if eni["node"] == node.name)


def pings(node: Node, target: str, source: str = "") -> bool:
    more = ["-I", source] if source else []
    # Three chances: on a busy machine the first packet may find a neighbour that is not resolved within its second.
    return node.exec(["ping", "-c3", "-i0.3", "-W2", *more, target], check=False).returncode == 0


@pytest.fixture
def prefix(lab: Lab, ec2: Ec2InVpc) -> Iterator[IPv6Network]:
    """A /80 on node-2's primary ENI; the node has its first address, as a pod would."""
    node = lab.nodes[1]
    eni_id = eni_of(lab, node)["NetworkInterfaceId"]
    reply = ec2.assign_ipv6_addresses(NetworkInterfaceId=eni_id, Ipv6PrefixCount=1)
    block = IPv6Network(reply["AssignedIpv6Prefixes"][0])
    node.exec(["ip", "addr", "add", f"{block[0]}/128", "dev", "lo", "nodad"])
    yield block
    node.exec(["ip", "addr", "del", f"{block[0]}/128", "dev", "lo"])
    ec2.unassign_ipv6_addresses(NetworkInterfaceId=eni_id, Ipv6Prefixes=[str(block)])


def test_nodes_reach_each_other_and_the_internet_under_their_own_address(lab: Lab) -> None:
    first, second = lab.nodes
    assert pings(first, second.primary_ipv6)
    url = f"http://[{INTERNET_ADDRESS_V6}]/"
    assert first.exec(["curl", "-s", "-m", "2", url]).stdout.strip() == first.primary_ipv6


def test_a_prefix_is_routed_to_its_eni_as_a_whole(lab: Lab, prefix: IPv6Network) -> None:
    first, second = lab.nodes
    pod = str(prefix[0])
    assert pings(first, pod)
    asked = second.exec(["curl", "-s", "-m", "2", "--interface", pod, f"http://[{INTERNET_ADDRESS_V6}]/"])
    assert asked.stdout.strip() == pod


def test_a_source_that_is_not_on_the_eni_is_dropped(lab: Lab, prefix: IPv6Network) -> None:
    first, second = lab.nodes
    first.exec(["ip", "addr", "add", f"{prefix[9]}/128", "dev", "lo", "nodad"])
    try:
        assert not pings(first, second.primary_ipv6, str(prefix[9]))
    finally:
        first.exec(["ip", "addr", "del", f"{prefix[9]}/128", "dev", "lo"])


def test_metadata_shows_addresses_prefixes_and_ranges(lab: Lab, prefix: IPv6Network) -> None:
    node = lab.nodes[1]
    eni = eni_of(lab, node)
    macs = f"meta-data/network/interfaces/macs/{eni['MacAddress']}"
    assert read(node, "meta-data/ipv6") == (200, node.primary_ipv6)
    assert read(node, f"{macs}/ipv6s") == (200, node.primary_ipv6)
    assert read(node, f"{macs}/ipv6-prefix") == (200, str(prefix))
    subnet = IPv6Network(read(node, f"{macs}/subnet-ipv6-cidr-blocks")[1])
    vpc = IPv6Network(read(node, f"{macs}/vpc-ipv6-cidr-blocks")[1])
    assert IPv6Address(node.primary_ipv6) in subnet
    assert subnet.subnet_of(vpc)
    assert str(vpc) == lab.status()["vpc_cidr_v6"]


def test_ec2_describes_and_gives_back_what_it_assigned(lab: Lab, ec2: Ec2InVpc) -> None:
    eni_id = eni_of(lab, lab.nodes[0])["NetworkInterfaceId"]
    given = ec2.assign_ipv6_addresses(NetworkInterfaceId=eni_id, Ipv6PrefixCount=2)["AssignedIpv6Prefixes"]
    (shown,) = ec2.describe_network_interfaces(NetworkInterfaceIds=[eni_id])["NetworkInterfaces"]
    assert [one["Ipv6Prefix"] for one in shown["Ipv6Prefixes"]] == given
    ec2.unassign_ipv6_addresses(NetworkInterfaceId=eni_id, Ipv6Prefixes=given)
    again = ec2.assign_ipv6_addresses(NetworkInterfaceId=eni_id, Ipv6Prefixes=given[:1])
    assert again["AssignedIpv6Prefixes"] == given[:1]
    ec2.unassign_ipv6_addresses(NetworkInterfaceId=eni_id, Ipv6Prefixes=given[:1])
    assert not ec2.describe_network_interfaces(NetworkInterfaceIds=[eni_id])["NetworkInterfaces"][0]["Ipv6Prefixes"]


@pytest.mark.parametrize(
    ("ask", "code"),
    [
        ({}, "InvalidParameterCombination"),
        ({"Ipv6PrefixCount": 1, "Ipv6AddressCount": 1}, "InvalidParameterCombination"),
        ({"Ipv6PrefixCount": 10}, "Ipv6AddressLimitExceeded"),
        ({"Ipv6Prefixes": ["2001:db8:ffff:1::/80"]}, "InvalidParameterValue"),
    ],
)
def test_what_cannot_be_assigned_is_refused(lab: Lab, ec2: Ec2InVpc, ask: dict[str, Any], code: str) -> None:
    eni_id = eni_of(lab, lab.nodes[0])["NetworkInterfaceId"]
    with pytest.raises(Exception, match=code):
        ec2.assign_ipv6_addresses(NetworkInterfaceId=eni_id, **ask)


def test_a_prefix_of_another_eni_is_refused(lab: Lab, ec2: Ec2InVpc, prefix: IPv6Network) -> None:
    eni_id = eni_of(lab, lab.nodes[0])["NetworkInterfaceId"]
    with pytest.raises(Exception, match=r"InvalidIPAddress\.InUse"):
        ec2.assign_ipv6_addresses(NetworkInterfaceId=eni_id, Ipv6Prefixes=[str(prefix)])

"""Packets between nodes and to the internet, and those that the fabric drops."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from vpccni.lab.api import Lab, Node


def pings(node: Node, target: str, *more: str) -> bool:
    return node.exec(["ping", "-c1", "-W1", *more, target], check=False).returncode == 0


@pytest.fixture
def secondary(lab: Lab, ec2: Any) -> Iterator[str]:
    """An address that EC2 put on node-1's primary ENI and the node put on its loopback."""
    node = lab.nodes[0]
    eni = next(e for e in lab.ec2_picture() if e["node"] == node.name)["NetworkInterfaceId"]
    reply = ec2.assign_private_ip_addresses(NetworkInterfaceId=eni, SecondaryPrivateIpAddressCount=1)
    address = str(reply["AssignedPrivateIpAddresses"][0]["PrivateIpAddress"])
    node.exec(["ip", "addr", "add", f"{address}/32", "dev", "lo"])
    yield address
    node.exec(["ip", "addr", "del", f"{address}/32", "dev", "lo"])
    ec2.unassign_private_ip_addresses(NetworkInterfaceId=eni, PrivateIpAddresses=[address])


def test_nodes_reach_one_another_with_jumbo_packets(lab: Lab) -> None:
    assert pings(lab.nodes[0], lab.nodes[1].primary_address, "-M", "do", "-s", "8973")
    assert not pings(lab.nodes[0], lab.nodes[1].primary_address, "-M", "do", "-s", "8974")


def test_a_secondary_address_is_reached_while_it_is_assigned(lab: Lab, ec2: Any, secondary: str) -> None:
    assert pings(lab.nodes[1], secondary)
    assert pings(lab.nodes[0], lab.nodes[1].primary_address, "-I", secondary)


def test_a_source_that_is_not_on_the_eni_is_dropped(lab: Lab) -> None:
    node = lab.nodes[0]
    node.exec(["ip", "addr", "add", "10.0.96.200/32", "dev", "lo"])
    try:
        assert not pings(node, lab.nodes[1].primary_address, "-I", "10.0.96.200")
    finally:
        node.exec(["ip", "addr", "del", "10.0.96.200/32", "dev", "lo"])


def test_an_address_that_nobody_owns_is_not_answered(lab: Lab) -> None:
    assert not pings(lab.nodes[0], "10.0.120.9")


def test_only_primary_addresses_reach_the_internet(lab: Lab, secondary: str) -> None:
    ask = ["curl", "-s", "-m", "2"]
    seen = lab.nodes[0].exec([*ask, "http://203.0.113.10/"]).stdout.strip()
    assert seen == lab.nodes[0].primary_address
    assert lab.nodes[0].exec([*ask, "--interface", secondary, "http://203.0.113.10/"], check=False).returncode != 0


def test_the_control_plane_answers_inside_a_node(lab: Lab) -> None:
    assert '"gitVersion"' in lab.nodes[0].exec(["curl", "-s", "-m", "2", "http://10.0.255.10:6443/version"]).stdout

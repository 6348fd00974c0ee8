"""An IPv6 node as a whole: addresses out of its /80, waited for while EC2 refuses, kept over restarts and kills."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Iterator
from ipaddress import IPv6Address, IPv6Network
from typing import Any

import pytest
from tests.lab.node.conftest import NodeUnderTest

from vpccni.lab.api import Lab
from vpccni.shared.messages.allocation import Assign, Assigned, PoolState, Release
from vpccni.shared.messages.base import PodRef, Sandbox
from vpccni.shared.messages.common import GetSnapshot, Snapshot

CHECKPOINT = "/var/run/aws-node/ipam.json"


@pytest.fixture(scope="module")
def node() -> Iterator[NodeUnderTest]:
    """A node whose manager may not have a prefix yet."""
    with Lab.up(f"v6a-{os.getpid() % 10000}", nodes=1, ipv6=True, start_processes=False) as lab:
        lab.ec2_permissions(deny=["AssignIpv6Addresses"])
        yield NodeUnderTest(lab)


def pool_state(node: NodeUnderTest) -> dict[str, Any]:
    snapshot = node.ask("ip_allocator", GetSnapshot())
    assert isinstance(snapshot, Snapshot)
    return next(body for tag, body in snapshot.messages if tag == PoolState.__struct_config__.tag)


def assigned(node: NodeUnderTest, number: int) -> str:
    answer = node.ask("ip_allocator", Assign(sandbox=Sandbox(f"c{number}", "eth0"), pod=PodRef()))
    assert isinstance(answer, Assigned)
    return answer.interfaces[0].address


@pytest.mark.spec("ipam.W7")
@pytest.mark.timeout(120)
def test_a_node_without_its_prefix_says_so_and_serves_soon_after_it_can_have_it(node: NodeUnderTest) -> None:
    ready = threading.Thread(target=node.node.start_processes)
    ready.start()
    deadline = time.monotonic() + 30
    while (node.node.supervisor_pid() is None or len(node.node.pids()) < 5) and time.monotonic() < deadline:
        time.sleep(0.1)
    time.sleep(12.0)  # the pauses between tries are at their longest then
    told = pool_state(node)
    assert (told["ready"], told["cause"]) == (False, "DENIED")
    assert ready.is_alive(), "a conflist although no address can be given"
    node.lab.ec2_permissions(allow=["*"])
    ready.join(timeout=10.0)
    assert not ready.is_alive()
    assert pool_state(node)["ready"]
    assert IPv6Address(node.add("first").address)


def test_addresses_come_out_of_the_prefix_and_the_file_has_them(node: NodeUnderTest) -> None:
    prefix = IPv6Network(next(eni["prefixes"][0] for eni in node.lab.ec2_picture() if eni["node"]))
    addresses = [assigned(node, number) for number in range(3)]
    assert all(IPv6Address(address) in prefix for address in addresses)
    entries = json.loads(node.shell(f"cat {CHECKPOINT}"))["allocations"]
    assert {*addresses, node.lab.pod("first").address} == {entry["ipv6"] for entry in entries}
    assert [assigned(node, number) for number in range(3)] == addresses


@pytest.mark.spec("ipam.W38")
def test_a_killed_allocator_gives_the_same_answers_and_lets_released_addresses_rest(node: NodeUnderTest) -> None:
    before = [assigned(node, number) for number in range(3)]
    node.ask("ip_allocator", Release(sandbox=Sandbox("c2", "eth0"), reason="PodDeleted"))
    node.node.kill("ip_allocator")
    assert [assigned(node, number) for number in range(2)] == before[:2]
    assert assigned(node, 9) != before[2]


def test_nothing_of_ipv4_is_asked_of_ec2_for_pods(node: NodeUnderTest) -> None:
    counts = node.lab.ec2_counts()
    assert not {"AssignPrivateIpAddresses", "CreateNetworkInterface"} & counts.keys()

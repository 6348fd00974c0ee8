"""A node with two network cards: pods on both or on none, also when the allocator dies between the files of the cards."""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Iterator
from typing import Any

import pytest
from tests.lab.node.conftest import NodeUnderTest

from vpccni.lab.api import CniError, Lab
from vpccni.lab.pod import Pod
from vpccni.shared.messages.allocation import Assign, Assigned, NoCapacity, Release
from vpccni.shared.messages.base import Message, PodRef, Sandbox

TYPE = "hpc7a.48xlarge"
"""Two cards with two ENIs each."""
ENV = {
    "ENABLE_MULTI_NIC": "true",
    "ENABLE_PREFIX_DELEGATION": "true",
    "WARM_PREFIX_TARGET": "1",
    "IP_COOLDOWN_PERIOD": "0",
}
EVERY_CARD = {"k8s.amazonaws.com/nicConfig": "multi-nic-attachment"}
MUTATING = ("Assign", "Unassign", "Create", "Attach", "Detach", "Delete", "Modify")


@pytest.fixture(scope="module")
def node() -> Iterator[NodeUnderTest]:
    with Lab.up(f"nic-{os.getpid() % 10000}", nodes=1, instance_type=TYPE, env=ENV) as lab:
        made = NodeUnderTest(lab)
        deadline = time.monotonic() + 20  # the second card has its first ENI a little after the node is ready
        while not isinstance(ask(made, 0, multi_nic=True), Assigned) and time.monotonic() < deadline:
            time.sleep(0.1)
        release(made, 0)
        yield made


def add(node: NodeUnderTest, name: str) -> Pod:
    return node.lab.add_pod(node.node.name, name, annotations=EVERY_CARD)


def addresses_of(pod: Pod) -> list[str]:
    return [row["address"].split("/")[0] for row in pod.result["ips"]]


def written(node: NodeUnderTest, name: str) -> list[dict[str, Any]]:
    return list(json.loads((node.node.root / name).read_text())["allocations"])


def ask(node: NodeUnderTest, number: int, *, multi_nic: bool) -> Message:
    sandbox = Sandbox(f"c{number}", "eth0")
    return node.ask("ip_allocator", Assign(sandbox=sandbox, pod=PodRef(), multi_nic=multi_nic))


def release(node: NodeUnderTest, number: int) -> None:
    node.ask("ip_allocator", Release(sandbox=Sandbox(f"c{number}", "eth0"), reason="PodDeleted"))


def cards_of(node: NodeUnderTest, addresses: list[str]) -> list[int]:
    card_of = {
        prefix.rsplit(".", 1)[0] + f".{int(prefix.rsplit('.', 1)[1].split('/')[0]) + n}": eni["Attachment"][
            "NetworkCardIndex"
        ]
        for eni in node.lab.ec2_picture()
        if eni["node"]
        for prefix in eni["prefixes"]
        for n in range(16)
    }
    return [card_of[address] for address in addresses]


def test_a_multi_nic_pod_has_an_address_of_each_card_and_both_are_heard(node: NodeUnderTest) -> None:
    pod = add(node, "both")
    assert cards_of(node, addresses_of(pod)) == [0, 1]
    for address in addresses_of(pod):
        assert node.node.exec(["ping", "-c1", "-W2", address], check=False).returncode == 0
    for name, address in zip(("ipam.json", "ipam-nic-1.json"), addresses_of(pod), strict=True):
        (entry,) = written(node, name)
        assert (entry["ipv4"], entry["metadata"]["interfacesCount"]) == (address, 2)
    node.lab.delete_pod("both")
    assert written(node, "ipam.json") == written(node, "ipam-nic-1.json") == []


@pytest.mark.parametrize(
    "effect", ["checkpoint_card.write", "checkpoint_card.rename", "checkpoint.write", "checkpoint.rename"]
)
@pytest.mark.parametrize("before", [True, False])
def test_a_death_between_the_files_books_a_pod_on_both_cards_or_on_none(
    node: NodeUnderTest, effect: str, before: bool
) -> None:
    node.arm("ip_allocator", effect, before=before)
    pod = add(node, "victim")
    assert cards_of(node, addresses_of(pod)) == [0, 1]
    assert [
        entry["ipv4"] for entry in (*written(node, "ipam.json"), *written(node, "ipam-nic-1.json"))
    ] == addresses_of(pod)
    node.lab.delete_pod("victim")
    assert written(node, "ipam.json") == written(node, "ipam-nic-1.json") == []
    time.sleep(1.0)  # kills closer together than this are flapping, which is slowed down on purpose


@pytest.mark.spec("ipam.W20")
def test_a_multi_nic_pod_that_one_card_cannot_serve_fails_and_books_nothing(node: NodeUnderTest) -> None:
    assert isinstance(ask(node, 99, multi_nic=False), Assigned)  # so the cards do not run out together
    node.lab.ec2_permissions(deny=["AssignPrivateIpAddresses", "CreateNetworkInterface"])
    number = 0
    try:
        while isinstance(ask(node, number, multi_nic=True), Assigned):
            number += 1
            assert number < 100
        refused = ask(node, number, multi_nic=True)
        assert isinstance(refused, NoCapacity)
        full = re.search(r"network card ([01]):", refused.detail)
        assert full is not None
        assert booked(node) == (number + 1, number)
        with pytest.raises(CniError, match=full.group()):
            add(node, "refused")
        assert booked(node) == (number + 1, number)
        ordinary = ask(node, 98, multi_nic=False)
        assert isinstance(ordinary, Assigned)
        assert [one.card for one in ordinary.interfaces] == [1 - int(full[1])]
    finally:
        node.lab.ec2_permissions(allow=["*"])
        for used in (*range(number + 1), 98, 99):
            release(node, used)


def booked(node: NodeUnderTest) -> tuple[int, int]:
    return len(written(node, "ipam.json")), len(written(node, "ipam-nic-1.json"))


def changes_at_ec2(node: NodeUnderTest, *, within_s: float) -> list[str]:
    node.lab.ec2_forget_calls()
    time.sleep(within_s)
    return [action for action in node.lab.ec2_counts() if action.startswith(MUTATING)]


@pytest.mark.spec("ipam.W9")
@pytest.mark.timeout(360)
def test_an_idle_node_with_two_cards_comes_to_rest(node: NodeUnderTest) -> None:
    rounds = 0
    while changes_at_ec2(node, within_s=65.0):  # what the tests before took beyond the targets goes back
        rounds += 1
        assert rounds < 5
    assert changes_at_ec2(node, within_s=75.0) == []

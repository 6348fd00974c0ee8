"""Peers that do not answer, records that were lost and a cloud that refuses: what an ADD says, and what it must never do."""

from __future__ import annotations

import signal
import threading
import time
from functools import partial
from typing import Any

import pytest
from support.waiting import until as wait_until
from tests_node import addresses_in_use

from vpccni.lab.runtime import CniError
from vpccni.shared.messages.common import GetStatus, Status
from vpccni.shared.names import IP_ALLOCATOR, NETLINK_PROGRAMMER, POLICY_AGENT

AWAY_S = 1.0
ADD_DEADLINE_S = 20.0
SETTLES_WITHIN_S = 10.0
until = partial(wait_until, within_s=SETTLES_WITHIN_S)


@pytest.mark.parametrize("process", [IP_ALLOCATOR, POLICY_AGENT])
@pytest.mark.spec("dataplane.18.28")
def test_an_add_waits_for_a_peer_that_does_not_answer_and_succeeds(node: Any, process: str) -> None:
    node.node.kill(process, signal.SIGSTOP)
    timer = threading.Timer(AWAY_S, lambda: node.node.kill(process, signal.SIGCONT))
    timer.start()
    begin = time.monotonic()
    try:
        pod = node.add("patient")
    finally:
        timer.join()
    assert AWAY_S * 0.9 < time.monotonic() - begin < AWAY_S + 2
    assert pod.exec(["ping", "-c", "1", "-W", "1", node.node.primary_address], check=False).returncode == 0
    node.lab.delete_pod("patient")


@pytest.mark.parametrize("process", [IP_ALLOCATOR, POLICY_AGENT])
@pytest.mark.spec("dataplane.18.8", "dataplane.18.29")
def test_past_its_deadline_an_add_fails_with_code_11_names_the_peer_and_leaves_nothing(node: Any, process: str) -> None:
    until(lambda: addresses_in_use(node) == [], "what the tests before deleted is still held")
    links = node.shell("ip -o link | grep -cv ': gone'")
    node.node.kill(process, signal.SIGSTOP)
    begin = time.monotonic()
    try:
        with pytest.raises(CniError) as caught:
            node.add("too-late")
        took = time.monotonic() - begin
    finally:
        node.node.kill(process, signal.SIGCONT)
    assert caught.value.code == 11
    assert process in str(caught.value)
    assert ADD_DEADLINE_S * 0.8 < took < ADD_DEADLINE_S + 2
    until(lambda: addresses_in_use(node) == [], "the address of the failed ADD did not come back")
    until(lambda: node.shell("ip -o link | grep -cv ': gone'") == links, "the failed ADD left a link")


def test_an_address_whose_pod_nobody_claims_is_never_given_out(node: Any) -> None:
    stranger = node.add("stranger")
    veth = node.shell(f"ip -o route get {stranger.address} | grep -o 'dev [^ ]*' | cut -d' ' -f2").strip()
    node.shell(f"ip link set {veth} alias ''; rm /run/aws-node/ipam.json")
    for process in (NETLINK_PROGRAMMER, IP_ALLOCATOR):
        node.node.kill(process)
    until(lambda: stranger.address in reasons(node, IP_ALLOCATOR), "the allocator does not tell of the stranger")
    pods, refusal = [], ""
    while not refusal:
        try:
            pods.append(node.add(f"around-{len(pods)}"))
        except CniError as full:
            refusal = str(full)
    assert len(pods) == 26
    assert "1 in use by unknown pods" in refusal
    assert stranger.address not in {pod.address for pod in pods}
    for pod in pods:
        node.lab.delete_pod(pod.name)
    node.shell(f"ip link del {veth}; ip rule del to {stranger.address} priority 512")
    until(lambda: stranger.address not in reasons(node, IP_ALLOCATOR), "the stranger is gone and still told of")
    node.lab.delete_pod("stranger")


def reasons(node: Any, process: str) -> str:
    status = node.ask(process, GetStatus())
    assert isinstance(status, Status)
    return " ".join(status.reasons)


def test_existing_addresses_are_served_while_ec2_refuses_everything(node: Any) -> None:
    node.lab.ec2_fault("*", error="UnauthorizedOperation")
    try:
        node.node.kill(IP_ALLOCATOR)
        pods = [node.add(f"served-{number}") for number in range(3)]
        assert len({pod.address for pod in pods}) == 3
    finally:
        node.lab.ec2_clear()
    for pod in pods:
        node.lab.delete_pod(pod.name)

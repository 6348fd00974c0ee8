"""Prefix mode and switching modes with running pods, on a node of its own."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest
from support.waiting import until as wait_until
from tests.lab.node.conftest import NodeUnderTest

from vpccni.lab.api import Lab

PREFIXES = {"ENABLE_PREFIX_DELEGATION": "true", "WARM_PREFIX_TARGET": "1", "IP_COOLDOWN_PERIOD": "0"}
SINGLE = {"ENABLE_PREFIX_DELEGATION": "false", "IP_COOLDOWN_PERIOD": "0"}
SETTLES_WITHIN_S = 20.0
until = partial(wait_until, within_s=SETTLES_WITHIN_S)


@pytest.fixture
def prefix_node() -> Iterator[NodeUnderTest]:
    with contextlib.ExitStack() as stack:
        yield NodeUnderTest(stack.enter_context(Lab.up(f"p{os.getpid()}", nodes=1, env=PREFIXES)))


def held(node: NodeUnderTest) -> tuple[int, int]:
    """Return how many secondary addresses and prefixes EC2 says the node has."""
    enis = [eni for eni in node.lab.ec2_picture() if eni["node"] == node.node.name]
    return sum(len(eni["addresses"]) - 1 for eni in enis), sum(len(eni["prefixes"]) for eni in enis)


@pytest.mark.spec("ipam.W16")
def test_pods_live_on_prefixes_and_keep_their_addresses_through_both_switches(prefix_node: Any) -> None:
    node = prefix_node
    pods = [node.add(f"pod-{number}") for number in range(25)]
    assert len({pod.address for pod in pods}) == 25
    until(lambda: held(node) == (0, 2), lambda: held(node))
    assert pods[0].exec(["ping", "-c", "2", "-W", "1", pods[24].address], check=False).returncode == 0

    node.node.restart_processes(SINGLE)
    single = node.add("single")
    until(lambda: held(node)[0] > 0, lambda: held(node))
    assert single.exec(["ping", "-c", "2", "-W", "1", pods[24].address], check=False).returncode == 0
    assert pods[0].exec(["ping", "-c", "2", "-W", "1", single.address], check=False).returncode == 0
    for pod in pods:
        node.lab.delete_pod(pod.name)
    until(lambda: held(node)[1] == 0, lambda: held(node))

    node.node.restart_processes(PREFIXES)
    again = node.add("again")
    until(lambda: held(node)[1] > 0, lambda: held(node))
    assert again.exec(["ping", "-c", "2", "-W", "1", single.address], check=False).returncode == 0
    node.lab.delete_pod("single")
    until(lambda: held(node)[0] == 0, lambda: held(node))
    assert json.loads((node.node.root / "ipam.json").read_text())["allocations"][0]["ipv4"] == again.address

"""A node with what the chart sets by default: the agent is there, network policy is switched off, the mode says `standard`."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import Any

import pytest
from tests.lab.node.conftest import NodeUnderTest

from vpccni.lab.api import Lab
from vpccni.lab.fabric import INTERNET_ADDRESS
from vpccni.shared import names
from vpccni.shared.messages.common import GetStatus, Status


@pytest.fixture(scope="module", params=["standard", "strict"])
def node(request: pytest.FixtureRequest) -> Iterator[NodeUnderTest]:
    env = {"VPCCNI_AGENT_ENABLE_NETWORK_POLICY": "false", "NETWORK_POLICY_ENFORCING_MODE": str(request.param)}
    with contextlib.ExitStack() as stack:
        yield NodeUnderTest(stack.enter_context(Lab.up(f"t{os.getpid()}", nodes=1, env=env)))


def test_pods_are_added_open_and_without_programs_where_policy_is_switched_off(node: NodeUnderTest) -> None:
    pod: Any = node.add("open")
    assert pod.exec(["ping", "-c1", "-W2", INTERNET_ADDRESS], check=False).returncode == 0
    assert "bpf" not in node.shell(
        "for link in $(ls /sys/class/net | grep ^eni); do tc filter show dev $link ingress; done"
    )
    status = node.ask(names.POLICY_AGENT, GetStatus())
    assert isinstance(status, Status)
    assert (status.state, status.detail) == ("serving", {"policy": "off"})
    node.lab.delete_pod("open")

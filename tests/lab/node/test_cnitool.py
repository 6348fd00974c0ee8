"""A second opinion on our runtime: the CNI project's own cnitool drives the same conflist."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from support.fetched import go_program

MODULE = "github.com/containernetworking/cni/cnitool@v1.1.2"


@pytest.fixture(scope="module")
def cnitool(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return go_program(MODULE, tmp_path_factory.mktemp("go-bin"))


@pytest.mark.full
def test_cnitool_adds_checks_and_deletes_through_the_conflist(node: Any, cnitool: Path) -> None:
    pod = node.lab.make_pod(node.node.name, "by-cnitool")
    env = {
        "CNI_PATH": "/opt/cni/bin",
        "NETCONFPATH": "/etc/cni/net.d",
        "CNI_ARGS": "IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME=by-cnitool",
    }
    added = node.node.exec([str(cnitool), "add", "aws-cni", pod.netns_path], env=env)
    address = json.loads(added.stdout)["ips"][0]["address"].split("/")[0]
    assert address in node.shell("ip route")
    assert pod.exec(["ping", "-c", "1", "-W", "1", node.node.primary_address], check=False).returncode == 0
    for _ in range(2):
        node.node.exec([str(cnitool), "del", "aws-cni", pod.netns_path], env=env)
    assert address not in node.shell("ip route; ip rule")
    node.lab.delete_pod("by-cnitool")

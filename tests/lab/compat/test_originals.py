"""The original's own plugin (v1.22.2) and gRPC's own probe, built from their Go modules, against our processes on a node."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.fetched import go_program, go_program_in_module
from support.waiting import until
from tests.lab.compat.conftest import Compat, held

pytestmark = pytest.mark.full
CACHE = Path(__file__).parents[3] / "build" / "originals"
PROBE = "github.com/grpc-ecosystem/grpc-health-probe@v0.4.38"
PLUGIN = "github.com/aws/amazon-vpc-cni-k8s@v1.22.2"
PODS = 50
SETTLED_WITHIN_S = 15.0
AUDITED_S = 40.0
"""The allocator takes back what has no veth of ours for 25 s."""


@pytest.fixture
def plugin(compat: Compat) -> Iterator[None]:
    """Put the original's plugin in our plugin's place."""
    built = go_program_in_module(PLUGIN, "./cmd/routed-eni-cni-plugin", CACHE, GONOSUMDB="github.com/aws/*")
    place = compat.node.node.filesystem / "opt/cni/bin/aws-cni"
    ours = place.read_bytes()
    shutil.copy2(built, place)
    try:
        yield
    finally:
        place.unlink()
        place.write_bytes(ours)
        place.chmod(0o755)


def test_the_probe_is_content(compat: Compat) -> None:
    probe = go_program(PROBE, CACHE, GOFLAGS="-mod=mod", CGO_ENABLED="0")
    for words in (["-addr=:50051"], ["-addr=unix:///var/run/aws-node/ipamd.sock", "-service=grpc.health.v1.aws-node"]):
        done = compat.node.node.exec([str(probe), *words, "-connect-timeout=5s", "-rpc-timeout=5s"], check=False)
        assert done.returncode == 0, done.stderr


@pytest.mark.spec("rpc.11.4")
@pytest.mark.usefixtures("plugin")
def test_the_originals_plugin_adds_and_deletes_pods(compat: Compat) -> None:
    node: Any = compat.node
    room = int(node.node.facts["max_pods"]) - 4
    for first in range(0, PODS, room):
        pods = [node.add(f"old-{number}") for number in range(first, min(first + room, PODS))]
        assert sorted(held(compat)) == sorted(pod.address for pod in pods)
        for pod in (pods[0], pods[-1]):
            assert pod.exec(["ping", "-c", "1", "-W", "2", "203.0.113.10"], check=False).returncode == 0
        for pod in pods:
            node.lab.delete_pod(pod.name)
        until(lambda: held(compat) == [], node.story, within_s=SETTLED_WITHIN_S)
    left = [rule for rule in node.shell("ip rule").splitlines() if rule.startswith(("512:", "1536:"))]
    assert left == []


@pytest.mark.usefixtures("plugin")
def test_a_pod_of_the_originals_plugin_is_looked_after_like_one_of_ours(compat: Compat) -> None:
    node: Any = compat.node
    pod = node.add("kept")
    time.sleep(AUDITED_S)
    assert held(compat) == [pod.address]
    node.shell(f"ip rule del to {pod.address} priority 512; ip route del {pod.address}")
    until(lambda: pod.exec(["ping", "-c", "1", "-W", "1", "203.0.113.10"], check=False).returncode == 0, node.story,
          within_s=SETTLED_WITHIN_S)  # fmt: skip
    node.lab.delete_pod(pod.name)
    until(lambda: held(compat) == [], node.story, within_s=SETTLED_WITHIN_S)

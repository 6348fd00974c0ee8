"""What kubelet's probes hear of a node: frozen processes, a cloud that is away, and a start that lasts."""

from __future__ import annotations

import json
import signal
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest
from support.waiting import until as wait_until
from tests.lab.node.conftest import NodeUnderTest

from vpccni.shared import names
from vpccni.shared.messages.common import GetStatus, Status

PROBE = Path(__file__).parents[3] / "cni" / "grpc-health-probe"
READINESS = ["-addr=:50051", "-connect-timeout=5s", "-rpc-timeout=5s"]
LIVENESS = [*READINESS, "-service=liveness"]
SERVING, NO_ANSWER = 0, 3
SCRAPE = "import urllib.request as u; print(u.urlopen('http://127.0.0.1:61678/metrics', timeout=5).read().decode())"
STARTS_FOR = 8
"""Probes during a start that lasts: twice what kubelet takes to kill, at its three failures in a row."""
until = partial(wait_until, within_s=60.0)


@dataclass(frozen=True)
class Said:
    """How a probe ended."""

    code: int
    text: str


def probe(node: NodeUnderTest, flags: list[str]) -> Said:
    """Run the probe as in a container that holds all processes."""
    command = ["env", f"VPCCNI_PROCESSES={','.join(names.NODE_PROCESSES)}", str(PROBE), *flags]
    done = node.node.exec(command, check=False)
    return Said(done.returncode, json.loads(done.stderr)["msg"])


def state(node: NodeUnderTest, process: str) -> str:
    status = node.ask(process, GetStatus())
    assert isinstance(status, Status)
    return status.state


def metrics(node: NodeUnderTest) -> str:
    return node.node.exec(["python3", "-c", SCRAPE]).stdout


@pytest.fixture(autouse=True)
def all_well(node: NodeUnderTest) -> None:
    until(lambda: probe(node, READINESS).code == SERVING, "the node is not ready")
    until(lambda: probe(node, LIVENESS).code == SERVING, "a process does not answer")


@pytest.mark.spec("operations.17.19")
@pytest.mark.parametrize("process", names.NODE_PROCESSES)
def test_a_frozen_process_fails_liveness_and_is_named(node: NodeUnderTest, process: str) -> None:
    assert probe(node, LIVENESS).code == SERVING
    node.node.kill(process, signal.SIGSTOP)
    try:
        said = probe(node, [*LIVENESS, "-rpc-timeout=2s"])
    finally:
        node.node.kill(process, signal.SIGCONT)
    assert said.code == NO_ANSWER
    assert process in said.text
    until(lambda: probe(node, LIVENESS).code == SERVING, "liveness does not recover")


@pytest.mark.spec("operations.17.19")
def test_without_ec2_the_node_stays_live_and_ready_and_its_metrics_tell(node: NodeUnderTest) -> None:
    node.lab.ec2_fault("*", error="InternalError")
    try:
        node.node.kill(names.ENI_MANAGER, signal.SIGKILL)  # what it knew of EC2 it must do without
        until(
            lambda: 'vpccni_source_up{process="eni_manager"} 0' in metrics(node),
            lambda: state(node, names.ENI_MANAGER),
        )
        until(lambda: state(node, names.ENI_MANAGER) == "degraded", lambda: state(node, names.ENI_MANAGER))
        assert probe(node, LIVENESS).code == probe(node, READINESS).code == SERVING
        node.add("without-ec2")
    finally:
        node.lab.ec2_clear()
    node.lab.delete_pod("without-ec2")


@pytest.mark.spec("operations.17.20")
def test_a_start_that_lasts_is_no_reason_to_kill(node: NodeUnderTest) -> None:
    node.lab.imds_fault(node.node.name, statuses={"meta-data": 503})
    try:
        node.node.kill(names.ENI_MANAGER, signal.SIGKILL)
        until(lambda: probe(node, LIVENESS).code == SERVING, "the manager does not come back")
        for _ in range(STARTS_FOR):
            assert state(node, names.ENI_MANAGER) == "starting"
            assert probe(node, LIVENESS).code == SERVING
    finally:
        node.lab.ec2_clear()

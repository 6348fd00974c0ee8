"""ANNOTATE_POD_IP on a whole node: pods carry their address as an annotation while they hold it, whatever happens to the API and to us."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator

import pytest
from tests.lab.node.conftest import NodeUnderTest

from vpccni.lab.api import Lab
from vpccni.lab.pod import Pod
from vpccni.shared.messages.common import GetStatus, Status
from vpccni.shared.names import ENI_MANAGER

POD_IPS = "vpc.amazonaws.com/pod-ips"
PODS = "/api/v1/namespaces/default/pods"
SOON_S = 3.0
API_IS_BACK_S = 40.0
NOT_HELD_UP_S = 1.0


@pytest.fixture(scope="module")
def annotating() -> Iterator[NodeUnderTest]:
    env = {"ANNOTATE_POD_IP": "true", "IP_COOLDOWN_PERIOD": "0"}
    with contextlib.ExitStack() as stack:
        yield NodeUnderTest(stack.enter_context(Lab.up(f"an{os.getpid()}", nodes=1, env=env)))


def annotation(node: NodeUnderTest, name: str) -> str | None:
    found = node.lab.kube("GET", f"{PODS}/{name}")["metadata"].get("annotations", {}).get(POD_IPS)
    return None if found is None else str(found)


def until(node: NodeUnderTest, name: str, value: str, *, within_s: float = SOON_S) -> None:
    deadline = time.monotonic() + within_s
    while (seen := annotation(node, name)) != value:
        assert time.monotonic() < deadline, f"{name}: {seen!r} is not {value!r}"
        time.sleep(0.05)


def wire(node: NodeUnderTest, pod: Pod) -> str:
    """Add a pod that has its object already; return the address."""
    begin = time.monotonic()
    result = node.node.runtime().add(pod.sandbox())
    assert time.monotonic() - begin < NOT_HELD_UP_S
    return str(result["ips"][0]["address"]).split("/")[0]


def unwire(node: NodeUnderTest, pod: Pod) -> None:
    begin = time.monotonic()
    node.node.runtime().delete(pod.sandbox())
    assert time.monotonic() - begin < NOT_HELD_UP_S


def reasons(node: NodeUnderTest) -> str:
    status = node.ask(ENI_MANAGER, GetStatus())
    assert isinstance(status, Status)
    return " ".join(status.reasons)


@pytest.mark.spec("ipam.20")
def test_the_address_is_written_when_it_is_assigned_and_emptied_when_it_is_released(annotating: NodeUnderTest) -> None:
    pod = annotating.lab.make_pod(annotating.node.name, "web", annotations={"own/note": "stays"})
    until(annotating, "web", wire(annotating, pod))
    unwire(annotating, pod)
    until(annotating, "web", "")
    assert annotating.lab.kube("GET", f"{PODS}/web")["metadata"]["annotations"]["own/note"] == "stays"
    annotating.lab.delete_pod("web")


def test_what_others_wrote_is_left_alone(annotating: NodeUnderTest) -> None:
    pod = annotating.lab.make_pod(annotating.node.name, "kept")
    until(annotating, "kept", wire(annotating, pod))
    annotating.lab.kube("PATCH", f"{PODS}/kept", {"metadata": {"annotations": {POD_IPS: "192.0.2.1"}}})
    time.sleep(0.5)
    unwire(annotating, pod)
    time.sleep(1.0)
    assert annotation(annotating, "kept") == "192.0.2.1"
    annotating.lab.delete_pod("kept")


@pytest.mark.spec("ipam.W36")
def test_with_the_api_away_pods_come_and_go_at_once_and_the_latest_is_written_when_it_is_back(
    annotating: NodeUnderTest,
) -> None:
    lab, name = annotating.lab, annotating.node.name
    stays, left, gone = (lab.make_pod(name, pod) for pod in ("stays", "left", "gone"))
    until(annotating, "left", wire(annotating, left))
    lab.kube_fault(503, "/api/v1/namespaces/default/pods")
    try:
        address = wire(annotating, stays)
        unwire(annotating, left)
        wire(annotating, gone)
        deadline = time.monotonic() + 10
        while "annotations" not in reasons(annotating):
            assert time.monotonic() < deadline, reasons(annotating)
            time.sleep(0.1)
        annotating.node.kill(ENI_MANAGER)
        unwire(annotating, gone)
    finally:
        lab.kube_fault(None)
    lab.delete_pod("gone")
    until(annotating, "stays", address, within_s=API_IS_BACK_S)
    until(annotating, "left", "", within_s=API_IS_BACK_S)
    assert "annotations" not in reasons(annotating)
    for pod in ("stays", "left"):
        lab.delete_pod(pod)


def test_what_could_not_be_written_and_is_no_longer_due_is_no_trouble_any_more(annotating: NodeUnderTest) -> None:
    pod = annotating.lab.make_pod(annotating.node.name, "lost")
    annotating.lab.kube_fault(503, f"{PODS}/lost")
    try:
        wire(annotating, pod)
        deadline = time.monotonic() + 10
        while "annotations" not in reasons(annotating):
            assert time.monotonic() < deadline, reasons(annotating)
            time.sleep(0.1)
        unwire(annotating, pod)
        while "annotations" in reasons(annotating):
            assert time.monotonic() < deadline, reasons(annotating)
            time.sleep(0.1)
    finally:
        annotating.lab.kube_fault(None)
    annotating.lab.delete_pod("lost")


def test_what_changes_while_the_writer_is_dead_is_written_when_it_is_back(annotating: NodeUnderTest) -> None:
    released, added = (annotating.lab.make_pod(annotating.node.name, pod) for pod in ("released", "added"))
    until(annotating, "released", wire(annotating, released))
    annotating.node.kill(ENI_MANAGER)
    unwire(annotating, released)
    address = wire(annotating, added)
    until(annotating, "released", "", within_s=API_IS_BACK_S)
    until(annotating, "added", address, within_s=API_IS_BACK_S)
    for pod in ("released", "added"):
        annotating.lab.delete_pod(pod)


def test_a_burst_of_pods_is_annotated_without_a_refusal(annotating: NodeUnderTest) -> None:
    pods = [annotating.add(f"burst-{number}") for number in range(15)]
    for pod in pods:
        until(annotating, pod.name, pod.address)
    for pod in pods:
        annotating.lab.delete_pod(pod.name)
    time.sleep(1.0)
    status = annotating.ask(ENI_MANAGER, GetStatus())
    assert isinstance(status, Status)
    assert not [counter for counter in status.counters if counter.name == "vpccni_annotations_refused"]
    assert [gauge.value for gauge in status.gauges if gauge.name == "vpccni_annotations_due"] == [0]

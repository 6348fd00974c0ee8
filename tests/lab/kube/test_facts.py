"""What Kubernetes says of the node and its pods reaches the others, and nothing waits for it."""

from __future__ import annotations

import time

import pytest
from tests.lab.kube.conftest import KubeServer, Manager, until

from vpccni.lab.api import Lab

NODE = "/api/v1/nodes/node-1"
POD_ENI = '[{"eniId":"eni-1","privateIp":"10.0.1.9"}]'


def capacity(lab: Lab, pods: str | None) -> None:
    lab.kube("PATCH", f"{NODE}/status", {"status": {"capacity": {"pods": pods}}})


def max_pods(manager: Manager) -> int:
    inventory = manager.inventory()
    return -1 if inventory is None else inventory.max_pods


def test_the_kubelets_number_of_pods_replaces_the_published_one(lab: Lab, manager: Manager) -> None:
    capacity(lab, "17")
    manager.start()
    until(lambda: max_pods(manager) == 17, "the kubelet's number")
    capacity(lab, "11")
    until(lambda: max_pods(manager) == 11, "the new number")
    capacity(lab, None)
    until(lambda: max_pods(manager) == 29, "the published number of m5.large")


def test_labels_and_annotations_choose_the_eni_config(lab: Lab, manager: Manager) -> None:
    manager.start()

    def chosen() -> str:
        facts = manager.facts()
        return "" if facts is None else facts.eni_config

    until(lambda: chosen() == "default", "the facts of the node")
    for kind, key, name in (
        ("labels", "k8s.amazonaws.com/eniConfig", "by-label"),
        ("annotations", "k8s.amazonaws.com/eniConfig", "by-annotation"),
        ("labels", "vpc.amazonaws.com/externalEniConfig", "by-external-label"),
    ):
        lab.kube("PATCH", NODE, {"metadata": {kind: {key: name}}})
        until(lambda name=name: chosen() == name, name)  # type: ignore[misc]  # mypy cannot infer a lambda with a default


def test_pods_of_this_node_are_told_and_no_others(lab: Lab, manager: Manager) -> None:
    manager.start()
    for name, node in (("here", "node-1"), ("elsewhere", "node-2")):
        body = {"metadata": {"name": name}, "spec": {"nodeName": node, "containers": []}}
        lab.kube("POST", "/api/v1/namespaces/default/pods", body)
    until(lambda: set(manager.pods()) == {"here"}, "the pod")
    path = "/api/v1/namespaces/default/pods/here"
    lab.kube(
        "PATCH", path, {"metadata": {"annotations": {"vpc.amazonaws.com/pod-eni": POD_ENI}, "finalizers": ["a/b"]}}
    )
    lab.kube("PATCH", f"{path}/status", {"status": {"podIP": "10.0.1.9"}})
    until(lambda: manager.pods()["here"].address == "10.0.1.9", "its address")
    assert manager.pods()["here"].pod_eni == POD_ENI
    lab.kube("DELETE", path)
    until(lambda: manager.pods()["here"].terminating, "its end")
    lab.kube("PATCH", path, {"metadata": {"finalizers": None}})
    until(lambda: not manager.pods(), "no pod")


@pytest.mark.spec("ipam.W36")
def test_with_the_api_down_the_inventory_is_there_at_once_and_facts_follow(
    lab: Lab, manager: Manager, server: KubeServer
) -> None:
    server.kill()
    begun = time.monotonic()
    manager.start()
    until(lambda: max_pods(manager) == 29, "the inventory")
    assert time.monotonic() - begun < 4.0
    until(lambda: any("nodes" in reason for reason in manager.status().reasons), "the reason")
    had = manager.shape()[1]  # of tests before this one
    manager.wish(had + 3)
    until(lambda: manager.shape()[1] == had + 3, "addresses")
    server.start()
    capacity(lab, "12")
    until(lambda: max_pods(manager) == 12 and not manager.status().reasons, "the kubelet's number", within_s=60.0)


@pytest.mark.spec("ipam.W36")
def test_an_api_that_hangs_delays_nothing(lab: Lab, manager: Manager, server: KubeServer) -> None:
    server.hang()
    try:
        begun = time.monotonic()
        manager.start()
        until(lambda: max_pods(manager) == 29, "the inventory")
        assert time.monotonic() - begun < 4.0
    finally:
        server.go_on()
    capacity(lab, "12")
    until(lambda: max_pods(manager) == 12, "the kubelet's number", within_s=60.0)


def test_with_the_api_gone_what_was_known_stays_and_the_processor_rests(
    lab: Lab, manager: Manager, server: KubeServer
) -> None:
    capacity(lab, "17")
    manager.start()
    until(lambda: max_pods(manager) == 17, "the kubelet's number")
    server.kill()
    until(lambda: len([reason for reason in manager.status().reasons if "in force" in reason]) == 2, "the reasons")
    before = manager.cpu_s()
    time.sleep(10.0)
    assert manager.cpu_s() - before < 0.1
    assert max_pods(manager) == 17
    assert manager.facts() is not None


def test_a_cordoned_node_is_told(lab: Lab, manager: Manager) -> None:
    manager.start()
    taints = [{"key": "node.kubernetes.io/unschedulable", "effect": "NoSchedule"}]
    lab.kube("PATCH", NODE, {"spec": {"taints": taints, "unschedulable": True}})

    def cordoned() -> bool:
        facts = manager.facts()
        return facts is not None and facts.unschedulable

    until(cordoned, "the cordon")

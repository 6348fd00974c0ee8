"""Reports of the processes and EC2's denials become events: on the right pod, counted instead of repeated, kept while the API is away."""

from __future__ import annotations

import time
from typing import Any

import pytest
from tests.lab.kube.conftest import KubeServer, Manager, events, make_own_pod, until

from vpccni.lab.api import Lab


def by_action(lab: Lab) -> dict[str, list[dict[str, Any]]]:
    found: dict[str, list[dict[str, Any]]] = {}
    for event in events(lab):
        found.setdefault(event["action"], []).append(event)
    return found


@pytest.mark.spec("operations.17.31", "ipam.W28")
def test_each_denied_action_is_one_event_on_this_nodes_own_pod(lab: Lab, manager: Manager) -> None:
    uid = make_own_pod(lab)
    denied = ("AssignPrivateIpAddresses", "CreateNetworkInterface", "CreateTags", "DescribeSubnets")
    lab.ec2_permissions(deny=denied)
    manager.start()
    until(lambda: manager.inventory() is not None, "the inventory")
    manager.wish(20)
    until(lambda: {f"ec2:{action}" for action in denied[:2]} & by_action(lab).keys(), "the first event")
    time.sleep(6.0)  # the actions are tried again meanwhile
    seen = by_action(lab)
    assert seen.keys() <= {f"ec2:{action}" for action in denied}
    for action, found in seen.items():
        (event,) = found
        assert event["reason"] == "MissingIAMPermissions"
        assert event["type"] == "Warning"
        assert event["reportingController"] == "aws-node"
        assert event["regarding"] == {
            "apiVersion": "v1", "kind": "Pod", "namespace": "kube-system", "name": "aws-node-node-1", "uid": uid,
        }  # fmt: skip
        assert action.removeprefix("ec2:") in event["note"]


@pytest.mark.spec("operations.17.31")
def test_a_denied_detach_is_told_too(lab: Lab, manager: Manager) -> None:
    make_own_pod(lab)
    manager.start()
    until(lambda: manager.inventory() is not None, "the inventory")
    manager.wish(12)
    until(lambda: manager.shape()[0] == 2, "a second ENI")
    lab.ec2_permissions(deny=["DetachNetworkInterface"])
    manager.wish(0, enis=manager.extra_enis())
    until(lambda: "ec2:DetachNetworkInterface" in by_action(lab), "the event")
    lab.ec2_permissions(allow=["*"])
    until(lambda: manager.shape()[0] == 1, "the end of the ENI", within_s=40.0)


def test_the_same_report_raises_the_count_and_another_is_another_event(lab: Lab, manager: Manager) -> None:
    uid = lab.kube("POST", "/api/v1/namespaces/default/pods", pod("web"), expect=(201,))["metadata"]["uid"]
    make_own_pod(lab)
    manager.start()
    until(lambda: "web" in manager.pods(), "the pod")
    for _ in range(5):
        manager.report("PoolEmpty", "no address is free", pod="web")
    manager.report("PoolEmpty", "no address is free")
    until(lambda: len(events(lab)) == 2, "the events")
    about = {event["regarding"]["name"]: event for event in events(lab)}
    assert set(about) == {"web", "aws-node-node-1"}
    assert about["web"]["regarding"]["uid"] == uid
    assert about["web"]["metadata"]["namespace"] == "default"
    time.sleep(1.0)
    assert len(events(lab)) == 2


def test_without_an_own_pod_the_event_is_on_the_node(lab: Lab, manager: Manager) -> None:
    manager.start()
    until(lambda: manager.facts() is not None, "the facts")
    manager.report("Something", "an operator should see this")
    until(lambda: len(events(lab)) == 1, "the event")
    (event,) = events(lab)
    assert event["regarding"] == {"apiVersion": "v1", "kind": "Node", "name": "node-1", "uid": "node-1"}
    assert event["metadata"]["namespace"] == "default"


def test_reports_made_while_the_api_is_away_are_sent_later_with_their_own_time(
    lab: Lab, manager: Manager, server: KubeServer
) -> None:
    manager.start()
    until(lambda: manager.facts() is not None, "the facts")
    server.kill()
    for _ in range(3):
        manager.report("Something", "first")
    manager.report("Something", "second")
    happened = time.strftime("%Y-%m-%dT%H:%M", time.gmtime())
    until(lambda: any("kept" in reason for reason in manager.status().reasons), "the reason")
    time.sleep(2.0)
    server.start()
    until(lambda: len(events(lab)) == 2, "the events", within_s=60.0)
    first, second = sorted(events(lab), key=lambda event: str(event["note"]))
    assert (first["note"], first["series"]["count"], second["note"], "series" in second) == (
        "first",
        3,
        "second",
        False,
    )
    assert first["eventTime"][:15] == happened[:15]
    until(lambda: not manager.status().reasons, "health", within_s=60.0)


def test_a_flood_is_bounded_in_requests_and_in_memory(lab: Lab, manager: Manager) -> None:
    make_own_pod(lab)
    manager.start()
    until(lambda: manager.facts() is not None, "the facts")
    for number in range(300):
        manager.report("Flood", f"number {number}")
    time.sleep(1.0)
    assert 8 <= len(events(lab)) <= 14
    assert manager.counted("vpccni_reports") == 300
    assert manager.counted("vpccni_reports_dropped") >= 150


@pytest.mark.parametrize("status", [401, 403, 500])
def test_a_refusing_api_loses_no_report(lab: Lab, manager: Manager, status: int) -> None:
    manager.start()
    until(lambda: manager.facts() is not None, "the facts")
    lab.kube_fault(status, "/apis/events.k8s.io")
    manager.report("Something", "an operator should see this")
    until(lambda: any(str(status) in reason for reason in manager.status().reasons), "the reason")
    lab.kube_fault(None)
    until(lambda: len(events(lab)) == 1, "the event")


def pod(name: str) -> dict[str, Any]:
    return {"metadata": {"name": name}, "spec": {"nodeName": "node-1", "containers": []}}

"""What our processes ask of single objects, of the lab's API server and of the real one: whoever answers differently fails here."""

from __future__ import annotations

import time

import pytest
from contract.servers import JSON_PATCH, Client, Object, pod

from vpccni.components.eni_manager.reporter import cut, micro_time
from vpccni.shared.kube.resources import (
    CLUSTER_NETWORK_POLICIES,
    ENI_CONFIGS,
    EVENTS,
    LEASES,
    NAMESPACES,
    NETWORK_POLICIES,
    PODS,
    POLICY_ENDPOINTS,
    Resource,
)


def test_an_object_is_created_once(api: Client, namespace: str) -> None:
    made = api.ask("POST", PODS.path(namespace=namespace), pod("a", app="web"))
    meta = made["metadata"]
    assert (meta["namespace"], meta["labels"]) == (namespace, {"app": "web"})
    assert meta["uid"]
    assert meta["creationTimestamp"].endswith("Z")
    assert int(meta["resourceVersion"]) > 0
    assert api.refusal("POST", PODS.path(namespace=namespace), pod("a")) == 409
    assert api.ask("GET", PODS.path(namespace=namespace, name="a"))["metadata"]["uid"] == meta["uid"]


def test_what_is_not_there_is_not_found(api: Client, namespace: str) -> None:
    path = PODS.path(namespace=namespace, name="none")
    assert api.refusal("GET", path) == 404
    assert (
        api.refusal("PATCH", path, {"metadata": {"labels": {"a": "b"}}}, content_type="application/merge-patch+json")
        == 404
    )
    assert api.refusal("DELETE", path) == 404
    assert api.refusal("GET", "/apis/not.installed.example/v1/things") == 404


def test_a_name_is_made_of_its_beginning(api: Client, namespace: str) -> None:
    body: Object = {"metadata": {"generateName": "x" * 70 + "-"}, "spec": pod("")["spec"]}
    names = {api.ask("POST", PODS.path(namespace=namespace), body)["metadata"]["name"] for _ in range(2)}
    assert len(names) == 2
    assert all(name.startswith("x" * 58) and len(name) == 63 for name in names)


def test_an_update_of_what_has_changed_conflicts(api: Client, namespace: str) -> None:
    path = PODS.path(namespace=namespace, name="a")
    first = api.ask("POST", PODS.path(namespace=namespace), pod("a"))
    api.merge(path, {"metadata": {"labels": {"n": "1"}}})
    assert api.refusal("PUT", path, {**first, "metadata": {**first["metadata"], "labels": {"n": "2"}}}) == 409
    stale = {"metadata": {"labels": {"n": "3"}, "resourceVersion": first["metadata"]["resourceVersion"]}}
    assert api.refusal("PATCH", path, stale, content_type="application/merge-patch+json") == 409
    assert api.ask("GET", path)["metadata"]["labels"] == {"n": "1"}


def test_a_change_of_nothing_leaves_the_version(api: Client, namespace: str) -> None:
    path = PODS.path(namespace=namespace, name="a")
    before = api.ask("POST", PODS.path(namespace=namespace), pod("a", app="web"))["metadata"]["resourceVersion"]
    assert api.merge(path, {"metadata": {"labels": {"app": "web"}}})["metadata"]["resourceVersion"] == before


def test_a_merge_patch_sets_and_removes(api: Client, namespace: str) -> None:
    path = PODS.path(namespace=namespace, name="a")
    api.ask("POST", PODS.path(namespace=namespace), pod("a"))
    annotations = {"vpc.amazonaws.com/pod-ips": "10.0.0.9", "b": "2"}
    assert api.merge(path, {"metadata": {"annotations": annotations}})["metadata"]["annotations"] == annotations
    api.merge(path, {"metadata": {"annotations": {"b": None}}})
    assert api.ask("GET", path)["metadata"]["annotations"] == {"vpc.amazonaws.com/pod-ips": "10.0.0.9"}


def test_a_json_patch_is_done_as_a_whole_or_not_at_all(api: Client, namespace: str) -> None:
    path = POLICY_ENDPOINTS.path(namespace=namespace, name="p-1")
    made = api.ask("POST", POLICY_ENDPOINTS.path(namespace=namespace), endpoint("p-1", namespace))
    isolate = {"op": "add", "path": "/spec/podIsolation", "value": ["Ingress"]}
    test = {"op": "test", "path": "/metadata/resourceVersion", "value": made["metadata"]["resourceVersion"]}
    changed = api.ask("PATCH", path, [test, isolate], content_type=JSON_PATCH)
    assert changed["spec"]["podIsolation"] == ["Ingress"]
    assert changed["metadata"]["generation"] == made["metadata"]["generation"] + 1
    more = {"op": "replace", "path": "/spec/podIsolation", "value": []}
    assert api.refusal("PATCH", path, [more, test], content_type=JSON_PATCH) == 422
    assert api.ask("GET", path)["spec"]["podIsolation"] == ["Ingress"]


def test_a_deletion_spares_what_has_changed(api: Client, namespace: str) -> None:
    path = POLICY_ENDPOINTS.path(namespace=namespace, name="p-1")
    made = api.ask("POST", POLICY_ENDPOINTS.path(namespace=namespace), endpoint("p-1", namespace))
    api.merge(path, {"metadata": {"labels": {"a": "b"}}})
    only = {
        "apiVersion": "v1",
        "kind": "DeleteOptions",
        "preconditions": {"resourceVersion": made["metadata"]["resourceVersion"]},
    }
    assert api.refusal("DELETE", path, only) == 409
    assert api.refusal("DELETE", path) == 0
    assert api.refusal("GET", path) == 404


def test_a_finalizer_holds_an_object_until_it_is_removed(api: Client, namespace: str) -> None:
    path = NETWORK_POLICIES.path(namespace=namespace, name="p")
    body = {"metadata": {"name": "p", "finalizers": ["networking.k8s.aws/resources"]}, "spec": {"podSelector": {}}}
    api.ask("POST", NETWORK_POLICIES.path(namespace=namespace), body)
    api.ask("DELETE", path)
    held = api.ask("GET", path)["metadata"]
    assert held["deletionTimestamp"]
    api.merge(path, {"metadata": {"finalizers": [], "resourceVersion": held["resourceVersion"]}})
    assert api.refusal("GET", path) == 404


def test_a_network_policy_gets_its_types_and_its_ports_a_protocol(api: Client, namespace: str) -> None:
    spec = {"podSelector": {}, "ingress": [{"ports": [{"port": 80}]}], "egress": [{}]}
    made = api.ask("POST", NETWORK_POLICIES.path(namespace=namespace), {"metadata": {"name": "p"}, "spec": spec})
    assert made["spec"]["policyTypes"] == ["Ingress", "Egress"]
    assert made["spec"]["ingress"][0]["ports"] == [{"port": 80, "protocol": "TCP"}]


def test_a_namespace_is_labelled_with_its_name(api: Client, namespace: str) -> None:
    labels = api.ask("GET", NAMESPACES.path(name=namespace))["metadata"]["labels"]
    assert labels["kubernetes.io/metadata.name"] == namespace


def test_status_has_a_door_of_its_own(api: Client, namespace: str) -> None:
    name = namespace  # of the cluster: a name of the test's own
    spec = {"tier": "Admin", "priority": 1, "subject": {"namespaces": {}}}
    made = api.ask(
        "POST",
        CLUSTER_NETWORK_POLICIES.path(),
        {**typed(CLUSTER_NETWORK_POLICIES, "ClusterNetworkPolicy", name), "spec": spec},
    )
    condition = {
        "type": "Accepted",
        "status": "True",
        "reason": "R",
        "message": "",
        "lastTransitionTime": "2026-01-01T00:00:00Z",
    }
    path = CLUSTER_NETWORK_POLICIES.path(name=name)
    api.merge(path, {"status": {"conditions": [condition]}})
    assert "conditions" not in api.ask("GET", path).get("status", {})
    status = CLUSTER_NETWORK_POLICIES.path(name=name, subresource="status")
    changed = api.merge(status, {"spec": {"priority": 7}, "status": {"conditions": [condition]}})
    assert changed["status"]["conditions"] == [condition]
    assert changed["spec"]["priority"] == 1
    assert changed["metadata"]["generation"] == made["metadata"]["generation"]
    assert int(changed["metadata"]["resourceVersion"]) > int(made["metadata"]["resourceVersion"])


def test_a_lease_is_taken_by_one(api: Client, namespace: str) -> None:
    path = LEASES.path(namespace=namespace, name="leader")
    now = micro_time(time.time_ns() // 1000)
    spec = {
        "holderIdentity": "a",
        "leaseDurationSeconds": 15,
        "acquireTime": now,
        "renewTime": now,
        "leaseTransitions": 0,
    }
    body = {**typed(LEASES, "Lease", "leader"), "spec": spec}
    made = api.ask("POST", LEASES.path(namespace=namespace), body)
    assert made["spec"] == spec
    assert api.refusal("POST", LEASES.path(namespace=namespace), body) == 409
    version = made["metadata"]["resourceVersion"]
    mine = {**body, "metadata": {"name": "leader", "namespace": namespace, "resourceVersion": version}}
    taken = api.ask("PUT", path, {**mine, "spec": {**spec, "holderIdentity": "b", "leaseTransitions": 1}})
    assert taken["spec"]["holderIdentity"] == "b"
    assert api.refusal("PUT", path, {**mine, "spec": {**spec, "holderIdentity": "c"}}) == 409


def event(namespace: str, **changes: object) -> Object:
    now = micro_time(time.time_ns() // 1000)
    return {
        "apiVersion": "events.k8s.io/v1",
        "kind": "Event",
        "metadata": {"name": "p.1", "namespace": namespace},
        "eventTime": now,
        "type": "Warning",
        "reason": "MissingIAMPermissions",
        "action": "ec2:CreateTags",
        "note": "why",
        "regarding": {"kind": "Pod", "apiVersion": "v1", "name": "p", "namespace": namespace},
        "reportingController": "aws-node",
        "reportingInstance": "aws-node-x",
        **changes,
    }


def test_an_event_is_made_and_its_series_counted(api: Client, namespace: str) -> None:
    api.ask("POST", EVENTS.path(namespace=namespace), event(namespace))
    path = EVENTS.path(namespace=namespace, name="p.1")
    series = {"count": 2, "lastObservedTime": micro_time(time.time_ns() // 1000)}
    assert api.merge(path, {"series": series})["series"] == series
    assert api.refusal("PATCH", path, {"note": "other"}, content_type="application/merge-patch+json") == 422
    once = {"series": {"count": 1, "lastObservedTime": series["lastObservedTime"]}}
    assert api.refusal("PATCH", path, once, content_type="application/merge-patch+json") == 422


@pytest.mark.parametrize(
    ("changes", "status"),
    [
        ({"note": cut("ä" * 2000, 1024)}, 0),
        ({"note": "x" * 1025}, 422),
        ({"action": ""}, 422),
        ({"reason": "x" * 129}, 422),
        ({"type": "Odd"}, 422),
        ({"reportingInstance": ""}, 422),
        ({"eventTime": "yesterday"}, 400),
        ({"regarding": {"kind": "Node", "name": "node-1"}}, 422),
    ],
)
def test_an_event_that_is_not_right_is_refused(
    api: Client, namespace: str, changes: dict[str, object], status: int
) -> None:
    assert api.refusal("POST", EVENTS.path(namespace=namespace), event(namespace, **changes)) == status


def test_a_custom_object_is_held_to_its_schema(api: Client, namespace: str) -> None:
    good = endpoint("p-1", namespace)
    where = POLICY_ENDPOINTS.path(namespace=namespace)
    for wrong in ({"podIsolation": "Ingress"}, {"policyRef": {"name": "p"}}, {"ingress": [{"cidr": 1}]}):
        assert api.refusal("POST", where, {**good, "spec": {**good["spec"], **wrong}}) == 422, wrong
    spec = {**good["spec"], "unknown": 1, "ingress": [{"cidr": "10.0.0.1", "ports": [{"port": 80}]}]}
    made = api.ask("POST", where, {**good, "spec": spec})
    assert "unknown" not in made["spec"], "what the schema does not know is dropped"
    assert made["spec"]["ingress"][0]["ports"] == [{"port": 80, "protocol": "TCP"}], "the schema's default is filled in"


def test_an_eniconfig_is_taken(api: Client, namespace: str) -> None:
    spec = {"subnet": "subnet-1", "securityGroups": ["sg-1"]}
    made = api.ask("POST", ENI_CONFIGS.path(), {**typed(ENI_CONFIGS, "ENIConfig", namespace), "spec": spec})
    assert made["spec"] == spec


def typed(resource: Resource, kind: str, name: str) -> Object:
    version = f"{resource.group}/{resource.version}"
    return {"apiVersion": version, "kind": kind, "metadata": {"name": name}}


def endpoint(name: str, namespace: str) -> Object:
    spec = {"policyRef": {"name": "p", "namespace": namespace}, "podSelector": {}}
    return {**typed(POLICY_ENDPOINTS, "PolicyEndpoint", name), "spec": spec}

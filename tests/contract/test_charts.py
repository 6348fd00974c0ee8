"""What the charts render, as the real API server sees it: it takes every object, and each account may do what its processes do and no more."""

from __future__ import annotations

from typing import Any

import pytest
from charts.objects import Render, one
from contract.conftest import ACCOUNTS
from contract.servers import Client, Object

pytestmark = pytest.mark.full

VERBS = ("get", "list", "watch", "create", "update", "patch", "delete", "deletecollection")
RENDERED: list[tuple[str, dict[str, Any]]] = [
    ("aws-vpc-cni", {"shape": "swap"}),
    ("aws-vpc-cni", {"shape": "split"}),
    ("aws-vpc-cni", {"env": {"ANNOTATE_POD_IP": "true"}, "eniConfig": {"create": False}}),
    ("cni-metrics-helper", {}),
    ("cni-metrics-helper", {"replicas": 2, "env": {"USE_PROMETHEUS": "true"}}),
    ("vpccni-policy-controller", {}),
    ("vpccni-policy-controller", {"enableConfigMapCheck": False, "args": {"endpoint-chunk-size": 500}}),
]
READ = {"get", "list", "watch"}
LOOK = {"list", "watch"}
RIGHTS: dict[str, dict[str, set[str]]] = {
    "aws-vpc-cni": {
        "pods": READ,
        "nodes": READ,
        "namespaces": READ,
        "events": {"create", "patch", "list"},
        "events.events.k8s.io": {"create", "patch", "list"},
        "eniconfigs.crd.k8s.amazonaws.com": READ,
        "policyendpoints.networking.k8s.aws": READ,
        "clusterpolicyendpoints.networking.k8s.aws": READ,
        "policyendpoints/status.networking.k8s.aws": {"get"},
        "clusterpolicyendpoints/status.networking.k8s.aws": {"get"},
    },
    "cni-metrics-helper": {
        "pods": READ,
        "pods/proxy": READ,
        "leases.coordination.k8s.io": {"create"},
    },
    "vpccni-policy-controller": {
        "namespaces": LOOK,
        "pods": LOOK,
        "services": LOOK,
        "endpointslices.discovery.k8s.io": LOOK,
        "customresourcedefinitions.apiextensions.k8s.io": {"create", "get"},
        "networkpolicies.networking.k8s.io": LOOK | {"patch"},
        "applicationnetworkpolicies.networking.k8s.aws": LOOK | {"patch"},
        "clusternetworkpolicies.networking.k8s.aws": LOOK | {"patch"},
        "applicationnetworkpolicies/status.networking.k8s.aws": {"patch"},
        "clusternetworkpolicies/status.networking.k8s.aws": {"patch"},
        "policyendpoints.networking.k8s.aws": LOOK | {"create", "patch", "delete"},
        "clusterpolicyendpoints.networking.k8s.aws": LOOK | {"create", "patch", "delete"},
        "events.events.k8s.io": {"create"},
        "leases.coordination.k8s.io": {"create"},
    },
}
"""In the account's own namespace, of all that the server serves (CNINode, which is the resource controller's, is not), without named objects."""
NAMED = {
    "cni-metrics-helper": ("leases", "coordination.k8s.io", "cni-metrics-helper", {"get", "patch"}),
    "vpccni-policy-controller": (
        "leases",
        "coordination.k8s.io",
        "amazon-network-policy-controller-k8s",
        {"get", "update"},
    ),
}


@pytest.mark.parametrize(("chart", "values"), RENDERED)
def test_the_api_takes_every_object_to_the_letter(admin: Client, render: Render, chart: str, values: Object) -> None:
    objects = render(values, chart=chart)
    assert objects
    for found in objects:
        method, path = "POST", admin.collection_of(found)
        if admin.refusal("GET", f"{path}/{found['metadata']['name']}") == 0:
            method, path = "PATCH", f"{path}/{found['metadata']['name']}"
        kind = "application/merge-patch+json" if method == "PATCH" else "application/json"
        made = admin.ask(method, path, found, content_type=kind, dryRun="All", fieldValidation="Strict")
        assert made["metadata"]["name"] == found["metadata"]["name"]


def test_both_shapes_have_the_same_rights(render: Render) -> None:
    swap, split = (one(render({"shape": shape}), "ClusterRole")["rules"] for shape in ("swap", "split"))
    assert swap == split


@pytest.mark.parametrize("chart", ACCOUNTS)
def test_an_account_may_do_what_its_processes_do_and_nothing_more(
    admin: Client, accounts: dict[str, str], chart: str
) -> None:
    found: dict[str, set[str]] = {}
    for resource, group in everything(admin):
        for verb in VERBS:
            if may(admin, accounts[chart], verb, resource, group):
                found.setdefault(f"{resource}.{group}" if group else resource, set()).add(verb)
    assert found == RIGHTS[chart]


@pytest.mark.parametrize("chart", NAMED)
def test_a_lease_is_open_by_its_name_alone(admin: Client, accounts: dict[str, str], chart: str) -> None:
    resource, group, name, wanted = NAMED[chart]
    account = accounts[chart]
    assert {verb for verb in VERBS if may(admin, account, verb, resource, group, name=name)} == wanted | {"create"}
    assert {verb for verb in VERBS if may(admin, account, verb, resource, group, name="another")} == {"create"}
    assert {
        verb for verb in VERBS if may(admin, account, verb, resource, group, name=name, namespace="default")
    } == set()


def everything(admin: Client) -> list[tuple[str, str]]:
    """Return every resource and subresource that the server serves, with its group."""
    versions = [("", "v1")]
    for group in admin.ask("GET", "/apis")["groups"]:
        versions.append((group["name"], group["preferredVersion"]["groupVersion"]))
    return [(one["name"], group) for group, version in versions for one in admin.served(version)]


def may(admin: Client, account: str, verb: str, resource: str, group: str, *, name: str = "", namespace: str = "kube-system") -> bool:  # fmt: skip
    """Ask the server's own authorizer. Groups are left out: what every account may do is not the chart's doing."""
    plural, _, sub = resource.partition("/")
    asked = {"namespace": namespace, "verb": verb, "group": group, "resource": plural, "subresource": sub, "name": name}
    body = {
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SubjectAccessReview",
        "spec": {"user": f"system:serviceaccount:kube-system:{account}", "resourceAttributes": asked},
    }
    answer = admin.ask("POST", "/apis/authorization.k8s.io/v1/subjectaccessreviews", body)
    return bool(answer["status"]["allowed"])

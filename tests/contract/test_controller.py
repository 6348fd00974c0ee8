"""The policy controller at the real API server, with its chart's account and no right more: policies in, endpoint objects out."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from contract.servers import Client, Object, Server, pod
from support.policy_lab import Controller, until

from vpccni.shared.kube.resources import (
    APPLICATION_NETWORK_POLICIES,
    CLUSTER_NETWORK_POLICIES,
    CLUSTER_POLICY_ENDPOINTS,
    CONFIG_MAPS,
    EVENTS,
    NAMESPACES,
    NETWORK_POLICIES,
    PODS,
    POLICY_ENDPOINTS,
)

pytestmark = pytest.mark.full
SHOP = "shop"
SWITCH = {"metadata": {"name": "amazon-vpc-cni"}, "data": {"enable-network-policy-controller": "true"}}
ALLOW = {
    "podSelector": {"matchLabels": {"app": "web"}},
    "ingress": [{"from": [{"podSelector": {"matchLabels": {"app": "client"}}}]}],
}


@pytest.fixture
def controller(real: Server, admin: Client, accounts: dict[str, str], tmp_path: Path) -> Iterator[Controller]:
    account = f"/api/v1/namespaces/kube-system/serviceaccounts/{accounts['vpccni-policy-controller']}/token"
    request = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {"expirationSeconds": 3600}}
    one = Controller(real, tmp_path, "real")
    one.kubeconfig = real.kubeconfig(admin.ask("POST", account, request)["status"]["token"])
    admin.ask("POST", CONFIG_MAPS.path(namespace="kube-system"), SWITCH)
    admin.ask("POST", NAMESPACES.path(), {"metadata": {"name": SHOP}})
    yield one.start()
    one.kill()


def run(admin: Client, name: str, address: str) -> None:
    """Make a pod that runs, as a kubelet would tell."""
    path = PODS.path(namespace=SHOP)
    admin.ask("POST", path, pod(name, app=name.partition("-")[0]))
    status = {"phase": "Running", "podIP": address, "podIPs": [{"ip": address}], "hostIP": "10.0.1.1"}
    admin.merge(f"{path}/{name}/status", {"status": status})


def specs(admin: Client, path: str, policy: str) -> list[Object]:
    return [one["spec"] for one in admin.ask("GET", path)["items"] if one["spec"]["policyRef"]["name"] == policy]


def peers(admin: Client, policy: str) -> set[str]:
    found = specs(admin, POLICY_ENDPOINTS.path(namespace=SHOP), policy)
    return {row["cidr"] for spec in found for row in spec.get("ingress") or ()}


def test_policies_become_endpoint_objects_follow_pods_and_go(admin: Client, controller: Controller) -> None:
    until(controller.is_at_work, controller.log, within_s=60.0)
    run(admin, "web-1", "10.0.3.7")
    run(admin, "client-1", "10.0.4.1")
    policies = NETWORK_POLICIES.path(namespace=SHOP)
    admin.ask("POST", policies, {"metadata": {"name": "allow"}, "spec": ALLOW})
    until(lambda: peers(admin, "allow") == {"10.0.4.1"}, controller.log)
    (spec,) = specs(admin, POLICY_ENDPOINTS.path(namespace=SHOP), "allow")
    assert spec["podSelectorEndpoints"] == [
        {"name": "web-1", "namespace": SHOP, "podIP": "10.0.3.7", "hostIP": "10.0.1.1"}
    ]
    assert spec["podIsolation"] == ["Ingress"]
    run(admin, "client-2", "10.0.4.2")
    until(lambda: peers(admin, "allow") == {"10.0.4.1", "10.0.4.2"}, controller.log)

    everyone = {
        "tier": "Admin",
        "priority": 1,
        "subject": {"namespaces": {}},
        "egress": [{"action": "Deny", "to": [{"networks": ["10.9.0.0/16"]}]}],
    }
    admin.ask("POST", CLUSTER_NETWORK_POLICIES.path(), typed("ClusterNetworkPolicy", "all", everyone))
    until(lambda: specs(admin, CLUSTER_POLICY_ENDPOINTS.path(), "all"), controller.log)
    until(lambda: admin.ask("GET", CLUSTER_NETWORK_POLICIES.path(name="all")).get("status"), controller.log)

    junk = {"podSelector": {}, "ingress": [{"from": [{"ipBlock": {"cidr": "junk"}}]}]}
    admin.ask(
        "POST", APPLICATION_NETWORK_POLICIES.path(namespace=SHOP), typed("ApplicationNetworkPolicy", "junk", junk)
    )
    until(
        lambda: [one["reason"] for one in admin.ask("GET", EVENTS.path(namespace=SHOP))["items"]] == ["Invalid"],
        controller.log,
    )

    admin.ask("DELETE", f"{policies}/allow")
    admin.ask("DELETE", CLUSTER_NETWORK_POLICIES.path(name="all"))
    until(lambda: admin.refusal("GET", f"{policies}/allow") == 404, controller.log)
    until(lambda: admin.refusal("GET", CLUSTER_NETWORK_POLICIES.path(name="all")) == 404, controller.log)
    assert specs(admin, POLICY_ENDPOINTS.path(namespace=SHOP), "allow") == []
    assert specs(admin, CLUSTER_POLICY_ENDPOINTS.path(), "all") == []
    assert controller.metric("rest_client_requests_total") > 0
    assert controller.metric("rest_client_requests_total", code="403") == 0
    assert controller.stop() == 0


def typed(kind: str, name: str, spec: Object) -> Object:
    return {"apiVersion": "networking.k8s.aws/v1alpha1", "kind": kind, "metadata": {"name": name}, "spec": spec}

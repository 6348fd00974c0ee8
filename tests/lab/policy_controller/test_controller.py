"""The controller as a process: policies and pods in, endpoint objects out, over HTTP."""

from __future__ import annotations

import time
from typing import Any

import pytest
from support.policy_lab import Api, Controller, until

WEB, CLIENT = {"app": "web"}, {"app": "client"}
SETTLED_S = 2.5
"""Longer than the batch period: what would be written by then is written."""


def allow(port: int | str = 8080) -> dict[str, Any]:
    return {
        "spec": {
            "podSelector": {"matchLabels": WEB},
            "ingress": [{"from": [{"podSelector": {"matchLabels": CLIENT}}], "ports": [{"port": port}]}],
        }
    }


@pytest.fixture
def at_work(api: Api, controller: Controller) -> Controller:
    api.switch()
    controller.start()
    until(controller.is_at_work, controller.log)
    return controller


def settle() -> None:
    time.sleep(SETTLED_S)


def test_a_policy_becomes_an_endpoint_object_in_the_public_form(api: Api, at_work: Controller) -> None:
    api.pod("web-1", "10.0.3.7", labels=WEB, node="10.0.1.20")
    api.pod("client-1", "10.0.4.11", labels=CLIENT)
    policy = api.put("NetworkPolicy", "api-allow", allow())
    until(lambda: api.cidrs("api-allow") == {"10.0.4.11"}, at_work.log)
    (made,) = api.endpoints("api-allow")
    assert made["spec"] == {
        "policyRef": {"name": "api-allow", "namespace": "shop"},
        "podSelector": {"matchLabels": WEB},
        "podIsolation": ["Ingress"],
        "podSelectorEndpoints": [{"name": "web-1", "namespace": "shop", "podIP": "10.0.3.7", "hostIP": "10.0.1.20"}],
        "ingress": [{"cidr": "10.0.4.11", "ports": [{"protocol": "TCP", "port": 8080}]}],
        "egress": [],
    }
    assert made["metadata"]["name"].startswith("api-allow-")
    assert list(made["metadata"]["annotations"]) == ["networking.k8s.aws/last-change-trigger-time"]
    owner = {"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "name": "api-allow", "uid": policy["metadata"]["uid"], "controller": True, "blockOwnerDeletion": True}  # fmt: skip
    assert made["metadata"]["ownerReferences"] == [owner]
    assert api.get("NetworkPolicy", "api-allow")["metadata"]["finalizers"] == ["networking.k8s.aws/resources"]


@pytest.mark.spec("policy.T-127")
def test_a_restart_writes_nothing_and_neither_does_a_foreign_change(
    api: Api, at_work: Controller, replicas: list[Controller]
) -> None:
    api.pod("web-1", "10.0.3.7", labels=WEB)
    for number in range(1, 31):
        api.pod(f"client-{number}", f"10.0.4.{number}", labels=CLIENT)
    api.put("NetworkPolicy", "one", allow())
    api.put("NetworkPolicy", "named", allow("http"))
    api.put("ApplicationNetworkPolicy", "app", {"spec": {"podSelector": {}, "egress": [{"to": [{"domainNames": ["a.example"]}]}]}})  # fmt: skip
    spec = {"tier": "Admin", "priority": 1, "subject": {"namespaces": {}}, "egress": [{"action": "Deny", "to": [{"networks": ["10.9.0.0/16"]}]}]}  # fmt: skip
    api.put("ClusterNetworkPolicy", "all", {"spec": spec})
    until(lambda: len(api.cidrs("one")) == 30 and api.cidrs("all", "egress") and api.events(), at_work.log)
    until(lambda: api.get("ClusterNetworkPolicy", "all").get("status"), at_work.log)
    settle()
    before = api.versions()
    at_work.stop()
    second = replicas[1].start()
    until(lambda: second.is_at_work() and second.metric("network_policy_reconciliations_total") >= 4, second.log)
    api.change("Pod", "client-1", {"metadata": {"labels": {"nobody": "asks"}}})
    settle()
    assert api.versions() == before
    second.kill()
    third = at_work.start()
    until(lambda: third.is_at_work() and third.metric("network_policy_reconciliations_total") >= 4, third.log)
    settle()
    assert api.versions() == before


def test_pods_and_namespaces_that_change_are_followed(api: Api, at_work: Controller) -> None:
    api.pod("web-1", "10.0.3.7", labels=WEB)
    peers = [{"podSelector": {"matchLabels": CLIENT}}, {"namespaceSelector": {"matchLabels": {"team": "blue"}}}]
    api.put("NetworkPolicy", "p", {"spec": {"podSelector": {"matchLabels": WEB}, "ingress": [{"from": peers}]}})
    api.pod("a", "10.0.4.1", labels=CLIENT)
    until(lambda: api.cidrs("p") == {"10.0.4.1"}, at_work.log)
    api.change("Pod", "a", {"metadata": {"labels": {"app": "no more"}}})
    until(lambda: api.cidrs("p") == set(), at_work.log)
    api.put("Namespace", "other", {})
    api.pod("b", "10.0.4.2", namespace="other")
    api.change("Namespace", "other", {"metadata": {"labels": {"team": "blue"}}})
    until(lambda: api.cidrs("p") == {"10.0.4.2"}, at_work.log)
    api.delete("Pod", "b", namespace="other")
    api.pod("c", "10.0.4.2", namespace="shop")
    until(lambda: api.cidrs("p") == set(), at_work.log)
    api.change("NetworkPolicy", "p", {"spec": {"podSelector": {"matchLabels": {"app": "nobody"}}}})
    until(lambda: not api.rows("p", "podSelectorEndpoints"), at_work.log)
    assert api.endpoints("p")[0]["spec"]["podSelector"] == {"matchLabels": {"app": "nobody"}}


def test_a_policy_whose_subject_becomes_junk_keeps_what_was_in_force(api: Api, at_work: Controller) -> None:
    api.pod("web-1", "10.0.3.7", labels=WEB)
    api.put("ApplicationNetworkPolicy", "p", allow())
    until(lambda: api.rows("p", "podSelectorEndpoints"), at_work.log)
    api.change("ApplicationNetworkPolicy", "p", {"spec": {"podSelector": {"matchExpressions": [{"key": "a", "operator": "Like"}]}}})  # fmt: skip
    until(lambda: [event["reason"] for event in api.events()] == ["Invalid"], at_work.log)
    assert [row["name"] for row in api.rows("p", "podSelectorEndpoints")] == ["web-1"]


@pytest.mark.spec("policy.T-128")
def test_a_hundred_peers_within_a_second_are_at_most_two_passes(api: Api, at_work: Controller) -> None:
    api.pod("web-1", "10.0.3.7", labels=WEB)
    api.put("NetworkPolicy", "p", allow())
    until(lambda: api.endpoints("p"), at_work.log)
    settle()
    passes = at_work.metric("network_policy_reconciliations_total")
    for number in range(100):
        api.pod(f"client-{number}", f"10.0.4.{number}", labels=CLIENT)
    until(lambda: len(api.cidrs("p")) == 100, at_work.log)
    settle()
    assert at_work.metric("network_policy_reconciliations_total") - passes <= 2


@pytest.mark.spec("policy.T-124", "policy.T-126")
def test_a_large_policy_is_three_objects_and_one_replaced_peer_is_a_write_or_two(api: Api, at_work: Controller) -> None:
    for number in range(450):
        api.pod(f"client-{number}", f"10.0.{4 + number // 250}.{number % 250}", labels=CLIENT)
    for number in range(250):
        api.pod(f"web-{number}", f"10.0.8.{number}", labels=WEB)
    api.put("NetworkPolicy", "p", allow())
    until(lambda: len(api.cidrs("p")) == 450 and len(api.rows("p", "podSelectorEndpoints")) == 250, at_work.log)
    made = api.endpoints("p")
    assert len(made) == 3
    assert max(len(one["spec"][part]) for one in made for part in ("ingress", "podSelectorEndpoints")) <= 200
    assert {one["metadata"]["annotations"]["networking.k8s.aws/endpoint-parts"] for one in made} == {"3"}
    settle()
    writes = at_work.metric("vpccni_policy_endpoint_writes")
    api.delete("Pod", "client-7")
    api.pod("client-new", "10.0.7.1", labels=CLIENT)
    until(lambda: "10.0.7.1" in api.cidrs("p") and "10.0.4.7" not in api.cidrs("p"), at_work.log)
    settle()
    assert at_work.metric("vpccni_policy_endpoint_writes") - writes <= 4


@pytest.mark.spec("policy.T-129")
def test_deletion_takes_the_objects_and_waits_while_the_controller_is_away(api: Api, at_work: Controller) -> None:
    cluster = {"spec": {"tier": "Admin", "priority": 1, "subject": {"namespaces": {}}}}
    kinds = (("NetworkPolicy", allow()), ("ApplicationNetworkPolicy", allow()), ("ClusterNetworkPolicy", cluster))
    for kind, document in kinds:
        api.put(kind, f"p-{kind.lower()}", document)
        until(lambda kind=kind: api.endpoints(f"p-{kind.lower()}"), at_work.log)  # type: ignore[misc]
    at_work.kill()
    for kind, _ in kinds:
        api.delete(kind, f"p-{kind.lower()}")
        assert api.get(kind, f"p-{kind.lower()}")["metadata"]["deletionTimestamp"]
    at_work.start()
    until(lambda: not any(api.all(kind) for kind, _ in kinds), at_work.log, within_s=30)
    assert not api.all("PolicyEndpoint")
    assert not api.all("ClusterPolicyEndpoint")


def test_pods_that_name_a_port_differently_have_objects_of_their_own(api: Api, at_work: Controller) -> None:
    api.pod("old", "10.0.3.7", labels=WEB, ports=[("http", "TCP", 8080)])
    api.put("NetworkPolicy", "p", {"spec": {"podSelector": {"matchLabels": WEB}, "ingress": [{"ports": [{"port": "http"}]}]}})  # fmt: skip
    until(lambda: api.rows("p", "podSelectorEndpoints"), at_work.log)
    (plain,) = api.endpoints("p")
    api.pod("new", "10.0.3.8", labels=WEB, ports=[("http", "TCP", 9090)])
    until(lambda: len(api.endpoints("p")) == 2, at_work.log)
    opened = {
        target["name"]: {port["port"] for row in one["spec"]["ingress"] for port in row["ports"]}
        for one in api.endpoints("p")
        for target in one["spec"]["podSelectorEndpoints"]
    }
    assert opened == {"old": {8080}, "new": {9090}}
    assert api.get("PolicyEndpoint", plain["metadata"]["name"]) == plain
    api.delete("Pod", "old")
    until(lambda: [one["spec"]["policyRef"]["name"] for one in api.endpoints("p")] == ["p"], at_work.log)
    assert [target["name"] for target in api.rows("p", "podSelectorEndpoints")] == ["new"]


def test_two_kinds_of_one_name_have_their_own_objects(api: Api, at_work: Controller) -> None:
    api.pod("web-1", "10.0.3.7", labels=WEB)
    api.put("NetworkPolicy", "p", {"spec": {"podSelector": {}, "ingress": [{"from": [{"ipBlock": {"cidr": "10.1.0.0/16"}}]}]}})  # fmt: skip
    api.put("ApplicationNetworkPolicy", "p", {"spec": {"podSelector": {}, "ingress": [{"from": [{"ipBlock": {"cidr": "10.2.0.0/16"}}]}]}})  # fmt: skip
    until(lambda: api.cidrs("p") == {"10.1.0.0/16", "10.2.0.0/16"}, at_work.log)
    settle()
    assert len(api.endpoints("p")) == 2
    api.delete("NetworkPolicy", "p")
    until(lambda: api.cidrs("p") == {"10.2.0.0/16"}, at_work.log)


def test_names_of_any_length_are_made_changed_and_removed(api: Api, at_work: Controller) -> None:
    for length in (57, 58, 63, 253):
        name = "n" * length
        api.put("NetworkPolicy", name, {"spec": {"podSelector": {}, "ingress": [{"from": [{"ipBlock": {"cidr": "10.1.0.0/16"}}]}]}})  # fmt: skip
        until(lambda name=name: api.cidrs(name) == {"10.1.0.0/16"}, at_work.log)  # type: ignore[misc]
        api.change("NetworkPolicy", name, {"spec": {"ingress": [{"from": [{"ipBlock": {"cidr": "10.2.0.0/16"}}]}]}})
        until(lambda name=name: api.cidrs(name) == {"10.2.0.0/16"}, at_work.log)  # type: ignore[misc]
        api.delete("NetworkPolicy", name)
        until(lambda name=name: not api.endpoints(name), at_work.log)  # type: ignore[misc]


@pytest.mark.spec("policy.W-30")
def test_what_is_wrong_is_told_in_an_event_and_in_conditions(api: Api, at_work: Controller) -> None:
    api.pod("web-1", "10.0.3.7", labels=WEB)
    api.put("NetworkPolicy", "np", allow("http"))
    bad = {"spec": {"podSelector": {}, "ingress": [{"from": [{"ipBlock": {"cidr": "junk"}}]}]}}
    api.put("ApplicationNetworkPolicy", "anp", bad)
    api.put("ClusterNetworkPolicy", "cnp", {"spec": {"tier": "Middle"}})
    until(lambda: len(api.events()) == 3, at_work.log, within_s=10)
    told = {event["regarding"]["name"]: (event["reason"], event["note"]) for event in api.events()}
    assert {name: reason for name, (reason, _) in told.items()} == {"np": "UnresolvedPort", "anp": "Invalid", "cnp": "Invalid"}  # fmt: skip
    assert "http" in told["np"][1]
    until(lambda: api.get("ClusterNetworkPolicy", "cnp").get("status"), at_work.log)
    for kind, name in (("ApplicationNetworkPolicy", "anp"), ("ClusterNetworkPolicy", "cnp")):
        stands = {one["type"]: one["status"] for one in api.get(kind, name)["status"]["conditions"]}
        assert stands == {"Accepted": "False", "Resolved": "True"}
    assert at_work.metric("vpccni_policy_problems", reason="Invalid") == 2
    api.change("ApplicationNetworkPolicy", "anp", {"spec": {"ingress": []}})
    until(lambda: api.get("ApplicationNetworkPolicy", "anp")["status"]["conditions"][0]["status"] == "True", at_work.log)  # fmt: skip


def test_services_and_their_backends_are_followed(api: Api, at_work: Controller) -> None:
    api.pod("web-1", "10.0.3.7", labels=WEB)
    api.put("NetworkPolicy", "p", {"spec": {"podSelector": {}, "policyTypes": ["Egress"], "egress": [{"to": [{"podSelector": {"matchLabels": WEB}}], "ports": [{"port": 8080}]}]}})  # fmt: skip
    api.put("Service", "web", {"spec": {"clusterIP": "172.20.0.9", "ports": [{"port": 80, "protocol": "TCP"}]}})
    slice_ = {"metadata": {"labels": {"kubernetes.io/service-name": "web"}}, "addressType": "IPv4", "ports": [{"name": "", "port": 8080, "protocol": "TCP"}], "endpoints": [{"addresses": ["10.0.3.7"], "conditions": {"ready": True}}]}  # fmt: skip
    api.put("EndpointSlice", "web-1", slice_)
    vip = {"cidr": "172.20.0.9", "ports": [{"protocol": "TCP", "port": 80}]}
    until(lambda: vip in api.rows("p", "egress"), at_work.log)
    api.change("EndpointSlice", "web-1", {"endpoints": [{"addresses": ["10.0.3.7"]}, {"addresses": ["10.0.3.8"]}]})
    until(lambda: vip not in api.rows("p", "egress"), at_work.log)
    api.change("EndpointSlice", "web-1", {"endpoints": [{"addresses": ["10.0.3.7"]}]})
    until(lambda: vip in api.rows("p", "egress"), at_work.log)
    api.change("Service", "web", {"spec": {"ports": [{"port": 81, "protocol": "TCP"}]}})
    until(lambda: {"cidr": "172.20.0.9", "ports": [{"protocol": "TCP", "port": 81}]} in api.rows("p", "egress"), at_work.log)  # fmt: skip
    api.delete("Service", "web")
    until(lambda: api.cidrs("p", "egress") == {"10.0.3.7"}, at_work.log)


def test_audit_mode_is_passed_on_and_taken_back(api: Api, at_work: Controller) -> None:
    mode = "networking.k8s.aws/policy-mode"
    api.put("NetworkPolicy", "p", {"metadata": {"annotations": {mode: "audit"}}, **allow()})
    until(lambda: api.endpoints("p"), at_work.log)
    assert api.endpoints("p")[0]["metadata"]["annotations"][mode] == "audit"
    api.change("NetworkPolicy", "p", {"metadata": {"annotations": {mode: None}}})
    until(lambda: mode not in api.endpoints("p")[0]["metadata"]["annotations"], at_work.log)


def test_an_endpoint_object_that_somebody_changes_or_deletes_is_made_good(api: Api, at_work: Controller) -> None:
    api.pod("client-1", "10.0.4.11", labels=CLIENT)
    api.put("NetworkPolicy", "p", allow())
    until(lambda: api.cidrs("p") == {"10.0.4.11"}, at_work.log)
    name = api.endpoints("p")[0]["metadata"]["name"]
    api.change("PolicyEndpoint", name, {"spec": {"ingress": [{"cidr": "0.0.0.0/0"}]}})
    until(lambda: api.cidrs("p") == {"10.0.4.11"}, at_work.log)
    api.delete("PolicyEndpoint", name)
    until(lambda: api.cidrs("p") == {"10.0.4.11"}, at_work.log)


def test_the_api_refusing_for_a_while_is_waited_out(api: Api, at_work: Controller) -> None:
    api.refuse(503, "/apis/networking.k8s.aws/v1alpha1/namespaces/shop/policyendpoints")
    api.pod("client-1", "10.0.4.11", labels=CLIENT)
    api.put("NetworkPolicy", "p", allow())
    until(lambda: at_work.metric("network_policy_reconciliations_total", result="error") >= 2, at_work.log)
    api.refuse(None)
    until(lambda: api.cidrs("p") == {"10.0.4.11"}, at_work.log)


def test_metrics_and_health_have_the_references_names(api: Api, at_work: Controller) -> None:
    api.put("NetworkPolicy", "p", allow())
    until(lambda: api.endpoints("p"), at_work.log)
    until(lambda: at_work.metric("network_policy_reconciliations_total", policy_type="NetworkPolicy", result="success") >= 1, at_work.page)  # fmt: skip
    assert at_work.metric("network_policy_objects_total", policy_type="NetworkPolicy") == 1
    assert at_work.metric("advanced_network_policy_enabled") == 0
    assert at_work.metric("network_policy_reconcile_duration_seconds_count", policy_type="NetworkPolicy") >= 1
    assert at_work.metric("leader_election_master_status") == 1
    assert "# TYPE network_policy_reconcile_duration_seconds histogram" in at_work.page()
    assert at_work.is_ready()


def test_an_api_that_goes_away_and_comes_back_finds_what_happened_meanwhile_done_once(
    api: Api, at_work: Controller
) -> None:
    api.pod("client-1", "10.0.4.1", labels=CLIENT)
    api.put("NetworkPolicy", "one", allow())
    until(lambda: api.cidrs("one") == {"10.0.4.1"}, at_work.log)
    api.close()
    api.pod("client-2", "10.0.4.2", labels=CLIENT)
    api.put("NetworkPolicy", "two", allow())
    time.sleep(4.0)
    api.back()
    both = {"10.0.4.1", "10.0.4.2"}
    until(lambda: api.cidrs("one") == both == api.cidrs("two"), at_work.log, within_s=40)
    settle()
    assert [len(api.endpoints(name)) for name in ("one", "two")] == [1, 1]
    assert at_work.process is not None
    assert at_work.process.poll() is None


def test_objects_that_the_original_left_are_taken_over_without_a_write(api: Api, controller: Controller) -> None:
    api.pod("web-1", "10.0.3.7", labels=WEB, node="10.0.1.20")
    api.pod("client-1", "10.0.4.11", labels=CLIENT)
    policy = api.put("NetworkPolicy", "api-allow", {"metadata": {"finalizers": ["networking.k8s.aws/resources"]}, **allow()})  # fmt: skip
    owner = {"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "name": "api-allow", "uid": policy["metadata"]["uid"], "controller": True, "blockOwnerDeletion": True}  # fmt: skip
    spec = {
        "policyRef": {"name": "api-allow", "namespace": "shop"},
        "podSelector": {"matchLabels": WEB},
        "podIsolation": ["Ingress"],
        "podSelectorEndpoints": [{"hostIP": "10.0.1.20", "name": "web-1", "namespace": "shop", "podIP": "10.0.3.7"}],
        "ingress": [{"cidr": "10.0.4.11", "ports": [{"port": 8080, "protocol": "TCP"}]}],
    }
    meta = {
        "generateName": "api-allow-",
        "annotations": {"networking.k8s.aws/last-change-trigger-time": "2026-08-21T09:14:03.123456789Z"},
        "ownerReferences": [owner],
    }
    api.put("PolicyEndpoint", "api-allow-7kq2x", {"metadata": meta, "spec": spec})
    api.switch()
    before = {key: value for key, value in api.versions().items() if key[0] == "PolicyEndpoint"}
    controller.start()
    until(controller.is_at_work, controller.log)
    until(lambda: controller.metric("network_policy_reconciliations_total") >= 1, controller.log)
    settle()
    assert {key: value for key, value in api.versions().items() if key[0] == "PolicyEndpoint"} == before
    api.pod("client-2", "10.0.4.12", labels=CLIENT)
    until(lambda: api.cidrs("api-allow") == {"10.0.4.11", "10.0.4.12"}, controller.log)
    assert [one["metadata"]["name"] for one in api.endpoints("api-allow")] == ["api-allow-7kq2x"]

"""What a policy comes to: the cases that the specification names."""

from __future__ import annotations

from ipaddress import ip_address
from typing import Any

import pytest
from support.policies import Doc, actions_at, cluster_of, pod_document, policy, put_service

from vpccni.components.policy_controller.cluster import Cluster
from vpccni.components.policy_controller.model import Entry, Kind, Port, Service, ServicePort, Slice
from vpccni.components.policy_controller.resolve import MIXED_BACKENDS, TOO_LARGE, UNRESOLVED_PORT, Resolution, resolve
from vpccni.shared.kube.objects import Key

WEB = {"matchLabels": {"app": "web"}}
ANY: Doc = {}


def came_to(cluster: Cluster, spec: Doc, kind: Kind = Kind.NETWORK) -> Resolution:
    return resolve(policy(kind, spec), cluster)


def egress(*rules: Doc, subject: Doc | None = None) -> Doc:
    return {"podSelector": subject or {}, "policyTypes": ["Egress"], "egress": list(rules)}


def reached(resolution: Resolution, ip: str, port: int, protocol: str = "TCP") -> bool:
    return bool(actions_at(resolution.egress, ip, protocol, port))


def web(name: str, ip: str, *ports: tuple[str, str, int], **more: Any) -> Doc:
    return pod_document(name, ip, labels={"app": "web", **more}, ports=ports)


def reasons(resolution: Resolution) -> list[str]:
    return [problem.reason for problem in resolution.problems]


@pytest.mark.spec("policy.T-024")
def test_pods_that_ended_are_no_peers_and_pending_ones_are() -> None:
    pods = [pod_document(phase, f"10.0.0.{n}", phase=phase) for n, phase in enumerate(("Pending", "Running", "Succeeded", "Failed"), 1)]  # fmt: skip
    (group,) = came_to(cluster_of(pods), {"podSelector": {}, "ingress": [{"from": [{"podSelector": {}}]}]}).groups
    assert {entry.cidr for entry in group.ingress} == {"10.0.0.1", "10.0.0.2"}
    assert {target.name for target in group.targets} == {"Pending", "Running"}


@pytest.mark.spec("policy.T-025")
def test_a_host_network_peer_is_its_node_but_never_a_subject() -> None:
    cluster = cluster_of([pod_document("host", "10.0.9.1", host_network=True)])
    (group,) = came_to(cluster, {"podSelector": {}, "ingress": [{"from": [{"podSelector": {}}]}]}).groups
    assert ({entry.cidr for entry in group.ingress}, group.targets) == ({"10.0.9.1"}, frozenset())


def test_host_network_pods_are_no_peers_of_cluster_policies() -> None:
    cluster = cluster_of([pod_document("host", "10.0.9.1", host_network=True), pod_document("pod", "10.0.0.1")])
    spec = {
        "tier": "Admin", "priority": 1, "subject": {"namespaces": {}},
        "ingress": [{"action": "Deny", "from": [{"namespaces": {}}]}],
    }  # fmt: skip
    (group,) = came_to(cluster, spec, Kind.CLUSTER).groups
    assert group.ingress == {Entry("10.0.0.1", action="Deny")}


def test_an_address_that_only_the_annotation_has_counts() -> None:
    document = pod_document("early", "")
    document["metadata"]["annotations"] = {"vpc.amazonaws.com/pod-ips": "10.0.0.7"}
    (group,) = came_to(cluster_of([document]), {"podSelector": {}}).groups
    assert {target.pod_ip for target in group.targets} == {"10.0.0.7"}


@pytest.mark.spec("policy.T-044", "policy.W-17")
def test_each_pod_opens_only_its_own_number_of_a_named_port() -> None:
    cluster = cluster_of([web("a", "10.0.0.1", ("http", "TCP", 80)), web("b", "10.0.0.2", ("http", "TCP", 8080))])
    groups = came_to(cluster, {"podSelector": WEB, "ingress": [{"ports": [{"port": "http"}]}]}).groups
    opened = {target.name: [port for port in (80, 8080) if actions_at(group.ingress, "10.0.3.3", "TCP", port)] for group in groups for target in group.targets}  # fmt: skip
    assert opened == {"a": [80], "b": [8080]}


def test_a_name_that_no_selected_pod_declares_opens_nothing_and_is_told() -> None:
    cluster = cluster_of([web("a", "10.0.0.1", ("http", "UDP", 80))])
    resolution = came_to(cluster, {"podSelector": WEB, "ingress": [{"ports": [{"port": "http"}]}]})
    assert resolution.groups[0].ingress == frozenset()
    assert reasons(resolution) == [UNRESOLVED_PORT]
    assert "http" in resolution.problems[0].text


def test_a_named_port_of_egress_is_each_destinations_own() -> None:
    cluster = cluster_of([web("a", "10.0.0.1", ("http", "TCP", 80)), web("b", "10.0.0.2", ("http", "TCP", 8080)), web("c", "10.0.0.3")])  # fmt: skip
    resolution = came_to(cluster, egress({"to": [{"podSelector": WEB}], "ports": [{"port": "http"}]}))
    assert resolution.egress == {Entry("10.0.0.1", ports=(Port("TCP", 80),)), Entry("10.0.0.2", ports=(Port("TCP", 8080),))}  # fmt: skip


def test_a_named_port_without_peers_is_each_pods_of_the_cluster() -> None:
    cluster = cluster_of([web("a", "10.0.0.1", ("http", "TCP", 80)), web("b", "10.0.0.2")])
    resolution = came_to(cluster, egress({"ports": [{"port": "http"}, {"port": 53, "protocol": "UDP"}]}))
    assert reached(resolution, "10.0.0.1", 80)
    assert not reached(resolution, "10.0.0.2", 80)
    assert reached(resolution, "192.0.2.1", 53, "UDP")


def test_a_named_port_of_a_block_opens_nothing_and_is_told() -> None:
    resolution = came_to(cluster_of([]), egress({"to": [{"ipBlock": {"cidr": "10.0.0.0/8"}}], "ports": [{"port": "http"}]}))  # fmt: skip
    assert (resolution.egress, reasons(resolution)) == (frozenset(), [UNRESOLVED_PORT])


def test_host_bits_of_a_block_are_cut_and_its_ports_unite_with_those_of_the_network() -> None:
    rules = [{"to": [{"ipBlock": {"cidr": cidr}}], "ports": [{"port": port}]} for cidr, port in (("10.161.0.0/8", 80), ("10.0.0.0/8", 443))]  # fmt: skip
    assert came_to(cluster_of([]), egress(*rules)).egress == {Entry("10.0.0.0/8", ports=(Port("TCP", 80), Port("TCP", 443)))}  # fmt: skip


def test_all_ports_take_in_every_other() -> None:
    many = [{"port": number} for number in range(1, 31)]
    rules = [{"to": [{"podSelector": WEB}], "ports": many}, {"to": [{"podSelector": WEB}]}]
    assert came_to(cluster_of([web("a", "10.0.0.1")]), egress(*rules)).egress == {Entry("10.0.0.1")}


def test_rules_of_a_direction_that_is_not_isolated_do_not_count() -> None:
    spec = {"podSelector": {}, "policyTypes": ["Ingress"], "egress": [{}]}
    assert came_to(cluster_of([]), spec).egress == frozenset()


# -- services


def test_a_range_opens_the_virtual_address_on_the_services_port_alone() -> None:
    cluster = cluster_of([web("a", "10.0.0.1"), web("b", "10.0.0.2")])
    put_service(cluster, "web", "172.20.0.1", 80, ["10.0.0.1", "10.0.0.2"], 8000)
    resolution = came_to(cluster, egress({"to": [{"podSelector": WEB}], "ports": [{"port": 8000, "endPort": 8100}]}))
    assert [reached(resolution, "172.20.0.1", port) for port in (79, 80, 81, 8000, 443)] == [False, True, False, False, False]  # fmt: skip


def test_a_service_with_one_backend_that_is_not_allowed_stays_closed_and_is_told() -> None:
    cluster = cluster_of([web("a", "10.0.0.1", tier="fe"), web("b", "10.0.0.2")])
    put_service(cluster, "web", "172.20.0.1", 80, ["10.0.0.1", "10.0.0.2"], 8080)
    spec = egress({"to": [{"podSelector": {"matchLabels": {"app": "web", "tier": "fe"}}}]})
    mixed = came_to(cluster, spec)
    assert not reached(mixed, "172.20.0.1", 80)
    assert reasons(mixed) == [MIXED_BACKENDS]
    put_service(cluster, "web", "172.20.0.1", 80, ["10.0.0.1"], 8080)
    assert reached(came_to(cluster, spec), "172.20.0.1", 80)


def test_a_backend_that_answers_on_another_port_keeps_the_virtual_address_closed() -> None:
    cluster = cluster_of([web("a", "10.0.0.1")])
    put_service(cluster, "web", "172.20.0.1", 8080, ["10.0.0.1"], 9999)
    assert not reached(came_to(cluster, egress({"to": [{"podSelector": WEB}], "ports": [{"port": 8080}]})), "172.20.0.1", 8080)  # fmt: skip


def test_a_block_with_the_virtual_address_but_not_the_backend_does_not_open_it() -> None:
    cluster = cluster_of([])
    put_service(cluster, "web", "172.20.0.1", 80, ["10.0.0.1"], 8080)
    for block in ({"cidr": "172.20.0.0/16"}, {"cidr": "0.0.0.0/0", "except": ["10.0.0.0/8"]}):
        resolution = came_to(cluster, egress({"to": [{"ipBlock": block}]}))
        assert not reached(resolution, "172.20.0.1", 80), block
        assert reached(resolution, "172.20.0.2", 80), block
    assert reached(came_to(cluster, egress({"to": [{"ipBlock": {"cidr": "10.0.0.0/24"}}]})), "172.20.0.1", 80)


def test_an_address_that_a_block_loses_for_one_port_stays_open_on_another() -> None:
    cluster, key, backend = cluster_of([]), Key("n", "s"), ip_address("10.0.0.1")
    vip_ports = (ServicePort("web", "TCP", 80), ServicePort("dns", "TCP", 53))
    cluster.put_service(key, Service("n", "s", (ip_address("172.20.0.1"),), vip_ports))
    behind = (ServicePort("web", "TCP", 8080), ServicePort("dns", "TCP", 53))
    cluster.put_slice(key, Slice("n", "s", behind, frozenset({backend}), frozenset()))
    rule = {"to": [{"ipBlock": {"cidr": "0.0.0.0/0"}}], "ports": [{"port": 80}, {"port": 53}]}
    resolution = came_to(cluster, egress(rule))
    assert [reached(resolution, "172.20.0.1", port) for port in (80, 53)] == [False, True]
    assert reached(resolution, "172.20.0.2", 80)


def test_many_virtual_addresses_taken_out_of_a_block_are_few_exceptions() -> None:
    cluster = cluster_of([])
    for number in range(256):
        put_service(cluster, f"s{number}", f"172.20.0.{number}", 80, ["10.0.0.1"], 8080)
    (entry,) = came_to(cluster, egress({"to": [{"ipBlock": {"cidr": "172.20.0.0/16"}}]})).egress
    assert entry.excepts == ("172.20.0.0/24",)


def test_a_denied_backend_denies_the_virtual_address() -> None:
    cluster = cluster_of([web("a", "10.0.0.1"), pod_document("b", "10.0.0.2")])
    put_service(cluster, "web", "172.20.0.1", 80, ["10.0.0.1", "10.0.0.2"], 8080)
    peer = {"pods": {"namespaceSelector": {}, "podSelector": WEB}}
    for action, is_said in (("Deny", True), ("Accept", False), ("Pass", False)):
        spec = {"tier": "Admin", "priority": 1, "subject": {"namespaces": {}}, "egress": [{"action": action, "to": [peer]}]}  # fmt: skip
        resolution = came_to(cluster, spec, Kind.CLUSTER)
        assert actions_at(resolution.egress, "172.20.0.1", "TCP", 80) == ({action} if is_said else set())


# -- other kinds


@pytest.mark.spec("policy.T-015")
def test_an_application_policy_without_types_isolates_ingress() -> None:
    assert policy(Kind.APPLICATION, {"podSelector": {}}).isolation == ("Ingress",)


def test_an_application_policys_rule_without_destinations_is_all_of_them() -> None:
    resolution = came_to(cluster_of([]), egress({"ports": [{"port": 443}]}), Kind.APPLICATION)
    assert reached(resolution, "192.0.2.1", 443)


def test_domains_are_passed_on_with_their_ports() -> None:
    rule = {"to": [{"domainNames": ["*.example.com"]}], "ports": [{"port": 443}]}
    assert came_to(cluster_of([]), egress(rule), Kind.APPLICATION).egress == {
        Entry("", ports=(Port("TCP", 443),), domain="*.example.com")
    }


@pytest.mark.spec("policy.T-133", "policy.W-16")
def test_ports_without_protocol_are_tcp_and_named_ports_of_cluster_policies_resolve() -> None:
    cluster = cluster_of([web("a", "10.0.0.1", ("http", "TCP", 8080))])
    rules = [{"action": "Accept", "from": [{"namespaces": {}}], "ports": [{"namedPort": "http"}, {"portNumber": {"port": 53}}]}]  # fmt: skip
    spec = {"tier": "Baseline", "priority": 1, "subject": {"namespaces": {}}, "ingress": rules}
    (group,) = came_to(cluster, spec, Kind.CLUSTER).groups
    assert {port for entry in group.ingress for port in entry.ports} == {Port("TCP", 8080), Port("TCP", 53)}


@pytest.mark.spec("policy.T-118")
def test_every_peer_of_a_cluster_rule_counts_whatever_the_first_one_matches() -> None:
    cluster = cluster_of([pod_document("a", "10.0.0.1", namespace="m")], {"n": {}, "m": {"team": "m"}})
    peers = [{"namespaces": {"matchLabels": {"team": "nobody"}}}, {"namespaces": {"matchLabels": {"team": "m"}}}]
    spec = {"tier": "Admin", "priority": 1, "subject": {"namespaces": {}}, "ingress": [{"action": "Deny", "from": peers}]}  # fmt: skip
    (group,) = came_to(cluster, spec, Kind.CLUSTER).groups
    assert group.ingress == {Entry("10.0.0.1", action="Deny")}


@pytest.mark.spec("policy.T-117", "policy.W-6")
def test_a_rule_for_all_ports_is_not_narrowed_by_another_for_one() -> None:
    cluster = cluster_of([web("a", "10.0.0.1")])
    peer = {"namespaces": {}}
    rules = [{"action": "Deny", "to": [peer]}, {"action": "Deny", "to": [peer], "ports": [{"portNumber": {"port": 443}}]}]  # fmt: skip
    spec = {"tier": "Admin", "priority": 1, "subject": {"namespaces": {}}, "egress": rules}
    assert came_to(cluster, spec, Kind.CLUSTER).egress == {Entry("10.0.0.1", action="Deny")}


def test_a_direction_that_no_node_can_hold_is_told() -> None:
    cluster = cluster_of([])
    blocks = [{"ipBlock": {"cidr": f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}/32"}} for number in range(65_537)]  # fmt: skip
    resolution = came_to(cluster, egress({"to": blocks}))
    assert resolution.is_too_large
    assert TOO_LARGE in reasons(resolution)

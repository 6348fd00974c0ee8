"""Pods and policies for tests of the policy controller, and a direct evaluator of policies.

The evaluator reads the documents as Kubernetes defines them, one packet at a time, and knows nothing of how the controller works.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from ipaddress import ip_address, ip_network
from typing import Any

import msgspec

from vpccni.components.policy_controller.cluster import Cluster
from vpccni.components.policy_controller.facts import PodWire, pod_of
from vpccni.components.policy_controller.model import Entry, Kind, Policy, Service, ServicePort, Slice
from vpccni.components.policy_controller.policies import held_of
from vpccni.components.policy_controller.policy_wires import PolicyWire
from vpccni.shared.kube.objects import Key

Doc = dict[str, Any]


def policy(kind: Kind, spec: Any, *, name: str = "p", namespace: str = "n", **meta: Any) -> Policy:
    """Return the policy of a document."""
    where = {} if kind is Kind.CLUSTER else {"namespace": namespace}
    return policy_from(kind, {"metadata": {"name": name, "uid": f"uid-{kind}-{name}", **where, **meta}, "spec": spec})


def policy_from(kind: Kind, document: Doc) -> Policy:
    return held_of(kind, msgspec.json.decode(json.dumps(document), type=PolicyWire)).policy


def pod_document(
    name: str, ip: str, *, namespace: str = "n", labels: Mapping[str, str] | None = None, node: str = "10.0.9.1",
    ports: Iterable[tuple[str, str, int]] = (), host_network: bool = False, phase: str = "Running",
) -> Doc:  # fmt: skip
    """Return a pod as the API has it; `ports`: (name, protocol, number)."""
    declared = [{"name": port, "protocol": protocol, "containerPort": number} for port, protocol, number in ports]
    return {
        "metadata": {"name": name, "namespace": namespace, "labels": dict(labels or {})},
        "spec": {"containers": [{"name": "c", "image": "i", "ports": declared}], "hostNetwork": host_network},
        "status": {"podIP": ip, "hostIP": node, "phase": phase},
    }


def key_of(document: Doc) -> Key:
    return Key(document["metadata"].get("namespace", ""), document["metadata"]["name"])


def put_pod(cluster: Cluster, document: Doc) -> None:
    cluster.put_pod(key_of(document), pod_of(msgspec.json.decode(json.dumps(document), type=PodWire)))


def put_service(
    cluster: Cluster, name: str, vip: str, port: int, backends: Iterable[str], target: int, *,
    namespace: str = "n", protocol: str = "TCP",
) -> None:  # fmt: skip
    """Make a service with one port and the slice behind it."""
    key = Key(namespace, name)
    cluster.put_service(key, Service(namespace, name, (ip_address(vip),), (ServicePort("", protocol, port),)))
    ready = frozenset(map(ip_address, backends))
    cluster.put_slice(key, Slice(namespace, name, (ServicePort("", protocol, target),), ready, frozenset()))


def cluster_of(pods: Iterable[Doc], namespaces: Mapping[str, Mapping[str, str]] | None = None) -> Cluster:
    cluster = Cluster()
    for name, labels in (namespaces or {"n": {}}).items():
        cluster.put_namespace(name, labels)
    for document in pods:
        put_pod(cluster, document)
    return cluster


# -- what endpoint objects say


def actions_at(entries: Iterable[Entry], ip: str, protocol: str, port: int) -> set[str]:
    """Return the actions of the entries that a packet meets; an entry of a NetworkPolicy has the action "Accept"."""
    address = ip_address(ip)
    return {
        entry.action or "Accept"
        for entry in entries
        if entry.cidr
        and address in ip_network(entry.cidr)
        and not any(address in ip_network(other) for other in entry.excepts)
        and _has(entry, protocol, port)
    }


def _has(entry: Entry, protocol: str, port: int) -> bool:
    return not entry.ports or any(
        one.protocol == protocol and (not one.number or one.number <= port <= max(one.number, one.end))
        for one in entry.ports
    )


# -- what Kubernetes says


@dataclass
class World:
    """Namespaces with their labels, and pods as documents."""

    namespaces: dict[str, dict[str, str]]
    pods: list[Doc] = field(default_factory=list)

    def subjects(self, kind: Kind, document: Doc) -> list[Doc]:
        """Return the pods that a policy applies to."""
        return [pod for pod in self.pods if not pod["spec"]["hostNetwork"] and self._is_subject(kind, document, pod)]

    def actions(
        self, kind: Kind, document: Doc, pod: Doc, direction: str, ip: str, protocol: str, port: int
    ) -> set[str]:
        """Return the actions of the rules that match a packet of a pod to or from an address."""
        spec = document["spec"]
        if kind is not Kind.CLUSTER and direction not in self._types(spec):
            return set()
        side = "from" if direction == "Ingress" else "to"
        found = set()
        for rule in spec.get(direction.lower()) or ():
            remotes = [one for one in self.pods if one["status"]["podIP"] == ip]
            for remote in [*remotes, None]:
                destination = pod if direction == "Ingress" else remote
                if self._peer_matches(kind, document, rule, side, remote, ip) and _port_matches(
                    rule.get("ports"), destination, protocol, port
                ):
                    found.add(rule.get("action", "Accept"))
        return found

    def allows(self, policies: Iterable[Doc], source: Doc, destination: Doc, protocol: str, port: int) -> bool:
        """Tell whether NetworkPolicies let one pod connect to another: egress of the one and ingress of the other, each by itself."""
        if source is destination:
            return True
        sides = (("Egress", source, destination), ("Ingress", destination, source))
        return all(self._lets(policies, direction, pod, peer, protocol, port) for direction, pod, peer in sides)

    def _lets(self, policies: Iterable[Doc], direction: str, pod: Doc, peer: Doc, protocol: str, port: int) -> bool:
        isolating = [
            one
            for one in policies
            if direction in self._types(one["spec"]) and self._is_subject(Kind.NETWORK, one, pod)
        ]
        ip = peer["status"]["podIP"]
        return not isolating or any(
            self.actions(Kind.NETWORK, one, pod, direction, ip, protocol, port) for one in isolating
        )

    def _is_subject(self, kind: Kind, document: Doc, pod: Doc) -> bool:
        spec = document["spec"]
        if kind is Kind.CLUSTER:
            return self._cluster_matches(spec["subject"], pod)
        return pod["metadata"]["namespace"] == document["metadata"]["namespace"] and selects(spec["podSelector"], pod["metadata"]["labels"])  # fmt: skip

    def _cluster_matches(self, peer: Doc, pod: Doc) -> bool:
        labels = self.namespaces[pod["metadata"]["namespace"]]
        if "namespaces" in peer:
            return selects(peer["namespaces"], labels)
        if "pods" in peer:
            return selects(peer["pods"]["namespaceSelector"], labels) and selects(
                peer["pods"]["podSelector"], pod["metadata"]["labels"]
            )
        return False

    def _types(self, spec: Doc) -> Sequence[str]:
        return spec.get("policyTypes") or (["Ingress", "Egress"] if spec.get("egress") else ["Ingress"])

    def _peer_matches(self, kind: Kind, document: Doc, rule: Doc, side: str, remote: Doc | None, ip: str) -> bool:
        peers = rule.get(side)
        if not peers:
            return kind is Kind.NETWORK or peers is None
        return any(self._one_matches(kind, document, peer, remote, ip) for peer in peers)

    def _one_matches(self, kind: Kind, document: Doc, peer: Doc, remote: Doc | None, ip: str) -> bool:
        if "ipBlock" in peer:
            return remote is None and in_block(peer["ipBlock"]["cidr"], peer["ipBlock"].get("except", ()), ip)
        if "networks" in peer:
            return remote is None and any(in_block(network, (), ip) for network in peer["networks"])
        if remote is None:
            return False
        if kind is Kind.CLUSTER:
            return not remote["spec"]["hostNetwork"] and self._cluster_matches(peer, remote)
        namespace = remote["metadata"]["namespace"]
        if "namespaceSelector" in peer:
            is_of = selects(peer["namespaceSelector"], self.namespaces[namespace])
        else:
            is_of = namespace == document["metadata"]["namespace"]
        return is_of and selects(peer.get("podSelector", {}), remote["metadata"]["labels"])


def in_block(cidr: str, excepts: Iterable[str], ip: str) -> bool:
    address = ip_address(ip)
    return address in ip_network(cidr, strict=False) and not any(address in ip_network(one) for one in excepts)


def selects(selector: Doc, labels: Mapping[str, str]) -> bool:
    if any(labels.get(key) != value for key, value in selector.get("matchLabels", {}).items()):
        return False
    for row in selector.get("matchExpressions", ()):
        value, values = labels.get(row["key"]), row.get("values", ())
        met = {
            "In": value in values,
            "NotIn": value not in values,
            "Exists": value is not None,
            "DoesNotExist": value is None,
        }
        if not met[row["operator"]]:
            return False
    return True


def _port_matches(ports: Sequence[Doc] | None, destination: Doc | None, protocol: str, port: int) -> bool:
    return not ports or any(_one_port_matches(one, destination, protocol, port) for one in ports)


def _one_port_matches(one: Doc, destination: Doc | None, protocol: str, port: int) -> bool:
    if "portNumber" in one and _one_port_matches(one["portNumber"], destination, protocol, port):
        return True
    if "portRange" in one:
        span = one["portRange"]
        if span.get("protocol", "TCP") == protocol and span["start"] <= port <= span["end"]:
            return True
    if "namedPort" in one and _declared(destination, one["namedPort"], "TCP") == port and protocol == "TCP":
        return True
    if one.keys() & {"portNumber", "portRange", "namedPort"}:
        return False
    if one.get("protocol", "TCP") != protocol:
        return False
    wanted = one.get("port")
    if isinstance(wanted, str):
        return _declared(destination, wanted, protocol) == port
    return wanted is None or wanted <= port <= one.get("endPort", wanted)


def _declared(pod: Doc | None, name: str, protocol: str) -> int | None:
    ports = [] if pod is None else [port for one in pod["spec"]["containers"] for port in one["ports"]]
    return next((port["containerPort"] for port in ports if (port["name"], port["protocol"]) == (name, protocol)), None)

"""The cluster of the conformance matrix: two nodes, three namespaces with three pods each, everything served and connected at once."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
from support.policies import World
from support.traffic import Cell, Endpoint, Traffic
from support.waiting import until
from tests.lab.policy.cases import ALL, NAMED, NAMESPACES, PORTS, Addresses, State, usual_labels

from vpccni.lab import vpc_plan
from vpccni.lab.api import Lab

Doc = dict[str, Any]

NETWORKING = "/apis/networking.k8s.io/v1/namespaces"
CONVERGED_WITHIN_S = 15.0


class Conformance:
    """Brings the cluster from one state to the next, and compares what connects with what Kubernetes defines."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self.traffic = Traffic(PORTS)
        self._pods: dict[str, Doc] = {}
        self._policies: dict[tuple[str, str], Doc] = {}
        self._labels: dict[str, dict[str, str]] = {}
        lab.start_policy_controller()
        for namespace in NAMESPACES:
            body = {"metadata": {"name": namespace, "labels": usual_labels(namespace)}}
            lab.kube("POST", "/api/v1/namespaces", body)
            self._labels[namespace] = usual_labels(namespace)
        for name in ALL:
            self._add(name, usual_labels(name))

    def close(self) -> None:
        self.traffic.close()

    @property
    def addresses(self) -> Addresses:
        """What ipBlocks speak of. A pod's own block is one of its address now."""
        of = {name: pod["status"]["podIP"] for name, pod in self._pods.items()}
        is_v6 = any(":" in address for address in of.values())
        cidrs = {name: f"{address}/{128 if is_v6 else 32}" for name, address in of.items()}
        vpc = str(vpc_plan.VPC_CIDR_V6 if is_v6 else vpc_plan.VPC_CIDR)
        return Addresses(vpc, "::/0" if is_v6 else "0.0.0.0/0", cidrs)

    def become(self, state: State) -> None:
        """Make the cluster what the state says."""
        for name in state.new:
            self._remove(name)
            self._add(name, self._labels_in(state, name))
        for name in [*NAMESPACES, *ALL]:
            self._label(name, self._labels_in(state, name))
        wanted = {(one["metadata"]["namespace"], one["metadata"]["name"]): one for one in state.policies}
        for namespace, name in [key for key in self._policies if key not in wanted]:
            self.lab.kube("DELETE", f"{NETWORKING}/{namespace}/networkpolicies/{name}")
        for (namespace, name), document in wanted.items():
            path = f"{NETWORKING}/{namespace}/networkpolicies"
            if (namespace, name) not in self._policies:
                self.lab.kube("POST", path, document)
            elif self._policies[namespace, name] != document:
                there = self.lab.kube("GET", f"{path}/{name}")
                self.lab.kube("PUT", f"{path}/{name}", {**there, "spec": document["spec"]})
        self._policies = wanted

    def holds(self) -> None:
        """Wait until exactly what should connect does, and see that it stays so."""
        expected = self._expected()
        seen: set[Cell] = set()

        def is_as_expected() -> bool:
            nonlocal seen
            seen = self.traffic.table()
            return seen == expected

        def told() -> str:
            return (
                f"reached and should not be: {_shown(seen - expected)}; should be and is not: {_shown(expected - seen)}"
            )

        until(is_as_expected, told, within_s=CONVERGED_WITHIN_S)
        assert self.traffic.table() <= expected, "somebody gets through again who should not"
        until(is_as_expected, told, within_s=CONVERGED_WITHIN_S)  # an answer may be late on a busy machine

    def _expected(self) -> set[Cell]:
        world = World({name: self._labels[name] for name in NAMESPACES}, list(self._pods.values()))
        policies = list(self._policies.values())
        return {
            Cell(source, destination, protocol, port)
            for source in ALL
            for destination in ALL
            for protocol in ("TCP", "UDP")
            for port in PORTS
            if world.allows(policies, self._pods[source], self._pods[destination], protocol, port)
        }

    def _labels_in(self, state: State, name: str) -> dict[str, str]:
        return dict(state.labels.get(name, usual_labels(name)))

    def _label(self, name: str, labels: Mapping[str, str]) -> None:
        before = self._labels[name]
        if before == labels:
            return
        namespace, _, pod = name.partition("/")
        path = f"/api/v1/namespaces/{namespace}" + (f"/pods/{pod}" if pod else "")
        patch = {**dict.fromkeys(before), **labels}
        self.lab.kube("PATCH", path, {"metadata": {"labels": patch}})
        self._labels[name] = dict(labels)
        if pod:
            self._pods[name]["metadata"]["labels"] = dict(labels)

    def _add(self, name: str, labels: dict[str, str]) -> None:
        namespace, _, pod = name.partition("/")
        node = self.lab.nodes[ALL.index(name) % len(self.lab.nodes)].name
        ports = [{"name": what, "protocol": protocol, "containerPort": port} for what, protocol, port in NAMED[pod]]
        spec = {
            "nodeName": node,
            "hostNetwork": False,
            "containers": [{"name": "main", "image": "lab", "ports": ports}],
        }
        document: Doc = {"metadata": {"name": pod, "namespace": namespace, "labels": labels}, "spec": spec}
        self.lab.kube("POST", f"/api/v1/namespaces/{namespace}/pods", {**document, "status": {"phase": "Pending"}})
        made = self.lab.add_pod(node, pod, namespace=namespace)
        self._pods[name] = {**document, "status": {"podIP": made.address}}
        self._labels[name] = labels
        self.traffic.add(Endpoint(name, made.netns_path, made.address))

    def _remove(self, name: str) -> None:
        namespace, _, pod = name.partition("/")
        self.traffic.remove(name)
        self.lab.delete_pod(pod, namespace)


def _shown(cells: set[Cell]) -> str:
    lines = [f"{cell.source} -> {cell.destination} {cell.protocol} {cell.port}" for cell in sorted(cells)]
    return ", ".join(lines[:8]) + (f" and {len(lines) - 8} more" if len(lines) > 8 else "") if lines else "nothing"


@pytest.fixture(scope="session", params=["IPv4", "IPv6"])
def conformance(request: pytest.FixtureRequest) -> Iterator[Conformance]:
    """The cluster in one family; the tests of one family follow each other in it."""
    is_v6 = request.param == "IPv6"
    with Lab.up(
        f"cf{request.param[-1]}-{os.getpid() % 10000}", nodes=2, env={"IP_COOLDOWN_PERIOD": "0"}, ipv6=is_v6
    ) as lab:
        cluster = Conformance(lab)
        try:
            yield cluster
        finally:
            cluster.close()

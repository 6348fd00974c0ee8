"""NetworkPolicies from the API server to the packet: the controller, the agents of two nodes, pods on both."""

from __future__ import annotations

import os
import subprocess
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from support.waiting import until

from vpccni.lab.api import Lab
from vpccni.lab.pod import Pod

POLICIES = "/apis/networking.k8s.io/v1/namespaces/default/networkpolicies"
IN_FORCE_WITHIN_S = 15.0
SERVER = """
import socket, sys
server = socket.create_server(("0.0.0.0", int(sys.argv[1])))
while True:
    peer, _ = server.accept()
    peer.sendall(b"hello")
    peer.close()
"""
CLIENT = """
import socket, sys
try:
    with socket.create_connection((sys.argv[1], int(sys.argv[2])), 1) as peer:
        sys.exit(0 if peer.recv(5) == b"hello" else 1)
except OSError:
    sys.exit(1)
"""
PYTHON = "/usr/bin/python3"


class Cluster:
    """Two nodes with the policy controller; pods serve on ports 80 and 81."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        lab.start_policy_controller()
        self.pods: dict[str, Pod] = {}
        self.servers: list[subprocess.Popen[str]] = []

    def add(self, name: str, node: str, **labels: str) -> Pod:
        pod = self.lab.add_pod(node, name, labels=labels)
        self.pods[name] = pod
        self.servers += [pod.popen([PYTHON, "-c", SERVER, port]) for port in ("80", "81")]
        return pod

    def close(self) -> None:
        for server in self.servers:
            server.kill()
            server.wait(5)

    def reaches(self, client: str, server: str, port: int = 80) -> bool:
        argv = [PYTHON, "-c", CLIENT, self.pods[server].address, str(port)]
        return self.pods[client].exec(argv, check=False).returncode == 0

    def apply(self, name: str, spec: dict[str, Any]) -> None:
        body = {"metadata": {"name": name, "namespace": "default"}, "spec": spec}
        self.lab.kube("POST", POLICIES, {"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", **body})

    def delete(self, name: str) -> None:
        self.lab.kube("DELETE", f"{POLICIES}/{name}", expect=(200, 404))

    def becomes(self, reachable: bool, client: str, server: str, port: int = 80) -> None:
        word = "reached" if reachable else "kept out"
        until(
            lambda: self.reaches(client, server, port) is reachable,
            f"{client} is not {word} at {server}:{port}",
            within_s=IN_FORCE_WITHIN_S,
        )


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with Lab.up(f"np{os.getpid()}", nodes=2, env={"IP_COOLDOWN_PERIOD": "0"}) as lab:
        one = Cluster(lab)
        one.add("web", "node-1", app="web")
        one.add("friend", "node-1", app="friend")
        one.add("far-friend", "node-2", app="friend")
        one.add("stranger", "node-2", app="stranger")
        try:
            until(lambda: one.reaches("stranger", "web"), "pods do not talk at all", within_s=IN_FORCE_WITHIN_S)
            yield one
        finally:
            one.close()


def test_only_whom_a_policy_names_gets_in_from_both_nodes_and_all_again_once_it_is_gone(cluster: Cluster) -> None:
    spec = {
        "podSelector": {"matchLabels": {"app": "web"}},
        "policyTypes": ["Ingress"],
        "ingress": [{"from": [{"podSelector": {"matchLabels": {"app": "friend"}}}], "ports": [{"port": 80}]}],
    }
    cluster.apply("web", spec)
    cluster.becomes(False, "stranger", "web")
    cluster.becomes(True, "friend", "web")
    cluster.becomes(True, "far-friend", "web")
    assert not cluster.reaches("friend", "web", 81)
    assert cluster.reaches("web", "stranger")  # its own connections are free
    cluster.delete("web")
    cluster.becomes(True, "stranger", "web")
    cluster.becomes(True, "friend", "web", 81)


def test_a_pod_that_must_not_speak_does_not(cluster: Cluster) -> None:
    spec = {
        "podSelector": {"matchLabels": {"app": "stranger"}},
        "policyTypes": ["Egress"],
        "egress": [{"to": [{"podSelector": {"matchLabels": {"app": "web"}}}]}],
    }
    cluster.apply("quiet", spec)
    cluster.becomes(False, "stranger", "friend")
    cluster.becomes(True, "stranger", "web")
    assert cluster.reaches("friend", "stranger")
    cluster.delete("quiet")
    cluster.becomes(True, "stranger", "friend")


def test_a_new_pod_under_a_policy_is_isolated_from_its_first_packet(cluster: Cluster) -> None:
    """Somebody whom the policy does not name knocks from before the pod exists until after: he never gets in."""
    cluster.apply("late", {"podSelector": {"matchLabels": {"app": "late"}}, "policyTypes": ["Ingress"], "ingress": []})
    cluster.add("late-0", "node-1", app="late")
    cluster.becomes(False, "stranger", "late-0")
    got_in: list[str] = []
    ended = threading.Event()

    def knock() -> None:
        while not ended.is_set():
            got_in.extend(
                name for name in ("late-1", "late-2") if name in cluster.pods and cluster.reaches("friend", name)
            )

    knocking = threading.Thread(target=knock)
    knocking.start()
    try:
        for name in ("late-1", "late-2"):
            cluster.add(name, "node-1", app="late")
            time.sleep(1.5)
    finally:
        ended.set()
        knocking.join()
    assert got_in == []
    cluster.delete("late")
    cluster.becomes(True, "friend", "late-1")


def test_a_killed_agent_leaves_a_policy_in_force(cluster: Cluster) -> None:
    cluster.apply("closed", {"podSelector": {"matchLabels": {"app": "web"}}, "policyTypes": ["Ingress"]})
    cluster.becomes(False, "friend", "web")
    cluster.lab.node("node-1").kill("policy_agent")
    for _ in range(5):
        assert not cluster.reaches("friend", "web")
    cluster.delete("closed")
    cluster.becomes(True, "friend", "web")

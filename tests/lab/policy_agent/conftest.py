"""Two lab nodes with all processes and the policy controller; pods that serve and connect over TCP and UDP."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pytest

from vpccni.lab.api import Lab
from vpccni.lab.pod import Pod

POLICIES = "/apis/networking.k8s.io/v1/namespaces/default/networkpolicies"
PYTHON = "/usr/bin/python3"
SERVE = """
import socket, threading
def serve(port):
    listener = socket.create_server(("", port))
    while True:
        peer, _ = listener.accept()
        threading.Thread(target=answer, args=(peer,), daemon=True).start()
def answer(peer):
    while data := peer.recv(1000):
        peer.sendall(data)
for port in (8080, 8081):
    threading.Thread(target=serve, args=(port,), daemon=True).start()
threading.Event().wait()
"""
CONNECT = """
import socket, sys
with socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=float(sys.argv[3])) as peer:
    peer.sendall(b"hello")
    assert peer.recv(1000) == b"hello"
"""


class Cluster:
    """The lab with the questions the tests ask of it."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self._policies: set[str] = set()

    def server(self, node: int, name: str, **labels: str) -> Pod:
        """Add a pod that answers on TCP 8080 and 8081."""
        return self.lab.add_pod(self.lab.nodes[node].name, name, command=[PYTHON, "-c", SERVE], labels=labels)

    def pod(self, node: int, name: str, *, command: Sequence[str] | None = None, **labels: str) -> Pod:
        return self.lab.add_pod(self.lab.nodes[node].name, name, command=command, labels=labels)

    @staticmethod
    def connects(source: Pod, address: str, port: int = 8080, *, within_s: float = 1.0) -> bool:
        """Whether a TCP connection is made and answered."""
        command = [PYTHON, "-c", CONNECT, address, str(port), str(within_s)]
        return source.exec(command, check=False).returncode == 0

    def policy(self, name: str, selector: Mapping[str, Any], **spec: Any) -> None:
        """Make or replace a NetworkPolicy in the default namespace."""
        types = [kind.capitalize() for kind in ("ingress", "egress") if kind in spec]
        body = {"metadata": {"name": name}, "spec": {"podSelector": selector, "policyTypes": types, **spec}}
        if name in self._policies:
            self.lab.kube("PATCH", f"{POLICIES}/{name}", {"spec": body["spec"]})
        else:
            self._policies.add(name)
            self.lab.kube("POST", POLICIES, body)

    def no_policy(self, name: str) -> None:
        self._policies.discard(name)
        self.lab.kube("DELETE", f"{POLICIES}/{name}")

    def vpccni(self, node: int, *words: str) -> subprocess.CompletedProcess[str]:
        """Give a command on a node."""
        return self.lab.nodes[node].exec(["vpccni", *words], check=False)


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with Lab.up(f"pol-{os.getpid() % 10000}", nodes=2, env={"IP_COOLDOWN_PERIOD": "0"}) as lab:
        lab.start_policy_controller()
        yield Cluster(lab)

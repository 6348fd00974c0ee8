"""The demonstration's part about network policy: isolation before the first packet, rules, a drop explained, and the end of a policy."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from typing import Any, Final

from vpccni.lab.api import Lab
from vpccni.lab.pod import Pod

PORT: Final = 7000
POLICIES: Final = "/apis/networking.k8s.io/v1/namespaces/default/networkpolicies"
LOCKED: Final = {"app": "locked"}
FRIEND: Final = {"role": "friend"}
NOTHING_OUT: Final = {"podSelector": {"matchLabels": LOCKED}, "policyTypes": ["Egress"]}
ONLY_FRIENDS: Final = {
    "podSelector": {"matchLabels": {"app": "web"}},
    "ingress": [{"from": [{"podSelector": {"matchLabels": FRIEND}}], "ports": [{"protocol": "TCP", "port": PORT}]}],
}
IN_FORCE_WITHIN_S: Final = 10.0
POLL_S: Final = 0.01
ASK_WITHIN_S: Final = "1"
SENDS_AT_ONCE: Final = """
import socket, sys, time
sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
while True:
    try:
        sender.sendto(b"1 probe", (sys.argv[1], int(sys.argv[2])))
    except OSError:
        time.sleep(0)  # there is no network yet
"""
"""What a pod runs that sends with its first instruction, and without a pause."""
SENDS_FOR_S: Final = 0.5


def asks(client: Pod, server: Pod) -> bool:
    """Tell whether the client gets an answer of the server's."""
    argv = [sys.executable, "-m", "vpccni.lab.probe", "ask", server.address, str(PORT)]
    return client.exec(["timeout", ASK_WITHIN_S, *argv], check=False).returncode == 0


def apply(lab: Lab, name: str, spec: dict[str, Any]) -> None:
    """Create a NetworkPolicy in the default namespace."""
    body = {"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": {"name": name}, "spec": spec}
    lab.kube("POST", POLICIES, body)


def withdraw(lab: Lab, name: str) -> None:
    """Delete it again."""
    lab.kube("DELETE", f"{POLICIES}/{name}")


def seconds_until(holds: Callable[[], bool]) -> float | None:
    """Return the seconds until something holds; None when it does not in time."""
    begin = time.monotonic()
    while time.monotonic() - begin < IN_FORCE_WITHIN_S:
        if holds():
            return time.monotonic() - begin
        time.sleep(POLL_S)
    return None


def packets_of_a_sender(lab: Lab, node: str, target: Pod) -> int:
    """Add a pod that is isolated by its labels and sends from its first instruction on; return how many packets left its interface."""
    command = [sys.executable, "-c", SENDS_AT_ONCE, target.address, str(PORT)]
    pod = lab.add_pod(node, "locked", labels=LOCKED, command=command)
    time.sleep(SENDS_FOR_S)
    shown = json.loads(pod.exec(["ip", "-statistics", "-json", "link", "show", "eth0"]).stdout)
    lab.delete_pod(pod.name)
    return int(shown[0]["stats64"]["tx"]["packets"])


def why(lab: Lab, pod: Pod, *words: str) -> str:
    """Return what `vpccni why` says on the pod's node, in one line."""
    argv = [sys.executable, "-m", "vpccni", "why", f"{pod.namespace}/{pod.name}", *words]
    done = lab.node(pod.node).exec(argv, check=False)
    return " ".join((done.stdout or done.stderr).split())

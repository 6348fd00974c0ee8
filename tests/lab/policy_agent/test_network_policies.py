"""NetworkPolicies from the API through controller and agents to TCP between real pods on two nodes."""

from __future__ import annotations

import contextlib
import subprocess
import time
from typing import TYPE_CHECKING

import pytest
from support.waiting import until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.lab.policy_agent.conftest import Cluster

    from vpccni.lab.pod import Pod

PYTHON = "/usr/bin/python3"

CONVERGED_WITHIN_S = 10.0
STARTS = 12
FLOOD = """
import socket, time
sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
while True:
    try:
        sender.sendto(b"first", ({address!r}, 9999))
    except OSError:
        time.sleep(0)
"""


@pytest.mark.spec("policy.T-002", "policy.T-008", "policy.T-011", "policy.T-016", "policy.T-036", "policy.T-093")
def test_a_policy_is_enforced_on_both_nodes_and_its_end_opens_again(cluster: Cluster) -> None:
    server = cluster.server(0, "server", app="server")
    friend, stranger = cluster.pod(1, "friend", role="friend"), cluster.pod(0, "stranger")
    assert cluster.connects(friend, server.address)
    peers = [{"podSelector": {"matchLabels": {"role": "friend"}}}]
    ports = [{"protocol": "TCP", "port": 8080}]
    cluster.policy("web", {"matchLabels": {"app": "server"}}, ingress=[{"from": peers, "ports": ports}])
    until(lambda: not cluster.connects(stranger, server.address), "the policy", within_s=CONVERGED_WITHIN_S)
    assert cluster.connects(friend, server.address)
    assert not cluster.connects(friend, server.address, 8081)
    assert probed(cluster, server.address), "the node's own probes pass"
    said = cluster.vpccni(0, "why", "server", "--from", f"{friend.address}:8080")
    assert said.returncode == 0, said.stderr
    assert f"NetworkPolicy default/web: accept from {friend.address}/32, TCP 8080" in said.stdout
    assert cluster.vpccni(0, "why", "server", "--from", f"{stranger.address}:8080").returncode == 2
    cluster.no_policy("web")
    until(lambda: cluster.connects(stranger, server.address), "the end", within_s=CONVERGED_WITHIN_S)
    for name in ("server", "friend", "stranger"):
        cluster.lab.delete_pod(name)


def probed(cluster: Cluster, address: str) -> bool:
    """Whether the node itself connects, as a kubelet's probe does. From its address: the lab has metadata's on the loopback link."""
    node = cluster.lab.nodes[0]
    source = (node.primary_address, 0)
    code = f"import socket; socket.create_connection(({address!r}, 8081), timeout=1, source_address={source!r}).close()"
    return node.exec([PYTHON, "-c", code], check=False).returncode == 0


@pytest.mark.spec("policy.W-22")
def test_the_first_packet_of_a_denied_pod_is_dropped_at_every_start(cluster: Cluster) -> None:
    """The pod sends without pause from before it has a network."""
    receiver = cluster.pod(1, "receiver")
    cluster.policy("shut", {"matchLabels": {"app": "shut"}}, egress=[])
    cluster.pod(0, "before", app="shut")
    until(lambda: cluster.vpccni(0, "why", "before", "--to", "1.2.3.4:1").returncode == 2, "it", within_s=10.0)
    bind = "import socket; s = socket.socket(2, 2); s.bind(('', 9999)); print(s.recv(10), flush=True)"
    with running(receiver, bind) as listener:
        time.sleep(0.3)
        for number in range(STARTS):
            name = f"shut-{number}"
            cluster.pod(0, name, command=[PYTHON, "-c", FLOOD.format(address=receiver.address)], app="shut")
            time.sleep(0.2)
            cluster.lab.delete_pod(name)
        assert listener.poll() is None, "a packet came through"
        cluster.pod(0, "open", command=[PYTHON, "-c", FLOOD.format(address=receiver.address)])
        assert listener.wait(5) == 0, "an open pod's packets do come"
    cluster.no_policy("shut")
    for name in ("open", "before", "receiver"):
        cluster.lab.delete_pod(name)


@contextlib.contextmanager
def running(pod: Pod, code: str) -> Iterator[subprocess.Popen[str]]:
    """A Python program in a pod, with pipes to it; ended with the block."""
    program = pod.popen([PYTHON, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        yield program
    finally:
        program.kill()
        with contextlib.suppress(BrokenPipeError):
            program.communicate(timeout=5)


def echoed(talk: subprocess.Popen[str]) -> bool:
    """Whether one line comes back."""
    assert talk.stdin is not None
    assert talk.stdout is not None
    try:
        talk.stdin.write("hello\n")
        talk.stdin.flush()
    except BrokenPipeError:
        return False
    return talk.stdout.readline() != ""


@pytest.mark.spec("policy.W-9", "policy.T-066", "policy.T-067")
def test_an_open_connection_goes_on_while_it_is_allowed_and_ends_when_it_is_not(cluster: Cluster) -> None:
    server, client = cluster.server(0, "server", app="db"), cluster.pod(1, "client", role="client")
    select = {"matchLabels": {"app": "db"}}
    mine = {"from": [{"podSelector": {"matchLabels": {"role": "client"}}}]}
    cluster.policy("db", select, ingress=[mine])
    until(lambda: cluster.vpccni(0, "why", "server", "--from", "1.2.3.4:1").returncode == 2, "it", within_s=10.0)
    until(lambda: cluster.connects(client, server.address), "the client's address", within_s=CONVERGED_WITHIN_S)
    code = (
        "import socket, sys\n"
        f"peer = socket.create_connection(({server.address!r}, 8080), timeout=2)\n"
        "for line in sys.stdin:\n"
        "    peer.sendall(line.encode()); print(peer.recv(100), flush=True)\n"
    )
    with running(client, code) as talk:
        assert echoed(talk)
        cluster.policy("db", select, ingress=[mine, {"from": [{"ipBlock": {"cidr": "192.0.2.0/24"}}]}])
        time.sleep(3)
        assert echoed(talk), "a wider policy leaves it alone"
        cluster.policy("db", select, ingress=[{"from": [{"ipBlock": {"cidr": "192.0.2.0/24"}}]}])
        denied = "the denial"
        until(lambda: not cluster.connects(client, server.address, within_s=0.5), denied, within_s=CONVERGED_WITHIN_S)
        assert not echoed(talk), "it is no more allowed: the client's time is over"
    cluster.no_policy("db")
    for name in ("server", "client"):
        cluster.lab.delete_pod(name)


def test_what_a_policy_costs_an_add_is_reported(cluster: Cluster) -> None:
    cluster.policy(
        "own", {"matchLabels": {"app": "own"}}, ingress=[], egress=[{"to": [{"ipBlock": {"cidr": "10.0.0.0/8"}}]}]
    )
    time.sleep(2)
    pods = [cluster.pod(0, f"own-{number}", app="own") for number in range(15)]
    times = sorted(pod.add_seconds * 1000 for pod in pods)
    print(f"ADD with policy in force, whole chain: p50 {times[7]:.1f} ms, worst {times[-1]:.1f} ms")
    assert cluster.vpccni(0, "why", "own-14", "--from", "1.2.3.4:1").returncode == 2
    for pod in pods:
        cluster.lab.delete_pod(pod.name)
    cluster.no_policy("own")

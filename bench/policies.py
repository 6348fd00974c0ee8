"""What network policies cost pods: ADD under them, round trips and throughput, and how soon a change is in force on all pods of a node.

Endpoint objects are written as a controller writes them; no controller is there.
"""

from __future__ import annotations

import contextlib
import select
import selectors
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, Protocol

from vpccni.bench.rows import RATE_UNIT, percentiles
from vpccni.lab.api import Lab, Node
from vpccni.lab.namespaces import Place, call_in
from vpccni.lab.pod import Pod, first_address

ENDPOINTS: Final = "/apis/networking.k8s.aws/v1alpha1/namespaces/{}/policyendpoints"
NETWORK_POLICIES: Final = "/apis/networking.k8s.io/v1/namespaces/default/networkpolicies"
BENCH: Final = "bench"
"""The namespace of the driver's pods."""
WARM_UP: Final = 3
PORT: Final = 5201
UDP_PORT: Final = 5202
ROUNDS: Final = 8
EACH_S: Final = 0.5
POLL_S: Final = 0.001
NEW_PEERS: Final = 8
CHANGES: Final = 10
IN_FORCE_WITHIN_S: Final = 10.0
SETTLE_S: Final = 1.5
ADD: Final = {"p50": 5.0, "p99": 15.0}
RATE: Final = {"value": 200.0}
IN_FORCE_MS: Final = {"p99": 50.0}
SLOWER: Final = {"value": 1.05}
SERVER: Final = """
import socket, sys
server = socket.create_server(("", int(sys.argv[1])))
print("ready", flush=True)
while True:
    peer, _ = server.accept()
    peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    echo = peer.recv(1) == b"e"
    while data := peer.recv(1 << 18):
        if echo:
            peer.sendall(data)
"""
CLIENT: Final = """
import socket, sys, time
address, port, kind, seconds = sys.argv[1], int(sys.argv[2]), sys.argv[3], float(sys.argv[4])
peer = socket.create_connection((address, port), 5)
peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
peer.sendall(kind.encode())
done, data, begun = 0, bytes(1 << 17), time.perf_counter()
while time.perf_counter() - begun < seconds:
    if kind == "e":
        peer.sendall(b"1")
        peer.recv(1)
        done += 1
    else:
        peer.sendall(data)
        done += len(data)
print(done / (time.perf_counter() - begun))
"""


class Driving(Protocol):
    """What is needed of the bench."""

    def drive(self, node: Node, *arguments: str) -> dict[str, Any]: ...

    def row(self, name: str, unit: str, figures: Mapping[str, float], budget: Mapping[str, float] | None = None,
            note: str = "") -> None: ...  # fmt: skip


def measure(bench: Driving, lab: Lab, *, pods: int, burst: int, held: int, at_once: int) -> None:
    """Measure on the first node of a lab whose pool of addresses is full."""
    adds(bench, lab, pods=pods, burst=burst, at_once=at_once)
    with _two_pods(lab) as (client, server):
        traffic(bench, lab, client, server)
    changes(bench, lab, held)


# ---------------------------------------------------------------------- ADD


def adds(bench: Driving, lab: Lab, *, pods: int, burst: int, at_once: int) -> None:
    """ADD of pods that policies select, alone and many at once; all of one set of policies, or each of its own."""
    for own, what in ((False, "one set of policies"), (True, "own policies")):
        prefix = "own" if own else "same"
        _announce(lab, f"{prefix}1", pods, own=own)
        alone = bench.drive(lab.nodes[0], "pods", "--count", str(pods), "--prefix", f"{prefix}1")
        bench.row(f"ADD, aws-cni, one at a time, {what}", "ms", percentiles(alone["ADD"]), ADD)
        _announce(lab, f"{prefix}2", burst, own=own)
        many = bench.drive(lab.nodes[0], "pods", "--count", str(burst), "--prefix", f"{prefix}2", "--together",
                           "--at-once", str(at_once))  # fmt: skip
        rate = {"value": len(many["ADD"]) / many["add_wall_s"]}
        bench.row(
            f"burst of {burst} ADDs, {at_once} at once, {what}", RATE_UNIT, rate, RATE, f"{many['failed']} failed"
        )
        bench.row(f"ADD, aws-cni, {at_once} at once, {what}", "ms", percentiles(many["ADD"]))


def _announce(lab: Lab, prefix: str, count: int, *, own: bool) -> None:
    """Make the objects of the driver's pods, and the policies that will select them."""
    for number in range(count + WARM_UP):
        name = f"{prefix}-{number}"
        metadata = {"name": name, "namespace": BENCH, "labels": {"pod": name, "run": prefix}}
        spec = {"nodeName": lab.nodes[0].name, "containers": []}
        lab.kube("POST", f"/api/v1/namespaces/{BENCH}/pods", {"metadata": metadata, "spec": spec})
    chosen = [{"pod": f"{prefix}-{number}"} for number in range(count + WARM_UP)] if own else [{"run": prefix}]
    for number, labels in enumerate(chosen):
        rows = [_row(f"10.200.{number // 250}.{number % 250}", "TCP", PORT)]
        _put(lab, f"{prefix}-{number}", rows, namespace=BENCH, labels=labels)
    time.sleep(SETTLE_S)


# ---------------------------------------------------------------------- packets


def traffic(bench: Driving, lab: Lab, client: Pod, server: Pod) -> None:
    """Round trips and throughput between two pods of a node, in turns without and with a policy on both ends: the best of some rounds."""
    figures: dict[tuple[str, bool], list[float]] = {}
    for _ in range(ROUNDS):
        for isolated in (False, True):
            if isolated:
                ends = [_row(client.address, "TCP", PORT)], [_row(server.address, "TCP", PORT)]
                _put(lab, "server", ends[0], pods=[server])
                _put(lab, "client", ends[1], pods=[client], direction="egress")
                time.sleep(SETTLE_S)
            for kind in ("e", "t"):
                figures.setdefault((kind, isolated), []).append(_speed(client, server, kind))
        for name in ("server", "client"):
            lab.kube("DELETE", f"{ENDPOINTS.format('default')}/{name}")
        time.sleep(SETTLE_S)
    for kind, what, unit, scale in (("e", "TCP_RR", "1/s", 1.0), ("t", "TCP throughput", "Gbit/s", 8e-9)):
        without, under = (max(figures[kind, isolated]) for isolated in (False, True))
        bench.row(f"{what} between two pods of a node, no policy", unit, {"value": without * scale})
        bench.row(f"{what} between two pods of a node, policy on both", unit, {"value": under * scale})
        bench.row(f"{what}: without over with a policy", "times", {"value": without / under}, SLOWER)


def _speed(client: Pod, server: Pod, kind: str) -> float:
    argv = [sys.executable, "-c", CLIENT, server.address, str(PORT), kind, str(EACH_S)]
    return float(client.exec(argv).stdout)


@contextlib.contextmanager
def _two_pods(lab: Lab) -> Iterator[tuple[Pod, Pod]]:
    node = lab.nodes[0].name
    client, server = lab.add_pod(node, "rr-client"), lab.add_pod(node, "rr-server")
    serving = server.popen([sys.executable, "-c", SERVER, str(PORT)], stdout=subprocess.PIPE)
    assert serving.stdout is not None
    serving.stdout.readline()
    try:
        yield client, server
    finally:
        serving.kill()
        serving.communicate()
        for pod in (client, server):
            lab.delete_pod(pod.name)


# ---------------------------------------------------------------------- changes


def changes(bench: Driving, lab: Lab, count: int) -> None:
    """From the write of a policy that lets a client in until its packets arrive at each of many pods."""
    node = lab.nodes[0].name
    client, servers = lab.add_pod(node, "asks"), [lab.add_pod(node, f"held-{number}") for number in range(count)]
    with contextlib.ExitStack() as stack:
        receivers = [stack.enter_context(_datagrams(pod, UDP_PORT)) for pod in servers]
        sender = stack.enter_context(_datagrams(client, 0))
        took: list[float] = []
        for _ in range(CHANGES):
            _put(lab, "changes", [_row("10.200.0.1", "UDP", UDP_PORT)], pods=servers)
            time.sleep(SETTLE_S)
            took += _arrivals(lab, sender, receivers, client, servers)
    bench.row(
        f"policy event to enforced, {count} pods", "ms", percentiles(took), IN_FORCE_MS, "write of the object included"
    )
    lab.kube("DELETE", f"{ENDPOINTS.format('default')}/changes")
    for pod in (client, *servers):
        lab.delete_pod(pod.name)


def _arrivals(lab: Lab, sender: socket.socket, receivers: Sequence[socket.socket], client: Pod, servers: Sequence[Pod]) -> list[float]:  # fmt: skip
    """Let the client in; return the seconds until it was heard, for each pod."""
    found: list[float] = []
    with selectors.DefaultSelector() as waiting:
        for receiver in receivers:
            _drain(receiver)
            waiting.register(receiver, selectors.EVENT_READ)
        begun = time.perf_counter()
        _put(lab, "changes", [_row(client.address, "UDP", UDP_PORT)], pods=servers)
        while waiting.get_map() and time.perf_counter() - begun < IN_FORCE_WITHIN_S:
            for pod in servers:
                sender.sendto(b"1", (pod.address, UDP_PORT))
            for key, _ in waiting.select(0):
                found.append(time.perf_counter() - begun)
                waiting.unregister(key.fileobj)
        if waiting.get_map():
            raise TimeoutError(
                f"a policy is not in force after {IN_FORCE_WITHIN_S:.0f} s on {len(waiting.get_map())} pods"
            )
    return found


# ---------------------------------------------------------------------- new peers


def new_peers(bench: Driving, count: int) -> None:
    """From the end of a pod's ADD until pods that allow it by its labels let it in, on its own node and on another.

    The kubelet's status names the address at once here; a real one takes a second or two. With ANNOTATE_POD_IP nobody waits for it.
    """
    for annotated, what in ((False, "status written at once"), (True, "no status, ANNOTATE_POD_IP")):
        env = {"IP_COOLDOWN_PERIOD": "1", "ANNOTATE_POD_IP": "true" if annotated else "false"}
        with Lab.up("bench-peers", nodes=2, env=env) as lab:
            lab.start_policy_controller()
            places = ("own node", "node-1"), ("other node", "node-2")
            servers = {where: lab.add_pod(node, f"web-{node}", labels={"app": "web"}) for where, node in places}
            friends = {"podSelector": {"matchLabels": {"app": "friend"}}}
            spec = {"podSelector": {"matchLabels": {"app": "web"}}, "ingress": [{"from": [friends]}]}
            lab.kube("POST", NETWORK_POLICIES, {"metadata": {"name": "web"}, "spec": spec})
            time.sleep(SETTLE_S)
            for where, server in servers.items():
                took = [
                    _let_in(lab, server, f"friend-{where[:3]}-{number}", tell=not annotated) for number in range(count)
                ]
                bench.row(f"new pod let in by its labels, {where}, {what}", "ms", percentiles(took))


def _let_in(lab: Lab, server: Pod, name: str, *, tell: bool) -> float:
    """Add a pod and return the seconds from the end of its ADD until the server heard it."""
    time.sleep(SETTLE_S)  # a policy is worked out anew once a second: this is about pods that come alone
    pod = lab.make_pod("node-1", name, labels={"app": "friend"})
    try:
        pod.address = first_address(lab.runtime("node-1").add(pod.sandbox()))
        begun = time.perf_counter()
        if tell:
            status = {"phase": "Running", "podIP": pod.address, "podIPs": [{"ip": pod.address}]}
            lab.kube("PATCH", f"/api/v1/namespaces/default/pods/{name}/status", {"status": status})
        with _datagrams(server, UDP_PORT) as receiver, _datagrams(pod, 0) as sender:
            while not select.select([receiver], [], [], POLL_S)[0]:
                sender.sendto(b"1", (server.address, UDP_PORT))
                if time.perf_counter() - begun > IN_FORCE_WITHIN_S:
                    raise TimeoutError(f"{name} is not let in after {IN_FORCE_WITHIN_S:.0f} s")
        return time.perf_counter() - begun
    finally:
        lab.delete_pod(name)


def _datagrams(pod: Pod, port: int) -> socket.socket:
    def make() -> socket.socket:
        one = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        one.bind((pod.address, port))
        one.setblocking(False)
        return one

    return call_in(Place(net=pod.netns_path), make)


def _drain(receiver: socket.socket) -> None:
    with contextlib.suppress(BlockingIOError):
        while True:
            receiver.recv(16)


# ---------------------------------------------------------------------- objects


def _row(cidr: str, protocol: str, port: int) -> dict[str, Any]:
    return {"cidr": cidr, "ports": [{"protocol": protocol, "port": port}]}


def _put(lab: Lab, name: str, rows: Sequence[Mapping[str, Any]], *, pods: Sequence[Pod] = (), labels: Mapping[str, str] | None = None,
         namespace: str = "default", direction: str = "ingress") -> None:  # fmt: skip
    """Make or replace a policy's endpoint object."""
    host = lab.nodes[0].primary_address
    spec = {
        "policyRef": {"name": name, "namespace": namespace},
        "podSelector": {"matchLabels": labels or {"none": "none"}},
        "podIsolation": [direction.capitalize()],
        "podSelectorEndpoints": [
            {"name": pod.name, "namespace": namespace, "podIP": pod.address, "hostIP": host} for pod in pods
        ],
        direction: list(rows),
    }
    path = ENDPOINTS.format(namespace)
    made = lab.kube("POST", path, {"metadata": {"name": name}, "spec": spec}, expect=(201, 409))
    if made.get("kind") == "Status":  # it is there
        lab.kube("PATCH", f"{path}/{name}", {"spec": spec})

"""A node of its own for each test: network and mount namespace, a bpffs that ends with it, pods behind real veth pairs."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import zmq

from vpccni.components.policy_agent.objects import ObjectSource, compiled_programs
from vpccni.lab import unix_http, vpc_plan
from vpccni.shared.bus.access import endpoint
from vpccni.shared.bus.client import Client
from vpccni.shared.codec import to_message
from vpccni.shared.loop import Loop
from vpccni.shared.messages.base import Message, PodRef, Sandbox
from vpccni.shared.messages.common import GetSnapshot, GetStatus, Snapshot, Status
from vpccni.shared.messages.policy import Attach, Attached, Detach, PolicyInterface, PolicyState

READY_WITHIN_S = 20.0
BPFFS = "/sys/fs/bpf"
NODE_ADDRESS = "10.250.0.1"
POLICY_ENDPOINTS = "/apis/networking.k8s.aws/v1alpha1/namespaces/default/policyendpoints"


def octets(shown: list[str]) -> bytes:
    """What bpftool shows of a key or value."""
    return bytes(int(octet, 16) for octet in shown)


class Pod:
    """A network namespace with eth0, and the host end of its pair in the node."""

    def __init__(self, node: Node, number: int, name: str = "") -> None:
        self.name, self.number = name or f"pod-{number}", number
        self.host_veth = f"eni{hashlib.sha1(f'default.{self.name}'.encode()).hexdigest()[:11]}"
        self.address, self.gateway = f"10.9.{number}.2", f"10.9.{number}.1"
        self._holder = subprocess.Popen(["unshare", "--net", "sleep", "600"])
        node.wait_for_namespace(self._holder.pid, "net")
        pid = str(self._holder.pid)
        node.run("ip", "link", "add", self.host_veth, "type", "veth", "peer", "name", "eth0", "netns", pid)
        for command in (["addr", "add", f"{self.address}/24", "dev", "eth0"], ["link", "set", "eth0", "up"]):
            subprocess.run(["nsenter", "-t", pid, "-n", "ip", *command], check=True)
        onlink = ["route", "add", "default", "via", self.gateway, "dev", "eth0", "onlink"]
        subprocess.run(["nsenter", "-t", pid, "-n", "ip", *onlink], check=True)
        node.run("ip", "addr", "add", f"{self.gateway}/24", "dev", self.host_veth)
        self.ifindex = json.loads(node.run("ip", "-json", "link", "show", self.host_veth))[0]["ifindex"]
        self.sandbox = Sandbox(f"container-{number}", "eth0")
        self._node = node

    def attach(self, mode: str = "standard") -> Attach:
        interface = PolicyInterface(self.host_veth, self.ifindex, self.address)
        return Attach(sandbox=self.sandbox, pod=PodRef("default", self.name), interfaces=[interface], mode=mode)

    def detach(self) -> Detach:
        return Detach(sandbox=self.sandbox, ifindexes=[self.ifindex])

    def up(self) -> None:
        self._node.run("ip", "link", "set", self.host_veth, "up")

    def ping(self, count: int) -> bool:
        """Whether the node gets all answers of the pod to `count` packets."""
        command = ["ping", "-n", "-q", "-c", str(count), "-i", "0.01", "-W", "1", self.address]
        return subprocess.run(self._node.inside(*command), stdout=subprocess.DEVNULL, check=False).returncode == 0

    @contextmanager
    def program(self, code: str, *words: str, wait_s: float = 0.0) -> Iterator[subprocess.Popen[str]]:
        """Run a Python program in the pod, with pipes to it; `wait_s` after those before it began to listen."""
        time.sleep(wait_s)
        command = ["nsenter", "-t", str(self._holder.pid), "-n", sys.executable, "-c", code, *words]
        running = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        try:
            yield running
        finally:
            running.kill()
            with suppress(BrokenPipeError):
                running.communicate(timeout=5)

    def reaches(self, other: Pod) -> bool:
        """Whether another pod answers this one."""
        command = ["nsenter", "-t", str(self._holder.pid), "-n", "ping", "-n", "-q", "-c", "3", "-i", "0.01", "-W", "1"]
        done = subprocess.run([*command, other.address], stdout=subprocess.DEVNULL, check=False)
        return done.returncode == 0

    def close(self) -> None:
        self._holder.kill()
        self._holder.wait()


class Node:
    """The namespaces of a node and the agent in it."""

    def __init__(self, folder: Path) -> None:
        self.run_dir = folder
        mount = f"mount -t bpf bpf {BPFFS} && ip link set lo up && sysctl -qw net.ipv4.ip_forward=1 && exec sleep 600"
        self._holder = subprocess.Popen(["unshare", "--net", "--mount", "--propagation", "private", "sh", "-c", mount])
        self.wait_for_namespace(self._holder.pid, "net")
        self._wait(lambda: "none" not in self._bpffs(), "the bpf filesystem")
        self.agent: subprocess.Popen[bytes] | None = None
        self.environment: dict[str, str] = {}
        self._api: subprocess.Popen[bytes] | None = None
        self._policies: set[str] = set()
        self._pods: list[Pod] = []
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self.loop = Loop()
        (folder / "bus").mkdir(mode=0o700)
        self._client = Client(self._context, self.loop, "policy_agent", endpoint(folder, "policy_agent", "rpc"))

    def _bpffs(self) -> str:
        done = subprocess.run(self.inside("stat", "-f", "-c", "%T", BPFFS), capture_output=True, text=True, check=False)
        return done.stdout if "bpf" in done.stdout else "none"

    @staticmethod
    def wait_for_namespace(pid: int, kind: str) -> None:
        """Return once a child of ours has left our namespace."""
        Node._wait(
            lambda: os.readlink(f"/proc/{pid}/ns/{kind}") != os.readlink(f"/proc/self/ns/{kind}"), f"{kind} of {pid}"
        )

    @staticmethod
    def _wait(ready: Callable[[], bool], what: str) -> None:
        deadline = time.monotonic() + READY_WITHIN_S
        while not ready():
            assert time.monotonic() < deadline, f"{what} never came"
            time.sleep(0.01)

    def inside(self, *command: str) -> list[str]:
        return ["nsenter", "-t", str(self._holder.pid), "-n", "-m", *command]

    def run(self, *command: str) -> str:
        done = subprocess.run(self.inside(*command), capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{command}: {done.stderr}"
        return done.stdout

    def bpftool(self, *words: str) -> Any:
        return json.loads(self.run("bpftool", "-j", *words))

    def filters(self, pod: Pod, hook: str) -> list[dict[str, Any]]:
        shown = json.loads(self.run("tc", "-j", "filter", "show", "dev", pod.host_veth, hook))
        return [one for one in shown if "options" in one]

    def pod(self, name: str = "") -> Pod:
        pod = Pod(self, len(self._pods) + 1, name)
        self._pods.append(pod)
        return pod

    def start_agent(self, mode: str = "standard", **environment: str) -> None:
        """Start the agent and wait until it serves."""
        self.spawn_agent(mode, **environment)
        self.wait_until_serving()

    def spawn_agent(self, mode: str = "standard", **environment: str) -> None:
        variables = {
            "NETWORK_POLICY_ENFORCING_MODE": mode,
            "VPCCNI_KILL_POINTS": "1",
            **self.environment,
            **environment,
        }
        command = [sys.executable, "-m", "vpccni.components.policy_agent", "--run-dir", str(self.run_dir)]
        self.agent = subprocess.Popen(self.inside(*command), env=os.environ | variables)

    def wait_until_serving(self) -> None:
        self._wait(lambda: self.status().state != "starting", "the agent")

    def start_api(self) -> None:
        """Start the lab's API server in this node; agents started from now on follow it."""
        self.run("ip", "addr", "add", f"{vpc_plan.SERVICE}/32", "dev", "lo")
        self._api = subprocess.Popen(self.inside(sys.executable, "-m", "vpccni.lab.kube", str(self.run_dir)))
        self._wait(lambda: (self.run_dir / "kube.sock").exists(), "the API server")
        self.run("ip", "addr", "add", f"{NODE_ADDRESS}/32", "dev", "lo")
        self.environment |= {"CLUSTER_ENDPOINT": "", "KUBECONFIG": str(self._kubeconfig()), "MY_NODE_NAME": "node-1"}

    def _kubeconfig(self) -> Path:
        path = self.run_dir / "kubeconfig"
        server = f"http://{vpc_plan.SERVICE}:{vpc_plan.KUBE_PORT}"
        document = {
            "current-context": "lab",
            "contexts": [{"name": "lab", "context": {"cluster": "lab"}}],
            "clusters": [{"name": "lab", "cluster": {"server": server}}],
        }
        path.write_text(json.dumps(document))
        return path

    def api(self, method: str, path: str, body: Any = None) -> Any:
        """Ask the API server; return the document."""
        status, reply = unix_http.ask(self.run_dir / "kube.sock", method, path, body)
        assert status < 300, (status, reply)
        return reply

    def put_policy(
        self, name: str, pods: Sequence[Pod], *, ingress: Sequence[Any] | None = None, egress: Sequence[Any] | None = None,
        labels: dict[str, str] | None = None, annotations: dict[str, str] | None = None, of: str = "",
    ) -> None:  # fmt: skip
        """Make or replace a PolicyEndpoint (a part of policy `of`); the directions that are given are isolated."""
        spec = {
            "policyRef": {"name": of or name, "namespace": "default"},
            "podSelector": {"matchLabels": labels or {"none": "none"}},
            "podIsolation": [kind for kind, rules in (("Ingress", ingress), ("Egress", egress)) if rules is not None],
            "podSelectorEndpoints": [
                {"name": pod.name, "namespace": "default", "podIP": pod.address, "hostIP": NODE_ADDRESS} for pod in pods
            ],
            "ingress": list(ingress or ()),
            "egress": list(egress or ()),
        }
        body = {"metadata": {"name": name, "namespace": "default", "annotations": annotations or {}}, "spec": spec}
        at = f"{POLICY_ENDPOINTS}/{name}"
        if name in self._policies:
            self.api("PUT", at, body)
        else:
            self._policies.add(name)
            self.api("POST", POLICY_ENDPOINTS, body)

    def delete_policy(self, name: str) -> None:
        self._policies.discard(name)
        self.api("DELETE", f"{POLICY_ENDPOINTS}/{name}")

    def make_pod_object(self, pod: Pod, **labels: str) -> None:
        body = {
            "metadata": {"name": pod.name, "labels": labels},
            "spec": {"nodeName": "node-1", "containers": []},
            "status": {"podIP": pod.address, "podIPs": [{"ip": pod.address}], "hostIP": NODE_ADDRESS},
        }
        self.api("POST", "/api/v1/namespaces/default/pods", body)

    def kill_agent(self) -> None:
        assert self.agent is not None
        self.agent.kill()
        self.agent.wait()
        self.agent = None

    def restart_dead_agent(self) -> None:
        """Start the agent again after a death that the test asked for."""
        assert self.agent is not None
        self.agent.wait()
        (self.run_dir / "bus" / "policy_agent.starts").unlink()
        self.start_agent()

    def call(self, message: Message, timeout_s: float = READY_WITHIN_S) -> Message:
        return self.loop.run_until(self._client.call(message, timeout_s=timeout_s), timeout_s=timeout_s + 1)

    def ask_through_deaths(self, message: Message, pod: Pod) -> int:
        """Ask, and start the agent again whenever the question killed it; return how often. Packets pass while it is dead."""
        deaths = 0
        answer = self._client.call(message, timeout_s=READY_WITHIN_S)
        while not answer.done:
            with suppress(TimeoutError):
                self.loop.run_until(answer, timeout_s=0.02)
            if self.agent is not None and self.agent.poll() is not None:
                deaths += 1
                assert pod.ping(2), "packets pass while the agent is away"
                (self.run_dir / "bus" / "policy_agent.starts").unlink()  # many deaths are the test's, not a crash loop
                self.spawn_agent()
        answer.result()
        return deaths

    def status(self) -> Status:
        status = self.call(GetStatus())
        assert isinstance(status, Status)
        return status

    def count(self, name: str, **labels: str) -> float:
        return sum(one.value for one in self.status().counters if one.name == name and one.labels == labels)

    def gauge(self, name: str) -> float:
        return sum(one.value for one in self.status().gauges if one.name == name)

    def add(self, pod: Pod, mode: str = "standard") -> None:
        assert isinstance(self.call(pod.attach(mode)), Attached)
        pod.up()

    def kernel_count(self, pod: Pod) -> tuple[int, int]:
        """(packets towards the pod, packets from it), as bpftool reads the pinned map."""
        slot = self._slot(pod)
        packets = [0, 0]
        for element in self.bpftool("map", "dump", "pinned", self._pinned("counters")) if slot is not None else ():
            place = int.from_bytes(octets(element["key"]), "little")
            if place // 2 == slot:
                values = [octets(one["value"]) for one in element["values"]]
                packets[place % 2] = sum(int.from_bytes(value[:8], "little") for value in values)
        return packets[0], packets[1]

    def _slot(self, pod: Pod) -> int | None:
        for element in self.bpftool("map", "dump", "pinned", self._pinned("pods")):
            if int.from_bytes(octets(element["key"]), "little") == pod.ifindex:
                return int.from_bytes(octets(element["value"])[24:28], "little")
        return None

    def _pinned(self, name: str) -> str:
        return next(line for line in self.run("find", BPFFS, "-name", name).splitlines())

    def policy_state(self) -> PolicyState | None:
        snapshot = self.call(GetSnapshot())
        assert isinstance(snapshot, Snapshot)
        bodies = [body for tag, body in snapshot.messages if tag == "policy.state"]
        state = to_message(bodies[-1]) if bodies else None
        assert state is None or isinstance(state, PolicyState)
        return state

    def close(self) -> None:
        if self.agent is not None:
            self.kill_agent()
        if self._api is not None:
            self._api.kill()
            self._api.wait()
        for pod in self._pods:
            pod.close()
        self._client.close()
        self.loop.close()
        self._context.destroy(linger=0)
        self._holder.kill()
        self._holder.wait()


@pytest.fixture(scope="session")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The compiled programs, made once for all tests."""
    cache = tmp_path_factory.mktemp("bpf-cache")
    compiled_programs(ObjectSource(cache))
    return next(cache.glob("pod-*.json"))


@pytest.fixture
def node(compiled: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Node]:
    monkeypatch.setenv("VPCCNI_BPF_OBJECT", str(compiled))
    with tempfile.TemporaryDirectory(prefix="vpa-") as folder:  # pytest's own paths are too long for a socket
        one = Node(Path(folder))
        try:
            yield one
        finally:
            one.close()

"""The lab as Python objects: what the command line, tests, demo and benchmarks use.

with Lab.up("demo", nodes=2) as lab:
    pod = lab.add_pod("node-1", "web")
    pod.exec(["ping", "-c1", lab.nodes[1].primary_address])
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any, Final, TypeVar

from vpccni.lab import cleanup, vpc_plan
from vpccni.lab import pod as pods
from vpccni.lab.fabric import INTERNET_ADDRESS, INTERNET_ADDRESS_V6
from vpccni.lab.namespaces import NETNS_FOLDER, Place, call_in, make_netns
from vpccni.lab.node import SUPERVISOR_CONF, LabError, Node
from vpccni.lab.node_env import KUBECONFIG, node_environment
from vpccni.lab.pod import Pod
from vpccni.lab.runtime import CniError, Runtime, Sandbox
from vpccni.lab.start import node_object, start, start_policy_controller, wait_for
from vpccni.lab.unix_http import ask

__all__ = ["CniError", "Lab", "LabError", "Node", "Pod", "Runtime", "Sandbox"]

STATE_ROOT: Final = Path("/run/vpccni-lab")
T = TypeVar("T")
TRANSITION_S: Final = 0.2
NAME: Final = re.compile(r"^[a-z0-9]([a-z0-9-]{0,20}[a-z0-9])?$")


class Lab:
    """A running lab."""

    def __init__(self, name: str, nodes: list[Node], facts: Mapping[str, Any]) -> None:
        self.name, self.nodes, self.facts = name, nodes, dict(facts)
        self.state = STATE_ROOT / name

    # ------------------------------------------------------------------ life

    @classmethod
    def up(cls, name: str = "lab", *, nodes: int = 2, instance_type: str = "m5.large", env: Mapping[str, str | None] | None = None,
           start_processes: bool = True, run_on_disk: bool = False, transition_s: float = TRANSITION_S, ipv6: bool = False,
           progress: Callable[[str], None] | None = None) -> Lab:  # fmt: skip
        """Bring up a VPC with nodes; what a killed lab of this name left is cleared first. Raises LabError.

        `ipv6`: an IPv6 cluster; nodes have an IPv6 address too, and their pods none but IPv6 ones.
        """
        if not NAME.match(name):
            raise LabError(f"lab name {name!r} cannot be used: 1 to 22 of a-z, 0-9 and -")
        say = progress or (lambda text: None)
        state = STATE_ROOT / name
        if (state / "lab.json").exists() and cleanup.processes_of(state):
            raise LabError(f"lab {name} is already up; take it down first (vpccni lab down --name {name})")
        cleanup.clear(state)
        begin = time.monotonic()
        try:
            lab = _build(cls, name, state, nodes, instance_type, env or {}, run_on_disk=run_on_disk, transition_s=transition_s,
                         ipv6=ipv6)  # fmt: skip
            say(f"VPC, EC2, metadata and Kubernetes API answer ({time.monotonic() - begin:.1f} s)")
            if start_processes:
                lab.start_processes(progress=say)
        except BaseException:
            if not os.environ.get("VPCCNI_LAB_KEEP"):
                cleanup.clear(state)
            raise
        return lab

    @classmethod
    def attach(cls, name: str = "lab") -> Lab:
        """Return a running lab from its state file."""
        path = STATE_ROOT / name / "lab.json"
        if not path.exists():
            raise LabError(f"no lab {name} is up; start it with: vpccni lab up --name {name}")
        facts = json.loads(path.read_text())
        nodes = [
            Node(n["name"], n["netns"], n["holder"], STATE_ROOT / name, n["env"], facts["cloud"][n["name"]])
            for n in facts["nodes"]
        ]
        return cls(name, nodes, facts)

    def down(self) -> None:
        """Take everything of the lab away; repeating it is harmless."""
        for node in self.nodes:
            with contextlib.suppress(OSError, LabError):
                node.stop_processes()
        cleanup.clear(self.state)

    @staticmethod
    def clear(name: str = "lab") -> None:
        """Take away a lab of this name, running, half built or killed."""
        cleanup.clear(STATE_ROOT / name)

    def __enter__(self) -> Lab:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.down()

    def start_processes(self, *, progress: Callable[[str], None] | None = None) -> None:
        """Start the node processes of all nodes at once and wait until they are ready."""
        if not SUPERVISOR_CONF.exists():
            return
        with ThreadPoolExecutor(len(self.nodes) or 1) as pool:
            for done in [pool.submit(node.start_processes, progress=progress) for node in self.nodes]:
                done.result()

    def start_policy_controller(self, *, flags: Sequence[str] = (), kill_point: str = "") -> int:
        """Start the cluster's policy controller, switched on (docs/policy.md); return its process id.

        It is there in addition to the node processes. `kill_point`: the effect it dies at, as "kube.patch 1 before".
        """
        switch = {"metadata": {"name": "amazon-vpc-cni"}, "data": {"enable-network-policy-controller": "true"}}
        self.kube("POST", "/api/v1/namespaces/kube-system/configmaps", switch, expect=(201, 409))
        return start_policy_controller(self.vpc, self.state, flags=flags, kill_point=kill_point)

    # ------------------------------------------------------------------ nodes and pods

    def node(self, name: str) -> Node:
        """Return a node by name."""
        found = next((node for node in self.nodes if node.name == name), None)
        if found is None:
            raise LabError(f"lab {self.name} has no node {name}; it has {', '.join(node.name for node in self.nodes)}")
        return found

    def runtime(self, node_name: str) -> Runtime:
        """Return a container runtime's CNI half on a node."""
        return self.node(node_name).runtime()

    def make_pod(self, node_name: str, pod_name: str, *, namespace: str = "default", command: Sequence[str] | None = None,
                 ports: Sequence[Mapping[str, Any]] | None = None, labels: Mapping[str, str] | None = None,
                 annotations: Mapping[str, str] | None = None) -> Pod:  # fmt: skip
        """Make a pod's object, namespace and process without running CNI; for tests that drive the runtime themselves."""
        node = self.node(node_name)
        if (self.state / "pods" / f"{namespace}_{pod_name}.json").exists():
            raise LabError(f"pod {namespace}/{pod_name} is already there; delete it first")
        uid = self._create_pod_object(node_name, pod_name, namespace, labels or {}, annotations or {})
        pod = pods.make(
            self.name,
            node,
            pod_name,
            namespace=namespace,
            command=command,
            ports=ports or [],
            uid=uid,
            annotations=annotations,
        )
        pods.save(pod, self.state / "pods")
        return pod

    def add_pod(self, node_name: str, pod_name: str, *, namespace: str = "default", command: Sequence[str] | None = None,
                ports: Sequence[Mapping[str, Any]] | None = None, labels: Mapping[str, str] | None = None,
                annotations: Mapping[str, str] | None = None) -> Pod:  # fmt: skip
        """Add a pod through the node's conflist. Raises CniError after undoing everything."""
        node = self.node(node_name)
        pod = self.make_pod(node_name, pod_name, namespace=namespace, command=command, ports=ports, labels=labels,
                            annotations=annotations)  # fmt: skip
        runtime = node.runtime()
        begin = time.perf_counter()
        try:
            pod.result = runtime.add(pod.sandbox())
        except BaseException:
            self._forget(pod, node)
            raise
        pod.add_seconds = time.perf_counter() - begin
        pod.address = pods.first_address(pod.result)
        pods.save(pod, self.state / "pods")
        status = {
            "phase": "Running",
            "podIP": pod.address,
            "podIPs": [{"ip": pod.address}],
            "hostIP": node.primary_address,
        }
        self.kube("PATCH", f"/api/v1/namespaces/{namespace}/pods/{pod_name}/status", {"status": status})
        return pod

    def delete_pod(self, pod_name: str, namespace: str = "default") -> None:
        """Delete a pod: CNI DEL, then its process, namespace and object."""
        pod = self.pod(pod_name, namespace)
        node = self.node(pod.node)
        node.runtime().delete(pod.sandbox())
        self._forget(pod, node)

    def pod(self, pod_name: str, namespace: str = "default") -> Pod:
        """Return a pod by name."""
        path = self.state / "pods" / f"{namespace}_{pod_name}.json"
        if not path.exists():
            raise LabError(f"lab {self.name} has no pod {namespace}/{pod_name}")
        return pods.load(path)

    def pods(self) -> list[Pod]:
        """Return all pods, sorted by node and name."""
        found = [pods.load(path) for path in (self.state / "pods").glob("*.json")]
        return sorted(found, key=lambda pod: (pod.node, pod.namespace, pod.name))

    def _forget(self, pod: Pod, node: Node) -> None:
        pods.end(pod, node)
        self.kube("DELETE", f"/api/v1/namespaces/{pod.namespace}/pods/{pod.name}", expect=(200, 404))
        (self.state / "pods" / f"{pod.namespace}_{pod.name}.json").unlink(missing_ok=True)

    def _create_pod_object(
        self, node: str, name: str, namespace: str, labels: Mapping[str, str], annotations: Mapping[str, str]
    ) -> str:
        body = {
            "metadata": {"name": name, "labels": dict(labels), "annotations": dict(annotations)},
            "spec": {"nodeName": node, "containers": [{"name": "main", "image": "lab"}]},
            "status": {"phase": "Pending"},
        }
        made = self.kube("POST", f"/api/v1/namespaces/{namespace}/pods", body, expect=(201, 409))
        if made.get("kind") == "Status":  # the caller made the object itself, with what it needs in it
            made = self.kube("GET", f"/api/v1/namespaces/{namespace}/pods/{name}")
        return str(made["metadata"]["uid"])

    # ------------------------------------------------------------------ Kubernetes, EC2, metadata

    def kube(self, method: str, path: str, body: Any = None, *, expect: tuple[int, ...] = (200, 201)) -> Any:
        """Ask the Kubernetes API; a PATCH is a merge patch. Raises LabError for a status that is not expected."""
        kind = "application/merge-patch+json" if method == "PATCH" else "application/json"
        status, reply = self._ask("kube", "kube.sock", method, path, body, kind)
        if status not in expect:
            raise LabError(f"Kubernetes API: {method} {path}: {status} {reply}")
        return reply

    def kube_fault(self, status: int | None, prefix: str = "") -> None:
        """Refuse requests below a path prefix with a status; None ends it."""
        self.kube("POST", "/lab/fault", {"status": status, "prefix": prefix})

    def kube_compact(self) -> None:
        """Forget the history: every watch from an older version gets 410."""
        self.kube("POST", "/lab/compact", {})

    def ec2_calls(self) -> list[dict[str, Any]]:
        """Return EC2 calls in order: action, at, error, params."""
        return list(self._admin("calls"))

    def ec2_counts(self) -> dict[str, int]:
        """Return how often each EC2 action was called."""
        return dict(self._admin("counts"))

    def ec2_forget_calls(self) -> None:
        """Empty the call log and its counts."""
        self._admin("forget-calls")

    def ec2_picture(self) -> list[dict[str, Any]]:
        """Return all ENIs as EC2 sees them, with `node`, `addresses` and `prefixes` in plain form."""
        return list(self._admin("picture"))

    def ec2_fault(self, action: str, error: str | None = None, times: int | None = None, latency_ms: int = 0, *,
                  lost_reply: bool = False, message: str | None = None) -> None:  # fmt: skip
        """Make the next `times` calls of an action ("*": any) fail, wait, or lose their reply after success."""
        self._admin("fault", {"action": action, "error": error, "times": times, "latency_ms": latency_ms, "lost_reply": lost_reply,
                              "message": message})  # fmt: skip

    def ec2_settings(self, *, describe_lag_s: float | None = None, transition_s: float | None = None,
                     throttle_scale: float | None = None, more_vpc_cidrs: Sequence[str] | None = None) -> None:  # fmt: skip
        """Let describe calls lag, change how long attach and detach take, the size of the token buckets (1: AWS's), or which further
        IPv4 CIDRs the VPC has."""
        values = {"describe_lag_s": describe_lag_s, "transition_s": transition_s, "throttle_scale": throttle_scale,
                  "more_vpc_cidrs": more_vpc_cidrs}  # fmt: skip
        self._admin("settings", {key: value for key, value in values.items() if value is not None})

    def ec2_permissions(self, *, deny: Sequence[str] = (), allow: Sequence[str] = ()) -> None:
        """Take away or give back the permission for EC2 actions ("*": all)."""
        self._admin("permissions", {"deny": list(deny), "allow": list(allow)})

    def ec2_subnet(self, subnet: str, *, tags: Mapping[str, str | None] | None = None, leave: int | None = None,
                   fragment: bool = False, give_back: bool = False) -> None:  # fmt: skip
        """Change a subnet (id or Name): tags (None removes), fill it but for `leave` addresses, fragment it, or undo both."""
        self._admin("subnet", {"subnet": subnet, "tags": dict(tags or {}), "leave": leave, "fragment": fragment,
                               "give_back": give_back})  # fmt: skip

    def faults(self) -> dict[str, Any]:
        """Return what misbehaves on demand now."""
        return dict(self._admin("faults"))

    def imds_fault(self, node: str, *, stale_s: float | None = None, statuses: Mapping[str, int] | None = None,
                   missing_enis: Sequence[str] = (), latency_ms: int | None = None) -> None:  # fmt: skip
        """Make a node's metadata old, refuse paths by prefix (`{"meta-data/mac": 500}`), hide ENIs, or be slow; None leaves as is."""
        values = {"node": node, "stale_s": stale_s, "statuses": dict(statuses or {}), "missing_enis": list(missing_enis),
                  "latency_ms": latency_ms}  # fmt: skip
        self._admin("imds-fault", {key: value for key, value in values.items() if value is not None})

    def ec2_clear(self) -> None:
        """End all EC2 and metadata faults."""
        self._admin("clear")

    def _admin(self, verb: str, body: Mapping[str, Any] | None = None) -> Any:
        status, reply = self._ask("cloud", "admin.sock", "POST", f"/{verb}", dict(body or {}))
        if status != 200:
            raise LabError(f"the lab's cloud refused {verb}: {reply}")
        return reply

    def _ask(self, server: str, socket: str, *request: Any) -> tuple[int, Any]:
        try:
            return ask(self.state / socket, *request)
        except (ConnectionError, FileNotFoundError) as error:
            raise LabError(
                f"lab {self.name}: its {server} no longer runs ({error}); it ends in {self.state / server}.log; its state is gone: "
                f"vpccni lab down --name {self.name}, then up"
            ) from error

    # ------------------------------------------------------------------ places

    def in_vpc(self, function: Callable[[], T]) -> T:
        """Return `function()`, run where the EC2 and Kubernetes endpoints are reachable."""
        return call_in(self.vpc, function)

    @property
    def vpc(self) -> Place:
        """The VPC router's namespace."""
        return Place(net=f"/run/netns/{self.name}-vpc")

    @property
    def internet(self) -> Place:
        """The internet host's namespace."""
        return Place(net=f"/run/netns/{self.name}-internet")

    def status(self) -> dict[str, Any]:
        """Return everything a user needs to reach the lab, as plain values."""
        rows = [
            {
                "name": n.name, "netns": n.netns, "netns_path": n.netns_path, "mntns_path": n.mntns_path, "holder_pid": n.holder,
                "cni_bin_dir": "/opt/cni/bin", "cni_conf_dir": "/etc/cni/net.d", "run_dir": n.run_dir, "root": str(n.filesystem),
                "instance_id": n.instance_id, "instance_type": n.instance_type, "primary_address": n.primary_address,
                "primary_ipv6": n.primary_ipv6,
                "zone": n.facts["zone"], "max_pods": n.facts["max_pods"], "processes": n.pids(), "supervisor_pid": n.supervisor_pid(),
                "pods": sum(pod.node == n.name for pod in self.pods()),
            }
            for n in self.nodes
        ]  # fmt: skip
        return {
            "name": self.name, "state": str(self.state), "nodes": rows, "vpc_cidr": str(vpc_plan.VPC_CIDR), "vpc_cidr_v6": str(vpc_plan.VPC_CIDR_V6),
            "vpc_netns": f"{self.name}-vpc", "internet_netns": f"{self.name}-internet", "internet_address": INTERNET_ADDRESS,
            "internet_address_v6": INTERNET_ADDRESS_V6,
            "endpoints": {
                "ec2": vpc_plan.EC2_URL, "imds": "http://169.254.169.254", "kubernetes": vpc_plan.KUBE_URL,
                "kubeconfig": str(self.state / "kubeconfig"), "kubernetes_socket": str(self.state / "kube.sock"),
                "admin_socket": str(self.state / "admin.sock"),
            },
            "subnets": self.facts["subnets"],
        }  # fmt: skip


# ---------------------------------------------------------------------- building


def _build(cls: type[Lab], name: str, state: Path, count: int, instance_type: str, env: Mapping[str, str | None],
           *, run_on_disk: bool, transition_s: float, ipv6: bool) -> Lab:  # fmt: skip
    names = [f"node-{number}" for number in range(1, count + 1)]
    for folder in ("netns", "pods", *(f"nodes/{node}" for node in names)):
        (state / folder).mkdir(parents=True, exist_ok=True)
    (state / "kubeconfig").write_text(KUBECONFIG)
    for netns in (f"{name}-vpc", f"{name}-internet", *(f"{name}-{node}" for node in names)):
        (state / "netns" / netns).touch()
        make_netns(netns)
    plan = {
        "transition_s": transition_s,
        "ipv6": ipv6,
        "internet_netns": f"{name}-internet",
        "nodes": [{"name": node, "netns": f"{name}-{node}", "instance_type": instance_type} for node in names],
    }
    (state / "plan.json").write_text(json.dumps(plan))
    vpc = Place(net=str(NETNS_FOLDER / f"{name}-vpc"))
    call_in(vpc, lambda: subprocess.run(["ip", "addr", "add", f"{vpc_plan.SERVICE}/32", "dev", "lo"], check=True))
    started = {
        "cloud": start(vpc, state, "cloud", ["vpccni.lab.cloud"]),
        "kube": start(vpc, state, "kube", ["vpccni.lab.kube"]),
    }
    holders = {}
    for node in names:
        place = Place(net=str(NETNS_FOLDER / f"{name}-{node}"))
        more = [node, *(["--run-on-disk"] if run_on_disk else [])]
        holders[node] = started[node] = start(place, state, node, ["vpccni.lab.node_holder"], more)
    for path, who in [(state / "cloud.json", "cloud"), (state / "kube.sock", "kube"),
                      *((state / "nodes" / node / "holder.ready", node) for node in names)]:  # fmt: skip
        wait_for(path, started[who], state / f"{who}.log")
    cloud = json.loads((state / "cloud.json").read_text())
    facts = {
        "name": name,
        "nodes": [
            {
                "name": n,
                "netns": f"{name}-{n}",
                "holder": holders[n].pid,
                "env": node_environment(name, n, state, env, ipv6=ipv6),
            }
            for n in names
        ],
        "cloud": {node["name"]: node for node in cloud["nodes"]},
        "subnets": cloud["subnets"],
        "vpc_id": cloud["vpc_id"],
    }
    fresh = state / "lab.json.new"
    fresh.write_text(json.dumps(facts))
    os.replace(fresh, state / "lab.json")
    lab = cls.attach(name)
    for made in lab.nodes:
        lab.kube("POST", "/api/v1/nodes", node_object(made))
    return lab

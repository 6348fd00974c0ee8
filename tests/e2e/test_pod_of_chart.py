"""The chart's pod for real: the images in a container runtime, each container with what the rendered manifest gives it.

Pods come and go and flows run all the while: containers are killed one by one, one process gets another image and its own again, the
whole pod is rolled, and at last the node is drained. No packet is lost and no ADD fails.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from charts.objects import STATIC, Object, one, parsed
from e2e.containerd import Containerd
from e2e.kubelet import DaemonPod, image_name
from images.image import BUILD_WITHIN_S, buildah, built
from support.waiting import until
from tests.lab.node.test_rights import CAPABILITIES

from vpccni.lab.api import Lab
from vpccni.lab.fabric import INTERNET_ADDRESS
from vpccni.lab.node import Executor
from vpccni.lab.pod import Pod

pytestmark = [pytest.mark.full, pytest.mark.timeout(BUILD_WITHIN_S + 240)]

MANIFESTS = {"split": STATIC / "aws-k8s-cni-split.yaml", "swap": STATIC / "aws-k8s-cni.yaml"}
"""By shape; kept rendered, which tests/charts watches over."""
TARGETS = (
    "init",
    "netlink-programmer",
    "eni-manager",
    "ip-allocator",
    "metrics-publisher",
    "policy-agent",
    "amazon-k8s-cni",
)
PODS = 12
"""Nine fit on the primary ENI of an m5.large: the last one is on another."""
PORT = 7000
ADD_EVERY_S = 0.3
GAP_AT_MOST_MS = 2000.0
"""For a flow that no one may touch: the scheduler of a busy machine is all that may hold it up."""
WITHIN_S = 40.0
RUNTIMES_RIGHTS = """AUDIT_WRITE CHOWN DAC_OVERRIDE FOWNER FSETID KILL MKNOD NET_BIND_SERVICE NET_RAW SETFCAP SETGID SETPCAP SETUID
    SYS_CHROOT""".split()
"""What a container has that drops none."""
RUNTIMES_OWN = ("/proc", "/dev", "/sys", "/etc/hosts", "/etc/hostname", "/etc/resolv.conf")
"""Below these a runtime mounts what every container has."""


@pytest.fixture(scope="module")
def images() -> Iterator[dict[str, str]]:
    """The pod's images in both shapes, by the chart's names, and another one of the allocator's as `next`."""
    tag = f"e2e-{os.getpid()}"
    with built(tag, TARGETS):
        pods = [template(shape) for shape in MANIFESTS]
        names = {image_name(item["image"]) for spec in pods for item in [*spec["initContainers"], *spec["containers"]]}
        container = buildah("from", "--pull-never", f"localhost/vpccni-ip-allocator:{tag}")
        buildah("config", "--label=release=next", container)
        buildah("commit", "--quiet", "--rm", container, f"localhost/vpccni-ip-allocator:{tag}-next")
        yield {
            **{name: f"localhost/{name}:{tag}" for name in names},
            "next": f"localhost/vpccni-ip-allocator:{tag}-next",
        }


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with Lab.up(f"c{os.getpid()}", nodes=2, start_processes=False) as made:
        yield made


@pytest.fixture(scope="module")
def pod(
    lab: Lab, containerd: Containerd, images: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> DaemonPod:
    """The chart's pod in the split shape, ready."""
    folder = tmp_path_factory.mktemp("pod")
    for number, name in enumerate(images.values()):
        archive = folder / f"{number}.tar"
        buildah("push", "--quiet", name, f"docker-archive:{archive}:{name}")
        containerd.import_image(archive)
        archive.unlink()
    kubeconfig = (lab.state / "kubeconfig").read_text()
    made = DaemonPod(containerd, template("split"), dict(images), environment(lab, "split"), folder, kubeconfig)
    made.start()
    made.wait_ready()
    conflist = containerd.node.filesystem / "etc/cni/net.d/10-aws.conflist"
    until(conflist.exists, lambda: made.log("*"), within_s=WITHIN_S)
    return made


def template(shape: str) -> Object:
    """Return the pod of the chart, with network policy on."""
    spec: Object = one(parsed(MANIFESTS[shape].read_text()), "DaemonSet")["spec"]["template"]["spec"]
    (agent,) = (item for item in spec["containers"] if item["name"] == "aws-eks-nodeagent")
    agent["args"][agent["args"].index("--enable-network-policy=false")] = "--enable-network-policy=true"
    return spec


def become(pod: DaemonPod, lab: Lab, shape: str) -> None:
    """Roll the pod to a shape, the one it has too."""
    pod.end()
    pod.spec, pod.env = template(shape), environment(lab, shape)
    pod.start()


def environment(lab: Lab, shape: str) -> dict[str, dict[str, str]]:
    """Return what else an operator sets: where EC2 is, with which credentials, no cool-down; and what the lab knows its processes by."""
    env = lab.nodes[0].env
    calls_aws = "eni-manager" if shape == "split" else "aws-node"
    found: dict[str, dict[str, str]] = {
        "*": {"VPCCNI_LAB_STATE": str(lab.state)},
        "aws-node": {
            "AWS_EC2_ENDPOINT": env["AWS_EC2_ENDPOINT"],
            "CLUSTER_NAME": env["CLUSTER_NAME"],
            "IP_COOLDOWN_PERIOD": "0",
        },
    }
    found.setdefault(calls_aws, {}).update({name: env[name] for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")})
    return found


# ---------------------------------------------------------------------- what a container may and sees


@pytest.fixture(scope="module", params=["swap", "split"])
def shaped(pod: DaemonPod, lab: Lab, request: Any) -> DaemonPod:
    """The chart's pod in one shape, then in the other."""
    become(pod, lab, request.param)
    pod.wait_ready()
    return pod


@pytest.mark.spec("operations.17.29")
def test_each_container_has_the_rights_of_the_chart_and_no_others(shaped: DaemonPod) -> None:
    for name, item in shaped.containers.items():
        context = item["securityContext"]
        locked = context.get("allowPrivilegeEscalation") is False
        for pid in shaped.processes(name):
            seen = kernel_view(pid)
            assert {int(seen[key], 16) for key in ("CapPrm", "CapEff", "CapBnd")} == {rights(context)}, name
            assert seen["NoNewPrivs"] == ("1" if locked else "0"), name
            assert seen["Seccomp"] == ("2" if "seccompProfile" in context else "0"), name


def test_each_container_sees_of_the_node_what_the_chart_mounts_and_nothing_else(shaped: DaemonPod) -> None:
    for name, item in shaped.containers.items():
        seen = mounts(shaped.pid(name))
        assert seen.pop("/") == ("ro" if item["securityContext"].get("readOnlyRootFilesystem") else "rw"), name
        wanted = {
            resolved(mount["mountPath"]): "ro" if mount.get("readOnly") else "rw" for mount in shaped.mounts(item)
        }
        assert {at: mode for at, mode in seen.items() if at in wanted or not is_runtimes(at)} == wanted, name


def test_the_split_shapes_containers_have_the_run_folder_alone_in_common(pod: DaemonPod) -> None:
    volumes = [{mount["name"] for mount in item["volumeMounts"]} for item in pod.containers.values()]
    assert set.intersection(*volumes) == {"run-dir"}
    run_folders = {os.stat(f"/proc/{pod.pid(name)}/root/run/aws-node").st_dev for name in pod.containers}
    assert run_folders == {pod.runtime.node.root.stat().st_dev}
    pids = {os.readlink(f"/proc/{pod.pid(name)}/ns/pid") for name in pod.containers}
    assert len(pids) == len(pod.containers)


def rights(context: Object) -> int:
    """Return the capabilities that a security context stands for, as the kernel's bits."""
    if context.get("privileged", False):
        return int(kernel_view(os.getpid())["CapBnd"], 16)
    asked = context["capabilities"]
    names = {*([] if asked.get("drop") == ["ALL"] else RUNTIMES_RIGHTS), *asked.get("add", [])}
    return sum(1 << CAPABILITIES[name] for name in names)


def kernel_view(pid: int) -> dict[str, str]:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {key: value.strip() for key, _, value in (line.partition(":") for line in lines)}


def mounts(pid: int) -> dict[str, str]:
    """Return a process's mount points, with "ro" or "rw"."""
    rows = [line.split() for line in Path(f"/proc/{pid}/mountinfo").read_text().splitlines()]
    return {row[4]: row[5].split(",")[0] for row in rows}


def resolved(path: str) -> str:
    return path.replace("/var/run/", "/run/", 1) if path.startswith("/var/run/") else path


def is_runtimes(path: str) -> bool:
    return any(path == own or path.startswith(f"{own}/") for own in RUNTIMES_OWN)


# ---------------------------------------------------------------------- the pod's life, under load


class Adds(threading.Thread):
    """Pods that come, reach the internet and go, one after the other, until `end`; the longest ADD by what happened meanwhile."""

    def __init__(self, lab: Lab) -> None:
        super().__init__(name="adds", daemon=True)
        self._lab, self._ended = lab, threading.Event()
        self.phase = "quiet"
        self.seconds: dict[str, list[float]] = {}
        self.away: dict[str, float] = {}
        """How long what happened took, until the pod was ready again."""
        self.failed: list[str] = []

    def run(self) -> None:
        number = 0
        while not self._ended.wait(ADD_EVERY_S):
            number += 1
            self._one(f"passing-{number}")

    def _one(self, name: str) -> None:
        phase = self.phase
        try:
            pod = self._lab.add_pod(self._lab.nodes[0].name, name)
            self.seconds.setdefault(phase, []).append(pod.add_seconds)
            if not reaches(pod, INTERNET_ADDRESS):
                self.failed.append(f"{phase}: {name} has no network")
            self._lab.delete_pod(name)
        except Exception as error:  # noqa: BLE001  (a thread's errors are the test's)
            self.failed.append(f"{phase}: {name}: {error!r}")

    def end(self) -> None:
        self._ended.set()
        self.join()


@dataclass
class Flow:
    """A probe that runs between two places until it is ended."""

    client: subprocess.Popen[str]
    server: subprocess.Popen[str]

    @classmethod
    def begin(cls, kind: str, source: Executor, target: Executor, address: str, port: int) -> Flow:
        server = _probe(target, "serve", str(port))
        assert server.stdout is not None
        assert server.stdout.readline() == "ready\n"
        return cls(_probe(source, kind, address, str(port)), server)

    def end(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return the client's report and the server's."""
        sent, seen = (json.loads(end.communicate("", timeout=WITHIN_S)[0]) for end in (self.client, self.server))
        return sent, seen


def _probe(place: Executor, *arguments: str) -> subprocess.Popen[str]:
    argv = [sys.executable, "-m", "vpccni.lab.probe", *arguments]
    return place.popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE)


def reaches(pod: Executor, address: str) -> bool:
    return pod.exec(["ping", "-c1", "-W2", address], check=False).returncode == 0


@contextlib.contextmanager
def phase(adds: Adds, pod: DaemonPod, name: str) -> Iterator[None]:
    """One disturbance: at its end the pod is ready, and another pod has come since."""
    adds.phase, begin = name, time.monotonic()
    yield
    pod.wait_ready()
    adds.away[name] = time.monotonic() - begin
    seen = len(adds.seconds.get(name, []))
    until(lambda: len(adds.seconds.get(name, [])) > seen or adds.failed, f"an ADD after: {name}", within_s=WITHIN_S)


def test_no_packet_is_lost_and_no_add_fails_through_kills_another_image_a_roll_and_a_drain(
    pod: DaemonPod, lab: Lab, images: dict[str, str], record_property: Any
) -> None:
    runtime, node, other = pod.runtime, lab.nodes[0], lab.nodes[1]
    assert {*pod.containers} == {item["name"] for item in template("split")["containers"]}
    pods: list[Pod] = [lab.add_pod(node.name, f"p{number}") for number in range(PODS)]
    sandboxes = [runtime.run_pod("of-the-runtime")]
    across = Flow.begin("udp", pods[-1], other, other.primary_address, PORT)
    beside = Flow.begin("tcp", pods[-1], pods[0], pods[0].address, PORT)
    adds = Adds(lab)
    adds.start()
    try:
        for name in pod.containers:
            with phase(adds, pod, f"{name} killed"):
                pod.kill_container(name)
            with phase(adds, pod, f"process of {name} killed"):
                pod.kill_processes(name)
        before = pod.image_of("ip-allocator")
        with phase(adds, pod, "another image"):
            pod.replace_image("ip-allocator", images["next"])
        assert pod.image_of("ip-allocator") != before
        with phase(adds, pod, "its own image again"):
            pod.replace_image("ip-allocator", images["vpccni-ip-allocator"])
        assert pod.image_of("ip-allocator") == before
        with phase(adds, pod, "roll"), ThreadPoolExecutor(1) as pool:
            pod.end()
            coming = pool.submit(runtime.run_pod, "while-rolling")
            pod.start()
            sandboxes.append(coming.result())
        for shape in ("swap", "split"):
            with phase(adds, pod, f"roll to the {shape} shape"):
                become(pod, lab, shape)
    finally:
        adds.end()
    (sent, seen), (stream, _) = across.end(), beside.end()
    tell(record_property, adds, gap_ms=stream["longest_ms"], packets=sent["sent"])
    assert adds.failed == []
    assert (sent["refused"], seen["received"]) == (0, sent["sent"])
    assert stream["broken"] == ""
    assert stream["longest_ms"] < GAP_AT_MOST_MS
    assert all(reaches(one, INTERNET_ADDRESS) for one in pods)
    drain(lab, runtime, [one.name for one in pods], sandboxes)


def tell(record_property: Any, adds: Adds, **flow: float) -> None:
    """Put the figures beside the test's result, and print them; milliseconds."""
    longest = {name: round(max(seconds) * 1000) for name, seconds in adds.seconds.items()}
    ready = {name: round(seconds * 1000) for name, seconds in adds.away.items()}
    figures = {**flow, "longest_add_ms": longest, "ready_again_ms": ready, "load": os.getloadavg()[0]}
    record_property("figures", figures)
    sys.stdout.write(f"{json.dumps(figures, indent=1)}\n")


def drain(lab: Lab, runtime: Containerd, names: list[str], sandboxes: list[str]) -> None:
    """Take every pod away but the DaemonSet's own; nothing of them is left."""
    for name in names:
        lab.delete_pod(name)
    for sandbox in sandboxes:
        runtime.remove_pod(sandbox)
    node = runtime.node

    def left() -> list[str]:
        ledger = json.loads((node.root / "ipam.json").read_text())["allocations"]
        rules = [line for line in node.exec(["ip", "rule"]).stdout.splitlines() if line.startswith(("512:", "1536:"))]
        links = [line for line in node.exec(["ip", "-br", "link"]).stdout.splitlines() if line.startswith("eni")]
        return [*map(str, ledger), *rules, *links]

    until(lambda: not left(), left, within_s=WITHIN_S)

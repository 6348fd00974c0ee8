"""One lab node with nothing but the ENI manager in it, and a Kubernetes API that is stopped, hung, killed and started at will."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import pytest
from support.manager import ManagerProcess
from support.waiting import until as wait_until

from vpccni.lab import start as starting
from vpccni.lab.api import Lab
from vpccni.shared.errors import BusError
from vpccni.shared.messages.base import Message
from vpccni.shared.messages.common import Done, Status
from vpccni.shared.messages.inventory import Inventory, NodeFacts, PodFact, PodFacts, Report

WITHIN_S = 20.0
until = partial(wait_until, within_s=WITHIN_S)
OWN_POD = "/api/v1/namespaces/kube-system/pods"
M = TypeVar("M", bound=Message)


class KubeServer:
    """The lab's API server as a process."""

    def __init__(self, lab: Lab) -> None:
        self._lab = lab

    def kill(self) -> None:
        pid = self._pid()
        os.kill(pid, signal.SIGKILL)
        until(lambda: not _is_alive(pid), "the end of the API server")

    def start(self) -> None:
        (self._lab.state / "kube.sock").unlink(missing_ok=True)
        started = starting.start(self._lab.vpc, self._lab.state, "kube", ["vpccni.lab.kube"])
        starting.wait_for(self._lab.state / "kube.sock", started, self._lab.state / "kube.log")
        for node in self._lab.nodes:
            self._lab.kube("POST", "/api/v1/nodes", starting.node_object(node))

    def hang(self) -> None:
        os.kill(self._pid(), signal.SIGSTOP)

    def go_on(self) -> None:
        os.kill(self._pid(), signal.SIGCONT)

    def _pid(self) -> int:
        return int((self._lab.state / "kube.pid").read_text())


class Manager(ManagerProcess):
    """The manager with what tests of its Kubernetes side ask of it."""

    def published(self, kind: type[M]) -> M | None:
        """Return the latest message of a kind."""
        try:
            return self.peer.published(kind)
        except BusError:
            return None

    def inventory(self) -> Inventory | None:
        return self.published(Inventory)

    def shape(self) -> tuple[int, int]:
        """Return how many ENIs and secondary addresses there are."""
        inventory = self.inventory()
        enis = [] if inventory is None else inventory.enis
        return len(enis), sum(len(eni.addresses) for eni in enis)

    def extra_enis(self) -> list[str]:
        inventory = self.inventory()
        return [] if inventory is None else [eni.eni_id for eni in inventory.enis if not eni.is_primary]

    def facts(self) -> NodeFacts | None:
        return self.published(NodeFacts)

    def pods(self) -> dict[str, PodFact]:
        facts = self.published(PodFacts)
        return {} if facts is None else {pod.name: pod for pod in facts.pods}

    def status(self) -> Status:
        return self.peer.status()

    def counted(self, name: str) -> float:
        return sum(counter.value for counter in self.status().counters if counter.name == name)

    def cpu_s(self) -> float:
        assert self.process is not None
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def report(self, reason: str, note: str, *, pod: str = "") -> None:
        answer = self.peer.ask(Report(reason=reason, note=note, pod_namespace="default" if pod else "", pod_name=pod))
        assert isinstance(answer, Done)


def events(lab: Lab) -> list[dict[str, Any]]:
    return list(lab.kube("GET", "/apis/events.k8s.io/v1/events")["items"])


def _is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def make_own_pod(lab: Lab) -> str:
    """Make the object of this node's aws-node pod; return its uid."""
    node = lab.nodes[0].name
    body = {"metadata": {"name": f"aws-node-{node}"}, "spec": {"nodeName": node, "containers": []}}
    return str(lab.kube("POST", OWN_POD, body, expect=(201,))["metadata"]["uid"])


@pytest.fixture(scope="session")
def kube_lab() -> Iterator[Lab]:
    with Lab.up(f"kube-{os.getpid() % 10000}", nodes=1, start_processes=False, transition_s=0.1) as lab:
        yield lab


@pytest.fixture
def lab(kube_lab: Lab) -> Iterator[Lab]:
    """The lab, given back with a fresh API server that knows the node and nothing else."""
    yield kube_lab
    kube_lab.ec2_clear()
    kube_lab.ec2_permissions(allow=["*"])
    server = KubeServer(kube_lab)
    server.kill()
    server.start()


@pytest.fixture
def server(lab: Lab) -> KubeServer:
    return KubeServer(lab)


@pytest.fixture
def manager(lab: Lab) -> Iterator[Manager]:
    """A manager that is not started yet."""
    manager = Manager(lab)
    yield manager
    manager.stop()

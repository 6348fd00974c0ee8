"""Starting a lab's own processes, and what a node registers with Kubernetes."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from vpccni.lab import vpc_plan
from vpccni.lab.namespaces import Place, let_go, popen_in
from vpccni.lab.node import LabError, Node
from vpccni.lab.node_env import LAB_MARK, SYSTEM_PATH

START_WITHIN_S: Final = 30.0
POLL_S: Final = 0.01


def start(place: Place, state: Path, name: str, module: list[str], more: Sequence[str] = ()) -> subprocess.Popen[str]:
    """Start one of the lab's own processes, with its log in the state folder."""
    env = {
        "PATH": f"{Path(sys.executable).parent}:{SYSTEM_PATH}",
        "PYTHONSAFEPATH": "1",
        "HOME": "/root",
        LAB_MARK: str(state),
    }
    with open(state / f"{name}.log", "ab") as log:
        return popen_in(
            place, [sys.executable, "-m", *module, str(state), *more], env=env, stdin=subprocess.DEVNULL, stdout=log.fileno(),
            stderr=log.fileno(), new_session=True,
        )  # fmt: skip


def start_policy_controller(place: Place, state: Path, *, flags: Sequence[str] = (), kill_point: str = "") -> int:
    """Start the policy controller as the cluster runs it, with its log in the state folder; return its process id.

    It lives until the lab ends, or dies at `kill_point` ("kube.patch 1 before").
    """
    env = {
        "PATH": f"{Path(sys.executable).parent}:{SYSTEM_PATH}",
        "PYTHONSAFEPATH": "1",
        "KUBECONFIG": str(state / "kubeconfig"),
        LAB_MARK: str(state),
        **({"VPCCNI_KILL_POINTS": "1", "VPCCNI_KILL_POINT": kill_point} if kill_point else {}),
    }
    module = [sys.executable, "-m", "vpccni.components.policy_controller"]
    argv = [*module, "--leader-election-namespace=kube-system", *flags]
    with open(state / "policy_controller.log", "ab") as log:
        output = log.fileno()
        program = popen_in(
            place, argv, env=env, stdin=subprocess.DEVNULL, stdout=output, stderr=output, new_session=True
        )
    let_go(program)
    return program.pid


def wait_for(path: Path, program: subprocess.Popen[str], log: Path) -> None:
    """Wait until the process has made this file, then let it live on its own. Raises LabError with the end of its log."""
    deadline = time.monotonic() + START_WITHIN_S
    while not path.exists():
        if program.poll() is not None or time.monotonic() > deadline:
            why = (
                f"it ended with {program.poll()}"
                if program.poll() is not None
                else f"not ready after {START_WITHIN_S:.0f} s"
            )
            raise LabError(f"the lab's {log.stem} did not start: {why}; its log ends: {log.read_text()[-2000:]}")
        time.sleep(POLL_S)
    let_go(program)


def node_object(node: Node) -> dict[str, Any]:
    """Return the Kubernetes object of a node, as a kubelet registers it."""
    zone = node.facts["zone"]
    labels = {
        "kubernetes.io/hostname": node.name, "kubernetes.io/os": "linux", "kubernetes.io/arch": "amd64",
        "node.kubernetes.io/instance-type": node.instance_type, "topology.kubernetes.io/zone": zone,
        "topology.kubernetes.io/region": vpc_plan.REGION,
    }  # fmt: skip
    resources = {"pods": str(node.facts["max_pods"]), "cpu": "2", "memory": "8Gi"}
    ready = {"type": "Ready", "status": "True", "reason": "KubeletReady", "message": "the lab is ready"}
    address = node.primary_ipv6 or node.primary_address
    addresses = [{"type": "InternalIP", "address": address}, {"type": "Hostname", "address": node.name}]
    return {
        "metadata": {"name": node.name, "labels": labels},
        "spec": {"providerID": f"aws:///{zone}/{node.instance_id}"},
        "status": {"capacity": resources, "allocatable": resources, "addresses": addresses, "conditions": [ready]},
    }

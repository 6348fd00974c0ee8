"""A pod of a lab: a real process in a network namespace of its own, wired by the node's CNI configuration."""

from __future__ import annotations

import json
import os
import secrets
import subprocess
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vpccni.lab import cleanup
from vpccni.lab.namespaces import (
    MS_BIND,
    NETNS_FOLDER,
    Place,
    call_in,
    let_go,
    make_netns,
    mount,
    popen_in,
    remove_netns,
    unmount,
)
from vpccni.lab.node import Executor, Node
from vpccni.lab.runtime import Sandbox


@dataclass
class Pod(Executor):
    """A pod that was added; `result` is what the CNI chain answered."""

    name: str
    namespace: str
    node: str
    uid: str
    container_id: str
    netns: str
    pid: int
    holder: int
    env: dict[str, str]
    address: str = ""
    result: dict[str, Any] = field(default_factory=dict)
    add_seconds: float = 0.0
    ports: list[dict[str, Any]] = field(default_factory=list)
    annotations: dict[str, str] = field(default_factory=dict)

    @property
    def netns_path(self) -> str:
        return f"/run/netns/{self.netns}"

    @property
    def place(self) -> Place:  # type: ignore[override]
        return Place(net=self.netns_path, mnt=f"/proc/{self.holder}/ns/mnt")

    def sandbox(self) -> Sandbox:
        """Return what the runtime tells plugins about this pod."""
        return Sandbox(
            container_id=self.container_id, netns=f"/var/run/netns/{self.netns}", pod=self.name, namespace=self.namespace,
            uid=self.uid, ports=tuple(self.ports), annotations=self.annotations,
        )  # fmt: skip


def make(lab: str, node: Node, name: str, *, namespace: str, command: Sequence[str] | None, ports: Sequence[Mapping[str, Any]],
         uid: str | None = None, annotations: Mapping[str, str] | None = None) -> Pod:  # fmt: skip
    """Make the pod's namespace and process, not wired yet. The handle is there for the machine and for the node."""
    netns = f"{lab}-{node.name}-{name}" if namespace == "default" else f"{lab}-{node.name}-{namespace}-{name}"
    (node.state / "netns" / netns).touch()
    path = make_netns(netns)
    env = {"PATH": node.env["PATH"], "HOME": "/root", "VPCCNI_LAB_STATE": str(node.state)}
    place = Place(net=path, mnt=node.mntns_path)
    program = popen_in(
        place, list(command or ["sleep", "infinity"]), env=env, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL, new_session=True,
    )  # fmt: skip
    let_go(program)
    _bind_in_node(node, netns, program.pid)
    return Pod(
        name=name, namespace=namespace, node=node.name, uid=uid or str(uuid.uuid4()), container_id=secrets.token_hex(32), netns=netns,
        pid=program.pid, holder=node.holder, env=env, ports=[dict(port) for port in ports],
        annotations=dict(annotations or {}),
    )  # fmt: skip


def _bind_in_node(node: Node, netns: str, pid: int) -> None:
    def bind() -> None:
        handle = NETNS_FOLDER / netns
        handle.touch(mode=0o444)
        mount(f"/proc/{pid}/ns/net", str(handle), flags=MS_BIND)

    call_in(Place(mnt=node.mntns_path), bind)


def end(pod: Pod, node: Node) -> None:
    """End the pod's process and let go of its namespace."""
    cleanup.end_processes([pod.pid])

    def release() -> None:
        handle = NETNS_FOLDER / pod.netns
        unmount(str(handle))
        handle.unlink(missing_ok=True)

    call_in(Place(mnt=node.mntns_path), release)
    remove_netns(pod.netns)
    (node.state / "netns" / pod.netns).unlink(missing_ok=True)


def first_address(result: Mapping[str, Any]) -> str:
    """Return the first address of a CNI result, without its length."""
    rows = result.get("ips") or []
    return str(rows[0]["address"]).split("/")[0] if rows else ""


def save(pod: Pod, folder: Path) -> None:
    """Write the pod's record, whole or not at all."""
    path = folder / f"{pod.namespace}_{pod.name}.json"
    fresh = path.with_suffix(f".{os.getpid()}.{secrets.token_hex(4)}")
    fresh.write_text(json.dumps(pod.__dict__))
    os.replace(fresh, path)


def load(path: Path) -> Pod:
    """Read a pod's record."""
    return Pod(**json.loads(path.read_text()))

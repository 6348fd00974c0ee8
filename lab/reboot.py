"""The power of a node fails and comes back: no process, sandbox or kernel state survives, its disk does.

What the disk holds is what a runtime finds afterwards: the configuration in `/etc/cni`, its own records of sandboxes, for which it
asks DEL although their namespaces are gone. The ENIs stay attached, their links are down and bare but for the primary one.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import uuid
from collections.abc import Container, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Final

from vpccni.lab import cleanup
from vpccni.lab import pod as pods
from vpccni.lab.namespaces import Place, call_in, mount, namespace_id, unmount
from vpccni.lab.node import Node
from vpccni.lab.pod import Pod

if TYPE_CHECKING:
    from vpccni.lab.api import Lab

BPFFS: Final = "/sys/fs/bpf"
BOOT_ID: Final = "/proc/sys/kernel/random/boot_id"
KERNELS_OWN_TABLES: Final = ("local", "main", "default")
RULES_AT_BOOT: Final = ("rule add priority 32766 lookup main", "rule add priority 32767 lookup default")
LEGACY_TABLES: Final = {"iptables-legacy": "ip_tables_names", "ip6tables-legacy": "ip6_tables_names"}


def reboot(lab: Lab, node: Node, *, keep_run_folder: bool = False, start: bool = True) -> list[Pod]:
    """Reboot a node; return the pods that died with it. `keep_run_folder`: `/run/aws-node` is on its disk."""
    for _ in range(2):  # a supervisor may start a child between the look and its own end
        cleanup.end_processes(_processes_of(node))
    (node.folder / "supervisord.pid").unlink(missing_ok=True)
    died = [pod for pod in lab.pods() if pod.node == node.name]
    for pod in died:
        pods.end(pod, node)
        (lab.state / "pods" / f"{pod.namespace}_{pod.name}.json").unlink(missing_ok=True)
    enis = {
        row["MacAddress"]: row["Attachment"]["DeviceIndex"] for row in lab.ec2_picture() if row["node"] == node.name
    }
    call_in(Place(net=node.netns_path), lambda: _clear_kernel(enis))
    call_in(Place(mnt=node.mntns_path), lambda: _clear_folders(keep_run_folder=keep_run_folder))
    if start:
        node.start_processes()
    return died


def _processes_of(node: Node) -> list[int]:
    """Return what runs on the node: all in its mount namespace but the one that holds it, and all in namespaces it has handles of."""
    mounts = namespace_id(node.mntns_path)
    handles = {namespace_id(str(handle)) for handle in (node.filesystem / "run/netns").iterdir()} - {None}
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) not in (node.holder, os.getpid()):
            with contextlib.suppress(OSError):
                if namespace_id(str(entry / "ns/mnt")) == mounts or namespace_id(str(entry / "ns/net")) in handles:
                    found.append(int(entry.name))
    return found


def _clear_kernel(enis: dict[str, int]) -> None:
    """Leave the links of ENIs alone, the primary one's configured; in the node's network namespace."""
    for name in _links() - _links(enis) - {"lo"}:
        subprocess.run(
            ["ip", "link", "delete", name], check=False, capture_output=True, timeout=30
        )  # or gone with its pod
    for name in _links({mac: device for mac, device in enis.items() if device > 0}):
        _run("ip", "link", "set", name, "down")
        _run("ip", "address", "flush", "dev", name)
    for family in ("-4", "-6"):
        for table in sorted(_tables(family)):
            _run("ip", family, "route", "flush", "table", table)
        _run("ip", family, "rule", "flush")
        for words in RULES_AT_BOOT:
            _run("ip", family, *words.split())
    _run("nft", "flush", "ruleset")
    for program, names in LEGACY_TABLES.items():
        for table in _lines(Path("/proc/net", names)):
            for verb in ("-F", "-X"):
                _run(program, "-t", table, verb)
    _run("conntrack", "--flush")


def _links(macs: Container[str] | None = None) -> set[str]:
    found = json.loads(_run("ip", "-json", "link"))
    return {link["ifname"] for link in found if macs is None or link.get("address", "") in macs}


def _tables(family: str) -> set[str]:
    routes = json.loads(_run("ip", "-json", family, "route", "show", "table", "all") or "[]")
    return {str(route["table"]) for route in routes if route.get("table", "main") not in KERNELS_OWN_TABLES}


def _lines(path: Path) -> Iterable[str]:
    return path.read_text().split() if path.exists() else ()


def _clear_folders(*, keep_run_folder: bool) -> None:
    """In the node's mount namespace."""
    for handle in Path("/run/netns").iterdir():
        unmount(str(handle))
        handle.unlink()
    unmount(BPFFS)
    mount("bpf", BPFFS, "bpf")
    Path("/run/.node/boot_id").write_text(f"{uuid.uuid4()}\n")
    if keep_run_folder:
        return
    for one in Path("/run/aws-node").iterdir():
        if one.is_dir():
            shutil.rmtree(one)
        else:
            one.unlink()


def _run(*argv: str) -> str:
    return subprocess.run(argv, check=True, capture_output=True, text=True, timeout=30).stdout

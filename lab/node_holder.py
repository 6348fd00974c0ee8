"""The mount namespace of a node, made and then held by this process.

    python -m vpccni.lab.node_holder STATE_FOLDER NODE [--run-on-disk]

Inside, `/etc`, `/opt`, `/var/lib` and `/var/log` are overlays, so what a node writes there never reaches the machine; `/run` is
the node's own, with the lab's state folder bound in. It ends when it is killed; the kernel then takes its mounts away.
"""

from __future__ import annotations

import os
import shutil
import sys
import uuid
from pathlib import Path
from typing import Final

from vpccni.lab.namespaces import CLONE_NEWNS, MS_BIND, MS_PRIVATE, MS_REC, mount, unmount, unshare

OVERLAID: Final = ("/etc", "/opt", "/var/lib", "/var/log")
DEBIAN_PLUGINS: Final = Path("/usr/lib/cni")
HIDDEN_PLUGINS: Final = ("dhcp",)
READY: Final = "holder.ready"


def _own_run(state: Path) -> Path:
    """Give the node its own /run; return the folder in it that overlays write to."""
    outside = os.open(state, os.O_PATH | os.O_DIRECTORY)
    for handle in Path("/run/netns").glob("*"):
        unmount(str(handle))  # our copy of the machine's handles would keep other namespaces alive
    mount("tmpfs", "/run", "tmpfs", options="mode=755")
    state.mkdir(parents=True)
    mount(f"/proc/self/fd/{outside}", str(state), flags=MS_BIND | MS_REC)
    os.close(outside)
    for folder in ("netns", "cni", "lock", "aws-node", ".node"):
        Path("/run", folder).mkdir()
    Path("/run/xtables.lock").touch()
    return Path("/run/.node")


def _overlay(target: str, store: Path) -> None:
    upper, work = store / target.strip("/").replace("/", "-"), store / f"work-{target.strip('/').replace('/', '-')}"
    upper.mkdir()
    work.mkdir()
    mount("overlay", target, "overlay", options=f"lowerdir={target},upperdir={upper},workdir={work}")


def _own_sys(store: Path) -> None:
    """Mount a sysfs that shows this network namespace, with the machine's cgroups and a bpffs of the node's own."""
    kept = store / "cgroup"
    kept.mkdir()
    mount("/sys/fs/cgroup", str(kept), flags=MS_BIND | MS_REC)
    mount("sysfs", "/sys", "sysfs")
    mount(str(kept), "/sys/fs/cgroup", flags=MS_BIND | MS_REC)
    unmount(str(kept))
    mount("bpf", "/sys/fs/bpf", "bpf")


def _fill(store: Path, disk: Path | None) -> None:
    boot_id = store / "boot_id"
    boot_id.write_text(f"{uuid.uuid4()}\n")
    mount(str(boot_id), "/proc/sys/kernel/random/boot_id", flags=MS_BIND)
    if disk is not None:
        disk.mkdir(parents=True, exist_ok=True)
        mount(str(disk), "/run/aws-node", flags=MS_BIND)
    else:
        mount("tmpfs", "/run/aws-node", "tmpfs", options="mode=755")
    for folder in ("/etc/cni/net.d", "/opt/cni/bin", "/var/lib/cni", "/var/log/aws-routed-eni"):
        Path(folder).mkdir(parents=True, exist_ok=True)
    for plugin in DEBIAN_PLUGINS.iterdir():
        if plugin.name not in HIDDEN_PLUGINS:
            shutil.copy2(plugin, Path("/opt/cni/bin", plugin.name))


def main(argv: list[str]) -> int:
    """Make the namespace, say so in the state folder, and hold it."""
    state, node = Path(argv[0]), argv[1]
    disk = Path("/var/tmp/vpccni-lab", state.name, node) if "--run-on-disk" in argv else None
    unshare(CLONE_NEWNS)
    mount("none", "/", flags=MS_PRIVATE | MS_REC)
    store = _own_run(state)
    for target in OVERLAID:
        _overlay(target, store)
    _own_sys(store)
    _fill(store, disk)
    (state / "nodes" / node / READY).write_text(str(os.getpid()))
    os.execvp("sleep", ["sleep", "infinity"])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

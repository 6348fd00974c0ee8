"""Ending a lab and clearing what a killed one left: its processes, namespaces and folders, and nothing else.

A process belongs to a lab if it lives in one of the lab's namespaces or carries the lab's mark in its environment.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import time
from pathlib import Path
from typing import Final

from vpccni.lab.namespaces import NETNS_FOLDER, is_let_go, namespace_id, remove_netns
from vpccni.lab.node_env import LAB_MARK

END_WITHIN_S: Final = 5.0
POLL_S: Final = 0.01


def processes_of(state: Path) -> list[int]:
    """Return the ids of all processes of the lab with this state folder."""
    netns = {namespace_id(str(NETNS_FOLDER / marker.name)) for marker in (state / "netns").glob("*")} - {None}
    mark = f"{LAB_MARK}={state}".encode()
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) in (os.getpid(), os.getppid()):
            continue
        with contextlib.suppress(OSError):
            marked = mark in (entry / "environ").read_bytes().split(b"\0")
            if marked or namespace_id(str(entry / "ns/net")) in netns:
                found.append(int(entry.name))
    return found


def end_processes(pids: list[int]) -> None:
    """End processes, at once; wait until they are gone."""
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    deadline = time.monotonic() + END_WITHIN_S
    while any(is_alive(pid) for pid in pids) and time.monotonic() < deadline:
        reap(pids)
        time.sleep(POLL_S)
    reap(pids)


def reap(pids: list[int]) -> None:
    """Collect dead children that we let go: nobody else waits for them, and they would stay as zombies."""
    for pid in filter(is_let_go, pids):
        with contextlib.suppress(ChildProcessError):
            os.waitpid(pid, os.WNOHANG)


def is_alive(pid: int) -> bool:
    """Tell whether a process runs (a zombie does not)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in ("Z", "X")
    except OSError:
        return False


def clear(state: Path) -> None:
    """Take everything of the lab away. Nothing there is success."""
    # Twice: a supervisor may start a child between the look and its own end.
    for _ in range(2):
        if pids := processes_of(state):
            end_processes(pids)
    for marker in sorted((state / "netns").glob("*")):
        remove_netns(marker.name)
    shutil.rmtree(state, ignore_errors=True)
    disk = Path("/var/tmp/vpccni-lab", state.name)
    shutil.rmtree(disk, ignore_errors=True)
    for parent in (disk.parent, state.parent):
        with contextlib.suppress(OSError):
            parent.rmdir()

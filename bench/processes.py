"""What the processes of a node cost when nothing happens, and how soon a killed one serves again."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from vpccni.lab.api import Node
from vpccni.shared.messages.common import GetStatus, Status
from vpccni.shared.node_cli import ask_all

SUPERVISOR: Final = "supervisord"
SERVING_WITHIN_S: Final = 30.0
POLL_S: Final = 0.01


def pids(node: Node) -> dict[str, int]:
    """Return the node's processes by name, the supervisor among them."""
    supervisor = node.supervisor_pid()
    return {**node.pids(), **({SUPERVISOR: supervisor} if supervisor else {})}


@dataclass(frozen=True)
class Memory:
    """MB of one process: its share (PSS), and what no other process maps."""

    pss: float
    private: float


def memory(node: Node) -> dict[str, Memory]:
    """Return the memory of each process now."""
    return {name: _memory_of(pid) for name, pid in pids(node).items()}


def _memory_of(pid: int) -> Memory:
    sizes: dict[str, int] = {}
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]:
        name, _, size = line.partition(":")
        sizes[name] = int(size.split()[0])
    return Memory(sizes["Pss"] / 1024, (sizes["Private_Clean"] + sizes["Private_Dirty"]) / 1024)


def idle_cpu(node: Node, seconds: float) -> dict[str, float]:
    """Return how many per cent of a core each process used over a quiet span."""
    before = {name: cpu_seconds(pid) for name, pid in pids(node).items()}
    begin = time.perf_counter()
    time.sleep(seconds)
    after = {name: cpu_seconds(pid) for name, pid in pids(node).items()}
    span = time.perf_counter() - begin
    return {name: (after[name] - used) / span * 100 for name, used in before.items() if name in after}


def cpu_seconds(pid: int) -> float:
    """Return the CPU time of all threads of a process so far."""
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks) / 1e9


def seconds_to_serve(node: Node, process: str) -> float:
    """Kill a process; return the seconds until its successor says that it serves. Raises TimeoutError with its state."""
    before = node.kill(process)
    begin = time.perf_counter()
    said = "silent"
    while (spent := time.perf_counter() - begin) < SERVING_WITHIN_S:
        answer = ask_all(node.root, [process], GetStatus())[process]
        if isinstance(answer, Status) and answer.pid != before:
            said = " ".join([answer.state, *answer.reasons])
            if answer.state == "serving":
                return time.perf_counter() - begin
        time.sleep(POLL_S)
    raise TimeoutError(
        f"{process} does not serve {spent:.0f} s after it was killed: {said}; see its log on {node.name}"
    )

"""`vpccni ps`: the node's processes and what they use, a line each."""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from vpccni.shared import names
from vpccni.shared.errors import VpccniError
from vpccni.shared.messages.base import Message
from vpccni.shared.messages.common import GetStatus, Status
from vpccni.shared.node_cli import ask_all
from vpccni.shared.process import RUN_DIR_DEFAULT
from vpccni.shared.units import duration, size


def main(argv: Sequence[str]) -> int:
    """Print a line a process: state, pid, age, memory, CPU time, descriptors; return 1 when one is silent."""
    parser = argparse.ArgumentParser(prog="vpccni ps", description="The node's processes and what they use.")
    parser.add_argument("--run-dir", type=Path, default=Path(os.environ.get("VPCCNI_RUN_DIR", RUN_DIR_DEFAULT)))
    arguments = parser.parse_args(argv)
    answers = ask_all(arguments.run_dir, names.NODE_PROCESSES, GetStatus())
    sys.stdout.write(f"{'process':<20}{'state':<11}{'pid':>8}  {'up':<14}{'memory':>10}{'CPU':>10}{'files':>7}  log\n")
    for name, answer in answers.items():
        sys.stdout.write(_line(name, answer) + "\n")
    return 0 if all(isinstance(answer, Status) for answer in answers.values()) else 1


def _line(name: str, answer: Message | VpccniError) -> str:
    if not isinstance(answer, Status):
        return f"{name:<20}{'silent':<11}{'-':>8}  {answer}"
    memory, cpu, files = used_by(answer.pid)
    up = duration(answer.now - answer.started_at)
    return f"{name:<20}{answer.state:<11}{answer.pid:>8}  {up:<14}{memory:>10}{cpu:>10}{files:>7}  {answer.log_level}"


def used_by(pid: int) -> tuple[str, str, str]:
    """Return proportional memory, CPU time and open descriptors of a process; dashes where it is not to be seen from here."""
    folder = Path(f"/proc/{pid}")
    try:
        found = re.search(r"^Pss:\s+(\d+) kB", (folder / "smaps_rollup").read_text(), re.MULTILINE)
        fields = (folder / "stat").read_text().rpartition(")")[2].split()
        cpu_s = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")  # after the name: state is field 0
        files = len(os.listdir(folder / "fd"))
    except (OSError, ValueError, IndexError):
        return "-", "-", "-"
    return size(int(found[1]) * 1024) if found else "-", f"{cpu_s:.2f} s", str(files)

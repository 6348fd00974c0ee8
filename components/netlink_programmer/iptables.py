"""The image's own iptables: one save and at most one restore transaction a table."""

from __future__ import annotations

import subprocess
from typing import Final

from vpccni.components.netlink_programmer.firewall import Table, plan
from vpccni.shared.effects import effect
from vpccni.shared.errors import KernelRefused

WAIT_S: Final = 5
COMMAND_WITHIN_S: Final = 15.0


def make_right(tables: tuple[Table, ...]) -> int:
    """Bring each table to what is wanted and return how many had to change. Raises `KernelRefused`, the old rules in force then."""
    changed = 0
    for table in tables:
        text = plan(table, _run(["iptables-save", "-t", table.name], ""))
        if text:
            with effect("iptables.restore"):
                _run(["iptables-restore", "--noflush", "-w", str(WAIT_S)], text)
            changed += 1
    return changed


def outlook(tables: tuple[Table, ...]) -> list[str]:
    """Return, a table, what `make_right` would restore now, "" for one that is right. Raises `KernelRefused`."""
    return [plan(table, _run(["iptables-save", "-t", table.name], "")) for table in tables]


def _run(argv: list[str], text: str) -> str:
    try:
        done = subprocess.run(argv, input=text, capture_output=True, text=True, timeout=COMMAND_WITHIN_S, check=False)
    except FileNotFoundError as error:
        raise KernelRefused(
            "iptables is missing", on=argv[0], why="no such program", remedy="Use an image that has it"
        ) from error
    except subprocess.TimeoutExpired as error:
        raise KernelRefused(
            "iptables does not end",
            on=" ".join(argv),
            why=f"{COMMAND_WITHIN_S:.0f} s passed",
            remedy="See who holds /run/xtables.lock",
        ) from error
    if done.returncode != 0:
        raise KernelRefused(
            "iptables refused",
            on=" ".join(argv),
            why=done.stderr.strip()[-300:],
            remedy="Compare `iptables-save` with docs/architecture.md",
        )
    return done.stdout

"""The image's own iptables programs, each back-end's called by its own name: what a table holds, and one restore transaction.

The names without a back-end (`iptables-restore`) are never used: what they mean is the host's or the image's choice, and not ours to
change (spec dataplane.md 10.4).
"""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Final

from vpccni.components.netlink_programmer import nfnetlink
from vpccni.components.netlink_programmer.firewall import Backend
from vpccni.shared.effects import effect
from vpccni.shared.errors import KernelRefused

WAIT_S: Final = 5
"""For /run/xtables.lock, which only the legacy programs take."""
COMMAND_WITHIN_S: Final = 15.0
LEGACY_NAMES: Final = {
    False: "/proc/thread-self/net/ip_tables_names",
    True: "/proc/thread-self/net/ip6_tables_names",
}


def has_programs(backend: Backend) -> bool:
    """Tell whether the image can write rules of this back-end."""
    return all(shutil.which(_program(backend, verb, ipv6=False)) is not None for verb in ("save", "restore"))


def tables_there(backend: Backend, *, ipv6: bool = False) -> frozenset[str]:
    """Return the tables that the kernel has of this back-end; asking costs no process. Raises `KernelRefused`."""
    if backend is Backend.NFT:
        return nfnetlink.table_names(ipv6=ipv6)
    try:
        return frozenset(Path(LEGACY_NAMES[ipv6]).read_text().split())
    except FileNotFoundError:  # the kernel has no legacy tables of this family
        return frozenset()


def save(table: str, *, backend: Backend, ipv6: bool = False) -> str:
    """Return what a table holds, as `iptables-save` prints it. Raises `KernelRefused`.

    Asking a legacy program for a table that the kernel does not have makes that table: see `tables_there` first.
    """
    return _run([_program(backend, "save", ipv6=ipv6), "-t", table], "")


def restore(text: str, *, backend: Backend, ipv6: bool = False) -> None:
    """Carry out one `--noflush` restore transaction: all of it, or nothing. Raises `KernelRefused`, the old rules in force then.

    Takes at most `COMMAND_WITHIN_S`: call it in a thread.
    """
    with effect("iptables.restore"):
        _run([_program(backend, "restore", ipv6=ipv6), "--noflush", "-w", str(WAIT_S)], text)


def _program(backend: Backend, verb: str, *, ipv6: bool) -> str:
    return f"ip{'6' if ipv6 else ''}tables-{backend}-{verb}"


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

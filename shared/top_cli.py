"""`vpccni top`: the node in a terminal. Each process is asked over the bus; who does not answer is shown as silent."""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from vpccni.shared import names, settings_file
from vpccni.shared.clock import boottime, wall_ns
from vpccni.shared.codec import BadMessage, to_message
from vpccni.shared.errors import SettingsError
from vpccni.shared.messages.allocation import LedgerState, PoolState
from vpccni.shared.messages.base import Message
from vpccni.shared.messages.common import GetSnapshot, GetStatus, Snapshot, Status
from vpccni.shared.messages.inventory import Inventory, NodeFacts
from vpccni.shared.messages.policy import PolicyState
from vpccni.shared.messages.wiring import UsableEnis, Wirings
from vpccni.shared.node_cli import ask_all
from vpccni.shared.node_text import coloured, lines, plain
from vpccni.shared.node_view import Copies, Heard, NodeView, view
from vpccni.shared.process import RUN_DIR_DEFAULT
from vpccni.shared.settings import COOLDOWN_DEFAULT_S, read

EVERY_S: Final = 2.0
WIDTH_DEFAULT: Final = 120
KEPT: Final[Mapping[type[Message], str]] = {
    Inventory: "inventory",
    PoolState: "pool",
    LedgerState: "ledger",
    UsableEnis: "usable",
    NodeFacts: "node",
    Wirings: "wirings",
    PolicyState: "policy",
}
"""Which published message becomes which copy."""
CLEAR: Final = "\x1b[H\x1b[2J"


def main(argv: Sequence[str]) -> int:
    """Show the node once or until interrupted; return 1 when not all processes answered at the end."""
    parser = argparse.ArgumentParser(
        prog="vpccni top", description="This node's processes, addresses, EC2 calls and pods."
    )
    parser.add_argument("--run-dir", type=Path, default=Path(os.environ.get("VPCCNI_RUN_DIR", RUN_DIR_DEFAULT)))
    parser.add_argument("--once", action="store_true", help="print it once and end; always so without a terminal")
    parser.add_argument("--every", type=float, default=EVERY_S, metavar="SECONDS")
    arguments = parser.parse_args(argv)
    is_terminal = sys.stdout.isatty()
    if arguments.once or not is_terminal:
        seen = look(arguments.run_dir)
        _show(seen, is_terminal=is_terminal, height=0)
        return 0 if all(row.state != "silent" for row in seen.processes) else 1
    try:
        while True:
            seen = look(arguments.run_dir)
            sys.stdout.write(CLEAR)
            _show(seen, is_terminal=True, height=shutil.get_terminal_size().lines)
            time.sleep(max(0.2, arguments.every))
    except KeyboardInterrupt:
        return 0


def look(run_dir: Path) -> NodeView:
    """Ask every process what it is and what it last published; at most two seconds, twice."""
    statuses = ask_all(run_dir, names.NODE_PROCESSES, GetStatus())
    alive = [name for name, answer in statuses.items() if isinstance(answer, Status)]
    copies = Copies()
    for answer in ask_all(run_dir, alive, GetSnapshot()).values():
        if isinstance(answer, Snapshot):
            _keep(copies, answer.messages)
    heard = {name: Heard(answer if isinstance(answer, Status) else None) for name, answer in statuses.items()}
    return view(copies, heard, wall_ns=wall_ns(), boot_s=boottime(), cooldown_s=_cooldown_s(run_dir))


def _keep(copies: Copies, messages: Sequence[tuple[str, dict[str, Any]]]) -> None:
    """Put what is shown into the copies; another release's message that this one cannot read is left out."""
    for _, body in messages:
        try:
            message = to_message(body)
        except BadMessage:
            continue
        if type(message) in KEPT:
            setattr(copies, KEPT[type(message)], message)


def _cooldown_s(run_dir: Path) -> float:
    environ = {name: text for name, text in os.environ.items() if name != "MY_POD_UID"}  # do not wait for a file
    try:
        return read(settings_file.raw_settings(run_dir, environ)).settings.ip_cooldown_s
    except SettingsError:
        return COOLDOWN_DEFAULT_S


def _show(seen: NodeView, *, is_terminal: bool, height: int) -> None:
    width = shutil.get_terminal_size((WIDTH_DEFAULT, 0)).columns
    for line in lines(seen, coloured if is_terminal else plain, width=width, height=height):
        sys.stdout.write(line + "\n")
    sys.stdout.flush()

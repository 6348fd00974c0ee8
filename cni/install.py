"""Files put in place so that a runtime that reads or executes them at any moment meets the old or the new one, whole."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from vpccni.shared.files import replace_file

AGENT_TOOL: Final = "aws-eks-na-cli"  # spec policy.md 5.16


def install_agent_tool(folder: Path) -> None:
    """Put the policy agent's command line tool into the host's plugin folder; raises OSError."""
    write_atomically(folder / AGENT_TOOL, Path(__file__).with_name(f"{AGENT_TOOL}.sh").read_bytes(), 0o755)


def write_atomically(path: Path, data: bytes, mode: int) -> None:
    """Put `data` in place at `path` under `mode`; raises OSError, and the old file stays then.

    Written under a hidden name: the runtime lists the configuration folder and must not meet a half file.
    """
    hidden = path.with_name(f".{path.name}.tmp{os.getpid()}")
    replace_file(path, data, mode=mode, owner="install", temporary=hidden)

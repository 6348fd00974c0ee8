"""End with the supervisor: a program whose supervisord was killed would keep its lock, and the next supervisord's program could not start."""

from __future__ import annotations

import ctypes
import os
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Final

PR_SET_PDEATHSIG: Final = 1  # prctl(2)


def end_with_parent(environ: Mapping[str, str]) -> None:
    """Ask the kernel for SIGTERM when our supervisor dies; without a supervisor (started by hand) change nothing.

    Raises OSError when the kernel refuses, and SystemExit when the supervisor died before it could be asked.
    """
    if environ.get("SUPERVISOR_ENABLED") != "1":
        return
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_PDEATHSIG, int(signal.SIGTERM), 0, 0, 0) != 0:
        code = ctypes.get_errno()
        raise OSError(code, f"prctl(PR_SET_PDEATHSIG): {os.strerror(code)}")
    if b"supervisord" not in Path(f"/proc/{os.getppid()}/cmdline").read_bytes():
        raise SystemExit("the supervisor has died")

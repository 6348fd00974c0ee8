"""A process that dies again and again slows its own starts down: the supervisor restarts at once and for ever."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from vpccni.shared.clock import boottime

WINDOW_S: Final = 10.0
STARTS_FREE: Final = 10
"""Starts within the window that cost nothing: a few kills in a row are not flapping."""
FIRST_WAIT_S: Final = 0.2
WAIT_AT_MOST_S: Final = 10.0
KEPT: Final = 32


def wait_s(starts: Sequence[float], now: float) -> float:
    """Return how long to wait before this start; `starts`: CLOCK_BOOTTIME seconds of earlier ones, a later boot's ignored."""
    recent = sum(now - WINDOW_S - WAIT_AT_MOST_S < at <= now for at in starts)
    extra = recent - STARTS_FREE
    return 0.0 if extra <= 0 else float(min(WAIT_AT_MOST_S, FIRST_WAIT_S * 2 ** min(extra - 1, 10)))


def slow_down(folder: Path, process: str) -> float:
    """Note this start in `<folder>/<process>.starts`, wait if there were too many, and return the seconds waited."""
    path = folder / f"{process}.starts"
    try:
        starts = [float(word) for word in path.read_text().split()]
    except (FileNotFoundError, ValueError):
        starts = []
    now = boottime()
    wait = wait_s(starts, now)
    path.write_text(" ".join(f"{at:.3f}" for at in [*starts, now][-KEPT:]))
    time.sleep(wait)  # before the loop exists: nothing waits on this process yet
    return wait

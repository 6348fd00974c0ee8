"""Time as this system tells it: CLOCK_BOOTTIME for deadlines and cool-downs, wall time only where a file format says so."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

BootClock = Callable[[], float]
"""A function that returns seconds since boot, suspend included; a parameter wherever time matters."""

BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


def boottime() -> float:
    """Return seconds of CLOCK_BOOTTIME: it goes on during suspend and no clock step moves it."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def wall_ns() -> int:
    """Return wall clock nanoseconds, for the checkpoint's public timestamps (spec ipam.md 26)."""
    return time.time_ns()


def boot_id() -> str:
    """Return the kernel's id of this boot; another boot means that no sandbox of the one before is alive."""
    return BOOT_ID.read_text().strip()

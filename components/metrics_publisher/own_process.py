"""What /proc says of this very process, under the names that every Prometheus client uses (spec operations.md 2.1)."""

from __future__ import annotations

import os
import resource
import time
from pathlib import Path
from typing import Final

from vpccni.components.metrics_publisher.sources import Series
from vpccni.shared.clock import boottime

OWN: Final = Path("/proc/self")
PAGE_BYTES: Final = os.sysconf("SC_PAGE_SIZE")
TICKS_A_SECOND: Final = os.sysconf("SC_CLK_TCK")
START_FIELD: Final = 19
"""Of /proc/self/stat, counted from the state on, which follows the name in brackets: start in ticks after boot."""


def process_series() -> dict[Series, float]:
    """Return what there is to say. Costs three small reads."""
    used = os.times()
    size, resident, *_ = (OWN / "statm").read_text().split()
    found = {
        "process_cpu_seconds_total": round(used.user + used.system, 2),
        "process_open_fds": float(len(os.listdir(OWN / "fd")) - 1),  # without the one that lists
        "process_max_fds": float(resource.getrlimit(resource.RLIMIT_NOFILE)[0]),
        "process_virtual_memory_bytes": float(int(size) * PAGE_BYTES),
        "process_virtual_memory_max_bytes": float(resource.getrlimit(resource.RLIMIT_AS)[0]),
        "process_resident_memory_bytes": float(int(resident) * PAGE_BYTES),
        "process_start_time_seconds": round(_started_at(), 2),
    }
    return {(name, ()): value for name, value in found.items()}


def _started_at() -> float:
    fields = (OWN / "stat").read_text().rpartition(")")[2].split()
    return time.time() - boottime() + int(fields[START_FIELD]) / TICKS_A_SECOND

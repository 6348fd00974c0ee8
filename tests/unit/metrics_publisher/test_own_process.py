from __future__ import annotations

import os
import resource
import time

import pytest

from vpccni.components.metrics_publisher.exposition import render
from vpccni.components.metrics_publisher.own_process import process_series


def test_the_stock_families_tell_of_this_process() -> None:
    values = {name: value for (name, _), value in process_series().items()}
    descriptors = len(os.listdir("/proc/self/fd")) - 1
    assert values["process_open_fds"] == descriptors
    assert values["process_max_fds"] == resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    assert values["process_cpu_seconds_total"] == pytest.approx(time.process_time(), abs=0.1)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    assert peak / 3 < values["process_resident_memory_bytes"] <= peak * 1.1
    assert values["process_virtual_memory_bytes"] > values["process_resident_memory_bytes"]
    assert time.time() - 3600 < values["process_start_time_seconds"] < time.time()


def test_the_cpu_family_is_a_counter() -> None:
    assert "# TYPE process_cpu_seconds_total counter" in render({}, process_series())

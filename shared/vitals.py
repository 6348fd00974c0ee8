"""What a process counts and measures, and why it does not serve fully."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Final

from vpccni.shared.log import Log

Labels = tuple[tuple[str, str], ...]
BUCKETS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, math.inf)  # spec operations.md 2.1 c


class Vitals:
    """Counters, gauges, histograms and reasons of one process."""

    def __init__(self, log: Log) -> None:
        self.log = log
        self._counters: dict[tuple[str, Labels], float] = {}
        self._gauges: dict[tuple[str, Labels], Callable[[], float]] = {}
        self._reasons: dict[str, str] = {}

    def count(self, name: str, value: float = 1, /, **labels: str) -> None:
        """Add to a counter."""
        key = (name, tuple(sorted(labels.items())))
        self._counters[key] = self._counters.get(key, 0.0) + value

    def observe(self, name: str, value: float, /, **labels: str) -> None:
        """Add to a histogram: its cumulative buckets, its sum and its count travel as counters."""
        for bound in BUCKETS:
            le = "+Inf" if bound == math.inf else f"{bound:g}"
            self.count(f"{name}_bucket", float(value <= bound), le=le, **labels)
        self.count(f"{name}_sum", value, **labels)
        self.count(f"{name}_count", 1, **labels)

    def gauge(self, name: str, value: Callable[[], float], /, **labels: str) -> None:
        """Have `value()` sampled whenever somebody looks."""
        self._gauges[(name, tuple(sorted(labels.items())))] = value

    def degraded(self, key: str, sentence: str) -> None:
        """Say why this process does not serve fully; logged when it is news."""
        if self._reasons.get(key) != sentence:
            self.log.warning("degraded", what=key, why=sentence)
        self._reasons[key] = sentence

    def healthy(self, key: str) -> None:
        """Take a reason back."""
        if self._reasons.pop(key, None) is not None:
            self.log.info("recovered", what=key)

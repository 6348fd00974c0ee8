"""What each process last said of itself, and its counters added up across its restarts. Pure; time is an argument."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

from vpccni.shared.messages.common import Counter, Gauge, Status

STALE_AFTER_S: Final = 10.0
"""Two heartbeats (design 5)."""

Labels = tuple[tuple[str, str], ...]
Series = tuple[str, Labels]


@dataclass(slots=True)
class Source:
    """One process as seen from here. `before`: what its earlier lives counted; `now`: what the present one has so far."""

    process: str
    status: Status | None = None
    heard_at: float = 0.0
    restarts: int = 0
    before: dict[Series, float] = field(default_factory=dict)
    now: dict[Series, float] = field(default_factory=dict)

    def take(self, status: Status, at: float) -> None:
        """Replace the copy; a new epoch turns what the last one counted into history. Again is harmless."""
        if self.status is not None and self.status.epoch != status.epoch:
            self.restarts += 1
            for series, value in self.now.items():
                self.before[series] = self.before.get(series, 0.0) + value
        self.status, self.heard_at = status, at
        self.now = {series_of(counter): counter.value for counter in status.counters}

    def totals(self) -> dict[Series, float]:
        """Return every counter over all lives that were seen: it never goes down while this copy lives."""
        series = {**self.before, **self.now}
        return {one: self.before.get(one, 0.0) + self.now.get(one, 0.0) for one in series}

    def gauges(self) -> dict[Series, float]:
        """Return the gauges as they were at the last word."""
        return {} if self.status is None else {series_of(gauge): gauge.value for gauge in self.status.gauges}

    def is_stale(self, at: float) -> bool:
        """Return whether two heartbeats were missed, or none was ever heard."""
        return self.status is None or at - self.heard_at > STALE_AFTER_S


def series_of(one: Counter | Gauge) -> Series:
    """Return name and sorted labels."""
    return one.name, tuple(sorted(one.labels.items()))


def stale(sources: Iterable[Source], at: float) -> list[str]:
    """Return the names of processes whose copies here are old."""
    return [source.process for source in sources if source.is_stale(at)]

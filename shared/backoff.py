"""Pauses between tries of what failed: doubling to a bound, and part of each left to chance so that many who fail come apart."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Backoff:
    """First pause, longest pause, and the share of a pause that is random (all seconds)."""

    first_s: float
    longest_s: float
    jitter: float = 0.3

    def pause_s(self, tries: int, random: float) -> float:
        """Return the pause after the `tries`-th failure in a row (1: the first); `random` is in [0, 1)."""
        full = min(self.first_s * (1 << min(tries - 1, 16)), self.longest_s)
        return full * (1 - self.jitter * random)

"""What waits for CloudWatch: bounded, and no count is ever lost (spec operations.md 17.8). Pure.

When it is full the oldest gauges go first: a gauge that is late tells nothing. When only counters are left, the oldest is added to the
next one of its name: the sum over any longer time stays right.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

BATCH: Final = 20  # spec operations.md 4.5
WAITING_AT_MOST: Final = 1000
"""With 20 figures a cycle: 50 cycles, 25 minutes, before a gauge is given up."""


@dataclass(frozen=True, slots=True)
class Datum:
    """One figure. `at`: wall clock seconds of its collection."""

    metric: str
    value: float
    at: float
    unit: str
    is_count: bool


def bounded(waiting: Sequence[Datum], at_most: int = WAITING_AT_MOST) -> tuple[Datum, ...]:
    """Return what is kept of `waiting` (oldest first): `at_most` of them, or one of each counter where these are more."""
    kept = list(waiting)
    surplus = len(kept) - at_most
    if surplus > 0:
        oldest = [number for number, datum in enumerate(kept) if not datum.is_count][:surplus]
        for number in reversed(oldest):
            del kept[number]
    while len(kept) > at_most and _merge_one(kept):
        continue
    return tuple(kept)


def _merge_one(kept: list[Datum]) -> bool:
    """Add the oldest counter that has a younger one to that; False when every counter stands once."""
    for number, datum in enumerate(kept):
        for later in range(number + 1, len(kept)):
            if datum.is_count and kept[later].is_count and kept[later].metric == datum.metric:
                kept[later] = replace(kept[later], value=kept[later].value + datum.value)
                del kept[number]
                return True
    return False

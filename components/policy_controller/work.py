"""Which policies are due when. Pure; time is an argument (CLOCK_BOOTTIME seconds).

A policy stands in it once, whatever happens to it, so that it never holds more than there are policies. What others change (pods, services)
is done at once after a quiet time, and then once a period; what fails is tried again after a growing pause; one that is being done is not
done a second time meanwhile, but again afterwards.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Hashable
from typing import Final, Generic, TypeVar

from vpccni.shared.backoff import Backoff

K = TypeVar("K", bound=Hashable)

TOGETHER_S: Final = 0.05
"""Pods that change within this time are one reason: a burst would otherwise take one pass for its first pod."""
AGAIN: Final = Backoff(0.1, 60.0)


class Work(Generic[K]):
    """See the module. `period_s`: the least time between passes over one policy for changes of others."""

    def __init__(self, period_s: float) -> None:
        self._period_s = period_s
        self._due: dict[K, float] = {}
        self._order: list[tuple[float, int, K]] = []
        """A heap of what is due; entries that `_due` contradicts, or whose key runs, are passed over."""
        self._numbers = itertools.count()
        self._begun: dict[K, float] = {}
        self._running: set[K] = set()
        self._failures: dict[K, int] = {}

    def __len__(self) -> int:
        return len(self._due)

    @property
    def running(self) -> int:
        return len(self._running)

    def add(self, key: K, now: float) -> None:
        """Do it now, also where a failure asked for a pause: something has changed."""
        self._set(key, now)
        self._failures.pop(key, None)

    def add_for_others(self, key: K, now: float) -> None:
        """Do it soon, for something else has changed."""
        due = max(now + TOGETHER_S, self._begun.get(key, -self._period_s) + self._period_s)
        self._set(key, min(self._due.get(key, due), due))

    def take(self, now: float) -> K | None:
        """Return the one that is due longest; it runs until `done` or `failed`."""
        first = self._first()
        if first is None or first[0] > now:
            return None
        key = heapq.heappop(self._order)[2]
        del self._due[key]
        self._running.add(key)
        self._begun[key] = now
        return key

    def done(self, key: K) -> None:
        self._failures.pop(key, None)
        self._ended(key)

    def failed(self, key: K, now: float, random: float) -> float:
        """Have it tried again; return the seconds until then."""
        self._failures[key] = self._failures.get(key, 0) + 1
        pause = AGAIN.pause_s(self._failures[key], random)
        self._set(key, min(self._due.get(key, now + pause), now + pause))
        self._ended(key)
        return pause

    def forget(self, key: K) -> None:
        """It is gone and done with."""
        for kept in (self._due, self._begun, self._failures):
            kept.pop(key, None)
        self._running.discard(key)

    def wait_s(self, now: float) -> float | None:
        """Return the seconds until something may be taken; None when nothing waits."""
        first = self._first()
        return max(0.0, first[0] - now) if first is not None else None

    def _set(self, key: K, due: float) -> None:
        if self._due.get(key) != due:
            self._due[key] = due
            heapq.heappush(self._order, (due, next(self._numbers), key))

    def _ended(self, key: K) -> None:
        self._running.discard(key)
        if key in self._due:
            heapq.heappush(self._order, (self._due[key], next(self._numbers), key))

    def _first(self) -> tuple[float, int, K] | None:
        while self._order:
            due, _, key = self._order[0]
            if key not in self._running and self._due.get(key) == due:
                return self._order[0]
            heapq.heappop(self._order)
        return None

"""How long calls took lately: the 0.99 quantile over a window, as a summary tells it. Pure; time is an argument."""

from __future__ import annotations

import math
from collections import deque
from typing import Final

QUANTILE: Final = 0.99
WINDOW_S: Final = 600.0
KEPT: Final = 500
"""Calls of one kind that are looked at; a node makes fewer in the window but in trouble."""


class Recent:
    """The latest calls of one kind."""

    __slots__ = ("_calls",)

    def __init__(self) -> None:
        self._calls: deque[tuple[float, float]] = deque(maxlen=KEPT)

    def add(self, ms: float, now: float) -> None:
        """Note a call that ended `now` (seconds) and took `ms`."""
        self._calls.append((now, ms))

    def p99(self, now: float) -> float:
        """Return milliseconds that 99 of 100 calls of the window did not exceed; 0 when there was none (a NaN would be no JSON)."""
        while self._calls and now - self._calls[0][0] > WINDOW_S:
            self._calls.popleft()
        took = sorted(ms for _, ms in self._calls)
        return took[math.ceil(QUANTILE * len(took)) - 1] if took else 0.0

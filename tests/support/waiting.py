"""Waiting for what comes by itself: looked at again and again, with a bound, and the failure says what did not come."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any


def until(done: Callable[[], Any], what: str | Callable[[], Any], *, within_s: float, every_s: float = 0.05) -> None:
    """Return when `done()` holds; fail after `within_s`. `what`: what was waited for, or a function that tells how it stands."""
    deadline = time.monotonic() + within_s
    while not done():
        if time.monotonic() >= deadline:
            raise AssertionError(f"not within {within_s} s: {what if isinstance(what, str) else what()}")
        time.sleep(every_s)

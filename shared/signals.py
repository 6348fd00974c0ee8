"""SIGTERM and SIGINT as a call in the loop."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from typing import Final

from vpccni.shared.loop import Loop

ENDING: Final = (signal.SIGTERM, signal.SIGINT)


def when_told_to_end(loop: Loop, call: Callable[[], None]) -> None:
    """Have `call` run in the loop at each SIGTERM or SIGINT from now on. Once a process, in its main thread."""
    wake_read, wake_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
    for number in ENDING:
        signal.signal(number, lambda *_: None)

    def woken() -> None:
        if set(ENDING) & set(os.read(wake_read, 16)):
            call()

    loop.watch(wake_read, woken)

"""A supervisord plug-in that wakes its poller on SIGCHLD: a dead child is noticed in 13 to 23 ms instead of 1 to 2 s.

One turn of supervisord's loop is poll, transition, reap: what this turn reaps, only the next one starts again. So a wake-up must
also keep the poll after it from waiting, or the restart comes a whole poll (1 s) late.

In supervisord.conf: `[rpcinterface:wake]` with `supervisor.rpcinterface_factory = vpccni.shared.supervisor_wake:make`.
"""

from __future__ import annotations

import os
import signal
from typing import Any, Final

TURNS_AFTER_WAKE: Final = 2
"""Polls that do not wait: one to start again what was reaped, one for a child whose pipes closed before its death was signalled."""


def make(supervisord: Any, **settings: str) -> Any:  # supervisord's own types are not annotated
    """Register the wake-up pipe with supervisord's poller and return a namespace that adds no call of its own."""
    from supervisor.rpcinterface import SupervisorNamespaceRPCInterface

    read_end, write_end = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    signal.set_wakeup_fd(write_end, warn_on_full_buffer=False)
    poller = supervisord.options.poller
    ask = poller.poll
    at_once = 0

    def poll(timeout: float) -> tuple[list[int], list[int]]:
        nonlocal at_once
        poller.register_readable(read_end)
        readable, writable = ask(0 if at_once else timeout)
        at_once = max(at_once - 1, 0)
        if read_end in readable:
            os.read(read_end, 4096)
            at_once = TURNS_AFTER_WAKE
            readable = [descriptor for descriptor in readable if descriptor != read_end]
        return readable, writable

    poller.poll = poll
    return SupervisorNamespaceRPCInterface(supervisord)

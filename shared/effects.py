"""Kill points: every effect of an adapter passes `effect(name)` just around it, and the lab can make the process die there.

Unarmed it costs one comparison. An adapter writes

    with effect("checkpoint.rename"):
        os.rename(temporary, path)

and the lab then asks for death before or after the n-th pass (messages `ArmKillPoint`, `RecordEffects`; only a process
started with VPCCNI_KILL_POINTS=1 accepts them).
"""

from __future__ import annotations

import os
import signal
from types import TracebackType
from typing import Final

RECORDED_AT_MOST: Final = 10_000


class _Switch:
    """What is armed and recorded in this process."""

    def __init__(self) -> None:
        self.active = False
        self.recording: list[str] | None = None
        self.armed = ""
        self.left = 0
        self.before = True


_SWITCH = _Switch()


class _Unarmed:
    """The context of an effect nobody watches."""

    __slots__ = ()

    def __enter__(self) -> None:
        return None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None


class _Watched:
    """The context of an effect while the lab records or has armed something."""

    __slots__ = ("name",)

    def __init__(self, name: str) -> None:
        self.name = name

    def __enter__(self) -> None:
        if _SWITCH.recording is not None and len(_SWITCH.recording) < RECORDED_AT_MOST:
            _SWITCH.recording.append(self.name)
        if self.name == _SWITCH.armed:
            _SWITCH.left -= 1
            if _SWITCH.before and _SWITCH.left == 0:
                _die()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.name == _SWITCH.armed and not _SWITCH.before and _SWITCH.left == 0:
            _die()


_NOTHING: Final = _Unarmed()


def effect(name: str) -> _Unarmed | _Watched:
    """Return the context to run an effect in. `name` is `<adapter>.<what>`, constant at its place."""
    return _Watched(name) if _SWITCH.active else _NOTHING


def arm(name: str, *, nth: int, before: bool) -> None:
    """Die at the `nth` pass (1: the next) through effect `name` from now on; an empty name disarms."""
    _SWITCH.armed, _SWITCH.left, _SWITCH.before = name, nth, before
    _refresh()


def record(on: bool) -> list[str]:
    """Start (on) or stop recording; return what was recorded so far."""
    recorded = _SWITCH.recording or []
    _SWITCH.recording = [] if on else None
    _refresh()
    return recorded


def _refresh() -> None:
    _SWITCH.active = bool(_SWITCH.armed) or _SWITCH.recording is not None


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)

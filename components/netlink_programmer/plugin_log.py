"""The plugin's log: one JSON line an event of a CNI call, written through the descriptor that the plugin opened (docs/front-door.md).

The file lies on the host, which this process does not see. A line is one write of at most PIPE_BUF bytes, so that lines of two
writers never mix; what cannot be written at once (full disk, stuck reader) is lost and counted: no call waits for its log.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from typing import Final

from vpccni.components.netlink_programmer.frontdoor import LOG, Frame
from vpccni.components.netlink_programmer.request import CniRequest

LINE_BYTES: Final = 4096  # PIPE_BUF of Linux
MSG_CHARACTERS: Final = 2048
LEVELS: Final = {"debug": 10, "info": 20, "warn": 30, "warning": 30, "error": 40, "fatal": 50}
"""Words of `pluginLogLevel` (spec dataplane.md 4.2); any other means debug."""
STATUS_LEVEL: Final = "error"
"""Runtimes ask for STATUS every few seconds: only its failures are news."""


def level_of(request: CniRequest) -> object:
    """Return the least level that the call's lines need to be written."""
    return STATUS_LEVEL if request.command == "STATUS" else request.config.get("pluginLogLevel")


def begun(request: CniRequest, trace: str) -> str:
    """Return the text that says what was asked."""
    sandbox = f"container {request.sandbox.container_id} interface {request.sandbox.ifname}"
    return f"{request.command} begins: {sandbox} netns {request.netns} pod {request.pod} version {request.version} [{trace}]"


def done(request: CniRequest, answer: str, ms: float, trace: str) -> str:
    """Return the text that says how it ended well; `answer` is what the runtime gets."""
    result = f": {' '.join(answer.split())}" if answer else ""
    return f"{request.command} of {request.sandbox.container_id} done in {ms} ms{result} [{trace}]"


def failed(command: str, container: str, error: Exception, trace: str) -> str:
    """Return the text that says why it ended badly."""
    return f"{command} of {container} failed: {error} [{trace}]"


class PluginLog:
    """The log of one call, while the frame has its descriptor. `lost` is told of each line that could not be written."""

    def __init__(self, frame: Frame, *, lost: Callable[[], None]) -> None:
        self._frame, self._lost = frame, lost
        self._least = LEVELS["debug"]

    def set_level(self, word: object) -> None:
        """Take the conflist's `pluginLogLevel`, in any case."""
        known = LEVELS.get(word.lower()) if isinstance(word, str) else None
        self._least = known or LEVELS["debug"]

    def debug(self, msg: str) -> None:
        self._write("debug", msg)

    def info(self, msg: str) -> None:
        self._write("info", msg)

    def error(self, msg: str) -> None:
        self._write("error", msg)

    def _write(self, level: str, msg: str) -> None:
        descriptor = self._frame.descriptors.get(LOG)
        if descriptor is None or LEVELS[level] < self._least:
            return
        try:
            os.write(descriptor, _line(level, msg, _caller(), time.time()))
        except OSError:
            self._lost()


def _line(level: str, msg: str, caller: str, now: float) -> bytes:
    """Return the line (spec dataplane.md 4.7), cut so far that it stays one write."""
    stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(now)) + f".{int(now % 1 * 1000):03d}Z"
    room = MSG_CHARACTERS
    while True:
        record = {"level": level, "ts": stamp, "caller": caller, "msg": msg[:room]}
        line = (json.dumps(record, ensure_ascii=False) + "\n").encode(errors="replace")
        if len(line) <= LINE_BYTES:
            return line
        room //= 2


def _caller() -> str:
    """Return the file and line that logs: it called `debug`, `info` or `error`."""
    frame = sys._getframe(3)
    return f"netlink_programmer/{os.path.basename(frame.f_code.co_filename)}:{frame.f_lineno}"

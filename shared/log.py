"""Structured logs: a constant phrase and fields, one JSON line, findable by pod, sandbox, address, ENI or trace id.

The standard library's logging would do; ours is smaller and keeps what a trace needs: the last lines of each trace stay in a
bounded memory, so that `vpccni trace ID` can tell the story of one ADD from all processes. Field names come from `FIELDS`.
Levels change at run time for one process and return by themselves.
"""

from __future__ import annotations

import json
import os
import sys
import time
import traceback
from collections import OrderedDict, deque
from typing import IO, Final

from vpccni.shared.messages.common import TraceLine

LEVELS: Final = {"debug": 10, "info": 20, "warning": 30, "error": 40}
ALIASES: Final = {"warn": "warning", "fatal": "error"}
"""The reference's words for levels (spec env.md 4)."""
TRACES_KEPT: Final = 512
LINES_A_TRACE: Final = 64
ROTATE_BYTES: Final = 100 * 1024 * 1024
ROTATE_FILES: Final = 5

FIELDS: Final = frozenset(
    """address addresses api card cause code component container count detail device elements eni error forgotten host_veth
    ifindex instance kind level ms netns on outcome path peer pid pod policies reason refiltered remedy route_table sandbox seconds
    state subnet total trace traceback value what why""".split()
)
"""Names a field may have: an operator greps for them."""


def level_name(text: str, *, default: str = "debug") -> str:
    """Return one of `LEVELS` for a level's name in any spelling operators use; `default` for another word."""
    word = text.strip().lower()
    word = ALIASES.get(word, word)
    return word if word in LEVELS else default


class Log:
    """The log of one process. `trace` binds a trace id for the lines of one request."""

    def __init__(self, component: str, *, level: str = "info", path: str = "stderr") -> None:
        self.component = component
        self.level = level_name(level)
        self._stream, self._path = _open(path)
        self._traces: OrderedDict[str, deque[TraceLine]] = OrderedDict()

    def debug(self, event: str, *, trace: str = "", **fields: object) -> None:
        self._write("debug", event, trace, fields)

    def info(self, event: str, *, trace: str = "", **fields: object) -> None:
        self._write("info", event, trace, fields)

    def warning(self, event: str, *, trace: str = "", **fields: object) -> None:
        self._write("warning", event, trace, fields)

    def error(self, event: str, *, trace: str = "", **fields: object) -> None:
        self._write("error", event, trace, fields)

    def exception(self, event: str, error: BaseException, *, trace: str = "", **fields: object) -> None:
        """An error with its traceback: something that should not have happened."""
        text = "".join(traceback.format_exception(error))[-4000:]
        self._write("error", event, trace, {**fields, "error": repr(error), "traceback": text})

    def lines_of(self, trace_id: str) -> list[TraceLine]:
        """Return what is remembered of a trace, oldest first."""
        return list(self._traces.get(trace_id, ()))

    def _write(self, level: str, event: str, trace: str, fields: dict[str, object]) -> None:
        if trace:
            self._remember(trace, level, event, fields)
        if LEVELS[level] < LEVELS[self.level]:
            return
        now = time.time()
        stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(now)) + f".{int(now % 1 * 1000):03d}Z"
        record: dict[str, object] = {"level": level, "ts": stamp, "component": self.component, "msg": event}
        if trace:
            record["trace"] = trace
        record.update(fields)
        self._stream.write(json.dumps(record, default=str) + "\n")
        self._stream.flush()
        if self._path and self._stream.tell() > ROTATE_BYTES:
            self._rotate()

    def _remember(self, trace: str, level: str, event: str, fields: dict[str, object]) -> None:
        lines = self._traces.get(trace)
        if lines is None:
            lines = self._traces[trace] = deque(maxlen=LINES_A_TRACE)
            while len(self._traces) > TRACES_KEPT:
                self._traces.popitem(last=False)
        lines.append(TraceLine(time.time(), self.component, level, event, {k: str(v) for k, v in fields.items()}))

    def _rotate(self) -> None:
        for number in range(ROTATE_FILES - 1, 0, -1):
            older = f"{self._path}.{number}"
            if os.path.exists(older):
                os.replace(older, f"{self._path}.{number + 1}")
        os.replace(self._path, f"{self._path}.1")
        self._stream.close()
        self._stream, _ = _open(self._path)


def _open(path: str) -> tuple[IO[str], str]:
    """Return the stream for `stdout`, `stderr` or a path, and the path if it is one (a file that cannot be opened: stderr)."""
    if path.lower() == "stdout":
        return sys.stdout, ""
    if path.lower() in ("", "stderr"):
        return sys.stderr, ""
    try:
        os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
        return open(path, "a", encoding="utf-8"), path
    except OSError as error:
        sys.stderr.write(f"log file {path} cannot be opened ({error}); logging to standard error\n")
        return sys.stderr, ""

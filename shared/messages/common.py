"""Messages that every process answers or publishes, whoever it is."""

from __future__ import annotations

from typing import Any

import msgspec

from vpccni.shared.messages.base import Message


class ErrorReply(Message, frozen=True, kw_only=True, tag="common.error"):
    """The answer to a request that could not be carried out. `code` never changes: metric label and docs anchor."""

    code: str
    what: str
    on: str = ""
    why: str = ""
    remedy: str = ""


class GetStatus(Message, frozen=True, kw_only=True, tag="common.get_status"):
    """Answered by `Status`. Asking twice changes nothing."""


class Counter(msgspec.Struct, frozen=True):
    """One counter since this process's start: publisher adds across epochs."""

    name: str
    value: float
    labels: dict[str, str] = {}


class Gauge(msgspec.Struct, frozen=True):
    """One value as it is now."""

    name: str
    value: float
    labels: dict[str, str] = {}


class Status(Message, frozen=True, kw_only=True, tag="common.status"):
    """State, health and metrics of a process as one document. Published with each heartbeat (5 s) and on request.

    `state`: "starting", "serving" or "degraded"; `reasons` says why it is not serving fully, one sentence each.
    """

    process: str
    pid: int
    epoch: str
    started_at: float
    now: float
    state: str
    reasons: list[str] = []
    log_level: str = "info"
    counters: list[Counter] = []
    gauges: list[Gauge] = []
    detail: dict[str, Any] = {}


class Snapshot(Message, frozen=True, kw_only=True, tag="common.snapshot"):
    """The latest published message of each type: `messages` is a list of [tag, body], `sequence` the last one published."""

    epoch: str
    sequence: int
    messages: list[tuple[str, dict[str, Any]]]


class GetSnapshot(Message, frozen=True, kw_only=True, tag="common.get_snapshot"):
    """Answered by `Snapshot`."""


class SetLogLevel(Message, frozen=True, kw_only=True, tag="common.set_log_level"):
    """Change the level of the receiving process; after `for_seconds` (0: never) it returns to what it was. Answer: `Done`."""

    level: str
    for_seconds: float = 0.0


class GetTrace(Message, frozen=True, kw_only=True, tag="common.get_trace"):
    """Ask for what this process remembers of a trace id (bounded memory). Answered by `Trace`."""

    trace_id: str


class TraceLine(msgspec.Struct, frozen=True):
    """One log record of a trace: wall clock seconds, process, level, phrase and fields."""

    at: float
    process: str
    level: str
    event: str
    fields: dict[str, str]


class Trace(Message, frozen=True, kw_only=True, tag="common.trace"):
    """What one process remembers of a trace."""

    trace_id: str
    lines: list[TraceLine]


class Done(Message, frozen=True, kw_only=True, tag="common.done"):
    """Carried out, nothing more to say."""


class ArmKillPoint(Message, frozen=True, kw_only=True, tag="common.arm_kill_point"):
    """Lab only: die (SIGKILL) `before` or `after` the `nth` pass through `effect` from now on. Empty effect: disarm."""

    effect: str
    nth: int = 1
    before: bool = True


class RecordEffects(Message, frozen=True, kw_only=True, tag="common.record_effects"):
    """Lab only: start (clear) or stop recording the effects passed. Answer: `EffectsRecorded`."""

    on: bool


class EffectsRecorded(Message, frozen=True, kw_only=True, tag="common.effects_recorded"):
    """Names of the effects passed since recording began, in order."""

    effects: list[str]

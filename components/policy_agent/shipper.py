"""Ships the flow log: a batch every five seconds, one call at a time, in a thread; what fails waits and is tried again with back-off."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Final, Protocol

from vpccni.components.policy_agent.flow_log import Verdict
from vpccni.components.policy_agent.shipping import Line, Outbox, shipped
from vpccni.shared.backoff import Backoff
from vpccni.shared.errors import VpccniError
from vpccni.shared.process import Process

SHIP_EVERY_S: Final = 5.0
AFTER_FAILURE: Final = Backoff(5.0, 300.0)
CONDITION: Final = "flow log shipping"


class Logs(Protocol):
    """Where lines go; blocks, and raises VpccniError."""

    def put(self, lines: Sequence[Line]) -> None: ...


class Shipper:
    """See the module. `open_logs` is called once, in the thread, with the first lines; `wall_ms`: the wall clock."""

    def __init__(
        self, process: Process, open_logs: Callable[[], Logs], *, node: str, wall_ms: Callable[[], int]
    ) -> None:
        self._process, self._open, self._node, self._wall_ms = process, open_logs, node, wall_ms
        self._outbox = Outbox()
        self._logs: Logs | None = None
        self._is_shipping = False
        self._failures = 0
        self._not_before = 0.0
        process.gauge("vpccni_policy_verdicts_waiting", lambda: float(len(self._outbox)))
        process.gauge("vpccni_policy_verdicts_unshipped", lambda: float(self._outbox.lost))
        process.loop.every(SHIP_EVERY_S, self._begin, name="ship the flow log")

    def add(self, one: Verdict) -> None:
        """Take a verdict: denied ones, and all at level debug (spec policy.md 5.14)."""
        if not one.allowed or one.audit or self._process.log.level == "debug":
            self._outbox.add(Line(self._wall_ms(), shipped(one, node=self._node)))

    def _begin(self) -> None:
        if len(self._outbox) and not self._is_shipping and self._process.loop.clock() >= self._not_before:
            self._is_shipping = True
            self._process.loop.spawn(self._ship(), name="ship flow log lines")

    async def _ship(self) -> None:
        lines = self._outbox.take()
        try:
            await self._process.loop.in_thread(self._put, lines)
        except VpccniError as error:
            self._failures += 1
            self._outbox.put_back(lines)
            self._not_before = self._process.loop.clock() + AFTER_FAILURE.pause_s(self._failures, random.random())
            self._process.count("vpccni_policy_ship_failures", 1, code=error.code)
            self._process.degraded(CONDITION, f"The flow log does not reach CloudWatch: {error.line()}")
        else:
            self._failures = 0
            self._process.healthy(CONDITION)
            self._process.count("vpccni_policy_verdicts_shipped", len(lines))
        finally:
            self._is_shipping = False

    def _put(self, lines: list[Line]) -> None:
        if self._logs is None:
            self._logs = self._open()
        self._logs.put(lines)

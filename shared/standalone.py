"""A process of the cluster: loop, log, counters, health and a tidy end, without bus, run folder or the node's settings."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from vpccni.shared.clock import boottime
from vpccni.shared.exposition import Series
from vpccni.shared.kube import Kube
from vpccni.shared.log import Log
from vpccni.shared.loop import Future, Loop
from vpccni.shared.signals import when_told_to_end
from vpccni.shared.vitals import Vitals

END_WITHIN_S: Final = 3.0
"""What is to be done before the end has this long; the chart's grace period is 10 s (spec policy.md 3.1)."""


class Standalone(Vitals):
    """See the module. `run` returns the exit status."""

    def __init__(self, name: str, raw: Mapping[str, str], log: Log, *, version: str) -> None:
        super().__init__(log)
        self.name, self.raw, self.version = name, raw, version
        self.started_at = boottime()
        self.loop = Loop(on_error=self._on_error)
        self.before_end: Callable[[], Future[None]] | None = None
        """What is to be done, and waited for, before an orderly end."""
        self._kubes: list[Kube] = []
        self._status = 0
        self._ending = False

    def kube(self) -> Kube:
        """Return an API with a connection for calls of its own."""
        kube = Kube(
            self.loop,
            self.raw,
            user_agent=f"{self.name}/{self.version}",
            count=self.count,
            degraded=self.degraded,
            healthy=self.healthy,
        )
        self._kubes.append(kube)
        return kube

    def reasons(self) -> list[str]:
        """Return why this process does not serve fully."""
        return list(self._reasons.values())

    def series(self) -> tuple[dict[Series, float], dict[Series, float]]:
        """Return (counters, gauges) as they are now."""
        return dict(self._counters), {series: value() for series, value in self._gauges.items()}

    def run(self) -> int:
        """Run until SIGTERM, SIGINT or `end`."""
        when_told_to_end(self.loop, lambda: self.end(0))
        self.loop.run()
        for kube in self._kubes:
            kube.stop()
        self.log.info("ended", value=self._status)
        return self._status

    def end(self, status: int) -> None:
        """End with an exit status, after `before_end` or `END_WITHIN_S`; a second call does not wait."""
        if self._ending:
            self.loop.stop()
            return
        self._ending, self._status = True, status
        if self.before_end is None:
            self.loop.stop()
            return
        self.loop.call_later(END_WITHIN_S, self.loop.stop)
        self.before_end().when_done(self.loop.stop)

    def _on_error(self, where: str, error: BaseException) -> None:
        self.count("vpccni_unexpected_errors", 1, where=where)
        self.log.exception("unexpected error", error, on=where)

"""EC2 calls for the loop: in a thread, in turn (`manners`), counted and timed under the public names (spec operations.md 2.3, 2.4)."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Final, TypeVar

from vpccni.components.eni_manager.hindrance import DENIALS, NO_ANSWER, THROTTLED, cause_of
from vpccni.components.eni_manager.latency import QUANTILE, Recent
from vpccni.components.eni_manager.manners import Manners
from vpccni.shared.errors import CloudRefused
from vpccni.shared.process import Process

T = TypeVar("T")

WAIT_AT_MOST_S: Final = 1.0
"""A call that waits for its turn looks again after this long: the pause may have ended early."""
TIMED_AS: Final = {"AssignIpv6Addresses": "AssignIpv6AddressesWithContext"}
"""The latency's label where it is not the action's name (spec operations.md 2.4): dashboards know it so."""


class Cloud:
    """See the module. `on_denied(api, sentence)` hears once of each action that the IAM policy lacks, until it works again."""

    def __init__(self, process: Process, *, on_denied: Callable[[str, str], None]) -> None:
        self._process = process
        self._on_denied = on_denied
        self._manners = Manners()
        self._known: set[str] = set()
        self._denied: set[str] = set()
        self._recent: dict[tuple[str, str, str], Recent] = {}

    async def call(self, api: str, work: Callable[[], T], *, routine: bool = False) -> T:
        """Run one EC2 action and return its result; raise `CloudRefused`. `routine`: nobody waits for an address because of it."""
        loop = self._process.loop
        self._meter(api)
        while (wait := self._manners.wait_s(api, routine=routine, now=loop.clock())) > 0:
            await loop.sleep(min(wait, WAIT_AT_MOST_S))
        started = loop.clock()
        self._process.count("awscni_ec2api_req_count", 1, fn=api)
        try:
            result = await loop.in_thread(work)
        except CloudRefused as error:
            self._refused(api, started, error)
            raise
        self._manners.answered(api)
        self._denied.discard(api)
        self._timed(api, started, failed="false", status="200")
        return result

    def spread(self, seconds: float) -> None:
        """Let tries after a throttling be spread over this time (see `patience`)."""
        self._manners.spread_s = seconds

    def open_at(self, api: str) -> float:
        """Return when a throttled action may be asked again (CLOCK_BOOTTIME seconds)."""
        return self._manners.open_at(api)

    def left_over(self, fn: str, error: CloudRefused) -> None:
        """Count what could not be cleaned up (spec operations.md 2.2); the label is EC2's code, not its whole text."""
        self._process.count("awscni_aws_utils_error_count", 1, fn=fn, error=error.error_code or "no answer")

    def _refused(self, api: str, started: float, error: CloudRefused) -> None:
        count, now = self._process.count, self._process.loop.clock()
        self._timed(api, started, failed="true", status=error.error_code)
        count("awscni_ec2api_error_count", 1, fn=api)
        count("awscni_aws_api_error_count", 1, api=api, error=error.error_code)
        self._process.log.warning("ec2 refuses", api=api, code=error.error_code, on=error.on, why=error.why)
        if cause_of(error.error_code) == THROTTLED:
            self._manners.throttled(api, now=now, random=random.random())
        elif error.error_code not in NO_ANSWER:
            self._manners.answered(api)
        if error.error_code in DENIALS and api not in self._denied:
            self._denied.add(api)
            self._on_denied(api, str(error))

    def _meter(self, api: str) -> None:
        if api not in self._known:
            self._known.add(api)
            clock = self._process.loop.clock
            self._process.gauge("vpccni_ec2_tokens_left", lambda: self._manners.tokens(api, now=clock()), api=api)
            self._process.gauge("vpccni_ec2_denied", lambda: float(api in self._denied), api=api)

    def _timed(self, api: str, started: float, *, failed: str, status: str) -> None:
        ms = (self._process.loop.clock() - started) * 1000
        timed = TIMED_AS.get(api, api)
        self._process.count("awscni_aws_api_latency_ms_sum", ms, api=timed, error=failed, status=status)
        self._process.count("awscni_aws_api_latency_ms_count", 1, api=timed, error=failed, status=status)
        self._recent_of(timed, failed, status).add(ms, self._process.loop.clock())
        self._process.log.debug("ec2 answered", api=api, code=status, ms=round(ms, 1))

    def _recent_of(self, api: str, failed: str, status: str) -> Recent:
        """Return the latest calls of a kind; the first one makes its quantile part of the public summary (spec operations.md 17.4)."""
        key = (api, failed, status)
        if key not in self._recent:
            recent, clock = Recent(), self._process.loop.clock
            self._recent[key] = recent
            labels = {"api": api, "error": failed, "status": status, "quantile": f"{QUANTILE:g}"}
            self._process.gauge("awscni_aws_api_latency_ms", lambda: recent.p99(clock()), **labels)
        return self._recent[key]

"""EC2 calls for the loop: in a thread, counted and timed under the public names (spec operations.md 2.3, 2.4)."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from vpccni.components.eni_manager.hindrance import DENIALS
from vpccni.shared.errors import CloudRefused
from vpccni.shared.process import Process

T = TypeVar("T")


class Cloud:
    """See the module. `on_denied(api, sentence)` hears of each action that the IAM policy lacks."""

    def __init__(self, process: Process, *, on_denied: Callable[[str, str], None]) -> None:
        self._process = process
        self._on_denied = on_denied

    async def call(self, api: str, work: Callable[[], T]) -> T:
        """Run one EC2 action and return its result; raise `CloudRefused`."""
        loop, count = self._process.loop, self._process.count
        started = loop.clock()
        count("awscni_ec2api_req_count", 1, fn=api)
        try:
            result = await loop.in_thread(work)
        except CloudRefused as error:
            self._timed(api, started, failed="true", status=error.error_code)
            count("awscni_ec2api_error_count", 1, fn=api)
            count("awscni_aws_api_error_count", 1, api=api, error=error.error_code)
            self._process.log.warning("ec2 refuses", api=api, code=error.error_code, on=error.on, why=error.why)
            if error.error_code in DENIALS:
                self._on_denied(api, str(error))
            raise
        self._timed(api, started, failed="false", status="200")
        return result

    def _timed(self, api: str, started: float, *, failed: str, status: str) -> None:
        ms = (self._process.loop.clock() - started) * 1000
        self._process.count("awscni_aws_api_latency_ms_sum", ms, api=api, error=failed, status=status)
        self._process.count("awscni_aws_api_latency_ms_count", 1, api=api, error=failed, status=status)
        self._process.log.debug("ec2 answered", api=api, code=status, ms=round(ms, 1))

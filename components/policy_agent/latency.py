"""From a change of the cluster to its programming on this node, as the reference measures it (spec policy.md 5.15)."""

from __future__ import annotations

import datetime
import time
from collections.abc import Sequence
from typing import Final

from vpccni.components.policy_agent.endpoints import Endpoint
from vpccni.components.policy_agent.policy import Tier
from vpccni.shared.kube import Change
from vpccni.shared.process import Process

BUCKETS_S: Final = (0.25, 0.5, *range(1, 60), *range(60, 120, 5), *range(120, 301, 30))
POLICY: Final = "awsnodeagent_policy_programming_latency_seconds"
CLUSTER_POLICY: Final = "awsnodeagent_cluster_policy_programming_latency_seconds"


class ProgrammingLatency:
    """Observes each trigger time of an object once; not those before the agent's start, nor of what failed, nor negative ones."""

    def __init__(self, process: Process) -> None:
        self._process = process
        self._since = time.time()

    def observe(self, changes: Sequence[Change[Endpoint]], *, failed: bool) -> None:
        """Take note that what these changes ask for is in force, or failed."""
        now = time.time()
        for change in changes:
            after, before = change.after, change.before
            if failed or after is None or (before is not None and before.triggered == after.triggered):
                continue
            triggered = seconds_of(after.triggered)
            if triggered is not None and self._since < triggered <= now:
                self._count(POLICY if after.tier is Tier.NETWORK_POLICY else CLUSTER_POLICY, now - triggered)

    def _count(self, name: str, seconds: float) -> None:
        for bound in BUCKETS_S:
            self._process.count(f"{name}_bucket", float(seconds <= bound), le=f"{bound:g}")
        self._process.count(f"{name}_bucket", 1, le="+Inf")
        self._process.count(f"{name}_sum", seconds)
        self._process.count(f"{name}_count", 1)


def seconds_of(text: str) -> float | None:
    """Return the wall time of an RFC 3339 text with up to nine digits of a second; None for what is none."""
    whole, _, fraction = text.rstrip("Z").partition(".")
    try:
        moment = datetime.datetime.fromisoformat(whole).replace(tzinfo=datetime.UTC)
        return moment.timestamp() + (float(f"0.{fraction}") if fraction else 0.0)
    except ValueError:
        return None

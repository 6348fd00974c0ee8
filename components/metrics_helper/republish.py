"""The page of the helper's own scrape: six sums of the cluster, and what the helper counts of itself (spec operations.md 4.6). Pure.

The original shows every other family of the nodes too, as 0; here a family that is not summed is not shown.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from vpccni.components.metrics_helper.families import REPUBLISHED
from vpccni.shared.exposition import COUNTER, GAUGE, Family, Series, render

SUMS: Final[Mapping[str, Family]] = {name: Family(GAUGE, "Sum over all aws-node pods") for name in REPUBLISHED}
OWN: Final[Mapping[str, Family]] = {
    "vpccni_helper_cycles": Family(COUNTER, "Cycles of collecting that ended"),
    "vpccni_helper_scrape_failures": Family(COUNTER, "Pods that could not be read in a cycle"),
    "vpccni_helper_cycle_seconds": Family(GAUGE, "Length of the last cycle"),
    "vpccni_helper_pods": Family(GAUGE, "Pods that the last cycle asked"),
    "vpccni_helper_publishes": Family(GAUGE, "1 while this replica is the one that collects and publishes"),
    "vpccni_helper_cloudwatch_waiting": Family(GAUGE, "Figures that wait for CloudWatch"),
    "vpccni_helper_cloudwatch_sent": Family(COUNTER, "Figures that CloudWatch took"),
    "vpccni_helper_cloudwatch_failures": Family(COUNTER, "Calls to CloudWatch that failed; their figures wait"),
    "vpccni_helper_cloudwatch_refused": Family(COUNTER, "Figures that CloudWatch will never take; they are lost"),
}
"""The helper's own families."""


def page(sums: Mapping[str, float], own: Mapping[str, float]) -> str:
    """Return the text: sums that are known, and every family of our own."""
    shown: dict[Series, float] = {(name, ()): float(sums[name]) for name in SUMS if name in sums}
    shown |= {(name, ()): float(own.get(name, 0)) for name in OWN}
    families = {**SUMS, **OWN}
    counters = {series: value for series, value in shown.items() if families[series[0]].kind == COUNTER}
    gauges = {series: value for series, value in shown.items() if families[series[0]].kind == GAUGE}
    return render(families, counters, gauges, otherwise="")

"""The page of the helper's own scrape: six sums of the cluster, and what the helper counts of itself (spec operations.md 4.6). Pure.

The original shows every other family of the nodes too, as 0; here a family that is not summed is not shown.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from vpccni.components.metrics_helper.families import REPUBLISHED

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
OWN: Final[Mapping[str, tuple[str, str]]] = {
    "vpccni_helper_cycles": ("counter", "Cycles of collecting that ended"),
    "vpccni_helper_scrape_failures": ("counter", "Pods that could not be read in a cycle"),
    "vpccni_helper_cycle_seconds": ("gauge", "Length of the last cycle"),
    "vpccni_helper_pods": ("gauge", "Pods that the last cycle asked"),
    "vpccni_helper_publishes": ("gauge", "1 while this replica is the one that collects and publishes"),
    "vpccni_helper_cloudwatch_waiting": ("gauge", "Figures that wait for CloudWatch"),
    "vpccni_helper_cloudwatch_sent": ("counter", "Figures that CloudWatch took"),
    "vpccni_helper_cloudwatch_failures": ("counter", "Calls to CloudWatch that failed; their figures wait"),
    "vpccni_helper_cloudwatch_refused": ("counter", "Figures that CloudWatch will never take; they are lost"),
}
"""Type and help of the helper's own families."""


def page(sums: Mapping[str, float], own: Mapping[str, float]) -> str:
    """Return the text: sums that are known, and every family of our own."""
    lines: list[str] = []
    for family in REPUBLISHED:
        if family in sums:
            lines += _family(family, "gauge", "Sum over all aws-node pods", sums[family])
    for family, (kind, told) in OWN.items():
        lines += _family(family, kind, told, own.get(family, 0.0))
    return "\n".join(lines) + "\n"


def _family(name: str, kind: str, told: str, value: float) -> list[str]:
    return [f"# HELP {name} {told}", f"# TYPE {name} {kind}", f"{name} {value:.15g}"]

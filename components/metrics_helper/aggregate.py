"""From all pods' pages to the cluster's figures (spec operations.md 4.4, its weak spots 17.1, 17.2, 17.4, 17.6 corrected). Pure.

A counter's figure is what happened since the pod was last read: each series of each pod is compared with its own last value, so that
neither the order of pods nor the coming and going of others matters. A pod's first page is only the beginning to compare with; a series
that went down begins again at 0; a series that is new on a known pod began at 0; a pod that could not be read gives later what it has.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Final

from vpccni.components.metrics_helper.families import COUNTER, FORWARDED, GAUGE, LATENCY
from vpccni.components.metrics_helper.parse import Page, Samples

_QUANTILE: Final = re.compile(r'[{,]quantile="([^"]*)"')
P99: Final = 0.99
_SUM, _COUNT = "_sum", "_count"


@dataclass(frozen=True, slots=True)
class Memory:
    """The last page of each pod that is still there, by the pod's uid."""

    pages: Mapping[str, Page] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Figures:
    """`values` by family; a family without one has nothing to tell. `began_again`: pods whose counters went down."""

    values: Mapping[str, float]
    began_again: tuple[str, ...] = ()


def aggregate(memory: Memory, read: Mapping[str, Page], present: Collection[str]) -> tuple[Memory, Figures]:
    """Return what to remember and the figures of this cycle.

    `read`: the pages of the pods that could be read now; `present`: the pods that there are, read or not.
    """
    values: dict[str, float] = {}
    began_again: list[str] = []
    latencies: list[float] = []
    for uid, page in read.items():
        before = memory.pages.get(uid)
        fell = False
        for family, samples in page.items():
            kind = FORWARDED[family].kind
            if kind == GAUGE:
                values[family] = values.get(family, 0.0) + sum(samples.values())
            elif kind == COUNTER and before is not None:
                grown, down = _growth(before.get(family, {}), samples)
                values[family] = values.get(family, 0.0) + grown
                fell = fell or down
        if fell:
            began_again.append(uid)
        latencies += _latencies(
            {} if before is None else before.get(LATENCY, {}), page.get(LATENCY, {}), before is not None
        )
    if latencies:
        values[LATENCY] = max(latencies)
    kept = {uid: page for uid, page in memory.pages.items() if uid in present}
    return Memory({**kept, **{uid: page for uid, page in read.items() if uid in present}}), Figures(
        values, tuple(began_again)
    )


def _growth(before: Samples, now: Samples) -> tuple[float, bool]:
    """Return by how much the series grew together, and whether one went down."""
    grown, fell = 0.0, False
    for series, value in now.items():
        last = before.get(series, 0.0)
        fell = fell or value < last
        grown += value - last if value >= last else value
    return grown, fell


def _latencies(before: Samples, now: Samples, is_known: bool) -> list[float]:
    """Return milliseconds of one pod: the 0.99 quantiles where it tells them, else the mean of each series' calls since its last page."""
    quantiles = [(found[1], value) for series, value in now.items() if (found := _QUANTILE.search(series))]
    if quantiles:
        return [value for quantile, value in quantiles if _is_p99(quantile) and not math.isnan(value)]
    return _means(before, now) if is_known else []


def _is_p99(quantile: str) -> bool:
    try:
        return float(quantile) == P99
    except ValueError:
        return False


def _means(before: Samples, now: Samples) -> list[float]:
    means = []
    for series, count in now.items():
        if series.startswith(_COUNT):
            labels = series.removeprefix(_COUNT)
            calls, _ = _growth({"": before.get(series, 0.0)}, {"": count})
            took, _ = _growth({"": before.get(_SUM + labels, 0.0)}, {"": now.get(_SUM + labels, 0.0)})
            means += [took / calls] if calls > 0 else []
    return means

"""A measured row, its budget, and the table that is printed. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

PERCENTILES: Final = (50, 90, 99)
RATE_UNIT: Final = "pods/s"
"""The one unit of which more is better."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """Figures of one measurement by name (p50, p99, value ...), and those of them that have a budget.

    `load`: the machine's load average of the last minute when it was taken; the bench's own work is part of it.
    """

    name: str
    unit: str
    figures: Mapping[str, float]
    budget: Mapping[str, float] = field(default_factory=dict)
    note: str = ""
    load: float = 0.0

    def met(self) -> bool | None:
        """Tell whether every budgeted figure is inside its budget; None without a budget."""
        if not self.budget:
            return None
        if self.unit == RATE_UNIT:
            return all(self.figures[name] >= wanted for name, wanted in self.budget.items())
        return all(self.figures[name] <= wanted for name, wanted in self.budget.items())


def percentiles(seconds: Sequence[float]) -> dict[str, float]:
    """Return p50, p90 and p99 in milliseconds (nearest rank); not-a-number when nothing was measured."""
    ordered = sorted(seconds)
    if not ordered:
        return {f"p{share}": math.nan for share in PERCENTILES}
    last = len(ordered) - 1
    return {f"p{share}": ordered[min(last, math.ceil(share / 100 * len(ordered)) - 1)] * 1000 for share in PERCENTILES}


def ratio(row: Row, before: Mapping[str, Mapping[str, float]]) -> float | None:
    """Return the row's first figure over the same one of the last run; None when there is none to compare with."""
    name = next(iter(row.figures))
    now, then = row.figures[name], before.get(row.name, {}).get(name)
    return now / then if then and not math.isnan(now / then) else None


def table(rows: Sequence[Row], before: Mapping[str, Mapping[str, float]]) -> str:
    """Return the table: figures, budget, whether it was met, and the ratio to the last run."""
    lines = [("what", "measured", "unit", "budget", "", "x last", "load", "")]
    for row in rows:
        against = ratio(row, before)
        met = row.met()
        lines.append((
            row.name,
            _figures(row.figures),
            row.unit,
            _figures(row.budget),
            "" if met is None else "met" if met else "MISSED",
            "" if against is None else f"{against:.2f}",
            f"{row.load:.1f}",
            row.note,
        ))  # fmt: skip
    widths = [max(len(line[column]) for line in lines) for column in range(7)]
    return "\n".join(
        "  ".join([*(f"{cell:<{width}}" for cell, width in zip(line, widths, strict=False)), line[-1]]).rstrip()
        for line in lines
    )


def _figures(figures: Mapping[str, float]) -> str:
    names = list(figures)
    if names == ["value"]:
        return _number(figures["value"])
    return "  ".join(f"{name} {_number(figures[name])}" for name in names)


def _number(value: float) -> str:
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"

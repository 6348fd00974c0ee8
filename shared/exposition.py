"""Prometheus' text format. Pure.

The Python client would append `_total` and `_created` to the reference's names and would cost more memory than the process that
publishes, so the format is written here: it is a page.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

Labels = tuple[tuple[str, str], ...]
Series = tuple[str, Labels]
CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
COUNTER, GAUGE, SUMMARY, HISTOGRAM = "counter", "gauge", "summary", "histogram"
BOUND: Final = "le"
PARTS: Final[Mapping[str, tuple[str, ...]]] = {SUMMARY: ("_sum", "_count"), HISTOGRAM: ("_bucket", "_sum", "_count")}
"""What a sample's name has behind the family's."""


@dataclass(frozen=True, slots=True)
class Family:
    """One metric family. `scalar`: it has no labels and shows 0 from the start (spec operations.md 2.1 d)."""

    kind: str
    help: str
    scalar: bool = False


_ESCAPES: Final = str.maketrans({"\\": "\\\\", "\n": "\\n", '"': '\\"'})


def render(
    families: Mapping[str, Family], counters: Mapping[Series, float], gauges: Mapping[Series, float], *, otherwise: str
) -> str:
    """Return the page, families in order of name. A family is one type: a gauge that has a counter's name is left out.

    `otherwise`: the help of a family that is not in `families`.
    """
    lines_of: dict[str, list[str]] = {}
    kinds: dict[str, str] = {}
    for default, given in ((COUNTER, counters), (GAUGE, gauges)):
        for (name, labels), value in sorted(given.items(), key=_order):
            family, kind = _family_of(families, name, default)
            if kinds.setdefault(family, kind) == kind:
                lines_of.setdefault(family, []).append(f"{name}{_labels(labels)} {_number(value)}")
    page: list[str] = []
    for family in sorted(lines_of):
        known = families.get(family)
        page.append(f"# HELP {family} {known.help if known else otherwise}")
        page.append(f"# TYPE {family} {kinds[family]}")
        page.extend(lines_of[family])
    return "\n".join(page) + "\n"


def _family_of(families: Mapping[str, Family], name: str, default: str) -> tuple[str, str]:
    if name in families:
        return name, families[name].kind
    for kind, parts in PARTS.items():
        for part in parts:
            stem = name.removesuffix(part)
            if stem != name and stem in families and families[stem].kind == kind:
                return stem, kind
    return name, default


def _order(sample: tuple[Series, float]) -> tuple[str, Labels, float]:
    """Return by what samples are ordered: the buckets of a histogram by their bound as a number."""
    (name, labels), _ = sample
    bound = dict(labels).get(BOUND, "0")
    return name, tuple(pair for pair in labels if pair[0] != BOUND), float(bound)


def _labels(labels: tuple[tuple[str, str], ...]) -> str:
    return "{" + ",".join(f'{name}="{value.translate(_ESCAPES)}"' for name, value in labels) + "}" if labels else ""


def _number(value: float) -> str:
    return str(int(value)) if value.is_integer() and abs(value) < 1e15 else repr(value)

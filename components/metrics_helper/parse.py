"""A pod's page in Prometheus' text format, as far as it is forwarded. Pure.

The whole page is checked, for a page that is broken somewhere cannot be believed elsewhere; only what `families` names is kept.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from vpccni.components.metrics_helper.families import FORWARDED, SUMMARY
from vpccni.shared.errors import VpccniError

Samples = Mapping[str, float]
"""Values by what stands behind the family's name: `_sum` or `_count` of a summary, and the labels as written."""
Page = Mapping[str, Samples]
"""Samples by family."""

_SAMPLE: Final = re.compile(
    r"([a-zA-Z_:][a-zA-Z0-9_:]*)"
    r'(\{(?:[a-zA-Z_][a-zA-Z0-9_]*="(?:[^"\\]|\\.)*",?[ \t]*)*\})?'
    r"[ \t]+([-+.0-9a-zA-Z]+)(?:[ \t]+-?[0-9]+)?[ \t]*"
)
_PARTS: Final = ("_sum", "_count")


class Unreadable(VpccniError):
    """The text is no page of metrics."""

    code = "unreadable_page"


def parse(text: str) -> Page:
    """Return the forwarded families of a page that are typed as they should be. Raises Unreadable."""
    page: dict[str, dict[str, float]] = {}
    typed: set[str] = set()
    for number, line in enumerate(text.splitlines(), 1):
        if line.startswith("#"):
            _note_type(line, typed)
        elif line.strip():
            _take(line, number, page)
    return {family: samples for family, samples in page.items() if family in typed}


def _note_type(line: str, typed: set[str]) -> None:
    words = line.split()
    is_type = len(words) == 4 and words[:2] == ["#", "TYPE"] and words[2] in FORWARDED
    if is_type and words[3] == FORWARDED[words[2]].kind:
        typed.add(words[2])


def _take(line: str, number: int, page: dict[str, dict[str, float]]) -> None:
    found = _SAMPLE.fullmatch(line)
    if found is None:
        raise Unreadable("the page cannot be read", on=f"line {number}", why=f"{line!r:.60} is no sample")
    name, labels, value = found[1], found[2] or "", _value(found[3], number)
    family, part = _family_of(name)
    if family:
        page.setdefault(family, {})[part + labels] = value


def _value(text: str, number: int) -> float:
    try:
        return float(text)
    except ValueError:
        raise Unreadable("the page cannot be read", on=f"line {number}", why=f"{text!r:.30} is no number") from None


def _family_of(name: str) -> tuple[str, str]:
    """Return the forwarded family that a sample belongs to, empty for none, and what its name has behind the family's."""
    if name in FORWARDED:
        return name, ""
    for part in _PARTS:
        stem = name.removesuffix(part)
        if stem != name and stem in FORWARDED and FORWARDED[stem].kind == SUMMARY:
            return stem, part
    return "", ""

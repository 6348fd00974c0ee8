"""docs/metrics.md names every family there is, and none that there is not."""

from __future__ import annotations

import re
from pathlib import Path

from vpccni.components.metrics_helper.families import FORWARDED
from vpccni.components.metrics_publisher.exposition import FAMILIES

ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "docs" / "metrics.md").read_text(encoding="utf-8")
DOCUMENTED = set(re.findall(r"`((?:awscni|vpccni)_[a-z0-9_]+)`", PAGE))
IN_CODE = re.compile(r"""["']((?:awscni|vpccni)_[a-z0-9_]+)["']""")
NO_FAMILIES = {"vpccni_"}
"""Texts of the code that only look like one."""


def families_in_code() -> set[str]:
    sources = [path for folder in ("components", "shared") for path in (ROOT / folder).rglob("*.py")]
    names = {name for path in sources for name in IN_CODE.findall(path.read_text(encoding="utf-8"))} - NO_FAMILIES
    parts = ("_sum", "_count", "_bucket")
    return {
        name for name in names if not any(name.removesuffix(part) in names for part in parts if name.endswith(part))
    }


def test_every_family_of_the_code_is_documented() -> None:
    missing = families_in_code() - DOCUMENTED
    assert not missing, f"write a line for each into docs/metrics.md: {sorted(missing)}"


def test_no_family_is_documented_that_is_not_there() -> None:
    assert DOCUMENTED - families_in_code() - FAMILIES.keys() == set()


def test_every_figure_of_cloudwatch_is_documented_with_its_family_and_kind() -> None:
    for name, one in FORWARDED.items():
        kind = "counter" if one.kind == "counter" else "gauge"
        assert re.search(rf"^\| `{one.metric}` \| `{name}`.* \| {kind} \|$", PAGE, re.MULTILINE), one.metric

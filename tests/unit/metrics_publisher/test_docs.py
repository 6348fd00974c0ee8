"""docs/metrics.md names every family there is, and none that there is not; docs/runbooks.md asks for what there is."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from vpccni.__main__ import ELSEWHERE
from vpccni.components.metrics_helper.families import FORWARDED
from vpccni.components.metrics_publisher.exposition import FAMILIES
from vpccni.shared.settings_file import KNOWN

ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "docs" / "metrics.md").read_text(encoding="utf-8")
DOCUMENTED = set(re.findall(r"`((?:awscni|vpccni)_[a-z0-9_]+)`", PAGE))
RUNBOOKS = (ROOT / "docs" / "runbooks.md").read_text(encoding="utf-8")
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


def test_runbooks_name_families_causes_and_commands_that_there_are() -> None:
    named = {name.removesuffix("_count") for name in re.findall(r"\b((?:awscni|vpccni)_[a-z0-9_]+)", RUNBOOKS)}
    families = {name.removesuffix("_count") for name in families_in_code() | FAMILIES.keys()}
    assert named - families == set()
    errors = (ROOT / "docs" / "errors.md").read_text(encoding="utf-8")
    causes = set(
        re.findall(
            r"`([A-Z][A-Z0-9]+_[A-Z_]+|GROWING|COOLDOWN|CORDONED|FRAGMENTED|DENIED|THROTTLED|STARTING)`", RUNBOOKS
        )
    )
    settings = {name for name in causes if name in KNOWN} | {"NO_PROXY", "AWS_REGION", "AWS_CLUSTER_ID"}
    assert {name for name in causes - settings if f"`{name}`" not in errors} == set()
    verbs = set(re.findall(r"\bvpccni ([a-z-]+)(?![a-z_])", RUNBOOKS)) - {"and"}
    told = subprocess.run([sys.executable, "-m", "vpccni", "--help"], capture_output=True, text=True, check=True).stdout
    assert {verb for verb in verbs if verb not in ELSEWHERE and verb not in told} == set()


def test_each_runbook_of_the_list_is_there() -> None:
    listed = re.findall(r"^\d+\. \[(.+)\]\(#(.+)\)$", RUNBOOKS, re.MULTILINE)
    headed = re.findall(r"^## (\d+\. .+)$", RUNBOOKS, re.MULTILINE)
    assert len(listed) == 10
    assert [anchor for _, anchor in listed] == [
        re.sub(r"[^a-z0-9 -]", "", head.lower()).replace(" ", "-") for head in headed
    ]

"""Alerts and dashboard: only families that some process has, and Prometheus' own opinion of the rules."""

from __future__ import annotations

import json
import re
import subprocess

import pytest
import yaml
from charts.objects import CHART, ROOT
from support.fetched import debian_programs

from vpccni.components.metrics_publisher.exposition import FAMILIES

ALERTS = CHART / "files" / "alerts.yaml"
DASHBOARD = CHART / "files" / "dashboard.json"
METRIC = re.compile(r"\b(?:awscni|vpccni)_[a-z0-9_]+\b")
PROMETHEUS = ("prometheus",)


def known() -> set[str]:
    """Names that the code counts or measures under, with what the exposition makes of them."""
    code = "".join(path.read_text() for folder in ("components", "shared") for path in (ROOT / folder).rglob("*.py"))
    names = set(re.findall(r'"((?:awscni|vpccni)_[a-z0-9_]+)"', code)) | set(FAMILIES)
    return names | {f"{name}_{part}" for name in names for part in ("sum", "count", "bucket")}


def expressions() -> list[str]:
    rules = [rule["expr"] for group in yaml.safe_load(ALERTS.read_text())["groups"] for rule in group["rules"]]
    panels = json.loads(DASHBOARD.read_text())["panels"]
    return rules + [target["expr"] for panel in panels for target in panel["targets"]]


@pytest.mark.parametrize("expression", expressions())
def test_every_metric_exists(expression: str) -> None:
    named = set(METRIC.findall(expression))
    assert named
    assert named - known() == set()


def test_panels_do_not_lie_on_each_other() -> None:
    places = [(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in json.loads(DASHBOARD.read_text())["panels"]]
    assert len(set(places)) == len(places)


def test_every_alert_says_what_to_do() -> None:
    for group in yaml.safe_load(ALERTS.read_text())["groups"]:
        for rule in group["rules"]:
            assert rule["labels"]["severity"] in ("warning", "critical")
            assert set(rule["annotations"]) == {"summary", "description"}


@pytest.mark.full
def test_prometheus_takes_the_rules() -> None:
    root = debian_programs(PROMETHEUS, ROOT / "build" / "prometheus")
    done = subprocess.run(
        [root / "usr/bin/promtool", "check", "rules", ALERTS], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "11 rules found" in done.stdout

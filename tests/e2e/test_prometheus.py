"""A real Prometheus (Debian's) scrapes a node with the chart's alert rules: every family is taken, every rule can be evaluated."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from charts.objects import CHART, ROOT
from support.fetched import debian_programs
from support.waiting import until

from vpccni.lab.api import Lab

pytestmark = pytest.mark.full

PORT = 19090
TARGET = "127.0.0.1:61678"
WITHIN_S = 90.0
CONFIG = f"""global: {{scrape_interval: 1s, evaluation_interval: 1s}}
rule_files: ["{CHART}/files/alerts.yaml"]
scrape_configs:
  - job_name: aws-node
    static_configs: [{{targets: ["{TARGET}"]}}]
"""
ASK = "import sys, urllib.request; print(urllib.request.urlopen(sys.argv[1], timeout=5).read().decode())"


class Prometheus:
    """One that runs in a node's namespaces, asked there."""

    def __init__(self, lab: Lab, folder: Path) -> None:
        self._node = lab.nodes[0]
        program = debian_programs(("prometheus",), ROOT / "build" / "prometheus") / "usr/bin/prometheus"
        (folder / "prometheus.yml").write_text(CONFIG)
        listen = f"--web.listen-address=127.0.0.1:{PORT}"
        argv = [str(program), f"--config.file={folder}/prometheus.yml", f"--storage.tsdb.path={folder}/data", listen]
        self._log = (folder / "prometheus.log").open("wb")
        quiet = {"stdin": subprocess.DEVNULL, "stdout": self._log.fileno(), "stderr": self._log.fileno()}
        self._process = self._node.popen(argv, **quiet)

    def end(self) -> None:
        self._process.kill()
        self._process.wait()
        self._log.close()

    def ask(self, path: str) -> Any:
        """Return the `data` of an answer, None while there is none."""
        url = f"http://127.0.0.1:{PORT}/api/v1/{path}"
        done = self._node.exec([sys.executable, "-c", ASK, url], check=False)
        return json.loads(done.stdout)["data"] if done.returncode == 0 else None

    def values(self, expression: str) -> list[float]:
        answer = self.ask(f"query?query={quote(expression)}")
        return [] if answer is None else [float(row["value"][1]) for row in answer["result"]]


@pytest.fixture
def prometheus(tmp_path: Path) -> Iterator[Prometheus]:
    with Lab.up(f"prom-{os.getpid() % 10000}", nodes=1) as lab:
        lab.add_pod(lab.nodes[0].name, "one")
        made = Prometheus(lab, tmp_path)
        try:
            yield made
        finally:
            made.end()


def test_a_node_is_scraped_and_every_rule_evaluated(prometheus: Prometheus) -> None:
    until(lambda: prometheus.values("up") == [1.0], lambda: prometheus.ask("targets"), within_s=WITHIN_S, every_s=1.0)
    until(lambda: prometheus.values("awscni_total_ip_addresses"), "the first sample", within_s=WITHIN_S, every_s=1.0)
    assert prometheus.values("awscni_assigned_ip_addresses") == [1.0]
    (target,) = prometheus.ask("targets")["activeTargets"]
    assert (target["health"], target["lastError"]) == ("up", "")

    def rules() -> list[dict[str, Any]]:
        return [rule for group in (prometheus.ask("rules") or {"groups": []})["groups"] for rule in group["rules"]]

    def evaluated() -> bool:
        return bool(rules()) and all(rule["health"] != "unknown" for rule in rules())

    until(evaluated, rules, within_s=WITHIN_S, every_s=1.0)
    assert {rule["name"]: rule.get("lastError", "") for rule in rules() if rule["health"] != "ok"} == {}
    assert [rule["name"] for rule in rules() if rule["state"] != "inactive"] == [], "a healthy node alarms nobody"

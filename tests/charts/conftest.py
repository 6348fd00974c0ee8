"""The charts, rendered by a real Helm, and the manifests that are kept rendered."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from charts.objects import CHARTS, ROOT, Object, Refused, Render, parsed
from support.fetched import go_program

HELM = "helm.sh/helm/v3/cmd/helm@v3.19.5"
WITHIN_S = 60


@pytest.fixture(scope="session")
def helm() -> Path:
    return go_program(HELM, ROOT / "build" / "helm", GOFLAGS="-mod=mod", CGO_ENABLED="0")


@pytest.fixture(scope="session")
def render(helm: Path, tmp_path_factory: pytest.TempPathFactory) -> Render:
    """`render(values, namespace=..., chart=...)` gives the objects of a chart."""

    def objects(
        values: Mapping[str, Any] | None = None, *, namespace: str = "kube-system", chart: str = "aws-vpc-cni"
    ) -> list[Object]:
        file = tmp_path_factory.mktemp("values") / "values.json"
        file.write_text(json.dumps(values or {}))
        command = [
            helm,
            "template",
            chart,
            CHARTS / chart,
            "--include-crds",
            f"--namespace={namespace}",
            f"--values={file}",
        ]
        done = subprocess.run(command, capture_output=True, text=True, timeout=WITHIN_S, check=False)
        if done.returncode != 0:
            raise Refused(done.stderr)
        return parsed(done.stdout)

    return objects

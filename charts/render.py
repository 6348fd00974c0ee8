"""Write the static manifests that the chart stands for (spec operations.md 5.6), or say which differ: `render.py HELM [--check]`.

They are the chart rendered for kube-system with the selector that a DaemonSet of before has, without what only Helm needs.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

CHARTS: Final = Path(__file__).resolve().parent
STATIC: Final = CHARTS / "static"
HELM_ONLY: Final = ("helm.sh/", "app.kubernetes.io/managed-by: Helm")
REGISTRIES: Final = {
    "": ("us-west-2", "602401143452", "amazonaws.com"),
    "-cn": ("cn-northwest-1", "961992271922", "amazonaws.com.cn"),
    "-us-gov-east-1": ("us-gov-east-1", "151742754352", "amazonaws.com"),
    "-us-gov-west-1": ("us-gov-west-1", "013241004608", "amazonaws.com"),
}
"""Suffix of the file: region, account and domain (spec operations.md 11.1)."""
IMAGES: Final = {"aws-vpc-cni": ("image", "init.image", "nodeAgent.image"), "cni-metrics-helper": ("image",)}
"""Values that name a registry, by chart."""
FILES: Final = {"aws-vpc-cni": "aws-k8s-cni", "cni-metrics-helper": "cni-metrics-helper"}
WITHIN_S: Final = 60


def manifests(helm: str) -> dict[str, str]:
    """Return every manifest by its file's name."""
    rendered = {
        f"{file}{suffix}.yaml": render(helm, chart, registry=suffix)
        for chart, file in FILES.items()
        for suffix in REGISTRIES
    }
    return {**rendered, "aws-k8s-cni-split.yaml": render(helm, "aws-vpc-cni", "shape=split")}


def render(helm: str, chart: str, *settings: str, registry: str = "") -> str:
    """Return a chart as one YAML text. Raises CalledProcessError with Helm's own words."""
    command = [helm, "template", chart, str(CHARTS / chart), "--include-crds", "--namespace=kube-system"]
    command += ["--set=originalMatchLabels=true", *(f"--set={setting}" for setting in settings)]
    for image in IMAGES[chart]:
        for key, value in zip(("region", "account", "domain"), REGISTRIES[registry], strict=True):
            command.append(f"--set-string={image}.{key}={value}")
    text = subprocess.run(command, check=True, capture_output=True, text=True, timeout=WITHIN_S).stdout
    return "".join(line for line in text.splitlines(keepends=True) if not any(mark in line for mark in HELM_ONLY))


def main(argv: Sequence[str]) -> int:
    """Return 1 when a check finds a file that is not what the chart renders."""
    helm, *options = argv
    wanted = manifests(helm)
    if "--check" in options:
        stale = [name for name, text in wanted.items() if (STATIC / name).read_text() != text]
        sys.stderr.write(
            "".join(f"charts/static/{name} is not what the chart renders: `make chart`\n" for name in stale)
        )
        return 1 if stale else 0
    STATIC.mkdir(exist_ok=True)
    for name, text in wanted.items():
        (STATIC / name).write_text(text)
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))

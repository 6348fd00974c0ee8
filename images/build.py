"""Build the images on a machine without a registry: `build.py [TARGET...]`. Prints each image with its size.

The base is made by mmdebstrap from this machine's own package sources and kept in buildah's store; the Dockerfile is what a plain
`docker build` takes elsewhere.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parent.parent
NAMES: Final = {
    "eni-manager": "vpccni-eni-manager",
    "ip-allocator": "vpccni-ip-allocator",
    "metrics-publisher": "vpccni-metrics-publisher",
    "netlink-programmer": "vpccni-netlink-programmer",
    "policy-agent": "vpccni-policy-agent",
    "init": "vpccni-init",
    "amazon-k8s-cni": "amazon-k8s-cni",
    "cni-metrics-helper": "cni-metrics-helper",
    "policy-controller": "vpccni-policy-controller",
}
"""Targets of the Dockerfile and the names the chart has for them; the swap shape calls two of them otherwise."""
ALIASES: Final = {"init": "amazon-k8s-cni-init", "policy-agent": "amazon/aws-network-policy-agent"}
TAG: Final = os.environ.get("VPCCNI_IMAGE_TAG", "v0.1.0")
BASE: Final = "localhost/vpccni-base:bookworm"
SUITE: Final = "bookworm"
SOURCES: Final = (Path("/etc/apt/sources.list.d/debian.sources"), Path("/etc/apt/sources.list"))
CERTIFICATES: Final = Path("/etc/ssl/certs/ca-certificates.crt")
INSIDE: Final = "/run/build-ca.crt"
"""Where the build finds this machine's authorities, so that they are none of the image's."""


def make_base() -> None:
    """Put a minimal Debian into buildah's store, unless it is there."""
    if subprocess.run(["buildah", "inspect", BASE], capture_output=True, check=False).returncode == 0:
        return
    sources = next(path for path in SOURCES if path.exists())
    with tempfile.TemporaryDirectory() as folder:
        archive = Path(folder) / "base.tar"
        run(["mmdebstrap", "--quiet", "--variant=minbase", SUITE, archive, sources])
        container = run(["buildah", "from", "scratch"])
        run(["buildah", "add", "--quiet", container, archive, "/"])
        run(["buildah", "commit", "--quiet", "--rm", container, BASE])


def build(target: str) -> str:
    """Build one target and return its name. Layers are kept, so that the next target starts where this one ended."""
    names = [f"localhost/{name}:{TAG}" for name in (NAMES[target], ALIASES.get(target)) if name]
    command: list[str | Path] = ["buildah", "bud", "--quiet", "--layers", "--isolation=chroot", "--pull-never"]
    command += [f"--build-arg=BASE={BASE}", "--format=oci", f"--target={target}"]
    command += [f"--volume={CERTIFICATES}:{INSIDE}:ro", f"--build-arg=PIP_CERT={INSIDE}"]
    command += [f"--ignorefile={ROOT}/images/Dockerfile.dockerignore", f"--file={ROOT}/images/Dockerfile"]
    run([*command, *(f"--tag={name}" for name in names), ROOT])
    return names[0]


def size_mb(name: str) -> float:
    """Return an image's size as it lies on a node's disk, in MB."""
    found = json.loads(run(["buildah", "images", "--json", name]))[0]["size"]
    number, unit = found.split()
    return float(number) * {"KB": 1e-3, "MB": 1.0, "GB": 1e3}[unit]


def run(command: Sequence[str | Path]) -> str:
    """Return what a program printed; its errors go where ours go, and its failure is ours."""
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.strip()


def main(argv: Sequence[str]) -> int:
    """Build the named targets, or all."""
    make_base()
    for target in argv or NAMES:
        name = build(target)
        sys.stdout.write(f"{name:45} {size_mb(name):6.1f} MB\n")
        sys.stdout.flush()
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))

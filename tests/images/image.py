"""What the tests of the images share: their build, a container made of one, and how large each may be."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
LOCK = ROOT / "build" / "images.lock"
"""Held while a checkout's images are built: what the builds take from build/ is written anew each time."""
BUILD_WITHIN_S = 1200
RUN_WITHIN_S = 60
SIZE_MB = {
    "vpccni-eni-manager": 95,
    "vpccni-ip-allocator": 95,
    "vpccni-metrics-publisher": 95,
    "vpccni-netlink-programmer": 100,
    "vpccni-policy-agent": 97,
    "vpccni-init": 170,
    "amazon-k8s-cni": 100,
    "cni-metrics-helper": 95,
    "vpccni-policy-controller": 95,
}
"""Each with the common layer, which a node stores once."""


@dataclass(frozen=True)
class Image:
    """A container made of an image, with its root mounted and the image's configuration."""

    container: str
    root: Path
    config: dict[str, Any]

    def run(self, *command: str) -> str:
        argv = ["buildah", "run", "--isolation=chroot", self.container, "--", *command]
        return subprocess.run(argv, check=True, capture_output=True, text=True, timeout=RUN_WITHIN_S).stdout

    @property
    def env(self) -> dict[str, str]:
        return dict(entry.partition("=")[::2] for entry in self.config["Env"])

    def programs(self) -> set[str]:
        folders = [self.root / name for name in ("usr/bin", "usr/sbin", "app", "init")]
        return {path.name for folder in folders if folder.is_dir() for path in folder.iterdir()}


@contextlib.contextmanager
def built(tag: str, targets: Sequence[str] = ()) -> Iterator[None]:
    """Build images under a tag, all if no target is named; skip where this machine cannot.

    Afterwards nothing is left that has the tag, or one that begins with it and a dash.
    """
    for program in ("buildah", "mmdebstrap", "go"):
        if subprocess.run(["which", program], capture_output=True, check=False).returncode != 0:
            pytest.skip(f"{program} is not on this machine: `make images` installs or names it")
    command = ["make", "-C", str(ROOT), "images", f"PYTHON={sys.executable}", f"TARGETS={' '.join(targets)}"]
    env = {**os.environ, "VPCCNI_IMAGE_TAG": tag}
    LOCK.parent.mkdir(exist_ok=True)
    with LOCK.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=BUILD_WITHIN_S, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    try:
        yield
    finally:
        listed = json.loads(buildah("images", "--json"))
        names = [name for image in listed for name in image.get("names") or []]
        buildah("rmi", *(name for name in names if f"{name}-".partition(":")[2].startswith(f"{tag}-")))


def mounted(name: str) -> Image:
    container = buildah("from", "--pull-never", name)
    config = json.loads(buildah("inspect", "--type=image", name))["OCIv1"]["config"]
    return Image(container, Path(buildah("mount", container)), config)


def buildah(*arguments: str) -> str:
    return subprocess.run(["buildah", *arguments], check=True, capture_output=True, text=True).stdout.strip()

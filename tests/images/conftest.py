"""The images, built once for all tests of them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator

import pytest
from images.image import BUILD_WITHIN_S, ROOT, SIZE_MB, Image, buildah, mounted


@pytest.fixture(scope="session")
def images() -> Iterator[dict[str, Image]]:
    """Every image; left out where this machine cannot build them, and nothing of them is left afterwards but the images."""
    for program in ("buildah", "mmdebstrap", "go"):
        if subprocess.run(["which", program], capture_output=True, check=False).returncode != 0:
            pytest.skip(f"{program} is not on this machine: `make images` installs or names it")
    tag = f"test-{os.getpid()}"
    command = ["make", "-C", str(ROOT), "images", f"PYTHON={sys.executable}"]
    built = subprocess.run(
        command,
        env={**os.environ, "VPCCNI_IMAGE_TAG": tag},
        capture_output=True,
        text=True,
        timeout=BUILD_WITHIN_S,
        check=False,
    )
    assert built.returncode == 0, built.stderr[-3000:]
    made = {name: mounted(f"localhost/{name}:{tag}") for name in SIZE_MB}
    try:
        yield made
    finally:
        for image in made.values():
            subprocess.run(["buildah", "rm", image.container], check=True, capture_output=True)
        listed = json.loads(buildah("images", "--json"))
        subprocess.run(
            [
                "buildah",
                "rmi",
                *(name for image in listed for name in image.get("names") or [] if name.endswith(f":{tag}")),
            ],
            check=True,
            capture_output=True,
        )

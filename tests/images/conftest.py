"""The images, built once for all tests of them."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from images.image import SIZE_MB, Image, buildah, built, mounted


@pytest.fixture(scope="session")
def images() -> Iterator[dict[str, Image]]:
    """Every image with its root mounted."""
    tag = f"test-{os.getpid()}"
    with built(tag):
        made = {name: mounted(f"localhost/{name}:{tag}") for name in SIZE_MB}
        try:
            yield made
        finally:
            for image in made.values():
                buildah("rm", image.container)

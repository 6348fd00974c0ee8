"""A lab node with a real container runtime."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from e2e.containerd import Containerd

from vpccni.lab.api import Lab


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with Lab.up(f"e{os.getpid()}", nodes=1, env={"IP_COOLDOWN_PERIOD": "0"}) as one:
        yield one


@pytest.fixture(scope="module")
def containerd(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Containerd]:
    runtime = Containerd(lab.nodes[0], tmp_path_factory.mktemp("containerd"))
    try:
        yield runtime
    finally:
        runtime.remove_all()
        runtime.stop()

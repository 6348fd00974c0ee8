"""One lab node for what the plugin, its log and its configuration do there."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from vpccni.lab.api import Lab


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with Lab.up(f"cni{os.getpid()}", nodes=1, env={"IP_COOLDOWN_PERIOD": "0"}) as up:
        yield up

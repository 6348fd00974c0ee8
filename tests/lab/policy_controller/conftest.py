"""An API server, and two replicas of the controller that are not started."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from support.policy_lab import Api, Controller


@pytest.fixture
def api() -> Iterator[Api]:
    api = Api()
    yield api
    api.close()


@pytest.fixture
def replicas(api: Api, tmp_path: Path) -> Iterator[list[Controller]]:
    """Two replicas, not started."""
    replicas = [Controller(api, tmp_path, name) for name in ("first", "second")]
    yield replicas
    for replica in replicas:
        if replica.process is not None:
            replica.kill()


@pytest.fixture
def controller(replicas: list[Controller]) -> Controller:
    return replicas[0]

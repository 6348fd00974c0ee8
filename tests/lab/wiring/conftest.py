"""Nodes of every kind of pod network, each with all processes."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from support.nodes import NodeOf

from vpccni.lab.api import Lab

COOL_AT_ONCE = {"IP_COOLDOWN_PERIOD": "0"}


@pytest.fixture(scope="module")
def v6_node() -> Iterator[NodeOf]:
    with Lab.up(f"w6{os.getpid()}", nodes=1, ipv6=True, env=COOL_AT_ONCE) as lab:
        yield NodeOf(lab)

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


@pytest.fixture(scope="module")
def egress_node() -> Iterator[NodeOf]:
    """An IPv4 node with an IPv6 address of its own, whose pods reach IPv6 through it."""
    ipv4_pods = {"ENABLE_IPv4": "true", "ENABLE_IPv6": "false", "ENABLE_PREFIX_DELEGATION": "false"}
    env = {**COOL_AT_ONCE, **ipv4_pods, "ENABLE_V6_EGRESS": "true"}
    with Lab.up(f"e6{os.getpid()}", nodes=1, ipv6=True, env=env) as lab:
        yield NodeOf(lab)


@pytest.fixture(scope="module")
def two_cards() -> Iterator[NodeOf]:
    """A node of a type with two network cards."""
    env = {**COOL_AT_ONCE, "ENABLE_MULTI_NIC": "true"}
    with Lab.up(f"mn{os.getpid()}", nodes=1, instance_type="hpc7a.48xlarge", env=env) as lab:
        yield NodeOf(lab)

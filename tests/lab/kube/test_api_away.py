"""A whole node that starts while the Kubernetes API is away: pods come and go as if it were there."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator

import pytest
from tests.lab.kube.conftest import KubeServer, until

from vpccni.lab import pod as pods
from vpccni.lab.api import Lab
from vpccni.shared import names
from vpccni.shared.messages.common import GetStatus, Status
from vpccni.shared.node_cli import ask_all

ADD_WITHIN_S = 6.0  # spec ipam.md W36: 2 s on a machine that other tests do not keep busy


@pytest.fixture
def whole() -> Iterator[Lab]:
    with Lab.up(f"away-{os.getpid() % 10000}", nodes=1) as lab:
        yield lab


def reasons(lab: Lab) -> list[str]:
    answer = ask_all(lab.nodes[0].root, [names.ENI_MANAGER], GetStatus())[names.ENI_MANAGER]
    return answer.reasons if isinstance(answer, Status) else ["no answer"]


@pytest.mark.spec("ipam.W36")
def test_a_node_that_starts_without_the_api_keeps_and_adds_and_deletes_pods(whole: Lab) -> None:
    server, node = KubeServer(whole), whole.nodes[0]
    old = whole.add_pod(node.name, "old")
    server.kill()
    for process in names.NODE_PROCESSES:
        node.kill(process)
    begun = time.monotonic()
    new = pods.make(whole.name, node, "new", namespace="default", command=None, ports=[])
    result = node.runtime().add(new.sandbox())
    assert time.monotonic() - begun < ADD_WITHIN_S
    address = pods.first_address(result)
    old.exec(["ping", "-c1", "-W2", address])
    until(lambda: any("in force" in reason for reason in reasons(whole)), "the reason")
    node.runtime().delete(new.sandbox())
    node.runtime().delete(old.sandbox())
    pods.end(new, node)
    server.start()
    until(lambda: not reasons(whole), "health", within_s=60.0)
    whole.add_pod(node.name, "later")

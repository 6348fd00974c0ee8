"""What is taken from the node's kernel by hand comes back within a second; what is not ours stays as it is."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest

WITHIN_S = 1.0


def comes_back(there: Callable[[], bool]) -> float:
    """Return after how many seconds it is there again; fails past `WITHIN_S`."""
    began = time.monotonic()
    while not there():
        assert time.monotonic() - began < WITHIN_S, "not back within a second"
        time.sleep(0.01)
    return time.monotonic() - began


@pytest.mark.spec("dataplane.18.12")
def test_rules_and_the_route_of_a_running_pod_are_back_within_a_second(node: Any) -> None:
    pod = node.add("robbed")
    rule, route = f"ip rule del to {pod.address} priority 512", f"ip route del {pod.address}"
    for take_away, words in ((rule, "ip rule"), (route, "ip route")):
        node.shell(take_away)
        comes_back(lambda words=words: pod.address in node.shell(words))
    node.lab.delete_pod("robbed")

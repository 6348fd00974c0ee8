"""Putting off what nobody waits for: in a large cluster the nodes' warm pools must not ask EC2 all together (spec ipam.md 23, 24).

AWS lets an account make 5 calls of a mutating action a second. When pods come to N nodes at once, each node wants another ENI or
prefix at the same moment, most of them only to keep their pool warm. So growth that is not urgent waits a random time within which
N nodes come to that rate. Growth that is urgent never waits.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from vpccni.components.eni_manager.planner import Plan

SMALL_CLUSTER: Final = 10
"""Nodes: up to this many fit into AWS's burst of 50 whatever they do."""
NODES_A_SECOND: Final = 4.0
LONGEST_S: Final = 300.0
RETRY_LONGEST_S: Final = 30.0
"""After a throttling somebody may wait, and the cause may be one loud neighbour: no longer than this."""


def spread_s(nodes: int | None) -> float:
    """Return within how many seconds growth that is not urgent starts; `nodes` None: not known."""
    return 0.0 if nodes is None or nodes <= SMALL_CLUSTER else min(nodes / NODES_A_SECOND, LONGEST_S)


def urgent_part(todo: Plan, items: int) -> Plan:
    """Return the plan with only as much growth as the first `items` items need; everything else of it stays."""
    assign, create = [], []
    for step in todo.assign:
        if items > 0:
            assign.append(step)
            items -= step.count
    for new in todo.create:
        if items > 0:
            create.append(new)
            items -= new.count
    return replace(todo, assign=tuple(assign), create=tuple(create))


def retry_spread_s(nodes: int | None) -> float:
    """Return over how many seconds throttled nodes come apart."""
    return min(spread_s(nodes), RETRY_LONGEST_S)


class Patience:
    """When growth that is not urgent may start. Plain state; `now`: CLOCK_BOOTTIME seconds, `random` in [0, 1)."""

    def __init__(self) -> None:
        self._until: float | None = None

    def wait_s(self, *, waits: bool, nodes: int | None, now: float, random: float) -> float:
        """Return how long to put growing off; 0: go on. `waits`: there is growth that is not urgent."""
        if not waits:
            self._until = None
            return 0.0
        if self._until is None:
            self._until = now + spread_s(nodes) * random
        return max(self._until - now, 0.0)

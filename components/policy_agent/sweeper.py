"""Takes flows away that are over, a slice at a time, so that the loop is never held up: 500,000 flows are some hundred slices.

The programs treat a flow as gone from its timeout on; it is taken away a little later, so that nothing that is still being used
is deleted. What was taken is told to the programs in map `swept`: flows made less flows swept is a pod's share in use.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Final

from vpccni.components.policy_agent import layout, libbpf
from vpccni.components.policy_agent.datapath import Datapath

SLICE: Final = 4096
MARGIN_S: Final = 5.0
_IFINDEX_AT: Final = slice(32, 36)
_PROTOCOL_AT: Final = 40


class Sweeper:
    """See the module. `clock_ns`: the programs' clock, CLOCK_MONOTONIC; `later`: calls in the next turn of the loop."""

    def __init__(
        self, datapath: Datapath, *, clock_ns: Callable[[], int], later: Callable[[Callable[[], None]], None]
    ) -> None:
        self._datapath, self._clock_ns, self._later = datapath, clock_ns, later
        self._walk: Iterator[tuple[bytes, bytes]] | None = None
        self._pods: frozenset[int] = frozenset()
        self._now_ns = 0
        self._seen = 0
        self.alive = 0

    def begin(self) -> None:
        """Start a sweep unless one is under way."""
        if self._walk is None:
            self._walk = libbpf.elements(self._datapath.map(layout.FLOWS), layout.FLOW.size)
            self._pods = frozenset(self._datapath.entries())
            self._seen = 0
            self._step()

    def _step(self) -> None:
        assert self._walk is not None
        self._now_ns = self._clock_ns()
        flows = list(itertools.islice(self._walk, SLICE))
        gone = [key for key, value in flows if self._is_over(key, value)]
        self._take(gone)
        self._seen += len(flows) - len(gone)
        if len(flows) < SLICE:
            self._walk, self.alive = None, self._seen
        else:
            self._later(self._step)

    def _is_over(self, key: bytes, value: bytes) -> bool:
        seen_ns, _, _, _, state = layout.FLOW.unpack(value)
        if int.from_bytes(key[_IFINDEX_AT], "little") not in self._pods:
            return True
        return bool(self._now_ns - seen_ns > (layout.timeout_s(key[_PROTOCOL_AT], state) + MARGIN_S) * 1e9)

    def _take(self, gone: list[bytes]) -> None:
        taken: Counter[int] = Counter()
        flows, swept = self._datapath.map(layout.FLOWS), self._datapath.map(layout.SWEPT)
        for key in gone:
            if libbpf.delete(flows, key):
                taken[int.from_bytes(key[_IFINDEX_AT], "little")] += 1
        for ifindex, count in taken.items():
            before = libbpf.lookup(swept, layout.pod_key(ifindex), layout.LONG.size)
            if before is not None:
                libbpf.update(
                    swept, layout.pod_key(ifindex), layout.LONG.pack(int.from_bytes(before, "little") + count)
                )

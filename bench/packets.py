"""ns per packet of the policy programs by test runs in the kernel: `python -m vpccni.bench.packets`. Needs root, touches no interface.

Each figure is the least of some runs of many repetitions of one packet, beside that of an empty program in the same run. Budgets:
45, 90, 400 and 120 ns where an empty program takes 26. The reference's, measured in the same way: 113, 111, 680 and 163.
"""

from __future__ import annotations

import struct
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from vpccni.components.policy_agent import layout, libbpf
from vpccni.components.policy_agent.compiler import compile_rule_set
from vpccni.components.policy_agent.layout import INGRESS_PROGRAM, PodEntry
from vpccni.components.policy_agent.objectfile import patched
from vpccni.components.policy_agent.objects import ObjectSource, compiled_programs
from vpccni.components.policy_agent.policy import TCP, Direction, Policy, PolicyKey, Ports, Rule, Tier, prefix
from vpccni.components.policy_agent.rule_maps import RuleMaps

REPEAT: Final = 200_000
RUNS: Final = 5
PEERS: Final = 5000
LOOPBACK: Final = 1
"""Test runs happen on it, in every network namespace."""
EMPTY: Final = bytes.fromhex("b700000000000000" + "9500000000000000")
POD: Final = bytes((10, 9, 0, 2))
FRIEND, STRANGER = bytes((10, 1, 1, 1)), bytes((10, 1, 1, 2))
SYN, ACK, FIN = 2, 16, 1
BUDGETS_NS: Final = {"no policy": 45.0, "established": 90.0, "new flow allowed": 400.0, "denied": 120.0}


def tcp_frame(source: bytes, port: int, flags: int) -> bytes:
    """Return a packet to the pod."""
    ip = struct.pack(">BBHHHBBH4s4s", 0x45, 0, 40, 1, 0, 64, TCP, 0, source, POD)
    return bytes(12) + b"\x08\x00" + ip + struct.pack(">HHIIBBHHH", 40000, port, 1, 1, 5 << 4, flags, 1024, 0, 0)


class Bench:
    """Both programs with maps of their own and a pod behind the loopback link."""

    def __init__(self) -> None:
        with tempfile.TemporaryDirectory() as folder:
            content = compiled_programs(ObjectSource(Path(folder)))
        self._maps = {definition.name: libbpf.create_map(definition) for definition in layout.MAPS}
        descriptors = {name: one.descriptor for name, one in self._maps.items()}
        self.instructions = {one.name: len(one.code) // 16 for one in content.programs}
        code = {one.name: patched(one, descriptors) for one in content.programs}
        self._program = libbpf.load_program(INGRESS_PROGRAM, code[INGRESS_PROGRAM])
        self._empty = libbpf.load_program("empty", EMPTY)
        self._rule_maps = RuleMaps(self._maps)

    def select(self, *rules: Rule) -> None:
        """Isolate the pod with these rules; none: no policy selects it."""
        number = layout.NO_RULE_SET
        if rules:
            key = PolicyKey("NetworkPolicy", "bench", "bench")
            policy = Policy(key, Tier.NETWORK_POLICY, (rules, ()), frozenset({Direction.INGRESS}))
            number = self._rule_maps.put(compile_rule_set([policy], strict=False))
        entry = PodEntry.of(LOOPBACK, link="lo", rule_set=number)
        libbpf.update(self._maps[layout.PODS.name], layout.pod_key(LOOPBACK), entry.packed())

    def ns(self, frame: bytes) -> int:
        """Return the least mean time of a packet, in ns."""
        return min(libbpf.dry_run(self._program, frame, repeat=REPEAT)[1] for _ in range(RUNS))

    def empty_ns(self) -> int:
        """Return that of a program that does nothing."""
        frame = tcp_frame(FRIEND, 80, SYN)
        return min(libbpf.dry_run(self._empty, frame, repeat=REPEAT)[1] for _ in range(RUNS))


def figures(bench: Bench) -> Iterator[tuple[str, int]]:
    """Yield what is measured and its ns; the order matters, each step builds on the one before."""
    web = (Ports(TCP, 80, 80),)
    peers = [Rule(prefix(f"10.{16 + at // 60_000}.{at // 250 % 240}.{at % 250}"), (), web) for at in range(PEERS)]
    yield "an empty program", bench.empty_ns()
    bench.select()
    yield "no policy", bench.ns(tcp_frame(FRIEND, 80, ACK))
    bench.select(Rule(prefix("10.1.1.1"), (), web), *peers)
    yield "established", bench.ns(tcp_frame(FRIEND, 80, ACK))
    # SYN and FIN together leave the flow closing, so that each repetition is a new connection again.
    yield "new flow allowed", bench.ns(tcp_frame(FRIEND, 80, SYN | FIN))
    yield "denied", bench.ns(tcp_frame(STRANGER, 80, SYN))
    bench.select(Rule(prefix("10.1.0.0/16"), (), web), *peers)
    yield "denied by port, within a network", bench.ns(tcp_frame(STRANGER, 81, SYN))


def main() -> int:
    """Print the table."""
    bench = Bench()
    for name, ns in figures(bench):
        print(f"{name:<36}{ns:>6} ns")
    for name, count in bench.instructions.items():
        print(f"{name:<36}{count:>6} instructions")
    return 0


if __name__ == "__main__":
    sys.exit(main())

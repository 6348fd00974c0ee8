"""What policies cost the kernel and the agent beside packets: memory of maps, a sweep of a full flow table. `python -m vpccni.bench.policy_maps`.

Runs in namespaces of its own, with a bpf filesystem that ends with them. Needs root.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Final

from vpccni.bench import packets
from vpccni.components.policy_agent import layout, libbpf
from vpccni.components.policy_agent.compiler import RuleSet, compile_rule_set
from vpccni.components.policy_agent.datapath import Datapath
from vpccni.components.policy_agent.filters import Filters
from vpccni.components.policy_agent.layout import PodEntry
from vpccni.components.policy_agent.objects import ObjectSource, compiled_programs
from vpccni.components.policy_agent.policy import (
    TCP,
    V4_ALL,
    Direction,
    Policy,
    PolicyKey,
    Ports,
    Rule,
    Tier,
    prefix,
)
from vpccni.components.policy_agent.sweeper import Sweeper

BPFFS: Final = Path("/sys/fs/bpf")
INSIDE: Final = "--inside"
WITHIN_S: Final = 300.0
PODS: Final = 110
PEERS: Final = 5000
FLOWS: Final = 500_000
LOOPBACK: Final = 1
MIB: Final = 1 << 20
MEMORY: Final = f"BPF memory, {PODS} pods by {PEERS} peers both ways, MiB"
SWEEP: Final = f"sweep of {FLOWS} flows, all alive, CPU s"
BUDGETS: Final = {MEMORY: 64.0, SWEEP: 1.0}  # spec policy.md W-20, W-23


def figures() -> dict[str, float]:
    """Measure in a child with namespaces of its own; return values by name. Raises CalledProcessError."""
    mount = f'mount -t bpf bpf {BPFFS} && exec "$0" -m vpccni.bench.policy_maps {INSIDE}'
    command = ["unshare", "--net", "--mount", "--propagation", "private", "sh", "-c", mount, sys.executable]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=WITHIN_S)
    found = json.loads(done.stdout)
    assert isinstance(found, dict)
    return {str(name): float(value) for name, value in found.items()}


def _measured() -> dict[str, float]:
    with tempfile.TemporaryDirectory() as folder:
        content = compiled_programs(ObjectSource(Path(folder)))
    datapath = Datapath(BPFFS, content, Filters())
    found = {"BPF memory without policies, MiB": memory_bytes(datapath) / MIB}
    began = time.perf_counter()
    for number in range(PODS):
        datapath.rule_maps.put(rule_set(number, own_peers=False))
    found[f"{PODS} rule sets compiled and written, s"] = time.perf_counter() - began
    found[MEMORY] = memory_bytes(datapath) / MIB
    datapath.rule_maps.drop(datapath.rule_maps.numbers)
    datapath.rule_maps.mend({})
    fits = layout.HOSTS_AT_MOST // PEERS
    for number in range(fits):
        datapath.rule_maps.put(rule_set(number, own_peers=True))
    found[f"BPF memory, {fits} pods by {PEERS} peers of their own, MiB"] = memory_bytes(datapath) / MIB
    fill_flows(datapath)
    found[f"BPF memory with {FLOWS} flows more, MiB"] = memory_bytes(datapath) / MIB
    found |= {f"sweep of {FLOWS} flows, all alive, {name}": value for name, value in sweep(datapath, age_s=1.0).items()}
    found |= {
        f"sweep of {FLOWS} flows, all over, {name}": value for name, value in sweep(datapath, age_s=90_000.0).items()
    }
    return found


def rule_set(number: int, *, own_peers: bool) -> RuleSet:
    """Return what a pod with 5,000 peers needs, with a port of its own."""
    first = number * PEERS if own_peers else 0
    ports = (Ports(TCP, 1000 + number, 1000 + number),)
    peers = tuple(
        Rule(prefix(f"10.{at >> 16}.{at >> 8 & 255}.{at & 255}"), (), ports) for at in range(first, first + PEERS)
    )
    key = PolicyKey("NetworkPolicy", "bench", str(number))
    return compile_rule_set([Policy(key, Tier.NETWORK_POLICY, (peers, peers), frozenset(Direction))], strict=False)


def memory_bytes(datapath: Datapath) -> int:
    """Return what the kernel says all maps take."""
    return sum(_map_bytes(datapath.map(definition).descriptor) for definition in layout.MAPS)


def _map_bytes(descriptor: int) -> int:
    for line in Path(f"/proc/self/fdinfo/{descriptor}").read_text().splitlines():
        name, _, value = line.partition(":")
        if name == "memlock":
            return int(value)
    return 0


def fill_flows(datapath: Datapath) -> None:
    """Put answered connections of one pod into the table."""
    entry = PodEntry.of(LOOPBACK, link="lo")
    libbpf.update(datapath.map(layout.PODS), layout.pod_key(LOOPBACK), entry.packed())
    local = layout.address(prefix("10.9.0.2").value)
    value = layout.FLOW.pack(time.monotonic_ns(), 1, 1, Direction.INGRESS, layout.FLOW_ANSWERED)
    libbpf.update_many(
        datapath.map(layout.FLOWS),
        [
            (
                layout.FLOW_KEY.pack(
                    local, layout.address(V4_ALL.value + at), LOOPBACK, b"\0\x50", (at & 0xFFFF).to_bytes(2, "big"), TCP
                ),
                value,
            )
            for at in range(FLOWS)
        ],
    )


def sweep(datapath: Datapath, *, age_s: float) -> dict[str, float]:
    """Sweep once with the clock so much later; return the time of a CPU, and the longest that the loop is held up."""
    later: deque[Callable[[], None]] = deque()
    sweeper = Sweeper(datapath, clock_ns=lambda: time.monotonic_ns() + int(age_s * 1e9), later=later.append)
    began, used = time.perf_counter(), time.process_time()
    sweeper.begin()
    longest = time.perf_counter() - began
    while later:
        step = time.perf_counter()
        later.popleft()()
        longest = max(longest, time.perf_counter() - step)
    return {"CPU s": time.process_time() - used, "longest step, s": longest}


def main(argv: list[str]) -> int:
    """Print the figures; of the child: as JSON."""
    if argv == [INSIDE]:
        print(json.dumps(_measured()))
        return 0
    for name, value in figures().items():
        print(f"{name:<60}{value:>10.3f}")
    return packets.main()


if __name__ == "__main__":
    os.environ.setdefault("PYTHONSAFEPATH", "1")
    sys.exit(main(sys.argv[1:]))

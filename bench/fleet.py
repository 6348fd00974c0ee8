"""`make fleet`: what a cluster asks of EC2. The real allocators and ENI managers of up to 1,000 nodes, a simulated clock, one EC2 account.

Each node runs the services of `ip_allocator` and `eni_manager` as they are; sockets, threads and EC2 are simulated (`simulation`,
`simulated_ec2`), the account's token buckets are AWS's defaults. Pods come at the rate of a scheduler and ask again as a kubelet does.
docs/fleet.md explains the table.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, cast

from vpccni.bench.simulated_ec2 import Account, NodesEc2, NodesMetadata
from vpccni.bench.simulation import SimulatedLoop, SimulatedProcess, Stage
from vpccni.components.eni_manager.cloud import Cloud
from vpccni.components.eni_manager.ec2 import Ec2
from vpccni.components.eni_manager.imds import Imds
from vpccni.components.eni_manager.limits import find_limits
from vpccni.components.eni_manager.service import Manager, first_pause_s
from vpccni.components.ip_allocator.checkpoint import Checkpoint
from vpccni.components.ip_allocator.service import AllocatorService
from vpccni.shared import names
from vpccni.shared.bus import Call
from vpccni.shared.errors import BusError, CloudRefused
from vpccni.shared.messages.allocation import Assign, Assigned, NoCapacity
from vpccni.shared.messages.base import Message, PodRef, Sandbox
from vpccni.shared.messages.inventory import CapacityAccepted, CapacityTarget, Inventory
from vpccni.shared.messages.wiring import UsableEni, UsableEnis, Wirings
from vpccni.shared.process import Process

TYPE: Final = "m5.large"
LIMITS: Final = Path(__file__).resolve().parents[1] / "components" / "eni_manager" / "limits.tsv"
SCHEDULED_A_SECOND: Final = 100
"""Pods that the scheduler places in a second, round the nodes: what a default kube-scheduler does in a large cluster."""
ADD_DEADLINE_S: Final = 20.0
KUBELET_AGAIN_S: Final = 10.0
LINK_APPEARS_S: Final = 0.05
FEW: Final = 8
"""Pods a node that one more ENI is enough for."""
MANY: Final = 20
STARTS_A_SECOND: Final = 20
"""Nodes that join in a second."""
MINUTE: Final = 60.0
AWS_A_SECOND: Final = 5
"""Calls of one mutating action that an account may make in a second for long."""
ENIS_MORE: Final = 2
"""ENIs that a node needs beside its primary one in these scenarios."""
PREFIXES: Final = {"ENABLE_PREFIX_DELEGATION": "true", "WARM_PREFIX_TARGET": "1"}


@dataclass
class Node:
    """One node's two services."""

    fleet: Fleet
    number: int
    folder: Path

    def __post_init__(self) -> None:
        self.instance = self.fleet.account.start_instance(f"i-{self.number:05d}")
        self.alive = True
        self.loop = SimulatedLoop(self.fleet.stage)
        self.start()

    def die(self) -> None:
        """Kill both processes."""
        self.loop.die()

    def start(self) -> None:
        """Start (or, after `stop`, restart) both processes on the same run folder."""
        self.die()
        self.loop = loop = SimulatedLoop(self.fleet.stage)
        raw = {**self.fleet.env, "CLUSTER_NAME": "fleet", "MY_NODE_NAME": f"node-{self.number}"}
        self.peers: dict[str, SimulatedProcess] = {}
        made = [SimulatedProcess(name, loop, self.folder, raw, self.peers) for name in names.NODE_PROCESSES]
        self.process = {process.name: process for process in made}
        programmer, manager = self.process[names.NETLINK_PROGRAMMER], self.process[names.ENI_MANAGER]
        manager.subscribe(names.ENI_MANAGER, {Inventory: self._links})
        programmer.publish(Wirings(wirings=[], in_flight=[]))
        self._manager: Manager | None = None
        self._wish: CapacityTarget | None = None
        manager.handle(CapacityTarget, self._on_wish)
        checkpoint = Checkpoint(self.folder / "ipam.json", boot_id="boot", clock=loop.clock)
        AllocatorService(cast(Process, self.process[names.IP_ALLOCATOR]), checkpoint).start()
        loop.spawn(self._start_manager(cast(Process, manager)), name="manager")

    async def _start_manager(self, process: Process) -> None:
        account, tries = self.fleet.account, 0
        limits = find_limits(LIMITS.read_text(), TYPE)
        assert limits is not None, TYPE
        while True:
            manager = Manager(
                process,
                cast(Imds, NodesMetadata(account, self.instance)),
                Cloud(process, on_denied=lambda api, sentence: None),
                cast(Ec2, NodesEc2(account)),
                self.instance,
                limits,
                tell=lambda reason, sentence: None,
                nodes=self._count_nodes,
            )
            try:
                await manager.start()
                break
            except CloudRefused:
                tries += 1
                await process.loop.sleep(first_pause_s(tries))
        self._manager = manager
        if self._wish is not None:
            manager.wish(self._wish)

    async def _count_nodes(self) -> int | None:
        return len(self.fleet.nodes)

    async def _on_wish(self, wish: CapacityTarget, call: Call) -> Message:
        self._wish = wish
        if self._manager is not None:
            self._manager.wish(wish)
        return CapacityAccepted()

    def _links(self, inventory: Inventory) -> None:
        """Be the programmer: every ENI's link, table and routes are there a moment later."""
        usable = UsableEnis(enis=[UsableEni(eni.eni_id, eni.device_number + 1, 2) for eni in inventory.enis])
        programmer = self.process[names.NETLINK_PROGRAMMER]
        self.loop.call_later(LINK_APPEARS_S, lambda: programmer.publish(usable))

    async def add(self, name: str) -> None:
        """Be programmer and kubelet for one pod, until it has its address."""
        stage, began = self.fleet.stage, self.fleet.stage.now
        ask = Assign(sandbox=Sandbox(name, "eth0"), pod=PodRef("default", name))
        while self.alive:
            deadline = stage.now + ADD_DEADLINE_S
            while stage.now < deadline:
                answer = await self._ask(ask, deadline - stage.now)
                if isinstance(answer, Assigned):
                    self.fleet.waited.append(stage.now - began)
                    return
                if not isinstance(answer, NoCapacity) or not answer.retry_after_ms:
                    break
                await self.fleet.loop.sleep(answer.retry_after_ms / 1000)
            self.fleet.failed_adds += 1
            await self.fleet.loop.sleep(KUBELET_AGAIN_S)

    async def _ask(self, ask: Assign, left_s: float) -> Message | None:
        programmer = self.process[names.NETLINK_PROGRAMMER]
        try:
            return await programmer.client(names.IP_ALLOCATOR).call(ask, timeout_s=max(left_s, 0.05))
        except BusError:
            return None


@dataclass
class Fleet:
    """The cluster: nodes, their account, and what came of the pods."""

    folder: Path
    env: dict[str, str] = field(default_factory=dict)
    nodes: list[Node] = field(default_factory=list)
    waited: list[float] = field(default_factory=list)
    failed_adds: int = 0
    pods: int = 0
    joined: int = 0
    errors: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self.stage = Stage(on_error=self._on_error)
        self.loop = SimulatedLoop(self.stage)
        self.account = Account(self.stage)
        self._begin: tuple[float, Counter[str], Counter[str]] = (self.stage.now, Counter(), Counter())

    def _on_error(self, where: str, error: BaseException) -> None:
        self.errors[f"{where}: {error!r}"[:200]] += 1

    def join(self, number: int, *, a_second: float = STARTS_A_SECOND) -> None:
        """Let `number` nodes join, some each second."""
        for position in range(number):
            self.joined += 1
            folder = self.folder / f"node-{self.joined}"
            folder.mkdir()
            self.loop.call_later(position / a_second, self._joins(self.joined, folder))

    def _joins(self, number: int, folder: Path) -> Callable[[], None]:
        return lambda: self.nodes.append(Node(self, number, folder))

    def schedule(self, nodes: Sequence[Node], each: int) -> None:
        """Place pods, round the nodes, at the scheduler's rate."""
        for position in range(each * len(nodes)):
            node, name = nodes[position % len(nodes)], f"pod-{self.pods}"
            self.pods += 1
            self.loop.call_later(position / SCHEDULED_A_SECOND, self._adds(node, name))

    def _adds(self, node: Node, name: str) -> Callable[[], None]:
        def add() -> None:
            self.loop.spawn(node.add(name), name="pod")

        return add

    def run(self, seconds: float) -> None:
        self.stage.run_to(self.stage.now + seconds)

    def mark(self) -> None:
        """Count from here on."""
        self._begin = (self.stage.now, Counter(self.account.calls), Counter(self.account.throttled))
        self.waited, self.failed_adds = [], 0

    def since(self) -> tuple[Counter[str], Counter[str], float]:
        """Return calls and throttles by action since the mark, and the seconds."""
        at, calls, throttled = self._begin
        return self.account.calls - calls, self.account.throttled - throttled, self.stage.now - at


@dataclass(frozen=True)
class Line:
    """One line of the table."""

    what: str
    pods: int
    waited: tuple[float, ...]
    failed_adds: int
    calls: Counter[str]
    throttled: int
    seconds: float
    errors: Counter[str]

    def text(self) -> str:
        ordered = sorted(self.waited)
        late = [ordered[int((len(ordered) - 1) * share)] for share in (0.5, 0.99, 1.0)] if ordered else []
        waits = "p50 {:.2f}  p99 {:.1f}  last {:.1f} s".format(*late) if late else "-"
        calls = ", ".join(f"{number} {name}" for name, number in sorted(self.calls.items()))
        served = f"{len(self.waited)}/{self.pods}"
        return f"{self.what:<44} {served:>13}  {waits:<32} {self.failed_adds:>6} {self.throttled:>6}  {calls or '-'}"


HEAD: Final = (
    f"{'what':<44} {'pods served':>13}  {'pod waits for its address':<32} {'failed':>6} {'thrttl':>6}  EC2 calls"
)


def settled(folder: Path, nodes: int, pods: int, env: Mapping[str, str] = {}) -> Fleet:
    """Return a fleet whose nodes joined, have their pods, and are quiet."""
    fleet = Fleet(folder, dict(env))
    fleet.join(nodes)
    fleet.run(nodes / STARTS_A_SECOND + 3 * MINUTE)
    if pods:
        fleet.schedule(fleet.nodes, pods)
        fleet.run(nodes * pods / SCHEDULED_A_SECOND + nodes * ENIS_MORE / AWS_A_SECOND + 5 * MINUTE)
    fleet.mark()
    return fleet


def line(fleet: Fleet, what: str, pods: int) -> Line:
    """Return what happened since the mark."""
    calls, throttled, seconds = fleet.since()
    return Line(
        what, pods, tuple(fleet.waited), fleet.failed_adds, calls, sum(throttled.values()), seconds, fleet.errors
    )


def burst(folder: Path, nodes: int) -> Line:
    """Nodes with their warm pool get pods that one more ENI each is enough for."""
    return _burst(settled(folder, nodes, 0), FEW, f"burst: {FEW} pods on each of {nodes} nodes")


def large_burst(folder: Path, nodes: int) -> Line:
    """Nodes with their warm pool get pods that need two more ENIs each."""
    return _burst(settled(folder, nodes, 0), MANY, f"large burst: {MANY} pods on each of {nodes} nodes")


def prefix_burst(folder: Path, nodes: int) -> Line:
    """The large burst with prefixes."""
    return _burst(settled(folder, nodes, 0, PREFIXES), MANY, f"large burst with prefixes, {nodes} nodes")


def _burst(fleet: Fleet, pods: int, what: str) -> Line:
    nodes = len(fleet.nodes)
    fleet.schedule(fleet.nodes, pods)
    fleet.run(nodes * pods / SCHEDULED_A_SECOND + nodes * ENIS_MORE / AWS_A_SECOND + 10 * MINUTE)
    return line(fleet, what, nodes * pods)


def steady(folder: Path, nodes: int) -> Line:
    """Ten quiet minutes."""
    fleet = settled(folder, nodes, 10)
    fleet.run(10 * MINUTE)
    return line(fleet, f"steady: {nodes} nodes, 10 minutes", 0)


def roll(folder: Path, nodes: int) -> Line:
    """A DaemonSet roll: a tenth of the nodes at a time, half a minute apart."""
    fleet = settled(folder, nodes, 10)
    for position, node in enumerate(fleet.nodes):
        fleet.loop.call_later(position * 10 // nodes * 30.0, node.start)
    fleet.run(10 * MINUTE)
    return line(fleet, f"roll of {nodes} nodes, a tenth at a time", 0)


def outage(folder: Path, nodes: int) -> Line:
    """EC2 is away for ten minutes while pods come that fit into the warm pools, and some that do not."""
    fleet = settled(folder, nodes, 5)
    fleet.account.down = True
    fleet.schedule(fleet.nodes, 16)
    fleet.run(10 * MINUTE)
    fleet.account.down = False
    fleet.run(10 * MINUTE)
    return line(fleet, f"EC2 away for 10 minutes, 16 pods on each of {nodes}", nodes * 16)


def reclaim(folder: Path, nodes: int) -> Line:
    """A third of the nodes vanishes; as many join and get the pods."""
    fleet = settled(folder, nodes, 10)
    gone = fleet.nodes[: nodes // 3]
    for node in gone:
        node.alive = False
        node.die()
        fleet.account.end_instance(node.instance.instance_id)
    del fleet.nodes[: len(gone)]
    before = len(fleet.nodes)
    fleet.join(len(gone))
    fleet.run(len(gone) / STARTS_A_SECOND + 1)
    fleet.schedule(fleet.nodes[before:], 10)
    fleet.run(10 * MINUTE)
    return line(fleet, f"reclaim of {len(gone)} of {nodes} nodes, 10 pods each", len(gone) * 10)


SCENARIOS: Final = {
    "steady": steady,
    "burst": burst,
    "large-burst": large_burst,
    "prefix-burst": prefix_burst,
    "roll": roll,
    "outage": outage,
    "reclaim": reclaim,
}


def main(argv: Sequence[str]) -> int:
    """Run the scenarios and print the table; return 1 when a pod was not served or something broke."""
    parser = argparse.ArgumentParser(prog="vpccni.bench.fleet")
    parser.add_argument("--nodes", type=int, nargs="*", default=[100, 1000])
    parser.add_argument("scenario", nargs="*", help=f"of {', '.join(SCENARIOS)}; all without one")
    arguments = parser.parse_args(argv)
    unknown = [name for name in arguments.scenario if name not in SCENARIOS]
    if unknown:
        parser.error(f"unknown scenario {unknown[0]!r}: of {', '.join(SCENARIOS)}")
    random.seed(1)
    say(HEAD)
    complete = True
    for name in arguments.scenario or SCENARIOS:
        for nodes in arguments.nodes:
            began = time.monotonic()
            with tempfile.TemporaryDirectory(prefix="fleet-", dir="/dev/shm") as folder:
                result = SCENARIOS[name](Path(folder), nodes)
            say(f"{result.text()}   [{time.monotonic() - began:.0f} s]")
            for error, number in result.errors.most_common(5):
                say(f"    {number} times: {error}")
            complete = complete and not result.errors and len(result.waited) == result.pods
    return 0 if complete else 1


def say(text: str) -> None:
    """Print a line at once."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))

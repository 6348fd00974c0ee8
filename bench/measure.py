"""Which labs are brought up and which rows each gives. The budgets are those of the project's design."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from statistics import median
from typing import Any, Final

from vpccni.bench import ledger_scale, modes, packets, policies, policy_maps, processes, upkeep
from vpccni.bench.rows import RATE_UNIT, Row, percentiles
from vpccni.lab.api import Lab, Node
from vpccni.shared import names

LAB: Final = "bench"
INSTANCE_TYPE: Final = "m5.24xlarge"
AT_ONCE: Final = 32
POOL: Final = 400
"""Addresses that are there before the clock starts; no EC2 call falls into a measured span then."""
COOLDOWN: Final = "1"
STEADY: Final[Mapping[str, str | None]] = {
    "WARM_IP_TARGET": "1", "MINIMUM_IP_TARGET": str(POOL), "IP_COOLDOWN_PERIOD": COOLDOWN,
}  # fmt: skip
POLICY_OFF: Final[Mapping[str, str | None]] = {"NETWORK_POLICY_ENFORCING_MODE": None}
GROWING: Final[Mapping[str, str | None]] = {"WARM_IP_TARGET": "250", "IP_COOLDOWN_PERIOD": COOLDOWN}
POOL_WITHIN_S: Final = 90.0
SETTLE_S: Final = 3.0
COOLED_S: Final = 2.0
"""Before each run of pods: the addresses of the one before are out of their cool-down."""
DRIVE_WITHIN_S: Final = 180.0
KILL_AFTER_S: Final = 0.1
ADD_NO_POLICY: Final = {"p50": 4.0, "p99": 12.0}
ADD_POLICY: Final = {"p50": 5.0, "p99": 15.0}
DEL: Final = {"p50": 3.0, "p99": 8.0}
RATE_NO_POLICY: Final = {"value": 300.0}
RATE_POLICY: Final = {"value": 200.0}
MEMORY_MB: Final = 180.0
IDLE_PERCENT: Final = 0.5
GONE_S: Final = 1.0
GROWTH_MB: Final = 3.0
"""What counts as no growth: less than the pages that the allocator of C hands back or keeps by chance."""
CHURN_AT_A_TIME: Final = 250
MANY_HELD: Final = 500
MANY_POOL: Final[Mapping[str, str | None]] = {
    "WARM_IP_TARGET": "1", "MINIMUM_IP_TARGET": "720", "IP_COOLDOWN_PERIOD": COOLDOWN,
}  # fmt: skip
TIMES: Final = 1.3
"""How much longer an ADD may take with 500 allocations than with a few."""
RULES_TAKEN: Final = 10
BACK_S: Final = 1.0
FLOOD_S: Final = 5.0
KILLS_AMONG_MANY: Final = 3
LEDGER_ROUNDS: Final = 2000
LEDGER_MS: Final = 1.0
CALLS_A_NEW_ENI: Final = 3
"""CreateNetworkInterface with its addresses, AttachNetworkInterface, ModifyNetworkInterfaceAttribute (spec ipam.md 13)."""
SERVE_SOON_S: Final = 0.5
SERVE_S: Final = 1.0
SOON: Final = (names.IP_ALLOCATOR, names.NETLINK_PROGRAMMER)


@dataclass(frozen=True)
class Size:
    """How much is measured."""

    pods: int = 200
    burst: int = 250
    held: int = 110
    idle_s: float = 60.0
    kills: int = 10
    churn: int = 5000
    """Pods with names of their own that come and go, to see whether memory grows and what is left."""


QUICK: Final = Size(pods=40, burst=250, held=110, idle_s=10.0, kills=1, churn=1000)


@dataclass
class Bench:
    """Collects rows and the failures of pods, lab after lab."""

    size: Size
    say: Callable[[str], None]
    rows: list[Row] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    private_mb: dict[str, float] = field(default_factory=dict)

    def row(self, name: str, unit: str, figures: Mapping[str, float], budget: Mapping[str, float] | None = None,
            note: str = "") -> None:  # fmt: skip
        self.rows.append(
            Row(name=name, unit=unit, figures=figures, budget=budget or {}, note=note, load=os.getloadavg()[0])
        )

    def all(self) -> None:
        """Bring up the labs one after the other and measure."""
        with self.lab("policy on, tmpfs", STEADY) as node:
            self.idle(node)
            policy_on = self.pods(node, "policy on, tmpfs", ADD_POLICY)
            self.chain(node)
            self.interface_gone(node)
            self.burst(node, "policy on", RATE_POLICY)
            self.burst(node, "policy on", {}, at_once=2 * AT_ONCE)
            self.parts(node, policy_on)
            self.held(node)
            self.memory(node, "after all the pods above, none left", {})
            self.churn(node)
            self.upkeep(node)
            self.kills(node)
            self.kills_under_adds(node)
        with self.lab("policy off, tmpfs", {**STEADY, **POLICY_OFF}) as node:
            policy_off = self.pods(node, "no policy, tmpfs", ADD_NO_POLICY)
            self.burst(node, "no policy", RATE_NO_POLICY)
        more = policy_on["p50"] - policy_off["p50"]
        self.row("part of ADD: agent (policy on less off)", "ms", {"p50": more})
        with self.lab("run folder on disk", STEADY, run_on_disk=True) as node:
            self.pods(node, "policy on, disk", {})
            self.burst(node, "policy on, disk", {})
        with self.lab("pool grows meanwhile (WARM_IP_TARGET=250)", GROWING, pool=250) as node:
            self.burst(node, "policy on, pool grows meanwhile", {})

        with self.lab(f"{MANY_HELD} pods held", MANY_POOL, pool=MANY_HELD + self.size.pods) as node:
            self.among_many(node, policy_on["p50"])
        with self.lab("network policies", STEADY):
            size, lab = self.size, Lab.attach(LAB)
            policies.measure(self, lab, pods=size.pods, burst=size.burst, held=size.held, at_once=AT_ONCE)
        policies.new_peers(self, policies.NEW_PEERS)
        for mode in modes.MODES:
            self.say(f"lab: {mode.what}")
            modes.measure(mode, self, pods=self.size.pods, at_once=AT_ONCE, told=self.told)
        self.calls()
        self.policy_programs()
        figures = percentiles(ledger_scale.seconds(LEDGER_ROUNDS))
        self.row("allocator alone: assign and release, 10,000 held", "ms", figures, {"p99": LEDGER_MS})

    def policy_programs(self) -> None:
        """What the policy programs, their maps and the sweep of flows take."""
        self.say("policy programs and maps")
        for name, value in policy_maps.figures().items():
            what, _, unit = name.rpartition(", ")
            budget = {"value": policy_maps.BUDGETS[name]} if name in policy_maps.BUDGETS else {}
            self.row(f"policy: {what}", unit, {"value": value}, budget)
        one = packets.Bench()
        for what, ns in packets.figures(one):
            budget = {"value": packets.BUDGETS_NS[what]} if what in packets.BUDGETS_NS else {}
            self.row(f"policy, a packet: {what}", "ns", {"value": ns}, budget)
        for program, count in one.instructions.items():
            self.row(f"policy: instructions of {program}", "", {"value": count})

    @contextmanager
    def lab(
        self, what: str, env: Mapping[str, str | None], *, run_on_disk: bool = False, pool: int = POOL
    ) -> Iterator[Node]:
        self.say(f"lab: {what}")
        with Lab.up(LAB, nodes=1, instance_type=INSTANCE_TYPE, env=env, run_on_disk=run_on_disk) as lab:
            node = lab.nodes[0]
            _wait_for_pool(lab, pool)
            time.sleep(SETTLE_S)
            yield node

    # ------------------------------------------------------------------ pods

    def pods(self, node: Node, what: str, budget: Mapping[str, float]) -> dict[str, float]:
        """Pods one at a time through aws-cni alone; return the figures of ADD."""
        report = self.drive(node, "pods", "--count", str(self.size.pods))
        figures = percentiles(report["ADD"])
        self.row(f"ADD, aws-cni, one at a time, {what}", "ms", figures, budget)
        self.row(f"DEL, aws-cni, one at a time, {what}", "ms", percentiles(report["DEL"]), DEL if budget else {})
        self.row(f"/bin/true, one at a time, {what}", "ms", percentiles(report["true"]))
        return figures

    def chain(self, node: Node) -> None:
        report = self.drive(node, "pods", "--count", str(self.size.pods), "--chain")
        for command in ("ADD", "DEL"):
            self.row(f"{command}, whole chain, one at a time, policy on, tmpfs", "ms", percentiles(report[command]))
        report = self.drive(node, "pods", "--count", str(self.size.pods), "--chain", "--together", "--at-once", str(AT_ONCE))  # fmt: skip
        for command in ("ADD", "DEL"):
            self.row(f"{command}, whole chain, {AT_ONCE} at once, policy on, tmpfs", "ms", percentiles(report[command]))

    def burst(self, node: Node, what: str, budget: Mapping[str, float], *, at_once: int = AT_ONCE) -> None:
        count = self.size.burst
        report = self.drive(node, "pods", "--count", str(count), "--together", "--at-once", str(at_once))
        note = f"{report['failed']} failed"
        rate = {"value": len(report["ADD"]) / report["add_wall_s"]}
        self.row(f"burst of {count} ADDs, {at_once} at once, {what}", RATE_UNIT, rate, budget, note)
        for command in ("ADD", "DEL"):
            self.row(f"{command}, aws-cni, {at_once} at once, {what}", "ms", percentiles(report[command]))
        self.row(f"/bin/true, {at_once} at once, {what}", "ms", percentiles(report["true"]))

    def told(self, what: str, seconds: Mapping[str, Sequence[float]]) -> None:
        """Take what pods of another kind of network took."""
        for command in ("ADD", "DEL"):
            self.row(f"{command}, our plugins, {what}", "ms", percentiles(seconds[command]))

    def parts(self, node: Node, add: Mapping[str, float]) -> None:
        report = self.drive(node, "parts", "--count", str(self.size.pods))
        known = 0.0
        for part, label in (
            ("forwarder", "forwarder alone (VERSION)"),
            ("front_door", "front door round trip"),
            ("assign", "allocator Assign incl. checkpoint"),
        ):
            figures = percentiles(report[part])
            known += figures["p50"]
            self.row(f"part of ADD: {label}", "ms", figures)
        self.row("part of DEL: allocator Release incl. checkpoint", "ms", percentiles(report["release"]))
        self.row("part of ADD: rest (netlink, agent, descriptors)", "ms", {"p50": add["p50"] - known})

    def interface_gone(self, node: Node) -> None:
        report = self.drive(node, "gone", "--count", str(self.size.pods // 2))
        seconds = {name: value / 1000 for name, value in percentiles(report["gone"]).items()}
        self.row("interface gone after DEL answered", "s", seconds, {"p99": GONE_S})

    def churn(self, node: Node) -> None:
        """Thousands of pods with names of their own: the processes must not grow."""
        before = sum(one.pss for one in processes.memory(node).values())
        for _ in range(self.size.churn // CHURN_AT_A_TIME):
            self.drive(node, "pods", "--count", str(CHURN_AT_A_TIME), "--together", "--at-once", str(AT_ONCE))
        after = sum(one.pss for one in processes.memory(node).values())
        what = f"growth of memory (PSS) over {self.size.churn} pods, all processes"
        self.row(what, "MB", {"value": after - before}, {"value": GROWTH_MB}, f"from {before:.0f} MB")
        time.sleep(SETTLE_S)
        left = upkeep.left_over(node)
        self.row(f"links, rules and routes that {self.size.churn} pods left", "", {"value": len(left)}, {"value": 0})
        self.failures += left

    def upkeep(self, node: Node) -> None:
        """What keeping the kernel's state costs with pods there."""
        self.say(f"  {self.size.held} pods held: rules taken away, a restart, a flood of foreign routes")
        holder = self._start(node, "pods", "--count", str(self.size.held), "--hold")
        _first_line(holder)
        time.sleep(SETTLE_S)
        back = upkeep.rule_back(node, RULES_TAKEN)
        self.row(
            "from a rule's removal to its return", "s", {"median": median(back), "max": max(back)}, {"max": BACK_S}
        )
        what = f"events on the monitors while the programmer restarts, {self.size.held} pods"
        self.row(what, "lines", {"value": upkeep.events_of_a_restart(node)}, {"value": 0})
        flood = {"value": upkeep.flood_percent(node, FLOOD_S)}
        self.row(f"CPU of the programmer, {upkeep.CHANGES_A_SECOND} foreign route changes a second", "%", flood)
        self._report(holder)

    def among_many(self, node: Node, among_few: float) -> None:
        """ADD while many pods are there, against ADD with few."""
        holder = self._start(node, "pods", "--count", str(MANY_HELD), "--at-once", str(AT_ONCE), "--hold")
        _first_line(holder)
        figures = percentiles(self.drive(node, "pods", "--count", str(self.size.pods))["ADD"])
        self.row(f"ADD, aws-cni, one at a time, {MANY_HELD} pods there", "ms", figures)
        self.row("the same over ADD with few pods", "times", {"p50": figures["p50"] / among_few}, {"p50": TIMES})
        for process in SOON:
            took = [processes.seconds_to_serve(node, process) for _ in range(KILLS_AMONG_MANY)]
            figures = {"median": median(took), "max": max(took)}
            self.row(f"SIGKILL to serving, {process}, {MANY_HELD} pods there", "s", figures, {"max": SERVE_SOON_S})
        self._report(holder)

    def calls(self) -> None:
        """EC2 calls from the first look to `burst` pods, with the settings of the manifest."""
        count = self.size.burst
        self.say(f"lab: EC2 calls from 0 to {count} pods")
        with Lab.up(LAB, nodes=1, instance_type=INSTANCE_TYPE, env={"IP_COOLDOWN_PERIOD": COOLDOWN}) as lab:
            self.drive(lab.nodes[0], "pods", "--count", str(count), "--together", "--at-once", str(AT_ONCE))
            enis = len(lab.ec2_picture())
            made = {name: number for name, number in lab.ec2_counts().items() if not name.startswith("Describe")}
        bound = 1 + CALLS_A_NEW_ENI * (enis - 1)
        note = f"{enis} ENIs; " + ", ".join(f"{number} {name}" for name, number in sorted(made.items()))
        self.row(
            f"EC2 calls that change something, 0 to {count} pods", "calls", {"value": float(sum(made.values()))},
            {"value": float(bound + enis)}, f"the planner's bound is {bound}; {note}",
        )  # fmt: skip

    def drive(self, node: Node, *arguments: str) -> dict[str, Any]:
        """Run the driver inside the node to its end; return its report."""
        self.say("  " + " ".join(arguments))
        time.sleep(COOLED_S)
        return self._report(self._start(node, *arguments))

    def _start(self, node: Node, *arguments: str) -> subprocess.Popen[str]:
        argv = [sys.executable, "-m", "vpccni.bench.drive", *arguments]
        return node.popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)

    def _report(self, driver: subprocess.Popen[str]) -> dict[str, Any]:
        """Wait for a driver's end; return its last line. Raises RuntimeError with what it said when it failed."""
        try:
            out, error = driver.communicate("", timeout=DRIVE_WITHIN_S)
        finally:
            if driver.poll() is None:
                driver.kill()
        if driver.returncode != 0:
            raise RuntimeError(f"the driver ended with {driver.returncode}: {error.strip()[-2000:]}")
        report: dict[str, Any] = json.loads(out.splitlines()[-1])
        self.failures += report.get("failures", [])
        return report

    # ------------------------------------------------------------------ processes

    def idle(self, node: Node) -> None:
        """Memory and CPU of the processes before the first pod."""
        self.memory(node, "idle", {})
        self.say(f"  idle CPU over {self.size.idle_s:.0f} s")
        used = processes.idle_cpu(node, self.size.idle_s)
        for name, percent in used.items():
            self.row(f"idle CPU, {name}", "%", {"value": percent})
        self.row("idle CPU, all processes and supervisord", "%", {"value": sum(used.values())}, {"value": IDLE_PERCENT})

    def held(self, node: Node) -> None:
        """Memory of the processes while pods are there."""
        self.say(f"  {self.size.held} pods held")
        holder = self._start(node, "pods", "--count", str(self.size.held), "--hold")
        _first_line(holder)
        time.sleep(SETTLE_S)
        self.memory(node, f"{self.size.held} pods", {"value": MEMORY_MB})
        self._report(holder)

    def memory(self, node: Node, what: str, budget: Mapping[str, float]) -> None:
        found = processes.memory(node)
        for name, one in found.items():
            self.row(f"memory (PSS), {what}, {name}", "MB", {"value": one.pss})
            self.private_mb[f"{what}, {name}"] = round(one.private, 1)
        total = sum(one.pss for one in found.values())
        private = sum(one.private for one in found.values())
        self.row(f"memory (PSS), {what}, all", "MB", {"value": total}, budget, f"{private:.0f} MB of it private")

    def kills(self, node: Node) -> None:
        for process in names.NODE_PROCESSES:
            self.say(f"  kill {process}")
            took = []
            for _ in range(self.size.kills):
                took.append(processes.seconds_to_serve(node, process))
                time.sleep(SETTLE_S)
            limit = SERVE_SOON_S if process in SOON else SERVE_S
            figures = {"median": median(took), "max": max(took)}
            self.row(f"SIGKILL to serving, {process}", "s", figures, {"max": limit})

    def kills_under_adds(self, node: Node) -> None:
        """Pods one after the other while each process is killed: none may fail, and the longest tells how late."""
        for process in names.NODE_PROCESSES:
            self.say(f"  kill {process} while pods are added")
            driver = self._start(node, "pods", "--count", str(self.size.pods), "--announce")
            _first_line(driver)
            time.sleep(KILL_AFTER_S)
            node.kill(process)
            report = self._report(driver)
            longest = {"max": max([*report["ADD"], 0.0]) * 1000}
            note = f"{report['failed']} of {self.size.pods} failed"
            self.row(f"longest ADD while {process} is killed", "ms", longest, note=note)
            time.sleep(SETTLE_S)


def _first_line(driver: subprocess.Popen[str]) -> None:
    """Wait for the driver's first line; its pods are up, or about to be added."""
    assert driver.stdout is not None
    guard = threading.Timer(DRIVE_WITHIN_S, driver.kill)
    guard.start()
    driver.stdout.readline()
    guard.cancel()


def _wait_for_pool(lab: Lab, wanted: int) -> None:
    """Wait until the lab's EC2 shows the node with as many secondary addresses as are wanted."""
    deadline = time.monotonic() + POOL_WITHIN_S
    have = 0
    while time.monotonic() < deadline:
        have = sum(len(eni["addresses"]) for eni in lab.ec2_picture())
        if have >= wanted:
            return
        time.sleep(0.2)
    raise TimeoutError(
        f"the node has {have} of {wanted} addresses after {POOL_WITHIN_S:.0f} s; see the eni_manager's log"
    )

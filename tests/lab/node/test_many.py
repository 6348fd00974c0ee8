"""Many calls at once and many after each other: books, descriptors, log lines and state files stay right."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.waiting import until
from tests.lab.node.conftest import NodeUnderTest

from vpccni.bench.parts import allocator_seconds
from vpccni.bench.processes import cpu_seconds
from vpccni.lab.api import Lab
from vpccni.shared import names

AT_ONCE = 64
CALLS = 200
WARM_UP = 3  # pods that the driver adds and deletes before
DRIVEN_WITHIN_S = 300.0
LOGS = "/var/log/aws-routed-eni"
ROTATED_AT = 100 << 20  # spec operations.md 13
OLD_FILES = 5
CYCLES = 10_000
STOPS = 10
STOPPED_WITHIN_S = 10.0
WAITED_S = 10.0
SHARE_OF_A_CORE = 0.05


@pytest.fixture(scope="module")
def large() -> Iterator[NodeUnderTest]:
    """A node with an address for every call."""
    env = {"IP_COOLDOWN_PERIOD": "1", "WARM_IP_TARGET": "1", "MINIMUM_IP_TARGET": str(CALLS + 20)}
    with Lab.up(f"many{os.getpid()}", nodes=1, instance_type="m5.24xlarge", env=env) as lab:
        until(lambda: sum(len(eni["addresses"]) for eni in lab.ec2_picture()) >= CALLS, "the pool", within_s=90)
        yield NodeUnderTest(lab)


class Driver:
    """Pods that are added and deleted by the plugin, in a process of its own."""

    def __init__(self, node: NodeUnderTest, count: int, *words: str) -> None:
        argv = [sys.executable, "-m", "vpccni.bench.drive", "pods", "--count", str(count), *words]
        self._process = node.node.popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def wait_for_line(self) -> None:
        assert self._process.stdout is not None
        guard = threading.Timer(DRIVEN_WITHIN_S, self._process.kill)
        guard.start()
        self._process.stdout.readline()
        guard.cancel()

    @property
    def ended(self) -> bool:
        return self._process.poll() is not None

    def report(self) -> dict[str, Any]:
        out, _ = self._process.communicate("", timeout=DRIVEN_WITHIN_S)
        report: dict[str, Any] = json.loads(out.splitlines()[-1])
        return report


def books(node: NodeUnderTest) -> list[str]:
    """The addresses in the checkpoint, as it lies on disk."""
    held = json.loads((node.node.root / "ipam.json").read_text())["allocations"]
    return sorted(entry["ipv4"] for entry in held)


def interfaces(node: NodeUnderTest) -> list[str]:
    return [line for line in node.shell("ls /sys/class/net").split() if line.startswith("eni")]


@pytest.mark.full
@pytest.mark.spec("rpc.11.7")
def test_of_more_calls_than_addresses_as_many_succeed_as_there_are_and_none_is_booked_twice(
    node: NodeUnderTest,
) -> None:
    room = 27  # of an m5.large
    driver = Driver(node, CALLS, "--together", "--at-once", str(AT_ONCE), "--hold")
    driver.wait_for_line()
    held = books(node)
    assert len(held) == len(set(held)) == room
    report = driver.report()
    assert len(report["ADD"]) == room
    assert report["failed"] == CALLS - room
    assert all("ENI_LIMIT" in failure or "MAX_PODS" in failure for failure in report["failures"]), report["failures"]
    assert books(node) == []


@pytest.mark.full
@pytest.mark.spec("operations.17.24")
def test_no_line_of_the_plugins_log_is_lost_or_torn_while_it_is_rotated(large: NodeUnderTest) -> None:
    large.node.exec(["truncate", "-s", str(ROTATED_AT - 20_000), f"{LOGS}/plugin.log"])
    report = Driver(large, CALLS, "--together", "--at-once", str(AT_ONCE)).report()
    assert report["failed"] == 0, report["failures"]
    files = [path for path in (large.node.filesystem / LOGS[1:]).iterdir() if path.name.startswith("plugin.log")]
    assert 2 <= len(files) <= 1 + OLD_FILES
    messages = [json.loads(line)["msg"] for path in files for line in written(path)]
    for verb in ("ADD", "DEL"):
        done = {text.split()[2] for text in messages if text.startswith(f"{verb} of ") and " done in " in text}
        assert len(done) == CALLS + WARM_UP


def written(path: Path) -> list[bytes]:
    return path.read_bytes().lstrip(b"\0").splitlines()


@pytest.mark.full
@pytest.mark.spec("operations.17.23")
def test_ten_thousand_bookings_leave_no_descriptor_behind(node: NodeUnderTest) -> None:
    pid = node.node.pids()[names.IP_ALLOCATOR]

    def descriptors() -> int:
        return len(os.listdir(f"/proc/{pid}/fd"))

    before = descriptors()
    allocator_seconds(node.node.root, CYCLES)
    assert node.node.pids()[names.IP_ALLOCATOR] == pid
    until(lambda: descriptors() <= before, lambda: f"{descriptors()} instead of {before}", within_s=15)
    assert books(node) == []


@pytest.mark.full
@pytest.mark.spec("operations.17.22", "dataplane.18.34")
def test_a_node_that_is_stopped_at_any_moment_stops_soon_and_leaks_nothing(large: NodeUnderTest) -> None:
    chance = random.Random(22)
    for _ in range(STOPS):
        driver = Driver(large, 100, "--together", "--at-once", "16", "--announce")
        driver.wait_for_line()
        time.sleep(chance.uniform(0.0, 0.8))
        begun = time.monotonic()
        large.node.stop_processes()
        assert time.monotonic() - begun < STOPPED_WITHIN_S
        books(large)  # it parses
        large.node.start_processes()
        driver.report()
    until(lambda: interfaces(large) == [], lambda: str(interfaces(large)), within_s=30)
    until(lambda: books(large) == [], lambda: str(books(large)), within_s=60)
    left = [line for line in large.shell("ip rule").splitlines() if line.startswith(("512:", "1536:"))]
    assert left == []


@pytest.mark.spec("operations.17.21", "dataplane.18.34")
def test_waiting_for_metadata_costs_little_and_starts_no_process_again_and_again(node: NodeUnderTest) -> None:
    node.lab.imds_fault(node.node.name, statuses={"": 503})
    try:
        for process in names.NODE_PROCESSES:
            node.node.kill(process)
        until(lambda: len(node.node.pids()) == len(names.NODE_PROCESSES), node.story, within_s=15)
        time.sleep(3)  # they have started
        pids = node.node.pids()
        before = sum(map(cpu_seconds, pids.values()))
        time.sleep(WAITED_S)
        assert node.node.pids() == pids
        assert (sum(map(cpu_seconds, pids.values())) - before) / WAITED_S < SHARE_OF_A_CORE
    finally:
        node.lab.ec2_clear()

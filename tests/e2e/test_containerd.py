"""Pods of a real container runtime: Debian's containerd over the CRI, our conflist as node-start wrote it, in a lab node."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest

from vpccni.lab.api import Lab
from vpccni.lab.reboot import reboot
from vpccni.shared.names import IP_ALLOCATOR, NETLINK_PROGRAMMER

pytestmark = pytest.mark.full
SETTLES_WITHIN_S = 10.0


def reaches(containerd: Any, sandbox: str, address: str) -> bool:
    done = containerd.in_pod(sandbox, "ping", "-c", "2", "-i", "0.2", "-W", "1", address)
    return done.returncode == 0


def pods_rules(containerd: Any) -> list[str]:
    """Return the rules that lead to and from pods."""
    rules = containerd.node.exec(["ip", "rule"]).stdout.splitlines()
    return [rule for rule in rules if rule.startswith(("512:", "1536:"))]


def held(containerd: Any) -> list[str]:
    document = json.loads((containerd.node.root / "ipam.json").read_text())
    return sorted(entry["ipv4"] for entry in document["allocations"])


def settles(containerd: Any, addresses: list[str]) -> None:
    deadline = time.monotonic() + SETTLES_WITHIN_S
    while held(containerd) != sorted(addresses):
        assert time.monotonic() < deadline, f"{held(containerd)} are held, not {addresses}"
        time.sleep(0.1)


def test_pods_are_created_talk_and_are_deleted_without_a_trace(containerd: Any) -> None:
    node = containerd.node
    before = pods_rules(containerd)
    one, two = containerd.run_pod("one"), containerd.run_pod("two")
    assert containerd.address(one) != containerd.address(two)
    assert reaches(containerd, one, containerd.address(two))
    assert reaches(containerd, two, node.primary_address)
    settles(containerd, [containerd.address(one), containerd.address(two)])
    containerd.remove_pod(one)
    containerd.remove_pod(two)
    settles(containerd, [])
    assert pods_rules(containerd) == before


def test_a_sandbox_that_is_made_again_has_a_network_and_the_old_ones_end_does_not_touch_it(containerd: Any) -> None:
    old = containerd.run_pod("again")
    new = containerd.run_pod("again")
    address = containerd.address(new)
    containerd.remove_pod(old)
    settles(containerd, [address])
    assert reaches(containerd, new, containerd.node.primary_address)
    containerd.remove_pod(new)
    settles(containerd, [])


def test_pods_outlive_a_restart_of_containerd_and_are_deleted_by_the_next_one(containerd: Any) -> None:
    pod = containerd.run_pod("survivor")
    address = containerd.address(pod)
    containerd.restart()
    assert containerd.address(pod) == address
    assert reaches(containerd, pod, containerd.node.primary_address)
    containerd.remove_pod(pod)
    settles(containerd, [])


@pytest.mark.parametrize("process", [IP_ALLOCATOR, NETLINK_PROGRAMMER])
def test_a_pod_comes_and_goes_while_a_process_is_killed(containerd: Any, process: str) -> None:
    containerd.node.kill(process)
    pod = containerd.run_pod("late")
    assert reaches(containerd, pod, containerd.node.primary_address)
    containerd.node.kill(process)
    containerd.remove_pod(pod)
    settles(containerd, [])


def test_a_pod_removed_while_every_process_is_dead_gives_its_address_back_later(containerd: Any) -> None:
    pod = containerd.run_pod("offline")
    containerd.node.stop_processes()
    containerd.remove_pod(pod)
    containerd.node.start_processes()
    settles(containerd, [])


@pytest.mark.parametrize("keep", [True, False], ids=["checkpoint kept", "checkpoint lost"])
def test_after_a_reboot_the_dead_sandboxes_are_collected_and_new_pods_come(
    containerd: Any, lab: Lab, keep: bool
) -> None:
    dead = [containerd.run_pod(f"dead-{number}") for number in range(3)]
    containerd.end_with(lambda: reboot(lab, containerd.node, keep_run_folder=keep))
    fresh = containerd.run_pod("fresh")
    for sandbox in dead:
        containerd.remove_pod(sandbox)
    settles(containerd, [containerd.address(fresh)])
    assert reaches(containerd, fresh, containerd.node.primary_address)
    containerd.remove_pod(fresh)
    settles(containerd, [])
    assert pods_rules(containerd) == []

"""Death of each process before and after every effect of an ADD and a DEL: the call succeeds, late, and all books agree afterwards.

The effects are recorded first, then each is armed in turn. `make test` takes a seeded sample, `make test-full` all of them.
"""

from __future__ import annotations

import json
import random
import time
from collections.abc import Iterator
from typing import Any

import pytest
from tests_node import addresses_in_use, wired_addresses

from vpccni.shared.names import IP_ALLOCATOR, NETLINK_PROGRAMMER, POLICY_AGENT

LATE_AT_MOST_S = 5.0  # 2 s on a machine that no other tests keep busy; the bench tells the longest
SAMPLE = 40
PROCESSES = (IP_ALLOCATOR, NETLINK_PROGRAMMER, POLICY_AGENT)


def kill_points(node: Any) -> list[tuple[str, str, str, bool]]:
    """Return (verb, process, effect, before) for each distinct effect an ADD and a DEL pass."""
    found = []
    for process in PROCESSES:
        _, during_add = node.recorded(process, lambda: node.add("recorded"))

        def delete_and_settle() -> None:
            node.lab.delete_pod("recorded")
            time.sleep(0.6)

        _, during_del = node.recorded(process, delete_and_settle)
        for verb, effects in (("ADD", during_add), ("DEL", during_del)):
            found += [(verb, process, effect, before) for effect in dict.fromkeys(effects) for before in (True, False)]
    return found


def one_kill(node: Any, verb: str, process: str, effect: str, before: bool) -> None:
    if verb == "DEL":
        node.add("victim")
    pid = node.node.pids()[process]
    node.arm(process, effect, before=before)
    begin = time.monotonic()
    if verb == "ADD":
        node.add("victim")
    else:
        node.lab.delete_pod("victim")
    took = time.monotonic() - begin
    deadline = time.monotonic() + 3
    while node.node.pids().get(process, pid) == pid and time.monotonic() < deadline:
        time.sleep(0.02)
    assert node.node.pids().get(process) != pid, f"{process} did not die at {effect}"
    assert took < LATE_AT_MOST_S, f"{verb} took {took:.2f} s"
    if verb == "ADD":
        pod = node.lab.pod("victim")
        assert pod.exec(["ping", "-c", "1", "-W", "1", node.node.primary_address], check=False).returncode == 0
        node.lab.delete_pod("victim")
    books_agree(node)


def books_agree(node: Any) -> None:
    """Ledger, kernel and EC2 name the same addresses, each once; what a DEL left for later is gone within its time."""
    deadline = time.monotonic() + 8
    while True:
        ledger, kernel = addresses_in_use(node), wired_addresses(node)
        if sorted(ledger) == sorted(kernel) or time.monotonic() > deadline:
            break
        time.sleep(0.2)
    assert sorted(ledger) == sorted(kernel), node.story()
    assert len(set(ledger)) == len(ledger)
    owned = json.dumps(node.lab.ec2_picture())
    assert all(address in owned for address in ledger)


@pytest.fixture
def witness(node: Any) -> Iterator[Any]:
    """A pod that stays: its ping counts what a kill costs running pods."""
    pod = node.add("witness")
    ping = pod.popen(["ping", "-i", "0.02", "-q", node.node.primary_address], stdout=-1)
    yield pod
    ping.send_signal(2)
    out, _ = ping.communicate(timeout=10)
    assert " 0% packet loss" in out, out
    node.lab.delete_pod("witness")


def test_every_call_survives_a_death_at_a_sample_of_its_effects(node: Any, witness: Any) -> None:
    points = kill_points(node)
    assert {process for _, process, _, _ in points} == set(PROCESSES)
    chosen = random.Random(1).sample(points, min(SAMPLE, len(points)))
    for verb, process, effect, before in chosen:
        one_kill(node, verb, process, effect, before)
        time.sleep(1.0)  # kills closer together than this are flapping, which is slowed down on purpose


@pytest.mark.full
def test_every_call_survives_a_death_at_every_effect(node: Any, witness: Any) -> None:
    for verb, process, effect, before in kill_points(node):
        one_kill(node, verb, process, effect, before)
        time.sleep(1.0)


def test_a_deletion_with_every_process_dead_is_kept_and_carried_out_later(node: Any) -> None:
    pod = node.add("offline")
    node.node.stop_processes()
    node.lab.delete_pod("offline")
    assert pod.address in addresses_in_use(node)
    node.node.start_processes()
    books_agree(node)
    assert pod.address not in addresses_in_use(node)


def test_a_truncated_checkpoint_is_kept_aside_and_the_pods_keep_their_addresses(node: Any) -> None:
    pods = [node.add(f"kept-{number}") for number in range(3)]
    node.shell(
        "head -c 60 /run/aws-node/ipam.json > /run/aws-node/half && mv /run/aws-node/half /run/aws-node/ipam.json"
    )
    node.node.kill(IP_ALLOCATOR)
    deadline = time.monotonic() + 8
    while sorted(addresses_in_use(node)) != sorted(pod.address for pod in pods) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert sorted(addresses_in_use(node)) == sorted(pod.address for pod in pods)
    assert "ipam.json.unreadable-" in node.shell("ls /run/aws-node")
    fresh = node.add("fresh")
    assert fresh.address not in {pod.address for pod in pods}
    for pod in [*pods, fresh]:
        node.lab.delete_pod(pod.name)

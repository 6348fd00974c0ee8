"""A node's power fails and comes back, with its checkpoint or without: the runtime asks DEL for sandboxes that are gone, then new pods come."""

from __future__ import annotations

import json
from typing import Any

import pytest
from support.waiting import until

from vpccni.lab.reboot import reboot

PODS = 12
"""More than the primary ENI of an m5.large has addresses for."""
SETTLED_WITHIN_S = 20.0


def held(node: Any) -> list[str]:
    path = node.node.root / "ipam.json"
    return sorted(entry["ipv4"] for entry in json.loads(path.read_text())["allocations"]) if path.exists() else []


def about_pods(node: Any) -> list[str]:
    """Return the rules, routes and links that are of pods."""
    rules = [rule for rule in node.shell("ip rule").splitlines() if rule.startswith(("512:", "1536:"))]
    links = [link for link in node.shell("ip -o link").splitlines() if ": eni" in link]
    return rules + links


@pytest.mark.parametrize("keep", [True, False], ids=["checkpoint kept", "checkpoint lost"])
def test_after_a_reboot_old_sandboxes_go_and_new_pods_come(node: Any, keep: bool) -> None:
    for number in range(PODS):
        node.add(f"before-{keep}-{number}")
    died = reboot(node.lab, node.node, keep_run_folder=keep)
    assert len(died) == PODS
    runtime = node.node.runtime()
    old = runtime.sandboxes()
    assert {sandbox.container_id for sandbox in old} == {pod.container_id for pod in died}
    for sandbox in old:
        runtime.delete(sandbox)
    until(lambda: held(node) == [], lambda: node.story(), within_s=SETTLED_WITHIN_S)
    assert about_pods(node) == []
    fresh = [node.add(f"after-{keep}-{number}") for number in range(PODS)]
    assert held(node) == sorted(pod.address for pod in fresh)
    first, last = fresh[0], fresh[-1]
    assert first.exec(["ping", "-c", "1", "-W", "2", last.address], check=False).returncode == 0
    for pod in (first, last):
        assert pod.exec(["ping", "-c", "1", "-W", "2", "203.0.113.10"], check=False).returncode == 0
    for pod in fresh:
        node.lab.delete_pod(pod.name)


def test_pods_that_come_before_the_old_ones_are_deleted_keep_their_addresses(node: Any) -> None:
    """kubelet starts new pods at once and collects the dead later: a late DEL must not touch an address that has a new holder."""
    for number in range(4):
        node.add(f"early-{number}")
    reboot(node.lab, node.node, keep_run_folder=True)
    runtime = node.node.runtime()
    old = runtime.sandboxes()
    fresh = [node.add(f"again-{number}") for number in range(4)]
    for sandbox in old:
        runtime.delete(sandbox)
    until(lambda: held(node) == sorted(pod.address for pod in fresh), node.story, within_s=SETTLED_WITHIN_S)
    for pod in fresh:
        assert pod.exec(["ping", "-c", "1", "-W", "2", node.node.primary_address], check=False).returncode == 0
        node.lab.delete_pod(pod.name)

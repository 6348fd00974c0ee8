"""`vpccni policy dry-run` beside a running agent: it tells what then happens, and changes nothing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
from support.waiting import until

if TYPE_CHECKING:
    from tests.kernel.policy_agent.conftest import Node


def dry_run(node: Node, document: dict[str, Any], *words: str) -> subprocess.CompletedProcess[str]:
    path = node.run_dir / "policy.yaml"
    path.write_text(json.dumps(document))
    command = [sys.executable, "-m", "vpccni", "policy", "dry-run", str(path), "--run-dir", str(node.run_dir), *words]
    given = os.environ | {"KUBECONFIG": node.environment["KUBECONFIG"], "CLUSTER_ENDPOINT": ""}
    return subprocess.run(node.inside(*command), env=given, capture_output=True, text=True, check=False)


@pytest.fixture
def api_node(node: Node) -> Node:
    node.start_api()
    node.start_agent()
    return node


def test_it_tells_what_would_change_and_changes_nothing(api_node: Node) -> None:
    pod, friend, stranger = (api_node.pod() for _ in range(3))
    for one, app in ((pod, "api"), (friend, "web"), (stranger, "other")):
        api_node.make_pod_object(one, app=app)
        api_node.add(one)
    rule = {"from": [{"podSelector": {"matchLabels": {"app": "web"}}}], "ports": [{"port": 80}]}
    policy = {
        "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": {"name": "p"},
        "spec": {"podSelector": {"matchLabels": {"app": "api"}}, "policyTypes": ["Ingress"], "ingress": [rule]},
    }  # fmt: skip
    done = dry_run(api_node, policy)
    assert (done.returncode, done.stderr) == (2, "")
    assert done.stdout.splitlines() == [
        f"default/{pod.name}",
        "    ingress is isolated: what no rule allows is denied",
        f"    newly denied from 0.0.0.0/0 except {friend.address}/32, ::/0: every port",
        f"    newly denied from {friend.address}/32: TCP 0-79, TCP 81-65535, protocols other than TCP",
        f"default/{friend.name}: no change",
        f"default/{stranger.name}: no change",
    ]
    assert stranger.reaches(pod), "nothing was changed"

    api_node.put_policy("p", [pod], ingress=[{"cidr": friend.address, "ports": [{"protocol": "TCP", "port": 80}]}])
    until(lambda: api_node.count("vpccni_policy_switches") == 1, "the switch", within_s=5)
    same = dry_run(api_node, policy)
    assert (same.returncode, same.stderr) == (0, "")
    rule["ports"] = [{"port": 443}]
    document = json.loads(dry_run(api_node, policy, "--json").stdout)
    (changed,) = [one for one in document["pods"] if one["changes"]]
    assert {(one["outcome"], *one["ports"]) for one in changed["changes"]} == {
        ("denied", "TCP 80"),
        ("allowed", "TCP 443"),
    }


def test_what_is_no_policy_is_named(api_node: Node) -> None:
    done = dry_run(api_node, {"kind": "Deployment", "metadata": {"name": "d"}})
    assert done.returncode == 1
    assert "'Deployment' is none of" in done.stderr

"""`vpccni plan` and `vpccni why`: what an operator is told of a node that is well, and of one whose repair is held up."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from typing import Any

import pytest


def run(node: Any, *words: str) -> Any:
    return node.node.exec([sys.executable, "-m", "vpccni", *words], check=False)


@pytest.fixture(scope="module")
def pod(node: Any) -> Iterator[Any]:
    yield node.add("explained")
    node.lab.delete_pod("explained")


def test_a_settled_node_has_nothing_planned(node: Any, pod: Any) -> None:
    done = run(node, "plan")
    assert (done.returncode, done.stdout) == (0, "nothing: the kernel is as it should be\n"), done.stderr


def test_what_no_notification_tells_is_in_the_plan_until_the_next_full_pass(node: Any, pod: Any) -> None:
    veth = pod.result["interfaces"][0]["name"]
    path = f"/proc/sys/net/ipv6/conf/{veth}/accept_ra"
    node.shell(f"echo 2 > {path}")
    done = run(node, "plan")
    assert done.returncode in (0, 2)  # 0: the pass of every 30 s was between the two
    if done.returncode == 2:
        assert f"set     net/ipv6/conf/{veth}/accept_ra = 0: it is 2" in done.stdout
    node.shell(f"echo 0 > {path}")


def test_a_firewall_rule_that_was_deleted_is_planned_and_named(node: Any, pod: Any) -> None:
    node.shell("iptables -t nat -F AWS-SNAT-CHAIN-0")
    document = json.loads(run(node, "plan", "--json").stdout)
    assert document["steps"] == []
    assert any("AWS-SNAT-CHAIN-0" in text for text in document["firewall"]) or (
        "SNAT" in node.shell("iptables-save -t nat")
    )


def test_the_whole_network_of_a_pod_is_told(node: Any, pod: Any) -> None:
    until = time.monotonic() + 10  # the ledger is told two seconds after a change
    while "(not told yet)" in (done := run(node, "why", "default/explained")).stdout and time.monotonic() < until:
        time.sleep(0.2)
    assert done.returncode == 0, done.stderr
    for words in (
        f"address      {pod.address}",
        "ENI          eni-",
        f"rule 512: to {pod.address}/32 lookup 254",
        f"route {pod.address}/32 dev",
        "table nat: ",
        "AWS-SNAT-CHAIN-0",
        "added: ",
    ):
        assert words in done.stdout
    trace = done.stdout.rsplit("trace ", 1)[1].split()[0]
    assert "cni call" in run(node, "trace", trace).stdout


def test_a_foreign_rule_about_a_pod_is_shown_and_said_to_be_left_alone(node: Any, pod: Any) -> None:
    rule = f"rule add to {pod.address} priority 700 lookup main"
    node.node.exec(["ip", *rule.split()])
    try:
        story = json.loads(run(node, "why", "explained", "--json").stdout)["sandboxes"][0]
        assert story["foreign"] == [f"rule 700: to {pod.address}/32 lookup 254: not ours, left alone"]
        assert story["missing"] == []
    finally:
        node.shell("ip " + rule.replace("add", "del"))


def test_what_was_put_right_is_part_of_the_story(node: Any, pod: Any) -> None:
    node.shell(f"ip rule del to {pod.address} priority 512; sleep 1")
    assert f"put right: add rule 512: to {pod.address}/32" in run(node, "why", "explained").stdout


def test_a_pod_nobody_wired_and_a_silent_programmer_end_with_a_clear_line(node: Any, pod: Any) -> None:
    unknown = run(node, "why", "default/nobody")
    assert (unknown.returncode, unknown.stderr) == (1, "no pod default/nobody is wired on this node\n")
    silent = run(node, "--run-dir", "/tmp/no-such-folder", "plan")
    assert silent.returncode == 1
    assert "netlink_programmer" in silent.stderr

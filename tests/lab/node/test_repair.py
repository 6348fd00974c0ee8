"""What is taken from the node's kernel by hand comes back within a second; what is not ours stays; a settled node is left alone."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests_node import Monitor

WITHIN_S = 1.0
SETTLED_WITHIN_S = 20.0
PODS = 11  # nine fit on the primary ENI of an m5.large
FLOOD_S = 5.0
CHANGES_A_SECOND = 1000
SHARE_OF_A_CORE = 0.1  # 0.01 on a quiet machine


def comes_back(there: Callable[[], bool], *, within_s: float = WITHIN_S) -> float:
    """Return after how many seconds it is there again; fails past `within_s`."""
    began = time.monotonic()
    while not there():
        assert time.monotonic() - began < within_s, f"not there within {within_s} s"
        time.sleep(0.01)
    return time.monotonic() - began


def ours(node: Any) -> list[str]:
    """The node's rules, main table and ENI tables as iproute2 prints them, sorted."""
    listing = node.shell(
        "ip rule; ip route; for t in 2 3 4; do ip route show table $t 2>/dev/null | sed s/^/$t:/; done"
    )
    return sorted(line.strip() for line in listing.splitlines() if line.strip())


def settled(node: Any) -> list[str]:
    """Wait until two looks a second apart agree, and return the look."""
    until = time.monotonic() + SETTLED_WITHIN_S
    before: list[str] = []
    now = ours(node)
    while before != now:
        assert time.monotonic() < until, "the node does not settle"
        time.sleep(1)
        before, now = now, ours(node)
    return now


@pytest.fixture(scope="module")
def pods(node: Any) -> list[Any]:
    """Pods on both ENIs; the last one is on the second."""
    made = [node.add(f"repair-{number}") for number in range(PODS)]
    comes_back(lambda: "32765" in node.shell("ip rule"), within_s=SETTLED_WITHIN_S)
    assert f"from {made[-1].address} lookup 2" in node.shell("ip rule")
    settled(node)
    return made


def steps_done(node: Any) -> int:
    """How many things the programmer has put right so far."""
    return int(node.shell("grep -c 'kernel state changed' /var/log/aws-routed-eni/netlink_programmer.log"))


def reaches_the_vpc(node: Any, pod: Any) -> bool:
    return bool(pod.exec(["ping", "-c", "1", "-W", "1", node.node.primary_address], check=False).returncode == 0)


@pytest.mark.spec("dataplane.18.12", "dataplane.2.1", "dataplane.11.3")
@pytest.mark.parametrize(
    "take_away",
    [
        "ip rule del to {pod} priority 512",
        "ip rule del from {pod} priority 1536",
        "ip rule del priority 1024",
        "ip rule del priority 32765",
        "ip route del {pod}",
        "ip route flush table 2",
        "ip route del default table 2",
        "ip route replace {pod}/32 dev eth0 scope link",
        "ip link set eth1 down",
        "ip link set eth1 mtu 1400",
        "ip address flush dev eth1",
        "ip link set {veth} down",
        "ip rule add from {pod} to 10.0.0.0/16 priority 1536 lookup 2",
    ],
)
def test_what_is_changed_by_hand_is_put_right_within_a_second(node: Any, pods: list[Any], take_away: str) -> None:
    pod, before = pods[-1], ours(node)
    veth = pod.result["interfaces"][0]["name"]
    eth1, done = secondary_link(node), steps_done(node)
    node.shell(take_away.format(pod=pod.address, veth=veth).replace("eth1", eth1).replace("eth0", primary_link(node)))
    comes_back(lambda: steps_done(node) > done)
    comes_back(lambda: ours(node) == before)
    comes_back(lambda: json.loads(node.shell(f"ip -json link show {eth1}"))[0]["mtu"] == 9001)
    assert reaches_the_vpc(node, pod)


def primary_link(node: Any) -> str:
    link: str = json.loads(node.shell("ip -json route show default"))[0]["dev"]
    return link


def secondary_link(node: Any) -> str:
    link: str = json.loads(node.shell("ip -json route show default table 2"))[0]["dev"]
    return link


@pytest.mark.spec("dataplane.18.12")
def test_all_rules_and_pod_routes_flushed_at_once_are_back_and_traffic_recovers(node: Any, pods: list[Any]) -> None:
    before = ours(node)
    flush_all(node, pods)
    assert ours(node) != before
    comes_back(lambda: ours(node) == before)
    assert all(reaches_the_vpc(node, pod) for pod in (pods[0], pods[-1]))


def flush_all(node: Any, pods: list[Any]) -> None:
    routes = "; ".join(f"ip route del {pod.address}" for pod in pods)
    rules = "; ".join(
        f"while ip rule del priority {number} 2>/dev/null; do :; done" for number in (512, 1024, 1536, 32765)
    )
    node.shell(f"{routes}; {rules}")


def test_what_is_flushed_while_the_programmer_is_dead_is_back_once_it_has_started(node: Any, pods: list[Any]) -> None:
    """Neither route nor rule tells the address and table then: the ledger does."""
    before = ours(node)
    pid = node.node.pids()["netlink_programmer"]
    os.kill(pid, signal.SIGSTOP)
    flush_all(node, pods)
    os.kill(pid, signal.SIGKILL)
    comes_back(lambda: ours(node) == before, within_s=SETTLED_WITHIN_S)
    assert all(reaches_the_vpc(node, pod) for pod in (pods[0], pods[-1]))


def test_what_is_not_ours_is_never_touched(node: Any, pods: list[Any]) -> None:
    foreign = [
        "rule add to 198.51.100.7 priority 512 lookup main",
        "rule add from 198.51.100.7 priority 1536 lookup 7",
        "rule add from 198.51.100.8 priority 32765 lookup 7",
        "rule add fwmark 0x40/0x40 priority 1024 lookup main",
        "route add 198.51.100.0/24 dev lo table 2",
        "route add 198.51.100.7 dev lo metric 5",
    ]
    try:
        for words in foreign:
            node.node.exec(["ip", *words.split()])
        before = ours(node)
        flush_all_but = (
            f"ip rule del to {pods[0].address} priority 512; ip rule del from {pods[-1].address} priority 1536"
        )
        node.shell(flush_all_but)
        comes_back(lambda: ours(node) == before)
    finally:
        for words in foreign:
            node.shell("ip " + words.replace(" add ", " del "))


@pytest.mark.spec("dataplane.18.16")
def test_a_restart_on_a_settled_node_changes_nothing(node: Any, pods: list[Any]) -> None:
    settled(node)
    with Monitor(node) as monitor:
        pid = node.node.pids()["netlink_programmer"]
        os.kill(pid, signal.SIGKILL)
        comes_back(lambda: node.node.pids().get("netlink_programmer") not in (None, pid), within_s=SETTLED_WITHIN_S)
    assert monitor.lines == []
    with Monitor(node) as monitor:
        node.shell(f"ip rule del to {pods[0].address} priority 512")
    assert monitor.lines != []


def cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def test_a_flood_of_foreign_routes_costs_little(node: Any, pods: list[Any]) -> None:
    pid = node.node.pids()["netlink_programmer"]
    script = (
        "import sys, time\n"
        "began = time.monotonic()\n"
        f"for at in range(int({FLOOD_S} * {CHANGES_A_SECOND} / 2)):\n"
        "    print(f'route add 198.51.{at % 100}.{at % 250} dev lo\\nroute del 198.51.{at % 100}.{at % 250} dev lo', flush=at % 25 == 0)\n"
        f"    time.sleep(max(0, began + at * 2 / {CHANGES_A_SECOND} - time.monotonic()))\n"
    )
    before, began = cpu_s(pid), time.monotonic()
    node.node.exec(["sh", "-c", '/usr/bin/python3 -c "$1" | ip -batch -', "sh", script])
    took = time.monotonic() - began
    assert took < FLOOD_S * 1.5, "the routes were not changed as fast as meant"
    assert (cpu_s(pid) - before) / took < SHARE_OF_A_CORE

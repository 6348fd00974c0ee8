"""The firewall of a whole node: its back-end, restarts under load, a lock that somebody holds, a change that fails (spec dataplane.md 18)."""

from __future__ import annotations

import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from support.nodes import without_iptables
from support.waiting import until as wait_until
from tests_node import Monitor, NewConnections

from vpccni.lab.fabric import INTERNET_ADDRESS
from vpccni.shared.messages.common import GetStatus, Status

PROBE = Path(__file__).parents[3] / "cni" / "grpc-health-probe"
FOLLOWS_WITHIN_S = 15.0
"""The programmer looks for kubelet's sign every 5 s."""
until = partial(wait_until, within_s=FOLLOWS_WITHIN_S)
QUIET_S = 3.0
PER_CLIENT, CLIENTS = 500, 2
LOADED_S = 12.0


def saved(node: Any, backend: str, table: str = "") -> str:
    only = f"-t {table}" if table else ""
    return str(node.shell(f"iptables-{backend}-save {only}"))


def status(node: Any) -> Status:
    answer = node.ask("netlink_programmer", GetStatus())
    assert isinstance(answer, Status)
    return answer


def probe(node: Any) -> int:
    """The exit code of the health probe as kubelet runs it."""
    return int(node.node.exec([str(PROBE), "-addr=:50051", "-rpc-timeout=5s"], check=False).returncode)


@contextmanager
def sign(node: Any, backend: str) -> Iterator[None]:
    """Show a back-end as kubelet does, and wait until our rules are there."""
    node.node.exec([f"iptables-{backend}", "-t", "mangle", "-N", "KUBE-KUBELET-CANARY"])
    try:
        until(lambda: "--to-source" in saved(node, backend), lambda: node.story())
        yield
    finally:
        node.node.exec([f"iptables-{backend}", "-t", "mangle", "-X", "KUBE-KUBELET-CANARY"])


def is_quiet(node: Any) -> bool:
    """Whether nothing changes in the kernel for a while: a node that has just got pods still gets ENIs for the next ones."""
    with Monitor(node, seconds=QUIET_S) as monitor:
        pass
    return monitor.lines == []


@pytest.fixture(scope="module")
def second(node: Any) -> list[Any]:
    """Pods on the second ENI: nine fit on the primary one."""
    pods = [node.add(f"pod-{number}") for number in range(9 + CLIENTS)]
    rules = node.shell("ip rule")
    found = [pod for pod in pods if f"from {pod.address} lookup 2" in rules]
    assert len(found) == CLIENTS
    wait_until(lambda: is_quiet(node), node.story, within_s=60)
    return found


@pytest.mark.spec("dataplane.18.16")
def test_a_thousand_new_connections_a_second_lose_none_while_the_programmer_restarts(
    node: Any, second: list[Any]
) -> None:
    with (
        NewConnections(node, second, each_a_second=PER_CLIENT) as load,
        Monitor(node, seconds=LOADED_S) as monitor,
    ):
        for how in (signal.SIGKILL, signal.SIGTERM):
            time.sleep(1)
            old = node.node.kill("netlink_programmer", how)
            until(lambda old=old: node.node.pids().get("netlink_programmer") not in (None, old), node.story)
            time.sleep(2)
    assert load.wrong == []
    assert load.a_second > 0.8 * PER_CLIENT * CLIENTS
    assert monitor.lines == []


@pytest.mark.spec("dataplane.18.19")
def test_a_running_node_follows_kubelet_to_the_other_back_end_and_back_without_a_lost_ping(
    node: Any, second: list[Any]
) -> None:
    ping = second[0].popen(["ping", "-q", "-i", "0.01", INTERNET_ADDRESS], stdout=subprocess.PIPE)
    with sign(node, "legacy"):
        until(lambda: "AWS" not in saved(node, "nft"), lambda: saved(node, "nft"))
        until(lambda: node.shell("nft list table ip aws-cni 2>/dev/null") == "", node.story)
        assert "AWS-CONNMARK-CHAIN-0" in saved(node, "legacy")
    with sign(node, "nft"):
        until(lambda: "AWS" not in saved(node, "legacy"), lambda: saved(node, "legacy"))
        assert "snat-mark" in node.shell("nft list table ip aws-cni")
    ping.send_signal(signal.SIGINT)
    told = ping.communicate(timeout=10)[0]
    assert " 0% packet loss" in told


@pytest.mark.parametrize(
    ("effect", "nth"),
    [
        pytest.param("iptables.restore", 1, id="nat-made"),
        pytest.param("iptables.restore", 2, id="mangle-made", marks=pytest.mark.full),
        pytest.param("iptables.restore", 3, id="nat-of-old-gone", marks=pytest.mark.full),
        pytest.param("iptables.restore", 4, id="mangle-of-old-gone", marks=pytest.mark.full),
        pytest.param("nft.batch", 1, id="connmark-of-old-gone", marks=pytest.mark.full),
    ],
)
@pytest.mark.spec("dataplane.18.19")
def test_death_in_the_middle_of_a_move_loses_nothing_and_the_next_start_ends_it(
    node: Any, second: list[Any], effect: str, nth: int
) -> None:
    with sign(node, "nft"):
        until(lambda: "AWS" not in saved(node, "legacy"), lambda: saved(node, "legacy"))
    ping = second[0].popen(["ping", "-q", "-i", "0.01", INTERNET_ADDRESS], stdout=subprocess.PIPE)
    try:
        old = node.node.pids()["netlink_programmer"]
        node.arm("netlink_programmer", effect, before=False, nth=nth)
        with sign(node, "legacy"):
            until(lambda: node.node.pids().get("netlink_programmer") not in (None, old), node.story)
            until(lambda: "AWS" not in saved(node, "nft"), lambda: saved(node, "nft"))
            until(lambda: node.shell("nft list table ip aws-cni 2>/dev/null") == "", node.story)
            assert "AWS-CONNMARK-CHAIN-0" in saved(node, "legacy")
            until(lambda: status(node).state == "serving", lambda: str(reasons(node)))
    finally:
        ping.send_signal(signal.SIGINT)
        told = ping.communicate(timeout=10)[0]
    assert " 0% packet loss" in told


@pytest.mark.parametrize("held_s", [8.0, pytest.param(120.0, marks=pytest.mark.full)])
@pytest.mark.spec("dataplane.18.18")
def test_a_lock_that_somebody_holds_is_told_in_time_and_leaves_no_half(node: Any, held_s: float) -> None:
    with sign(node, "legacy"):
        until(lambda: status(node).state == "serving", lambda: str(status(node).reasons))
        whole = saved(node, "legacy", "nat")
        node.node.exec(["iptables-legacy", "-t", "nat", "-F", "AWS-SNAT-CHAIN-0"])
        holder = node.node.popen(["flock", "/run/xtables.lock", "sleep", str(held_s)])
        began = time.monotonic()
        try:
            node.node.kill("netlink_programmer")
            until(lambda: any("lock" in one for one in reasons(node)), lambda: str(reasons(node)))
            assert time.monotonic() - began < held_s
            while holder.poll() is None:
                assert probe(node) == 0
                assert "--to-source" not in saved(node, "legacy", "nat")
                time.sleep(0.5)
        finally:
            holder.kill()
            holder.wait()
        until(lambda: rules_of(node) == rules_in(whole), lambda: saved(node, "legacy", "nat"))
        until(lambda: status(node).state == "serving", lambda: str(status(node).reasons))


def reasons(node: Any) -> list[str]:
    """Why the programmer does not serve fully; nothing while it starts."""
    try:
        return status(node).reasons
    except Exception as error:  # noqa: BLE001  it is being restarted: asked again
        return [f"not asked: {type(error).__name__}"]


def rules_of(node: Any) -> list[str]:
    return rules_in(saved(node, "legacy", "nat"))


def rules_in(text: str) -> list[str]:
    return [line for line in text.splitlines() if line.startswith("-A")]


@contextmanager
def broken_iptables(node: Any) -> Iterator[None]:
    """Every iptables program of the node fails, in its own mount namespace."""
    node.node.exec(["mount", "--bind", "/bin/false", "/usr/sbin/xtables-nft-multi"])
    try:
        yield
    finally:
        node.node.exec(["umount", "/usr/sbin/xtables-nft-multi"])


@pytest.mark.spec("dataplane.18.17")
def test_a_new_cidr_of_the_vpc_whose_rules_fail_is_tried_again(node: Any) -> None:
    """The connmark, for which no program is run, is right at once; SNAT as soon as iptables works again."""
    marks = "nft list chain ip aws-cni snat-mark"
    try:
        with sign(node, "nft"), broken_iptables(node):
            node.lab.ec2_settings(more_vpc_cidrs=["100.64.0.0/16"])
            node.node.kill("eni_manager")  # which reads metadata at its start, and else every 30 s
            until(lambda: "100.64.0.0/16" in node.shell(marks), lambda: node.shell(marks))
            until(lambda: status(node).state == "degraded", node.story)
        until(lambda: "-d 100.64.0.0/16" in saved(node, "nft", "nat"), node.story)
        until(lambda: status(node).state == "serving", lambda: str(status(node).reasons))
    finally:
        node.lab.ec2_settings(more_vpc_cidrs=[])
        node.node.kill("eni_manager")
    until(lambda: "100.64" not in saved(node, "nft", "nat") + node.shell(marks), node.story)


@pytest.mark.spec("dataplane.18.23")
def test_pods_of_a_node_without_iptables_reach_the_internet(node: Any, second: list[Any]) -> None:
    tables = "nft list tables"
    with sign(node, "nft"), without_iptables(node.node):
        node.node.exec(["nft", "delete", "table", "ip", "nat"])
        node.node.kill("netlink_programmer")
        until(lambda: "table ip vpccni" in node.shell(tables), node.story)
        for pod in second:
            assert pod.exec(["ping", "-c", "3", "-i", "0.1", "-W", "2", INTERNET_ADDRESS], check=False).returncode == 0
        until(lambda: status(node).state == "serving", lambda: str(reasons(node)))
    node.node.kill("netlink_programmer")
    until(lambda: "vpccni" not in node.shell(tables), lambda: node.shell(tables))
    assert "--to-source" in saved(node, "nft", "nat")

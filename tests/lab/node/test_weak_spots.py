"""Weak spots of the original (spec dataplane.md 18), a test a row: what goes wrong there must not go wrong here."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import statistics
import subprocess
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import pytest
from support.waiting import until as wait_until
from tests_node import addresses_in_use

from vpccni.lab.api import Lab
from vpccni.lab.fabric import INTERNET_ADDRESS
from vpccni.lab.runtime import CniError

ADDS = 200
AT_ONCE = 32
TOGETHER = 30
WITHIN_S = 20.0
until = partial(wait_until, within_s=WITHIN_S)


def pings(pod: Any, address: str) -> bool:
    return bool(pod.exec(["ping", "-c", "1", "-W", "2", address], check=False).returncode == 0)


def about(node: Any, address: str) -> list[str]:
    """Rules and routes about an address."""
    return [line.strip() for line in node.shell("ip rule; ip route").splitlines() if f"{address} " in f"{line} "]


@pytest.fixture(scope="module")
def large(node: Any) -> Iterator[Any]:
    """A node with room for many pods."""
    env = {"IP_COOLDOWN_PERIOD": "0", "WARM_IP_TARGET": str(AT_ONCE * 2), "MINIMUM_IP_TARGET": str(AT_ONCE * 2)}
    with contextlib.ExitStack() as stack:
        lab = stack.enter_context(Lab.up(f"w{os.getpid()}", nodes=1, instance_type="m5.24xlarge", env=env))
        big = type(node)(lab)
        until(lambda: sum(len(eni["addresses"]) for eni in lab.ec2_picture()) >= AT_ONCE * 2, lab.ec2_picture)
        yield big


@pytest.mark.spec("dataplane.18.1")
def test_two_hundred_adds_and_deletions_pass_while_other_links_come_and_go(large: Any) -> None:
    churn = "while :; do ip link add churn0 type veth peer name churn1; ip link del churn0; done"
    other = large.node.popen(["sh", "-c", churn])

    def one(number: int) -> None:
        large.add(f"churned-{number}")
        large.lab.delete_pod(f"churned-{number}")

    try:
        with ThreadPoolExecutor(AT_ONCE) as pool:
            list(pool.map(one, range(ADDS)))
    finally:
        other.kill()
        other.wait()
    until(lambda: addresses_in_use(large) == [], lambda: addresses_in_use(large))
    until(lambda: " 512:" not in large.shell("ip rule | sed 's/^/ /'"), lambda: large.shell("ip rule"))


@pytest.mark.spec("dataplane.18.2")
def test_thirty_adds_at_once_take_far_less_than_a_second(large: Any) -> None:
    def one(number: int) -> float:
        begin = time.monotonic()
        large.add(f"together-{number}")
        return time.monotonic() - begin

    with ThreadPoolExecutor(TOGETHER) as pool:
        took = list(pool.map(one, range(TOGETHER)))
        list(pool.map(lambda number: large.lab.delete_pod(f"together-{number}"), range(TOGETHER)))
    assert statistics.median(took) < 1.0


@pytest.mark.spec("dataplane.18.2", "dataplane.18.44")
def test_no_link_moves_between_namespaces_and_the_pods_gateway_is_the_veths_own_mac(node: Any) -> None:
    pod = node.lab.make_pod(node.node.name, "unmoved")
    monitor = subprocess.Popen(
        ["ip", "-n", pod.netns_path.rsplit("/", 1)[1], "-o", "monitor", "link"], stdout=subprocess.PIPE, text=True
    )
    try:
        time.sleep(0.3)
        result = node.lab.runtime(node.node.name).add(pod.sandbox())
        time.sleep(0.3)
    finally:
        monitor.terminate()
        told = monitor.communicate()[0]
    assert "eth0" in told
    assert "Deleted" not in told
    host = result["interfaces"][0]
    link = json.loads(node.shell(f"ip -json link show {host['name']}"))[0]
    neighbour = json.loads(pod.exec(["ip", "-json", "neigh"]).stdout)[0]
    assert neighbour["lladdr"] == link["address"]
    node.lab.runtime(node.node.name).delete(pod.sandbox())
    node.lab.delete_pod("unmoved")


@pytest.mark.spec("dataplane.18.6")
def test_an_old_deletion_by_its_result_leaves_the_pod_that_has_the_address_now(node: Any) -> None:
    old = node.add("moved-away")
    sandbox, result = old.sandbox(), old.result
    node.lab.delete_pod("moved-away")
    new: list[Any] = []
    while not new or new[-1].address != old.address:
        new.append(node.add(f"moved-in-{len(new)}"))
        assert len(new) < 29, "nobody gets the address"
    before = about(node, old.address)
    runtime = node.lab.runtime(node.node.name)
    for fresh in (False, True):
        if fresh:
            node.node.kill("netlink_programmer")
        runtime.delete(sandbox, result=result)
        assert about(node, old.address) == before
        assert pings(new[-1], node.node.primary_address)
    for pod in new:
        node.lab.delete_pod(pod.name)


@pytest.mark.spec("dataplane.18.32")
@pytest.mark.parametrize("known", [True, False], ids=["known", "forgotten"])
def test_a_result_whose_mac_another_plugin_rewrote_still_cleans_up(node: Any, known: bool) -> None:
    pod = node.add("rewritten")
    result = json.loads(json.dumps(pod.result))
    for entry in result["interfaces"]:
        entry["mac"] = "02:de:ad:be:ef:01"
    if not known:
        node.node.kill("netlink_programmer")
    node.lab.runtime(node.node.name).delete(pod.sandbox(), result=result)
    assert about(node, pod.address) == []
    until(lambda: pod.address not in addresses_in_use(node), lambda: addresses_in_use(node))
    node.lab.delete_pod("rewritten")


MALFORMED = [
    {},
    {"ips": None},
    {"ips": [{"address": "not an address"}], "interfaces": []},
    {"ips": [{"address": 7}], "interfaces": [{"name": 1, "mac": []}]},
    {"cniVersion": "9.9", "ips": [[]], "interfaces": {}},
    {"interfaces": [{"name": "dummy123", "mac": "not a number"}, {"name": "eni1", "mac": "99999999999999999999"}]},
]


@pytest.mark.spec("dataplane.18.31")
@pytest.mark.parametrize("previous", MALFORMED, ids=str)
def test_a_malformed_previous_result_never_fails_a_deletion(node: Any, previous: dict[str, Any]) -> None:
    stranger = node.lab.make_pod(node.node.name, "malformed")
    sandbox = stranger.sandbox()
    own = {"cniVersion": "0.4.0", "name": "aws-cni", "type": "aws-cni", "prevResult": previous}
    env = {
        "CNI_COMMAND": "DEL",
        "CNI_CONTAINERID": sandbox.container_id,
        "CNI_NETNS": sandbox.netns,
        "CNI_IFNAME": "eth0",
        "CNI_PATH": "/opt/cni/bin",
        "CNI_ARGS": sandbox.cni_args(),
    }
    done = node.node.exec(["/opt/cni/bin/aws-cni"], input=json.dumps(own), env=env, check=False)
    assert done.returncode == 0, done.stdout
    node.lab.delete_pod("malformed")


@pytest.mark.spec("dataplane.18.41", "dataplane.18.8")
def test_a_pod_that_has_a_default_route_already_is_refused_and_nothing_is_left(node: Any) -> None:
    pod = node.lab.make_pod(node.node.name, "routed")
    pod.exec(["ip", "link", "add", "other", "type", "veth", "peer", "name", "rehto"])
    pod.exec(["ip", "link", "set", "other", "up"])
    pod.exec(["ip", "route", "add", "default", "dev", "other"])
    with pytest.raises(CniError) as caught:
        node.lab.runtime(node.node.name).add(pod.sandbox())
    assert "EEXIST" in str(caught.value)
    assert "default/routed" in str(caught.value)
    of_pods = "ip rule | grep -E '^(512|1536):'; ip -br link | grep -E '^eni'; ip route | grep 'dev eni'"
    until(lambda: node.shell(of_pods) == "", lambda: node.shell(of_pods))
    assert "eth0" not in pod.exec(["ip", "-br", "link"]).stdout
    until(lambda: addresses_in_use(node) == [], lambda: addresses_in_use(node))
    node.lab.delete_pod("routed")


@pytest.mark.spec("dataplane.18.36", "dataplane.18.28")
def test_while_the_programmer_is_down_status_says_not_ready_and_an_add_waits_for_it(node: Any) -> None:
    pid = node.node.pids()["netlink_programmer"]
    folder = node.node.root
    hidden = folder / "front-door.sock.hidden"
    (folder / "front-door.sock").rename(hidden)
    try:
        with pytest.raises(CniError) as caught:
            node.lab.runtime(node.node.name).status()
        assert caught.value.code == 50
        timer = threading.Timer(1.0, lambda: hidden.rename(folder / "front-door.sock"))
        begin = time.monotonic()
        timer.start()
        pod = node.add("waited")
        timer.join()
        assert 0.9 < time.monotonic() - begin < 5
        assert pings(pod, node.node.primary_address)
    finally:
        if hidden.exists():
            hidden.rename(folder / "front-door.sock")
    assert node.node.pids()["netlink_programmer"] == pid
    node.lab.delete_pod("waited")


@pytest.mark.spec("dataplane.18.9")
def test_twenty_pods_deleted_with_every_process_dead_leave_nothing_once_they_are_back(node: Any) -> None:
    pods = [node.add(f"offline-{number}") for number in range(20)]
    node.node.stop_processes()
    with ThreadPoolExecutor(len(pods)) as pool:
        list(pool.map(lambda pod: node.lab.delete_pod(pod.name), pods))
    node.node.start_processes()
    until(lambda: addresses_in_use(node) == [], lambda: addresses_in_use(node))
    until(
        lambda: not [line for pod in pods for line in about(node, pod.address)], lambda: node.shell("ip rule; ip route")
    )


@pytest.mark.spec("dataplane.18.30")
def test_a_deletion_does_not_wait_for_the_policy_agent(node: Any) -> None:
    pod = node.add("unheard")
    node.node.kill("policy_agent", signal.SIGSTOP)
    begin = time.monotonic()
    try:
        node.lab.delete_pod("unheard")
    finally:
        node.node.kill("policy_agent", signal.SIGCONT)
    assert time.monotonic() - begin < 2.0
    assert about(node, pod.address) == []


@pytest.mark.full
@pytest.mark.spec("dataplane.18.13")
def test_rules_left_of_a_pod_that_nobody_deleted_go_with_time(node: Any) -> None:
    """Two passes and 25 s: somebody could still be at work on it before that."""
    address = next(one for eni in node.lab.ec2_picture() for one in eni["addresses"][1:] if not about(node, one))
    node.shell(f"ip rule add to {address} priority 512 lookup main; ip rule add from {address} priority 1536 lookup 2")
    deadline = time.monotonic() + 90  # two passes are 60 s at most, under load a little more
    while about(node, address):
        assert time.monotonic() < deadline, about(node, address)
        time.sleep(0.5)


def restart_with_prefix(node: Any, prefix: str) -> None:
    """The conflist of before stays in force until the programmer knows of a free address."""
    node.node.restart_processes({"AWS_VPC_K8S_CNI_VETHPREFIX": prefix})
    conflist = "cat /etc/cni/net.d/10-aws.conflist"
    until(lambda: f'"{prefix}"' in node.shell(conflist), lambda: node.shell(conflist))


@pytest.mark.spec("dataplane.18.14")
def test_after_a_change_of_the_veth_prefix_old_and_new_pods_reach_the_internet(node: Any) -> None:
    """The last pods are on the second ENI: their way to the Internet is the connmark of their veth's prefix."""
    old = [node.add(f"old-{number}") for number in range(11)]
    restart_with_prefix(node, "new")
    new = node.add("new")
    try:
        assert new.result["interfaces"][0]["name"].startswith("new")
        assert f"from {old[-1].address} lookup 2" in node.shell("ip rule")
        assert f"from {new.address} lookup 2" in node.shell("ip rule")
        assert all(pings(pod, INTERNET_ADDRESS) for pod in (old[0], old[-1], new))
        for pod in old:
            node.lab.delete_pod(pod.name)
        until(lambda: "-i eni+" not in node.shell("iptables-save"), lambda: node.shell("iptables-save"))
        assert pings(new, INTERNET_ADDRESS)
    finally:
        node.lab.delete_pod("new")
        restart_with_prefix(node, "eni")
    until(lambda: "-i new+" not in node.shell("iptables-save"), lambda: node.shell("iptables-save"))

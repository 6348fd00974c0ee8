"""Looks, steps and notifications against the real kernel, judged by iproute2."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from vpccni.components.netlink_programmer import observe
from vpccni.components.netlink_programmer.apply import Applier
from vpccni.components.netlink_programmer.facts import Seen
from vpccni.components.netlink_programmer.hearing import Hearing
from vpccni.components.netlink_programmer.node_plan import EniWant, PodWant, Situation, Wanted, plan, wanted
from vpccni.components.netlink_programmer.rtnl import RouteSocket
from vpccni.shared.loop import Loop

CARD_TABLE = 10101
ROUNDS = 10
MACS = {"eth0": "02:00:00:00:00:01", "eth1": "02:00:00:00:00:02", "eni0123": "02:00:00:00:01:01"}


class Repaired:
    """A namespace with two ENIs and a pod's veth, brought to what is wanted by steps."""

    def __init__(self, space: Any) -> None:
        self.space = space
        for name, mac in MACS.items():
            space.run(
                "ip", "link", "add", name, "address", mac, "mtu", "1500", "type", "veth", "peer", "name", f"p{name}"
            )
            space.run("ip", "link", "set", f"p{name}", "up")
        space.run("ip", "address", "add", "10.0.104.183/19", "dev", "eth0")
        links = self.look().links
        pod = next(link for link in links.values() if link.name == "eni0123")
        self.situation = Situation(
            pods=(PodWant("pod d/a", "10.0.97.30", CARD_TABLE, pod.ifindex, "eni0123"),),
            primary_mac=MACS["eth0"],
            enis=(EniWant("eni-1", MACS["eth1"], "10.0.110.7", "10.0.96.0/19", CARD_TABLE, rule=True),),
        )
        self.applier = space.do(lambda: Applier(RouteSocket(), os.open("/proc/sys/net", os.O_RDONLY | os.O_DIRECTORY)))

    def look(self) -> Seen:
        paths = ["ipv6/conf/eni0123/accept_ra", "ipv6/conf/eni0123/accept_redirects", "ipv6/conf/eni0123/forwarding"]
        seen: Seen = self.space.do(lambda: observe.look([254, CARD_TABLE, 3], setting_paths=paths))
        return seen

    def want(self) -> Wanted:
        return wanted(self.situation, self.look().links)

    def mend(self) -> int:
        """One round; return how many steps it took."""
        seen = self.look()
        steps = plan(wanted(self.situation, seen.links), seen)
        for step in steps:
            self.space.do(lambda step=step: self.applier.carry_out(step))
        return len(steps)

    def settle(self) -> None:
        """Mend until there is nothing left to do."""
        for _ in range(ROUNDS):
            if not self.mend():
                return
        raise AssertionError(f"not settled after {ROUNDS} rounds: {plan(self.want(), self.look())}")


@pytest.fixture
def node_of_ours(space: Any) -> Iterator[Repaired]:
    node = Repaired(space)
    yield node
    node.applier.close()


def rules(space: Any) -> list[str]:
    return sorted(line.strip() for line in space.run("ip", "rule").splitlines())


@pytest.mark.spec("dataplane.11.3", "dataplane.13.0", "dataplane.13.1")
def test_a_bare_node_becomes_what_the_contract_prints(node_of_ours: Repaired) -> None:
    space = node_of_ours.space
    assert node_of_ours.mend() > 0
    node_of_ours.mend()  # the connected route that the new address brought
    assert rules(space) == sorted(
        [
            "0:\tfrom all lookup local",
            "512:\tfrom all to 10.0.97.30 lookup main",
            "1024:\tfrom all fwmark 0x80/0x80 lookup main",
            f"1536:\tfrom 10.0.97.30 lookup {CARD_TABLE}",
            f"32765:\tfrom 10.0.110.7 lookup {CARD_TABLE}",
            "32766:\tfrom all lookup main",
            "32767:\tfrom all lookup default",
        ]
    )
    main = sorted(line.strip() for line in space.run("ip", "route").splitlines())
    assert main == [
        "10.0.96.0/19 dev eth0 proto kernel scope link src 10.0.104.183",
        "10.0.97.30 dev eni0123 scope link",
    ]
    table = sorted(line.strip() for line in space.run("ip", "route", "show", "table", str(CARD_TABLE)).splitlines())
    assert table == ["10.0.96.1 dev eth1 scope link", "default via 10.0.96.1 dev eth1"]
    mtus = {link["ifname"]: link["mtu"] for link in space.ip("link")}
    assert (mtus["eth0"], mtus["eth1"], mtus["eni0123"]) == (9001, 9001, 1500)
    assert all(
        "protocol" not in rule or rule["protocol"] == "unspec"
        for rule in space.ip("rule")
        if 0 < rule["priority"] < 32766
    )


def test_a_second_pass_plans_nothing(node_of_ours: Repaired) -> None:
    node_of_ours.settle()
    assert plan(node_of_ours.want(), node_of_ours.look()) == ()


@pytest.mark.spec("dataplane.11.5")
def test_older_forms_of_a_pods_rule_become_one(node_of_ours: Repaired) -> None:
    space = node_of_ours.space
    for cidr in ("10.0.0.0/16", "10.1.0.0/16"):
        space.run("ip", "rule", "add", "from", "10.0.97.30", "to", cidr, "priority", "1536", "lookup", str(CARD_TABLE))
    node_of_ours.settle()
    assert [rule for rule in rules(space) if rule.startswith("1536")] == [f"1536:\tfrom 10.0.97.30 lookup {CARD_TABLE}"]


def test_selectors_that_ours_never_have_make_a_rule_foreign(node_of_ours: Repaired) -> None:
    space = node_of_ours.space
    selectors = (
        "iif eth0",
        "oif eth0",
        "ipproto tcp",
        "sport 80",
        "uidrange 0-5",
        "tos 0x10",
        "suppress_prefixlength 0",
    )
    for table, words in enumerate(selectors, 70):
        rule = f"{words} from 10.0.97.30 priority 1536 lookup {table}"
        space.run("ip", "rule", "add", *rule.split())
    space.run("ip", "rule", "add", "not", "from", "10.0.97.30", "priority", "1536", "lookup", "77")
    foreign = [rule for rule in node_of_ours.look().rules if 70 <= rule.table <= 77]
    assert len(foreign) == 8
    assert all(rule.foreign for rule in foreign)
    node_of_ours.settle()
    assert len([rule for rule in rules(space) if "lookup 7" in rule]) == 8


def test_a_setting_changed_by_hand_is_written_back(node_of_ours: Repaired) -> None:
    node_of_ours.settle()
    node_of_ours.space.run("sh", "-c", "echo 1 > /proc/sys/net/ipv6/conf/eni0123/forwarding")
    assert node_of_ours.mend() == 1
    assert node_of_ours.space.run("cat", "/proc/sys/net/ipv6/conf/eni0123/forwarding").strip() == "0"


def heard(node: Repaired, words: str, *, for_s: float = 0.3) -> list[str]:
    """What a listener says while a command changes something."""
    said: list[str] = []
    loop = Loop()
    want = node.want()
    hearing = node.space.do(lambda: Hearing(loop, lambda: want, said.append))
    try:
        node.space.run("sh", "-c", words)
        loop.run_until(loop.sleep(for_s), timeout_s=for_s + 5)
    finally:
        hearing.close()
        loop.close()
    return said


@pytest.mark.parametrize(
    "words",
    [
        "ip rule del priority 512",
        "ip rule del priority 1536",
        "ip route del 10.0.97.30",
        "ip route flush table 10101",
        "ip link set eth1 down",
        "ip link set eth1 mtu 1400",
        "ip link set eni0123 down",
        "ip address flush dev eth1",
        "ip address add 192.168.0.1/24 dev eth1",
        "ip route replace 10.0.97.30/32 dev eth0",
        "ip rule add from 10.0.97.30 priority 1536 lookup 99",
    ],
)
def test_a_change_against_what_is_wanted_is_heard_once_a_bunch(node_of_ours: Repaired, words: str) -> None:
    node_of_ours.settle()
    assert len(heard(node_of_ours, words)) == 1


@pytest.mark.parametrize(
    "words",
    [
        "ip rule add priority 700 lookup main",
        "ip route add 198.51.100.0/24 dev eth0",
        "ip link add other type veth peer name rehto && ip link del other",
        "ip rule del priority 512 && ip rule add to 10.0.97.30 priority 512 lookup main",
        "ip link set eth1 alias something",
        "ip address add 192.168.0.1/24 dev eth0",
    ],
)
def test_a_change_of_something_else_or_one_that_was_taken_back_is_not(node_of_ours: Repaired, words: str) -> None:
    node_of_ours.settle()
    assert heard(node_of_ours, words) == []


@pytest.mark.spec("dataplane.18.42")
def test_an_eni_whose_link_is_late_holds_up_nothing_and_is_set_up_when_it_comes(node_of_ours: Repaired) -> None:
    late = EniWant("eni-2", "02:00:00:00:00:09", "10.0.110.9", "10.0.96.0/19", 3, rule=True)
    node_of_ours.situation = replace(node_of_ours.situation, enis=(*node_of_ours.situation.enis, late))
    node_of_ours.settle()
    assert node_of_ours.want().awaited == {late.mac: late.owner}
    assert f"32765:\tfrom 10.0.110.7 lookup {CARD_TABLE}" in rules(node_of_ours.space)
    comes = f"ip link add eth2 address {late.mac} type veth peer name peth2"
    assert len(heard(node_of_ours, comes)) == 1
    node_of_ours.space.run("ip", "link", "set", "peth2", "up")
    node_of_ours.settle()
    assert "32765:\tfrom 10.0.110.9 lookup 3" in rules(node_of_ours.space)


def test_more_changes_than_can_be_heard_count_as_a_contradiction(node_of_ours: Repaired, monkeypatch: Any) -> None:
    node_of_ours.settle()
    monkeypatch.setattr("vpccni.components.netlink_programmer.hearing.BUFFER_BYTES", 2048)
    flood = "for i in $(seq 1 40); do echo route add 198.51.100.$i dev eth0; done | ip -batch -"
    assert heard(node_of_ours, flood) == ["more changes than could be heard"]


def test_a_dump_of_many_routes_is_whole(node_of_ours: Repaired) -> None:
    space = node_of_ours.space
    space.run("ip", "link", "set", "eth0", "up")
    lines = "\n".join(f"route add 198.51.{at // 250}.{at % 250} dev eth0" for at in range(3000))
    space.run("ip", "-batch", "-", text=lines)
    began = time.monotonic()
    seen = node_of_ours.look()
    assert len([route for route in seen.routes if route.dst.startswith("198.51.")]) == 3000
    assert time.monotonic() - began < 2.0


def test_a_link_that_is_gone_takes_its_pod_out_of_the_plan(node_of_ours: Repaired) -> None:
    node_of_ours.settle()
    node_of_ours.space.run("ip", "link", "del", "eni0123")
    assert node_of_ours.mend() == 0


@pytest.mark.spec("dataplane.18.15")
def test_the_reference_s_strict_mode_is_undone_without_a_moment_without_a_local_rule(node_of_ours: Repaired) -> None:
    space = node_of_ours.space
    node_of_ours.settle()
    before = rules(space)
    space.run("ip", "rule", "add", "priority", "20", "lookup", "local")
    space.run("ip", "rule", "del", "priority", "0")
    space.run("ip", "rule", "add", "iif", "vlan.eth.5", "priority", "10", "lookup", "105")
    assert node_of_ours.mend() == 0
    space.run("ip", "rule", "del", "priority", "10")
    assert node_of_ours.mend() == 2
    assert rules(space) == before

"""An IPv6 pod, and a pod on two network cards, in a real kernel, judged by `ip` (spec dataplane.md 13.2, 13.5)."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import pytest

from vpccni.components.netlink_programmer.dad import DuplicateDetection
from vpccni.components.netlink_programmer.naming import MAIN_TABLE, host_veth_name, parse_alias
from vpccni.components.netlink_programmer.wiring import VethPair, Wired
from vpccni.shared.errors import KernelRefused
from vpccni.shared.loop import Loop
from vpccni.shared.messages.base import PodRef, Sandbox

if TYPE_CHECKING:
    from tests.kernel.netlink_programmer.conftest import Node, Space

NewPod = Callable[[], "Space"]
POD = PodRef("kube-system", "web-2", "uid-1")
BOX = Sandbox("container-1", "eth0")
V6 = "2001:db8:1:abcd::3"
CARD_TABLE = 10101
FAST_ENOUGH_S = 3.0


def wire(
    node: Node, pod: Space, wishes: Sequence[tuple[str, int]], *, detect_for_s: float = 10.0, box: Sandbox = BOX
) -> list[Wired]:
    """Wire a pod as an ADD does, one interface a wish (address, table)."""
    socket, loop = pod.socket(), Loop()
    folder = pod.do(lambda: os.open("/proc/sys/net/ipv6/conf", os.O_RDONLY | os.O_DIRECTORY))
    pairs: list[VethPair] = []
    detections: list[DuplicateDetection] = []

    def steps() -> None:
        for index in range(len(wishes)):
            name = host_veth_name(POD, "eni", index=index)
            pairs.append(node.wirer.create_pair(socket, sandbox=box, pod=POD, host_veth=name, mtu=9001, index=index))
        for pair, (address, _) in zip(pairs, wishes, strict=True):
            ifname = "eth0" if pair.index == 0 else f"mNicIf{pair.index}"
            if ":" in address:
                node.wirer.enable_ipv6(folder, ifname=ifname, host_veth=pair.host_veth)
                detections.append(DuplicateDetection(loop, socket, pair.pod_ifindex, on=ifname))
            node.wirer.configure_pod(socket, pair, address=address)
        for pair, (address, table) in zip(pairs, wishes, strict=True):
            node.wirer.open_host_end(pair, address=address, table=table, host_sysctl=-1)

    try:
        node.do(steps)
        for detection in detections:
            passing = loop.spawn(detection.passed(deadline=loop.clock() + detect_for_s), name="detection")
            loop.run_until(passing, timeout_s=15)
    finally:
        os.close(folder)
        socket.close()
        loop.close()
    return [
        Wired(box, POD, pair.host_veth, pair.ifindex, pair.mac, address, table, index=pair.index)
        for pair, (address, table) in zip(pairs, wishes, strict=True)
    ]


def rules(space: Space, family: str) -> list[str]:
    """The rules a fresh namespace lacks, sorted by their priority."""
    shown = [line.strip().replace("\t", " ") for line in space.run("ip", family, "rule").splitlines()]
    ours = [line for line in shown if not line.startswith(("0:", "32766:", "32767:"))]
    return sorted(ours, key=lambda line: (int(line.split(":")[0]), line))


def lines(space: Space, *words: str) -> list[str]:
    return sorted(" ".join(line.split()) for line in space.run("ip", *words).splitlines())


@pytest.mark.spec("dataplane.13.2", "dataplane.18.3")
def test_an_ipv6_pod_looks_as_specified_when_its_add_ends(node: Node, new_pod: NewPod) -> None:
    pod = new_pod()
    pod.run("sh", "-c", "echo 1 > /proc/sys/net/ipv6/conf/default/disable_ipv6")
    began = time.monotonic()
    (wired,) = wire(node, pod, [(V6, MAIN_TABLE)])
    took = time.monotonic() - began
    assert took < FAST_ENOUGH_S, f"{took:.2f} s"
    (link,) = pod.ip("-6", "address", "show", "eth0")
    found = {item["local"]: item for item in link["addr_info"]}
    assert (found[V6]["prefixlen"], found[V6]["scope"]) == (128, "global")
    assert sorted(item["scope"] for item in found.values()) == ["global", "link"]
    assert not any(item.get("tentative") for item in found.values()), "waited for, not hoped for"
    assert lines(pod, "-6", "route", "show", "dev", "eth0") == [
        f"{V6} proto kernel metric 256 pref medium",
        "default via fe80::1 metric 1024 pref medium",
        "fe80::/64 proto kernel metric 256 pref medium",
        "fe80::1 metric 1024 pref medium",
    ]
    (neighbour,) = pod.ip("-6", "neigh", "show", "to", "fe80::1")
    assert (neighbour["lladdr"], neighbour["state"]) == (wired.mac, ["PERMANENT"])
    for name in ("eth0", "lo"):
        assert pod.run("cat", f"/proc/sys/net/ipv6/conf/{name}/disable_ipv6").strip() == "0"
    assert rules(node, "-6") == [f"512: from all to {V6} lookup main"]
    assert rules(node, "-4") == []
    route = lines(node, "-6", "route", "show", V6)
    assert route == [f"{V6} dev {wired.host_veth} metric 1024 pref medium"]


def test_the_node_reaches_an_ipv6_pod(node: Node, new_pod: NewPod) -> None:
    pod = new_pod()
    wire(node, pod, [(V6, MAIN_TABLE)])
    node.run("ip", "address", "add", "2001:db8:1::9/128", "dev", "lo", "nodad")
    node.run("sh", "-c", "echo 1 > /proc/sys/net/ipv6/conf/all/forwarding")
    node.run("ping", "-n", "-q", "-c", "1", "-w", "8", "-I", "2001:db8:1::9", V6)


def test_off_the_primary_eni_an_ipv6_pod_has_a_rule_that_leads_to_its_table(node: Node, new_pod: NewPod) -> None:
    wire(node, new_pod(), [(V6, CARD_TABLE)])
    assert rules(node, "-6") == [f"512: from all to {V6} lookup main", f"1536: from {V6} lookup {CARD_TABLE}"]


def test_taking_an_ipv6_pod_down_leaves_nothing(node: Node, new_pod: NewPod) -> None:
    (wired,) = wire(node, new_pod(), [(V6, CARD_TABLE)])
    node.do(lambda: node.wirer.take_down(wired))
    assert rules(node, "-6") == []
    assert lines(node, "-6", "route", "show", V6) == []
    assert wired.host_veth not in node.links()


def test_an_address_somebody_answers_for_fails_the_add(node: Node, new_pod: NewPod) -> None:
    """The node itself takes the pod's address on the veth: one of the kernel's questions is answered."""
    pod, name, loop = new_pod(), host_veth_name(POD, "eni"), Loop()
    socket = pod.socket()
    pod.run("sh", "-c", "echo 3 > /proc/sys/net/ipv6/conf/default/dad_transmits")

    def begin() -> DuplicateDetection:
        pair = node.wirer.create_pair(socket, sandbox=BOX, pod=POD, host_veth=name, mtu=9001)
        detection = DuplicateDetection(loop, socket, pair.pod_ifindex, on="eth0")
        node.wirer.configure_pod(socket, pair, address=V6)
        node.wirer.open_host_end(pair, address="10.0.97.30", table=MAIN_TABLE, host_sysctl=-1)
        return detection

    try:
        detection = node.do(begin)
        node.run("ip", "address", "add", f"{V6}/128", "dev", name, "nodad")
        passing = loop.spawn(detection.passed(deadline=loop.clock() + 10), name="detection")
        with pytest.raises(KernelRefused, match="duplicate"):
            loop.run_until(passing, timeout_s=15)
    finally:
        socket.close()
        loop.close()


def test_the_wait_for_an_address_ends_at_the_deadline(node: Node, new_pod: NewPod) -> None:
    """Where an operator has detection on for all interfaces, the kernel carries it out, and it is waited for."""
    pod, began = new_pod(), time.monotonic()
    pod.run("sh", "-c", "echo 1 > /proc/sys/net/ipv6/conf/all/accept_dad")
    with pytest.raises(KernelRefused, match="still tentative"):
        wire(node, pod, [(V6, MAIN_TABLE)], detect_for_s=0.2)
    assert time.monotonic() - began < 2.0


def test_a_settings_folder_that_is_the_nodes_is_not_written_to(node: Node, new_pod: NewPod) -> None:
    pair = make_pair(node, new_pod())
    folder = node.do(lambda: os.open("/proc/sys/net/ipv6/conf", os.O_RDONLY | os.O_DIRECTORY))
    try:
        with pytest.raises(KernelRefused, match="not the pod's"):
            node.wirer.enable_ipv6(folder, ifname="eth0", host_veth=pair.host_veth)
    finally:
        os.close(folder)


def make_pair(node: Node, pod: Space, *, of: PodRef = POD, box: Sandbox = BOX, index: int = 0) -> VethPair:
    socket = pod.socket()
    name = host_veth_name(of, "eni", index=index)
    try:
        return node.do(
            lambda: node.wirer.create_pair(socket, sandbox=box, pod=of, host_veth=name, mtu=9001, index=index)
        )
    finally:
        socket.close()


@pytest.mark.spec("dataplane.13.5")
@pytest.mark.parametrize(
    ("family", "first", "second", "gateways"),
    [
        ("-4", "10.0.97.30", "10.0.99.77", ("169.254.1.1", "169.254.1.2")),
        ("-6", V6, "2001:db8:2:abcd::4", ("fe80::1", "fe80::2")),
    ],
)
def test_a_pod_on_two_cards_looks_as_specified(
    node: Node, new_pod: NewPod, family: str, first: str, second: str, gateways: tuple[str, str]
) -> None:
    pod = new_pod()
    wired = wire(node, pod, [(first, 2), (second, CARD_TABLE)])
    assert [one.host_veth for one in wired] == ["enica82d32c244", "eni7cd2485543c"]
    assert rules(node, family) == [
        f"512: from all to {first} lookup main",
        f"512: from all to {second} lookup main",
        f"1536: from {first} lookup 2",
        f"1536: from {second} lookup {CARD_TABLE}",
    ]
    assert rules(pod, family) == [f"1: from {second} lookup 1"]
    for name, address, gateway, table in (("eth0", first, gateways[0], "main"), ("mNicIf1", second, gateways[1], "1")):
        (link,) = pod.ip(family, "address", "show", name)
        assert [item["local"] for item in link["addr_info"] if item["scope"] == "global"] == [address]
        routes: list[Any] = pod.ip(family, "route", "show", "table", table, "dev", name)
        assert {("default", gateway), (gateway, None)} <= {(route["dst"], route.get("gateway")) for route in routes}
        (neighbour,) = pod.ip(family, "neigh", "show", "to", gateway, "dev", name)
        assert neighbour["state"] == ["PERMANENT"]
    for one in wired:
        node.do(lambda one=one: node.wirer.take_down(one))
    assert rules(node, family) == []


@pytest.mark.spec("dataplane.18.5")
def test_a_pod_whose_veth_name_another_pods_second_interface_has_fails_without_harm(
    node: Node, new_pod: NewPod
) -> None:
    web, other = PodRef("default", "web", "uid-web"), PodRef("default", "web.1", "uid-other")
    first = make_pair(node, new_pod(), of=web, index=1)
    assert host_veth_name(web, "eni", index=1) == host_veth_name(other, "eni")
    with pytest.raises(KernelRefused, match=r"default/web"):
        make_pair(node, new_pod(), of=other, box=Sandbox("container-2", "eth0"))
    (link,) = node.ip("link", "show", first.host_veth)
    assert link["ifindex"] == first.ifindex
    assert parse_alias(link["ifalias"]) == (BOX, web)
    assert node.graves == []

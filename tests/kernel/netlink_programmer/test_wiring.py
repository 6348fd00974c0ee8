"""A pod's wiring in a real kernel, judged by `ip` (spec dataplane.md 13.1)."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest
from support.sockets import Talker

from vpccni.components.netlink_programmer import rtnl
from vpccni.components.netlink_programmer.naming import MAIN_TABLE, alias_of, host_veth_name
from vpccni.components.netlink_programmer.wiring import VethPair, Wired, Wirer, delete_links
from vpccni.shared.errors import KernelRefused
from vpccni.shared.messages.base import PodRef, Sandbox

if TYPE_CHECKING:
    from tests.kernel.netlink_programmer.conftest import Node, Space

NewPod = Callable[[], "Space"]
POD = PodRef("default", "sample-pod", "uid-1")
BOX = Sandbox("container-1", "eth0")
HOST_VETH = "enicc21c2d7785"
ADDRESS, TABLE = "10.0.97.30", 2
IFF_UP = "UP"
TALKING_PODS, FAR_AWAY = 60, "10.9.9.9"


def make_pair(node: Node, pod: Space, sandbox: Sandbox = BOX, host_veth: str = HOST_VETH) -> VethPair:
    socket = pod.socket()
    try:
        return node.do(lambda: node.wirer.create_pair(socket, sandbox=sandbox, pod=POD, host_veth=host_veth, mtu=9001))
    finally:
        socket.close()


def wire(node: Node, pod: Space, sandbox: Sandbox = BOX, *, address: str = ADDRESS, table: int = TABLE) -> Wired:
    pair = make_pair(node, pod, sandbox)
    socket = pod.socket()
    node.do(lambda: node.wirer.configure_pod(socket, pair, address=address))
    socket.close()
    node.do(lambda: node.wirer.open_host_end(pair, address=address, table=table, host_sysctl=-1))
    return Wired(sandbox, POD, pair.host_veth, pair.ifindex, pair.mac, address, table)


def rules(node: Node) -> list[tuple[int, str, str, str]]:
    """(priority, from, to, table) of the rules a fresh namespace lacks."""
    shown = [(rule["priority"], rule["src"], rule.get("dst", ""), rule["table"]) for rule in node.ip("rule")]
    return [rule for rule in shown if rule[0] not in (0, 32766, 32767)]


def sysctl(space: Space, name: str) -> str:
    return space.run("cat", f"/proc/sys/net/ipv6/conf/{name}").strip()


def picture(space: Space) -> dict[str, Any]:
    return {
        "links": space.links(),
        "routes": space.ip("-4", "route", "show", "table", "all"),  # IPv6 makes its own, in its own time
        "rules": space.ip("rule"),
    }


def test_the_pair_waits_with_its_host_end_down_and_says_whose_it_is(node: Node, new_pod: NewPod) -> None:
    pod = new_pod()
    pair = make_pair(node, pod)
    (link,) = node.ip("link", "show", HOST_VETH)
    assert host_veth_name(POD, "eni") == HOST_VETH
    assert (link["ifindex"], link["address"]) == (pair.ifindex, pair.mac)
    assert IFF_UP not in link["flags"]
    assert link["ifalias"] == alias_of(BOX, POD)
    assert link["linkinfo"]["info_kind"] == "veth"
    assert pod.ip("link", "show", "eth0")[0]["ifindex"] == pair.pod_ifindex


def test_a_pod_has_no_carrier_before_the_last_step(node: Node, new_pod: NewPod) -> None:
    pod = new_pod()
    pair = make_pair(node, pod)
    socket = pod.socket()
    node.do(lambda: node.wirer.configure_pod(socket, pair, address=ADDRESS))
    socket.close()
    (link,) = pod.ip("link", "show", "eth0")
    assert IFF_UP in link["flags"]
    assert "NO-CARRIER" in link["flags"]
    assert rules(node) == []


@pytest.mark.parametrize(("table", "second"), [(MAIN_TABLE, []), (TABLE, [(1536, ADDRESS, "", "2")])])
def test_the_host_looks_as_specified(node: Node, new_pod: NewPod, table: int, second: list[Any]) -> None:
    wire(node, new_pod(), table=table)
    assert rules(node) == [(512, "all", ADDRESS, "main"), *second]
    (route,) = node.ip("route", "show", "table", "main")
    assert (route["dst"], route["dev"], route["scope"]) == (ADDRESS, HOST_VETH, "link")
    assert route["protocol"] == "boot"
    assert not {"prefsrc", "metric", "gateway"} & route.keys()
    (link,) = node.ip("link", "show", HOST_VETH)
    assert (link["mtu"], link["operstate"]) == (9001, "UP")
    assert "txqlen" not in link
    assert int(link["address"][:2], 16) & 3 == 2, "locally administered, unicast"
    values = {name: sysctl(node, f"{HOST_VETH}/{name}") for name in ("accept_ra", "accept_redirects", "forwarding")}
    assert values == {"accept_ra": "0", "accept_redirects": "1", "forwarding": "0"}


def test_the_pod_looks_as_specified(node: Node, new_pod: NewPod) -> None:
    pod = new_pod()
    wired = wire(node, pod)
    (link,) = pod.ip("address", "show", "eth0")
    assert (link["mtu"], link["operstate"]) == (9001, "UP")
    addresses = [(item["local"], item["prefixlen"]) for item in link["addr_info"] if item["family"] == "inet"]
    assert addresses == [(ADDRESS, 32)]
    routes = [
        (route["dst"], route.get("gateway"), route["dev"], route["scope"])
        for route in pod.ip("route", "show", "table", "main")
    ]
    assert routes == [("default", "169.254.1.1", "eth0", "global"), ("169.254.1.1", None, "eth0", "link")]
    (neighbour,) = pod.ip("neigh", "show", "dev", "eth0", "to", "169.254.1.1")
    assert (neighbour["lladdr"], neighbour["state"]) == (wired.mac, ["PERMANENT"])


def test_a_packet_gets_from_the_node_to_the_pod_and_back(node: Node, new_pod: NewPod) -> None:
    wire(node, new_pod(), table=MAIN_TABLE)
    node.run("ip", "address", "add", "10.0.96.9/32", "dev", "lo")
    node.run("ping", "-n", "-q", "-c", "1", "-W", "2", "-I", "10.0.96.9", ADDRESS)


def test_opening_twice_leaves_one_rule_of_each_kind(node: Node, new_pod: NewPod) -> None:
    wired = wire(node, new_pod())
    pair = VethPair(wired.host_veth, wired.ifindex, wired.mac, 0)
    before = picture(node)
    node.do(lambda: node.wirer.open_host_end(pair, address=ADDRESS, table=TABLE, host_sysctl=-1))
    assert picture(node) == before


def test_taking_down_leaves_nothing_and_may_be_repeated(node: Node, new_pod: NewPod) -> None:
    pod = new_pod()
    empty, empty_pod = picture(node), pod.links()
    wired = wire(node, pod)
    node.do(lambda: node.wirer.take_down(wired))
    (link,) = [link for link in node.ip("link") if link["ifname"] != "lo"]
    assert link["ifname"] != HOST_VETH, "out of the way at once"
    assert IFF_UP not in link["flags"]
    assert rules(node) == []
    assert node.graves == [wired.ifindex]
    node.do(lambda: node.wirer.delete_now(wired.ifindex))
    assert picture(node) == empty
    assert pod.links() == empty_pod
    node.do(lambda: node.wirer.take_down(wired))
    assert picture(node) == empty


def test_a_pod_that_speaks_while_it_is_wired_does_not_stop_that(node: Node, new_pod: NewPod) -> None:
    """Its first packet makes the kernel ask for the gateway, whose neighbour the next message writes."""
    for _ in range(TALKING_PODS):
        pod = new_pod()
        pair, socket = make_pair(node, pod), pod.socket()
        talker = Talker(pod.path, b"hello", (FAR_AWAY, 9), every_s=0.0)
        try:
            node.do(lambda pair=pair, socket=socket: node.wirer.configure_pod(socket, pair, address=ADDRESS))
        finally:
            talker.close()
            socket.close()
        (neighbour,) = pod.ip("neigh", "show", "dev", "eth0", "to", "169.254.1.1")
        assert (neighbour["lladdr"], neighbour["state"]) == (pair.mac, ["PERMANENT"])


def test_taking_down_leaves_the_neighbours_alone(node: Node, new_pod: NewPod) -> None:
    first = wire(node, new_pod())
    other = Sandbox("container-2", "eth0")
    other_pair = make_pair(node, new_pod(), other, "eni00000000002")
    node.do(lambda: node.wirer.open_host_end(other_pair, address="10.0.97.31", table=TABLE, host_sysctl=-1))
    node.do(lambda: node.wirer.take_down(first))
    assert rules(node) == [(512, "all", "10.0.97.31", "main"), (1536, "10.0.97.31", "", "2")]
    assert [route["dst"] for route in node.ip("route", "show", "table", "main")] == ["10.0.97.31"]
    assert "eni00000000002" in node.links()


@pytest.mark.spec("dataplane.18.6")
def test_removing_an_address_leaves_a_route_that_points_to_another_link(node: Node, new_pod: NewPod) -> None:
    wired = wire(node, new_pod())
    node.do(lambda: node.wirer.remove_address(address=ADDRESS, table=TABLE, ifindex=wired.ifindex + 1000))
    assert rules(node) == []
    assert [route["dev"] for route in node.ip("route", "show", "table", "main")] == [HOST_VETH]


@pytest.mark.spec("dataplane.18.8")
def test_an_add_that_fails_half_way_is_undone(node: Node, new_pod: NewPod) -> None:
    pod = new_pod()
    empty = picture(node)
    pair = make_pair(node, pod)
    pod.run("ip", "address", "add", f"{ADDRESS}/32", "dev", "eth0")
    socket = pod.socket()
    with pytest.raises(KernelRefused, match="EEXIST"):
        node.do(lambda: node.wirer.configure_pod(socket, pair, address=ADDRESS))
    socket.close()
    node.do(lambda: node.wirer.remove_address(address=ADDRESS, table=TABLE, ifindex=pair.ifindex))
    node.do(lambda: node.wirer.delete_now(pair.ifindex))
    assert picture(node) == empty
    assert pod.links() == {"lo"}


def test_a_link_in_the_pod_with_the_asked_name_is_left_alone(node: Node, new_pod: NewPod) -> None:
    pod = new_pod()
    pod.run("ip", "link", "add", "eth0", "type", "bridge")
    with pytest.raises(KernelRefused, match="EEXIST"):
        make_pair(node, pod)
    assert pod.ip("link", "show", "eth0")[0]["linkinfo"]["info_kind"] == "bridge"
    assert node.links() == {"lo"}


def test_a_second_sandbox_of_a_pod_name_moves_the_first_ones_veth_away(node: Node, new_pod: NewPod) -> None:
    first = wire(node, new_pod())
    second = Sandbox("container-2", "eth0")
    wired = wire(node, new_pod(), second, address="10.0.97.31")
    found = node.wirer.find(HOST_VETH)
    assert found is not None
    assert found[0] == wired.ifindex
    assert found[2] == alias_of(second, POD)
    assert node.graves == [first.ifindex]
    assert first.ifindex in {link["ifindex"] for link in node.ip("link")}, "deleted later, not on the way of an ADD"
    node.do(lambda: node.wirer.take_down(first))
    assert HOST_VETH in node.links(), "the late DEL of the first sandbox leaves the second one's veth"
    assert rules(node) == [(512, "all", "10.0.97.31", "main"), (1536, "10.0.97.31", "", "2")]


def test_what_a_dead_add_left_half_made_is_replaced(node: Node, new_pod: NewPod) -> None:
    half = make_pair(node, new_pod())
    whole = make_pair(node, new_pod())
    assert whole.ifindex != half.ifindex
    assert half.ifindex not in {link["ifindex"] for link in node.ip("link")}
    assert node.graves == []


def test_a_refusal_names_the_object_and_the_reason(node: Node) -> None:
    with pytest.raises(KernelRefused, match="ENODEV") as caught:
        node.do(lambda: node.wirer._host.send([rtnl.set_link(4_000_000, up=True)], on="link 4000000"))
    assert caught.value.on == "link 4000000"


def test_closing_a_wirer_gives_its_descriptors_back(space: Space) -> None:
    def make_and_close() -> int:
        Wirer(rtnl.RouteSocket(), bury=lambda _: None).close()
        return len(os.listdir("/proc/self/fd"))

    assert space.do(make_and_close) == space.do(make_and_close)


def test_burying_deletes_what_is_there_and_keeps_no_descriptor(node: Node, new_pod: NewPod) -> None:
    first, second = make_pair(node, new_pod()), make_pair(node, new_pod(), host_veth="eni00000000002")

    def bury(*ifindexes: int) -> int:
        delete_links(list(ifindexes))
        return len(os.listdir("/proc/self/fd"))

    assert node.do(lambda: bury(first.ifindex)) == node.do(lambda: bury(first.ifindex, second.ifindex))
    assert node.links() == {"lo"}

"""What the firewall does to real packets: a pod, its node and the world behind it, in every mode, in both back-ends and without iptables.

    pod 10.0.1.5 ── enic0ffee │ node │ eth0 10.0.0.10 ── wan 10.0.0.1, 10.0.9.9, 203.0.113.10

The world sees who a packet comes from; rules of the test's own in the node count the marks that it carries.
"""

from __future__ import annotations

import errno
import json
import socket
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import pytest

from vpccni.components.netlink_programmer.firewall import Backend, FirewallFacts
from vpccni.components.netlink_programmer.node_firewall import NodeFirewall

if TYPE_CHECKING:
    from tests.kernel.netlink_programmer.conftest import Space

POD, NODE, ROUTER, IN_VPC, INTERNET = "10.0.1.5", "10.0.0.10", "10.0.0.1", "10.0.9.9", "203.0.113.10"
SERVICE = "172.20.0.1"
"""An address of the node itself, as an IPVS service's is."""
PORT, POD_PORT, NODE_PORT = 4000, 5000, 30080
WITHIN_S = 3.0
BOTH = 0x10080
FACTS = FirewallFacts(
    vpc_cidrs=("10.0.0.0/16",), exclude_cidrs=(), primary_address=NODE, primary_link="eth0", veth_prefix="eni",
    connmark=0x80, external_snat=False, node_port=True, randomize="prng",
)  # fmt: skip
WATCH = f"""table ip watch {{
  chain early {{
    type filter hook prerouting priority -300;
    iifname "eni*" meta mark set 0x10000
  }}
  chain late {{
    type filter hook prerouting priority 10;
    iifname "eni*" meta mark & {BOTH:#x} == 0x10000 counter comment "unmarked"
    iifname "eni*" meta mark & {BOTH:#x} == {BOTH:#x} counter comment "marked"
    iifname "eni*" meta mark & 0x10000 == 0 counter comment "wiped"
    iifname "eni*" ip daddr {SERVICE} ct mark & 0x80 == 0x80 counter comment "service marked"
  }}
}}
"""


@dataclass
class World:
    """The three namespaces and the back-end the node uses."""

    node: Space
    pod: Space
    outside: Space
    backend: Backend
    has_iptables: bool

    def apply(self, facts: FirewallFacts) -> None:
        firewall = NodeFirewall()
        with pytest.MonkeyPatch.context() as patch:
            if not self.has_iptables:
                patch.setenv("PATH", "/nowhere")
            self.node.do(lambda: firewall.make_right(facts))
            assert self.node.do(lambda: firewall.make_right(facts)) == 0

    def seen_from(self, target: str, port: int = PORT) -> tuple[str, int, int]:
        """Send one packet from the pod and get it echoed; return the address and port the target saw, and the pod's port."""
        server = self.outside.do(lambda: bound(target, port))
        client = self.pod.do(lambda: bound(POD, POD_PORT))
        with server, client:
            client.sendto(b"who am I", (target, port))
            _, sender = server.recvfrom(64)
            server.sendto(b"you", sender)
            assert client.recv(64) == b"you", "the answer comes back"
        return sender[0], sender[1], POD_PORT

    def counted(self, comment: str) -> int:
        listed = json.loads(self.node.run("nft", "-j", "list", "table", "ip", "watch"))["nftables"]
        rules = [one["rule"] for one in listed if one.get("rule", {}).get("comment") == comment]
        return int(rules[0]["expr"][-1]["counter"]["packets"])


def bound(address: str, port: int) -> socket.socket:
    one = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    one.settimeout(WITHIN_S)
    one.bind((address, port))
    return one


@pytest.fixture(params=[*Backend, pytest.param("none", marks=pytest.mark.spec("dataplane.18.23"))])
def world(request: Any, space: Space, new_pod: Callable[[], Space]) -> World:
    pod, outside = new_pod(), new_pod()
    for one in (space, outside):
        one.run("sysctl", "-qw", "net.ipv4.ip_forward=1")
    space.run("ip", "link", "add", "enic0ffee", "type", "veth", "peer", "name", "eth0", "netns", pod.name)
    space.run("ip", "link", "add", "eth0", "type", "veth", "peer", "name", "wan", "netns", outside.name)
    steps = [
        (pod, f"addr add {POD}/32 dev eth0", "link set eth0 up", "route add 10.0.0.10 dev eth0", "route add default via 10.0.0.10"),
        (space, "link set enic0ffee up", "link set eth0 up", f"addr add {NODE}/24 dev eth0", f"addr add {SERVICE}/32 dev lo",
         f"route add {POD} dev enic0ffee", f"route add default via {ROUTER}"),
        (outside, "link set wan up", f"addr add {ROUTER}/24 dev wan", f"addr add {IN_VPC}/32 dev lo", f"addr add {INTERNET}/32 dev lo",
         f"route add {POD} via {NODE}"),
    ]  # fmt: skip
    for where, *lines in steps:
        for line in lines:
            where.run("ip", *line.split())
    space.run("nft", "-f", "-", text=WATCH)
    backend = Backend.LEGACY if request.param == "legacy" else Backend.NFT
    space.run(f"iptables-{backend}", "-t", "mangle", "-N", "KUBE-KUBELET-CANARY")
    return World(space, pod, outside, backend, request.param != "none")


@pytest.mark.parametrize(("randomize", "keeps_its_port"), [("prng", False), ("hashrandom", False), ("none", True)])
def test_the_internet_sees_the_node_and_the_vpc_sees_the_pod(
    world: World, randomize: str, keeps_its_port: bool
) -> None:
    world.apply(replace(FACTS, randomize=randomize))
    address, seen_port, own_port = world.seen_from(INTERNET)
    assert address == NODE
    assert (seen_port == own_port) is keeps_its_port
    assert world.seen_from(IN_VPC, PORT + 1)[:2] == (POD, POD_PORT)


@pytest.mark.parametrize("excluded", [("203.0.113.0/24",), ("0.0.0.0/0",), ("198.51.100.0/24", "203.0.113.10/32")])
@pytest.mark.spec("dataplane.18.26")
def test_an_excluded_destination_sees_the_pod(world: World, excluded: tuple[str, ...]) -> None:
    world.apply(replace(FACTS, exclude_cidrs=excluded))
    assert world.seen_from(INTERNET)[0] == POD
    assert world.counted("marked") == 0


def test_with_external_snat_everybody_sees_the_pod(world: World) -> None:
    world.apply(replace(FACTS, external_snat=True))
    assert world.seen_from(INTERNET)[0] == POD
    assert world.counted("marked") == 0


@pytest.mark.spec("dataplane.18.24", "dataplane.17.7")
def test_marks_of_others_survive_beside_ours(world: World) -> None:
    """The first packet of a connection is marked in nat, the later ones in mangle; both keep the foreign bit."""
    world.apply(FACTS)
    world.seen_from(IN_VPC, PORT + 1)
    assert (world.counted("unmarked"), world.counted("marked")) == (1, 0)
    with (
        world.pod.do(lambda: bound(POD, POD_PORT)) as client,
        world.outside.do(lambda: bound(INTERNET, PORT)) as server,
    ):
        for _ in range(3):
            client.sendto(b"again", (INTERNET, PORT))
            server.recv(64)
    assert (world.counted("unmarked"), world.counted("marked"), world.counted("wiped")) == (1, 3, 0)


@pytest.mark.parametrize("node_port", [True, False])
def test_answers_to_a_node_port_carry_the_mark_only_with_node_port_support(world: World, node_port: bool) -> None:
    """Without external SNAT the pod's own connections are marked all the same: only the answer's mark is looked at."""
    world.apply(replace(FACTS, node_port=node_port, external_snat=True))
    to_pod = f"-p udp --dport {NODE_PORT} -j DNAT --to-destination {POD}:{POD_PORT}".split()
    world.node.run(f"iptables-{world.backend}", "-t", "nat", "-A", "PREROUTING", *to_pod)
    with (
        world.pod.do(lambda: bound(POD, POD_PORT)) as server,
        world.outside.do(lambda: bound(INTERNET, PORT)) as client,
    ):
        client.sendto(b"hello", (NODE, NODE_PORT))
        _, sender = server.recvfrom(64)
        assert sender[0] == INTERNET
        server.sendto(b"answer", sender)
        assert client.recv(64) == b"answer"
    assert world.counted("marked") == int(node_port)
    assert world.counted("wiped") == 0


@pytest.mark.spec("dataplane.18.27")
def test_what_is_for_an_address_of_the_node_is_not_taken_for_the_internet(world: World) -> None:
    world.apply(FACTS)
    with world.node.do(lambda: bound(SERVICE, PORT)) as server, world.pod.do(lambda: bound(POD, POD_PORT)) as client:
        client.sendto(b"to a service", (SERVICE, PORT))
        assert server.recvfrom(64)[1] == (POD, POD_PORT)
    assert world.counted("service marked") == 0


@pytest.mark.parametrize("blocked", [True, False])
@pytest.mark.spec("dataplane.11.4")
def test_another_pods_egress_address_is_refused_at_once_and_answers_pass(
    world: World, new_pod: Callable[[], Space], blocked: bool
) -> None:
    world.apply(replace(FACTS, ipv4_pods=False, block_ipv4=blocked))
    egress, other = "169.254.172.10", new_pod()
    world.node.run("ip", "link", "add", "veth0", "type", "veth", "peer", "name", "v4if0", "netns", other.name)
    for where, line in (
        (world.node, "link set veth0 up"), (world.node, f"route add {egress} dev veth0"),
        (other, "link set v4if0 up"), (other, f"addr add {egress}/32 dev v4if0"), (other, "route add default dev v4if0"),
    ):  # fmt: skip
        where.run("ip", *line.split())
    world.node.run("sysctl", "-qw", "net.ipv4.conf.veth0.proxy_arp=1")
    with other.do(lambda: bound(egress, PORT)) as server, world.pod.do(lambda: bound(POD, POD_PORT)) as client:
        client.connect((egress, PORT))
        client.send(b"not allowed")
        if blocked:
            with pytest.raises(OSError) as refusal:
                client.recv(64)
            assert refusal.value.errno == errno.ECONNREFUSED
            server.sendto(b"its own connection", (POD, POD_PORT))
            assert client.recv(64) == b"its own connection"
        else:
            assert server.recv(64) == b"not allowed"


@pytest.mark.parametrize("blocked", [True, False])
def test_the_same_for_ipv6(world: World, new_pod: Callable[[], Space], blocked: bool) -> None:
    world.apply(replace(FACTS, block_ipv6=blocked))
    first, second = world.pod, new_pod()
    world.node.run("sysctl", "-qw", "net.ipv6.conf.all.forwarding=1")
    for at, pod in ((10, first), (11, second)):
        world.node.run("ip", "link", "add", f"veth{at}", "type", "veth", "peer", "name", "v6if0", "netns", pod.name)
        world.node.run("ip", "link", "set", f"veth{at}", "up")
        world.node.run("ip", "addr", "add", "fe80::1/64", "dev", f"veth{at}", "nodad")
        world.node.run("ip", "route", "add", f"fd00::ac:{at}/128", "dev", f"veth{at}")
        for line in (
            "link set v6if0 up",
            f"addr add fd00::ac:{at}/128 dev v6if0 nodad",
            "route add default via fe80::1 dev v6if0",
        ):
            pod.run("ip", "-6", *line.split())

    def bound6(address: str) -> socket.socket:
        one = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
        one.settimeout(WITHIN_S)
        one.bind((address, PORT))
        return one

    with second.do(lambda: bound6("fd00::ac:11")) as server, first.do(lambda: bound6("fd00::ac:10")) as client:
        client.connect(("fd00::ac:11", PORT))
        client.send(b"not allowed")
        if blocked:
            with pytest.raises(OSError) as refusal:
                client.recv(64)
            assert refusal.value.errno == errno.ECONNREFUSED
        else:
            assert server.recv(64) == b"not allowed"

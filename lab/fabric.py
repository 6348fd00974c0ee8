"""The fabric: packets between ENIs, as EC2's network carries and refuses them.

    node eth0 ---- v<eni> \\                    / v-internet ---- internet host
    node eth1 ---- v<eni> -- the VPC router ---
                            (one namespace)

Each attached ENI is a veth. In the router's namespace its primary address is a permanent neighbour and every other address or
prefix an onlink route through it, so the router knows which address lives on which ENI. IPv6 goes the same way through a link-local
neighbour made of the ENI's MAC: as in EC2, a whole /80 reaches the ENI without neighbour discovery, and the router is `fe80:ec2::1` on
every ENI. `rp_filter=1` (IPv6: a look-up by source) on each is the source check, a blackhole swallows what no ENI owns. For the internet
only primary IPv4 addresses may leave; IPv6 addresses leave as they are.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from pathlib import Path
from typing import Final

from vpccni.lab.namespaces import Place, call_in

ENI_MTU: Final = 9001
INTERNET_MTU: Final = 1500
INTERNET_ADDRESS: Final = "203.0.113.10"
INTERNET_ROUTER: Final = "203.0.113.1"
INTERNET_ADDRESS_V6: Final = "2001:db8:ffff::10"
INTERNET_ROUTER_V6: Final = "2001:db8:ffff::1"
ROUTER_V6: Final = "fe80:ec2::1"
"""The VPC router on every ENI's link (spec dataplane.md 3)."""
ROUTER_LINK_LOCAL: Final = "fe80::1"
COMMAND_TIMEOUT_S: Final = 10.0


class FabricError(Exception):
    """A command that builds the fabric was refused by the kernel."""


@dataclass(frozen=True, kw_only=True)
class Wire:
    """An ENI as the fabric sees it. `destinations` are secondary addresses and prefixes, both families."""

    eni_id: str
    netns: str
    ifname: str
    mac: str
    primary: IPv4Address
    destinations: frozenset[str]

    @property
    def port(self) -> str:
        """The router's end of the veth."""
        return f"v{self.eni_id.removeprefix('eni-')[:14]}"

    @property
    def link_local(self) -> IPv6Address:
        """The neighbour that IPv6 routes go through: the address that the MAC would make (EUI-64)."""
        octets = bytearray.fromhex(self.mac.replace(":", ""))
        octets[0] ^= 2
        return IPv6Address(bytes((0xFE, 0x80, *(0,) * 6)) + octets[:3] + b"\xff\xfe" + octets[3:])


def run(argv: list[str], *, stdin: str | None = None) -> str:
    """Run a command, return its output; raise FabricError with the kernel's words."""
    done = subprocess.run(argv, input=stdin, capture_output=True, text=True, timeout=COMMAND_TIMEOUT_S, check=False)
    if done.returncode != 0:
        raise FabricError(f"{' '.join(argv)} failed ({done.returncode}): {done.stderr.strip()}; input: {stdin}")
    return done.stdout


def ip_batch(lines: Iterable[str]) -> None:
    """Apply lines of `ip` in this process's network namespace, all of them in one program."""
    text = "\n".join(lines)
    if text:
        run(["ip", "-batch", "-"], stdin=text + "\n")


def ip_batch_in(netns: str, lines: Iterable[str]) -> None:
    """Apply lines of `ip` in a namespace of the machine's netns folder."""
    text = "\n".join(lines)
    if text:
        run(["ip", "-n", netns, "-batch", "-"], stdin=text + "\n")


def sysctl(path: str, value: str) -> None:
    """Write a setting below /proc/sys/net of this thread's network namespace."""
    Path("/proc/sys/net", path).write_text(value)


class Fabric:
    """The VPC router. This process must live in the router's network namespace."""

    def __init__(self, vpc_cidr: IPv4Network, vpc_cidr_v6: IPv6Network) -> None:
        self._vpc, self._vpc_v6 = vpc_cidr, vpc_cidr_v6
        self._wires: dict[str, Wire] = {}

    def build(self, routers: Iterable[IPv4Address], internet_netns: str) -> None:
        """Make the router itself and its way to the internet host."""
        for setting, value in (("ipv4/ip_forward", "1"), ("ipv6/conf/all/forwarding", "1"), ("ipv4/conf/all/rp_filter", "0"),
                               ("ipv4/conf/default/rp_filter", "1"), ("ipv4/icmp_ratelimit", "0")):  # fmt: skip
            sysctl(setting, value)
        ip_batch(
            [f"addr add {address}/32 dev lo" for address in routers]
            + [
                f"route add blackhole {self._vpc}",
                f"route add blackhole {self._vpc_v6}",
                f"link add v-internet mtu {INTERNET_MTU} type veth peer name eth0 mtu {INTERNET_MTU} netns {internet_netns}",
                f"addr add {INTERNET_ROUTER}/24 dev v-internet",
                f"addr add {INTERNET_ROUTER_V6}/64 dev v-internet nodad",
                "link set v-internet up",
            ]
        )
        ip_batch_in(
            internet_netns,
            [
                f"addr add {INTERNET_ADDRESS}/24 dev eth0",
                f"addr add {INTERNET_ADDRESS_V6}/64 dev eth0 nodad",
                "link set eth0 up",
                f"route add default via {INTERNET_ROUTER}",
                f"route add default via {INTERNET_ROUTER_V6}",
            ],
        )
        run(["nft", "-f", "-"], stdin=_FIREWALL)

    def reconcile(self, wanted: Iterable[Wire]) -> None:
        """Make the fabric carry exactly these ENIs. Repeating it changes nothing."""
        target = {wire.eni_id: wire for wire in wanted}
        for eni_id in sorted(self._wires.keys() - target.keys()):
            self._unplug(self._wires.pop(eni_id))
        for eni_id, wire in target.items():
            before = self._wires.get(eni_id)
            if before is None:
                self._plug(wire)
            elif before != wire:
                self._reroute(before, wire)
            self._wires[eni_id] = wire

    def _plug(self, wire: Wire) -> None:
        port = wire.port
        ip_batch(
            [
                f"link add {port} mtu {ENI_MTU} type veth peer name {wire.ifname} address {wire.mac} mtu {ENI_MTU} netns {wire.netns}",
                f"link set {port} addrgenmode none",
                f"link set {port} up",
            ]
        )
        sysctl(f"ipv4/conf/{port}/proxy_arp", "1")
        sysctl(f"ipv4/conf/{port}/rp_filter", "1")
        sysctl(f"ipv4/neigh/{port}/proxy_delay", "0")
        ip_batch(
            [
                f"addr add {ROUTER_LINK_LOCAL}/64 dev {port} nodad",
                f"addr add {ROUTER_V6}/128 dev {port} nodad",
                f"neigh replace {wire.link_local} lladdr {wire.mac} dev {port} nud permanent",
                f"neigh replace {wire.primary} lladdr {wire.mac} dev {port} nud permanent",
                f"route replace {wire.primary}/32 dev {port}",
                *(_route(wire, destination, "replace") for destination in sorted(wire.destinations)),
            ]
        )
        run(["nft", f"add element inet lab primaries {{ {wire.primary} }}"])

    def _unplug(self, wire: Wire) -> None:
        ip_batch([f"link delete {wire.port}"])
        run(["nft", f"delete element inet lab primaries {{ {wire.primary} }}"])

    def _reroute(self, before: Wire, after: Wire) -> None:
        ip_batch(
            [_route(before, gone, "delete") for gone in sorted(before.destinations - after.destinations)]
            + [_route(after, new, "replace") for new in sorted(after.destinations - before.destinations)]
        )


def configure_primary(wire: Wire, prefix_length: int, router: IPv4Address, address_v6: IPv6Address | None) -> None:
    """Bring up a node's primary ENI as the machine image does at boot (DHCP, router advertisement): addresses, default routes, MTU."""
    v6 = [
        f"addr add {address_v6}/128 dev {wire.ifname} nodad",
        f"route replace default via {ROUTER_V6} dev {wire.ifname} proto ra metric 512",
    ]

    def settings() -> None:
        sysctl("ipv4/ip_forward", "1")
        # A node that has booted has long found its link-local address unique; until then it asks nobody for a neighbour.
        sysctl(f"ipv6/conf/{wire.ifname}/accept_dad", "0")

    call_in(Place(net=f"/run/netns/{wire.netns}"), settings)
    ip_batch_in(
        wire.netns,
        [
            f"addr add {wire.primary}/{prefix_length} dev {wire.ifname}",
            f"link set {wire.ifname} up",
            f"route replace default via {router} dev {wire.ifname}",
            *(v6 if address_v6 is not None else ()),
            "addr add 169.254.169.254/32 dev lo",
        ],
    )


def _route(wire: Wire, destination: str, verb: str) -> str:
    if ":" in destination:
        return f"route {verb} {destination} via {wire.link_local} dev {wire.port} onlink"
    return f"route {verb} {destination} via {wire.primary} dev {wire.port} onlink"


_FIREWALL: Final = """
table inet lab {
  set primaries { type ipv4_addr; }
  chain raw {
    type filter hook prerouting priority raw; policy accept;
    iifname "v-internet" ip saddr 10.0.0.0/16 counter drop
    iifname "v-internet" ip6 saddr 2001:db8:0:100::/56 counter drop
    iifname "v*" iifname != "v-internet" ip6 saddr != fe80::/10 fib saddr . iif oif missing counter drop
  }
  chain leave {
    type filter hook forward priority filter; policy accept;
    oifname "v-internet" ip saddr != @primaries counter drop
  }
}
"""

"""The node's side of the kernel that is not on the way of an ADD: dumps, the primary link, secondary ENIs, node rules.

pyroute2's calls, synchronous; run in the thread pool, since a dump or a fresh ENI takes milliseconds. Each function observes first
and changes only what is not right, so a second pass makes no change (spec dataplane.md 11).
"""

from __future__ import annotations

import errno
import ipaddress
import socket
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

from vpccni.components.netlink_programmer.naming import MAIN_TABLE, PARTING_HEAD, parse_alias, route_table
from vpccni.components.netlink_programmer.templates import (
    POD_GATEWAY,
    PRIORITY_FROM_POD,
    PRIORITY_TO_POD,
    PROTOCOL_BOOT,
    SCOPE_LINK,
)
from vpccni.components.netlink_programmer.wiring import Wired
from vpccni.shared.effects import effect
from vpccni.shared.errors import KernelRefused
from vpccni.shared.messages.inventory import Eni, Inventory

PRIORITY_MARK: Final = 1024  # spec dataplane.md 2.1
PRIORITY_ENI: Final = 32765  # spec dataplane.md 2.1


@dataclass(frozen=True)
class Seen:
    """What a start finds: wirings of ours, links on their way out, and addresses that lead to a pod nobody claims."""

    wired: tuple[Wired, ...]
    parting: tuple[int, ...]
    unclaimed: tuple[str, ...]


def survey() -> Seen:
    """Return our host veths with the address and table the routes and rules tell."""
    with _route() as ip:
        addresses = {
            route.get("oif"): route.get("dst")
            for route in ip.get_routes(family=socket.AF_INET, table=MAIN_TABLE)
            if route.get("dst_len") == 32
        }
        rules = list(ip.get_rules(family=socket.AF_INET))
        tables = {rule.get("src"): rule.get("table") for rule in rules if rule.get("priority") == PRIORITY_FROM_POD}
        wired, parting = [], []
        for link in ip.get_links():
            if link.get("ifname").startswith(PARTING_HEAD):
                parting.append(int(link["index"]))
                continue
            owner = parse_alias(link.get("ifalias"))
            if owner is not None:
                address = str(addresses.get(link["index"]) or "")
                table = int(tables.get(address, MAIN_TABLE))
                device = table - 1 if table != MAIN_TABLE else 0
                wired.append(
                    Wired(*owner, link.get("ifname"), int(link["index"]), link.get("address"), address, table, device)
                )
        claimed = {one.address for one in wired}
        routed = {str(addresses[index]) for index in addresses}
        return Seen(tuple(wired), tuple(parting), tuple(sorted(_led_to_pods(rules) & routed - claimed)))


def unclaimed(claimed: frozenset[str]) -> list[str]:
    """Return the addresses that a rule and a host route lead to a pod, and that are not `claimed` by a wiring of ours."""
    with _route() as ip:
        routed = {
            str(route.get("dst"))
            for route in ip.get_routes(family=socket.AF_INET, table=MAIN_TABLE)
            if route.get("dst_len") == 32
        }
        return sorted(_led_to_pods(ip.get_rules(family=socket.AF_INET)) & routed - claimed)


def _led_to_pods(rules: Iterable[Any]) -> set[str]:
    return {str(rule.get("dst")) for rule in rules if rule.get("priority") == PRIORITY_TO_POD and rule.get("dst")}


def set_up_node(inventory: Inventory, *, mtu: int, connmark: int, mark_rule: bool) -> str:
    """Bring the primary link's MTU and the fwmark rule to what is wanted; return the primary link's name."""
    with _route() as ip:
        found = _link_by_mac(ip, inventory.primary_mac)
        if found is None:
            raise KernelRefused(
                "no link has the primary ENI's MAC",
                on=inventory.primary_mac,
                why="metadata names it",
                remedy="Check the instance's interfaces",
            )
        index, name = found
        _ensure_link(ip, index, mtu)
        rules = [
            rule
            for rule in ip.get_rules(family=socket.AF_INET)
            if rule.get("priority") == PRIORITY_MARK and rule.get("fwmark")
        ]
        right = [
            rule
            for rule in rules
            if (rule.get("fwmark"), rule.get("fwmask"), rule.get("table")) == (connmark, connmark, MAIN_TABLE)
        ]
        if mark_rule and not right:
            with effect("netlink.mark_rule"):
                ip.rule(
                    "add",
                    priority=PRIORITY_MARK,
                    fwmark=connmark,
                    fwmask=connmark,
                    table=MAIN_TABLE,
                    family=socket.AF_INET,
                )
        return name


def set_up_eni(eni: Eni, *, mtu: int) -> tuple[int, int]:
    """Bring a secondary ENI's link, address, table and rule to what is wanted; return (ifindex, table).

    Raises `KernelRefused` when its link has not appeared yet.
    """
    table = route_table(eni.card, eni.device_number)
    with _route() as ip:
        found = _link_by_mac(ip, eni.mac)
        if found is None:
            raise KernelRefused(
                "the ENI's link is not there yet",
                on=f"{eni.eni_id}, {eni.mac}",
                why="the kernel shows no link with this MAC",
            )
        index, _ = found
        if eni.is_primary:
            return index, table
        _ensure_link(ip, index, mtu)
        subnet = ipaddress.IPv4Network(eni.subnet_cidr)
        _ensure_address(ip, index, eni.primary_address, subnet)
        _ensure_routes(ip, index, table, str(subnet.network_address + 1))
        _drop_connected(ip, index, eni.primary_address, subnet)
        if not eni.is_trunk:
            _ensure_rule(ip, eni.primary_address, table)
        return index, table


def forget_eni(primary_address: str) -> None:
    """Delete the rules of an ENI that is gone; its routes went with the link."""
    with _route() as ip:
        for rule in list(ip.get_rules(family=socket.AF_INET)):
            if rule.get("src") == primary_address and rule.get("priority") == PRIORITY_ENI:
                with effect("netlink.eni_rule_del"):
                    ip.rule(
                        "del",
                        priority=PRIORITY_ENI,
                        src=primary_address,
                        src_len=32,
                        table=rule.get("table"),
                        family=socket.AF_INET,
                    )


def _route() -> Any:
    from pyroute2 import (
        IPRoute,
    )  # 0.25 s: imported in the thread that needs it first, not before the front door is open

    return IPRoute()


def _link_by_mac(ip: Any, mac: str) -> tuple[int, str] | None:
    for link in ip.get_links():
        if link.get("address") == mac.lower() and link.get(("linkinfo", "kind")) not in ("vlan",):
            return int(link["index"]), str(link.get("ifname"))
    return None


def _ensure_link(ip: Any, index: int, mtu: int) -> None:
    link = next(iter(ip.get_links(index)))
    if link.get("mtu") != mtu or not link["flags"] & 1:
        with effect("netlink.eni_link"):
            ip.link("set", index=index, mtu=mtu, state="up")


def _ensure_address(ip: Any, index: int, address: str, subnet: ipaddress.IPv4Network) -> None:
    seen = {(item.get("address"), item["prefixlen"]) for item in ip.get_addr(index=index, family=socket.AF_INET)}
    if (address, subnet.prefixlen) not in seen:
        with effect("netlink.eni_address"):
            ip.addr("add", index=index, address=address, prefixlen=subnet.prefixlen)
    for other, length in seen - {(address, subnet.prefixlen)}:
        ip.addr("del", index=index, address=other, prefixlen=length)


def _ensure_routes(ip: Any, index: int, table: int, gateway: str) -> None:
    routes = list(ip.get_routes(family=socket.AF_INET, table=table))
    if not any(route.get("dst") == gateway and route.get("oif") == index for route in routes):
        with effect("netlink.eni_gateway"):
            ip.route("replace", dst=f"{gateway}/32", oif=index, scope=SCOPE_LINK, proto=PROTOCOL_BOOT, table=table)
    if not any(
        not route["dst_len"] and route.get("oif") == index and route.get("gateway") == gateway for route in routes
    ):
        with effect("netlink.eni_default"):
            ip.route("replace", dst="0.0.0.0/0", gateway=gateway, oif=index, proto=PROTOCOL_BOOT, table=table)


def _drop_connected(ip: Any, index: int, address: str, subnet: ipaddress.IPv4Network) -> None:
    """The connected route would send in-VPC answers out of the wrong ENI; it wants its kernel protocol and source to be deleted."""
    from pyroute2.netlink.exceptions import NetlinkError

    for route in ip.get_routes(family=socket.AF_INET, table=MAIN_TABLE, oif=index):
        if route.get("dst") == str(subnet.network_address) and route["dst_len"] == subnet.prefixlen:
            try:
                with effect("netlink.eni_connected"):
                    ip.route(
                        "del", dst=str(subnet), oif=index, proto=2, scope=SCOPE_LINK, prefsrc=address, table=MAIN_TABLE
                    )
            except NetlinkError as error:
                if error.code != errno.ESRCH:
                    raise


def _ensure_rule(ip: Any, address: str, table: int) -> None:
    seen: Iterable[Any] = ip.get_rules(family=socket.AF_INET)
    if not any(
        rule.get("src") == address and rule.get("table") == table and rule.get("priority") == PRIORITY_ENI
        for rule in seen
    ):
        with effect("netlink.eni_rule"):
            ip.rule("add", priority=PRIORITY_ENI, src=address, src_len=32, table=table, family=socket.AF_INET)


def check_pod(descriptor: int, wired: Wired, *, ifname: str) -> list[str]:
    """Return what is wrong with a wired pod, nothing when all is right (spec dataplane.md 15). `descriptor`: the pod's netlink socket."""
    from pyroute2 import IPRoute

    trouble: list[str] = []
    with _route() as ip:
        rules = [
            (rule.get("priority"), rule.get("table"))
            for rule in ip.get_rules(family=socket.AF_INET)
            if wired.address in (rule.get("src"), rule.get("dst"))
        ]
        expected = [(PRIORITY_TO_POD, MAIN_TABLE)] + (
            [(PRIORITY_FROM_POD, wired.table)] if wired.table != MAIN_TABLE else []
        )
        if sorted(rules) != sorted(expected):
            trouble.append(f"rules of {wired.address} are {sorted(rules)}, not {sorted(expected)}")
        if not any(
            route.get("oif") == wired.ifindex
            for route in ip.get_routes(family=socket.AF_INET, table=MAIN_TABLE, dst=wired.address)
        ):
            trouble.append(f"no route to {wired.address} through {wired.host_veth}")
    if descriptor < 0:
        return [*trouble, "the pod's namespace could not be entered"]
    with IPRoute(fileno=descriptor, groups=0) as pod:
        links = [link for link in pod.get_links() if link.get("ifname") == ifname]
        if not links or not links[0]["flags"] & 1:
            return [*trouble, f"{ifname} is missing or down in the pod"]
        index = links[0]["index"]
        if not any(item.get("address") == wired.address for item in pod.get_addr(index=index, family=socket.AF_INET)):
            trouble.append(f"{ifname} lacks {wired.address}")
        if not any(
            not route["dst_len"] and route.get("gateway") == POD_GATEWAY
            for route in pod.get_routes(family=socket.AF_INET, table=MAIN_TABLE)
        ):
            trouble.append("the pod has no default route to its gateway")
        neighbours = [
            item.get("lladdr")
            for item in pod.get_neighbours(family=socket.AF_INET, ifindex=index)
            if item.get("dst") == POD_GATEWAY
        ]
        if neighbours != [wired.mac]:
            trouble.append(f"the gateway's neighbour is {neighbours}, not {wired.mac}")
    return trouble

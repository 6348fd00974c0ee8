"""What a start finds in the kernel, and what CHECK compares in a pod: reading only, by pyroute2's calls, milliseconds each."""

from __future__ import annotations

import socket
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from vpccni.components.netlink_programmer.naming import MAIN_TABLE, PARTING_HEAD, parse_alias
from vpccni.components.netlink_programmer.node_plan import PRIORITY_FROM_POD, PRIORITY_TO_POD
from vpccni.components.netlink_programmer.templates import POD_GATEWAY
from vpccni.components.netlink_programmer.wiring import Wired


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


def _route() -> Any:
    from pyroute2 import (
        IPRoute,
    )  # 0.25 s: imported in the thread that needs it first, not before the front door is open

    return IPRoute()


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

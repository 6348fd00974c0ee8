"""What CHECK compares in a pod: reading only, by pyroute2's calls, milliseconds each."""

from __future__ import annotations

import socket
from typing import Any

from vpccni.components.netlink_programmer.naming import MAIN_TABLE
from vpccni.components.netlink_programmer.node_plan import PRIORITY_FROM_POD, PRIORITY_TO_POD
from vpccni.components.netlink_programmer.templates import POD_GATEWAY
from vpccni.components.netlink_programmer.wiring import Wired


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

"""What CHECK compares in a pod: reading only, by pyroute2's calls, milliseconds each."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from vpccni.components.netlink_programmer.facts import family_of
from vpccni.components.netlink_programmer.naming import MAIN_TABLE, pod_gateway
from vpccni.components.netlink_programmer.node_plan import PRIORITY_FROM_POD, PRIORITY_IN_POD, PRIORITY_TO_POD
from vpccni.components.netlink_programmer.wiring import Wired


def _route() -> Any:
    from pyroute2 import (
        IPRoute,
    )  # 0.25 s: imported in the thread that needs it first, not before the front door is open

    return IPRoute()


def check_pod(descriptor: int, wired: Sequence[Wired]) -> list[str]:
    """Return what is wrong with a wired pod, nothing when all is right (spec dataplane.md 15).

    `descriptor`: the pod's netlink socket, -1: its namespace could not be entered; it is closed.
    """
    from pyroute2 import IPRoute

    with _route() as ip:
        trouble = [sentence for one in wired for sentence in _on_the_host(ip, one)]
    if descriptor < 0:
        return [*trouble, "the pod's namespace could not be entered"]
    with IPRoute(fileno=descriptor, groups=0) as pod:
        trouble += [sentence for one in wired for sentence in _in_the_pod(pod, one)]
    return trouble


def _on_the_host(ip: Any, wired: Wired) -> Iterator[str]:
    family = family_of(wired.address)
    rules = [
        (rule.get("priority"), rule.get("table"))
        for rule in ip.get_rules(family=family)
        if wired.address in (rule.get("src"), rule.get("dst"))
    ]
    expected = [(PRIORITY_TO_POD, MAIN_TABLE)]
    if wired.table != MAIN_TABLE:
        expected.append((PRIORITY_FROM_POD, wired.table))
    if sorted(rules) != sorted(expected):
        yield f"rules of {wired.address} are {sorted(rules)}, not {sorted(expected)}"
    routes = ip.get_routes(family=family, table=MAIN_TABLE, dst=wired.address)
    if not any(route.get("oif") == wired.ifindex for route in routes):
        yield f"no route to {wired.address} through {wired.host_veth}"


def _in_the_pod(pod: Any, wired: Wired) -> Iterator[str]:
    family, ifname = family_of(wired.address), wired.ifname
    gateway, table = pod_gateway(family, wired.index), wired.index or MAIN_TABLE
    links = [link for link in pod.get_links() if link.get("ifname") == ifname]
    if not links or not links[0]["flags"] & 1:
        yield f"{ifname} is missing or down in the pod"
        return
    index = links[0]["index"]
    if not any(item.get("address") == wired.address for item in pod.get_addr(index=index, family=family)):
        yield f"{ifname} lacks {wired.address}"
    defaults = [route for route in pod.get_routes(family=family, table=table) if not route["dst_len"]]
    if not any(route.get("gateway") == gateway for route in defaults):
        yield f"the pod has no default route through {ifname} to its gateway"
    neighbours = [
        item.get("lladdr") for item in pod.get_neighbours(family=family, ifindex=index) if item.get("dst") == gateway
    ]
    if neighbours != [wired.mac]:
        yield f"the gateway's neighbour is {neighbours}, not {wired.mac}"
    rules = [(rule.get("priority"), rule.get("table")) for rule in pod.get_rules(family=family, src=wired.address)]
    if wired.index and (PRIORITY_IN_POD, table) not in rules:
        yield f"the pod has no rule that leads {wired.address} to table {table}"

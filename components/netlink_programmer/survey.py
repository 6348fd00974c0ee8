"""What a start finds in the kernel of the pods: wirings of ours, links on their way out, addresses that nobody claims. Pure."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Final

from vpccni.components.netlink_programmer.facts import Seen
from vpccni.components.netlink_programmer.naming import MAIN_TABLE, PARTING_HEAD, parse_alias
from vpccni.components.netlink_programmer.node_plan import PRIORITY_FROM_POD, PRIORITY_TO_POD
from vpccni.components.netlink_programmer.wiring import Wired

HOST: Final = "/32"


@dataclass(frozen=True)
class Found:
    """`parting`: interface indexes of links that were on their way out; `unclaimed`: see `unclaimed`."""

    wired: tuple[Wired, ...]
    parting: tuple[int, ...]
    unclaimed: tuple[str, ...]


def survey(seen: Seen) -> Found:
    """Return our host veths with the address and table that routes and rules tell. `seen` has the main table's routes."""
    addresses = {route.ifindex: route.dst.removesuffix(HOST) for route in seen.routes if route.dst.endswith(HOST)}
    tables = {rule.src.removesuffix(HOST): rule.table for rule in seen.rules if rule.priority == PRIORITY_FROM_POD}
    wired, parting = [], []
    for link in seen.links.values():
        if link.name.startswith(PARTING_HEAD):
            parting.append(link.ifindex)
            continue
        owner = parse_alias(link.alias)
        if owner is not None:
            address = addresses.get(link.ifindex, "")
            table = tables.get(address, MAIN_TABLE)
            device = table - 1 if table != MAIN_TABLE else 0
            wired.append(Wired(*owner, link.name, link.ifindex, link.mac, address, table, device))
    claimed = {one.address for one in wired}
    return Found(tuple(wired), tuple(parting), tuple(unclaimed(seen, claimed)))


def unclaimed(seen: Seen, claimed: Collection[str]) -> list[str]:
    """Return the addresses that a rule and a host route lead to a pod, and that are not `claimed` by a wiring of ours."""
    routed = {route.dst.removesuffix(HOST) for route in seen.routes if route.dst.endswith(HOST)}
    led = {rule.dst.removesuffix(HOST) for rule in seen.rules if rule.priority == PRIORITY_TO_POD and rule.dst}
    return sorted((led & routed).difference(claimed))

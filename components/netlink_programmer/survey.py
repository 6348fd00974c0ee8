"""What a start finds in the kernel of the pods: wirings of ours, links on their way out, addresses that nobody claims. Pure."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from vpccni.components.netlink_programmer.facts import Seen, host_of
from vpccni.components.netlink_programmer.naming import (
    MAIN_TABLE,
    PARTING_HEAD,
    alias_index,
    device_of,
    parse_alias,
)
from vpccni.components.netlink_programmer.node_plan import PRIORITY_FROM_POD, PRIORITY_TO_POD
from vpccni.components.netlink_programmer.wiring import Wired


@dataclass(frozen=True)
class Found:
    """`parting`: interface indexes of links that were on their way out; `unclaimed`: see `unclaimed`."""

    wired: tuple[Wired, ...]
    parting: tuple[int, ...]
    unclaimed: tuple[str, ...]


def survey(seen: Seen) -> Found:
    """Return our host veths with the address and table that routes and rules tell. `seen` has the main table's routes."""
    addresses = {route.ifindex: host_of(route.dst) for route in seen.routes if host_of(route.dst)}
    tables = {host_of(rule.src): rule.table for rule in seen.rules if rule.priority == PRIORITY_FROM_POD}
    wired, parting = [], []
    for link in seen.links.values():
        if link.name.startswith(PARTING_HEAD):
            parting.append(link.ifindex)
            continue
        owner = parse_alias(link.alias)
        if owner is not None:
            address = addresses.get(link.ifindex, "")
            table = tables.get(address, MAIN_TABLE)
            index = alias_index(link.alias)
            wired.append(Wired(*owner, link.name, link.ifindex, link.mac, address, table, device_of(table), index))
    claimed = {one.address for one in wired}
    return Found(tuple(wired), tuple(parting), tuple(unclaimed(seen, claimed)))


def unclaimed(seen: Seen, claimed: Collection[str]) -> list[str]:
    """Return the addresses that a rule and a host route lead to a pod, and that are not `claimed` by a wiring of ours."""
    routed = {host_of(route.dst) for route in seen.routes} - {""}
    led = {host_of(rule.dst) for rule in seen.rules if rule.priority == PRIORITY_TO_POD}
    return sorted((led & routed).difference(claimed))

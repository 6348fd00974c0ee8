"""Pods that the reference wired and the ledger knows from its checkpoint: which host veth is whose. Pure (spec dataplane.md 16.1).

The reference writes no alias; the host route of the pod's address leads to its veth, and the veth's name ends with the hash of the
pod's. Who is recognised gets an alias and is looked after like a pod of our own.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from vpccni.components.netlink_programmer.facts import Link, Seen, host_of
from vpccni.components.netlink_programmer.naming import (
    HASH_DIGITS,
    INTERFACES_AT_MOST,
    MAIN_TABLE,
    device_of,
    host_veth_name,
    parse_alias,
)
from vpccni.components.netlink_programmer.node_plan import PRIORITY_FROM_POD
from vpccni.components.netlink_programmer.wiring import Wired
from vpccni.shared.messages.allocation import LedgerEntry


def adopted(seen: Seen, entries: Iterable[LedgerEntry]) -> list[Wired]:
    """Return the wirings of those entries whose veth is there, up and nobody's yet. `seen` has the main table's routes."""
    free = {
        link.ifindex: link
        for link in seen.links.values()
        if link.kind == "veth" and link.up and parse_alias(link.alias) is None
    }
    routed = {host_of(route.dst): route.ifindex for route in seen.routes if host_of(route.dst)}
    tables = {host_of(rule.src): rule.table for rule in seen.rules if rule.priority == PRIORITY_FROM_POD}
    found = []
    for entry in entries:
        link = _veth_of(entry, free, routed)
        if link is not None:
            del free[link.ifindex]
            table = tables.get(entry.address, MAIN_TABLE)
            index = next((at for at, name in enumerate(_digests(entry)) if link.name.endswith(name)), 0)
            found.append(
                Wired(
                    entry.sandbox,
                    entry.pod,
                    link.name,
                    link.ifindex,
                    link.mac,
                    entry.address,
                    table,
                    device_of(table),
                    index,
                )
            )
    return found


def _veth_of(entry: LedgerEntry, free: Mapping[int, Link], routed: Mapping[str, int]) -> Link | None:
    """Return the veth that the address leads to and, where the pod's name is known, is named after it; by name alone if the route is gone."""
    digests = _digests(entry)
    if entry.address in routed:
        link = free.get(routed[entry.address])
        return link if link is not None and (not digests or link.name[-HASH_DIGITS:] in digests) else None
    taken = set(routed.values())
    named = (link for link in free.values() if link.name[-HASH_DIGITS:] in digests[:1] and link.ifindex not in taken)
    return next(named, None)


def _digests(entry: LedgerEntry) -> list[str]:
    """Return how the names of the pod's veths end, by the number of the interface; none for a pod without a name."""
    if not entry.pod.name:
        return []
    return [host_veth_name(entry.pod, "", index=index) for index in range(INTERFACES_AT_MOST)]

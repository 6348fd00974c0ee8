"""What another rule set would change for a pod: which peers and ports are allowed, denied or only told then, and were not. Pure.

Both rule sets are compared network by network, as the programs look them up: a class of one against a class of the other, each pair of
classes once. So a policy of thousands of peers costs thousands of steps, and a change is told with the widest network it holds for.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from vpccni.components.policy_agent.compiler import ANY_PROTOCOL, PortKey, PortTable, RuleSet, Side
from vpccni.components.policy_agent.policy import (
    ADDRESS_BITS,
    PORT_AT_MOST,
    V4_ALL,
    V6_ALL,
    Decision,
    Direction,
    Ports,
    Prefix,
)

ALLOWED, DENIED, TOLD = "allowed", "denied", "audit deny"
EVERY_PORT: Final = "every port"
OTHER_THAN: Final = "protocols other than {}"
EXCEPTS_SHOWN: Final = 3


class Difference(NamedTuple):
    """These ports of these peers (in ingress: of the pod, for these peers) are `outcome` from then on."""

    direction: Direction
    outcome: str
    ports: tuple[str, ...]
    peers: tuple[str, ...]


Change = tuple[str, tuple[str, ...]]
"""An outcome and the ports that have it newly."""


def differences(before: RuleSet, after: RuleSet) -> list[Difference]:
    """Return what changes from one rule set to another, peers with the same changes together."""
    found: dict[tuple[Direction, Change], list[str]] = {}
    for direction in Direction:
        for network, changes in _changed(before.sides[direction], after.sides[direction]):
            for change in changes:
                found.setdefault((direction, change), []).append(network)
    return [
        Difference(direction, outcome, ports, tuple(peers)) for (direction, (outcome, ports)), peers in found.items()
    ]


@dataclass(slots=True)
class _Place:
    network: Prefix
    changes: tuple[Change, ...]
    excepts: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        if not self.excepts:
            return str(self.network)
        more = len(self.excepts) - EXCEPTS_SHOWN
        shown = ", ".join(self.excepts[:EXCEPTS_SHOWN]) + (f" and {more} more" if more > 0 else "")
        return f"{self.network} except {shown}"


def _changed(before: Side, after: Side) -> Iterator[tuple[str, tuple[Change, ...]]]:
    """Yield the widest networks with changes, and what changes there."""
    pairs: dict[tuple[int, int], tuple[Change, ...]] = {}
    path: list[_Place] = []
    places: list[_Place] = []
    for network in sorted(_networks(before) | _networks(after), key=lambda one: (not one.is_v4, one)):
        while path and not path[-1].network.holds(network):
            path.pop()
        pair = class_of(before, network), class_of(after, network)
        if pair not in pairs:
            pairs[pair] = tuple(_compared(before.classes[pair[0]], after.classes[pair[1]]))
        if path and path[-1].changes == pairs[pair]:
            continue
        if path:
            path[-1].excepts.append(str(network))
        path.append(_Place(network, pairs[pair]))
        places.append(path[-1])
    for place in places:
        if place.changes:
            yield str(place), place.changes


def _networks(side: Side) -> set[Prefix]:
    hosts = {Prefix(value, ADDRESS_BITS) for value in side.addresses.hosts}
    return {V4_ALL, V6_ALL, *hosts, *side.addresses.networks}


def class_of(side: Side, network: Prefix) -> int:
    """Return the class of the addresses of a network that no narrower one names."""
    if network.length == ADDRESS_BITS and network.value in side.addresses.hosts:
        return side.addresses.hosts[network.value]
    for length in range(network.length, -1, -1):
        wider = Prefix(network.value >> (ADDRESS_BITS - length) << (ADDRESS_BITS - length), length)
        if wider in side.addresses.networks and wider.is_v4 == network.is_v4:
            return side.addresses.networks[wider]
    return side.outside[not network.is_v4]


def _compared(before: Decision | PortTable, after: Decision | PortTable) -> list[Change]:
    protocols = _protocols(before, after)
    found: dict[str, list[str]] = {}
    for protocol in protocols:
        for first, last, new in _spans(before, after, protocol):
            found.setdefault(new, []).append(str(Ports(protocol, first, last)))
    new = outcome(after, ANY_PROTOCOL, 0)
    if new != outcome(before, ANY_PROTOCOL, 0):
        named = ", ".join(str(Ports(protocol)) for protocol in protocols)
        found.setdefault(new, []).append(OTHER_THAN.format(named) if named else EVERY_PORT)
    return [(new, tuple(ports)) for new, ports in found.items()]


def _protocols(*both: Decision | PortTable) -> list[int]:
    """Return the protocols that a table of these speaks of."""
    tables = [one for one in both if isinstance(one, PortTable)]
    return sorted({key.protocol for table in tables for key in table.entries} - {ANY_PROTOCOL})


def _spans(before: Decision | PortTable, after: Decision | PortTable, protocol: int) -> Iterator[tuple[int, int, str]]:
    """Yield the ranges of ports whose outcome changes, with the new one; neighbours together."""
    starts = {0}
    for table in (before, after):
        if isinstance(table, PortTable):
            for key in table.entries:
                if key.protocol == protocol:
                    starts |= {key.port, key.port + (1 << (16 - key.length))}
    ordered = sorted(start for start in starts if start <= PORT_AT_MOST)
    current: tuple[int, int, str] | None = None
    for first, behind in zip(ordered, [*ordered[1:], PORT_AT_MOST + 1], strict=True):
        new = outcome(after, protocol, first)
        if new == outcome(before, protocol, first):
            continue
        if current is not None and current[1] + 1 == first and current[2] == new:
            current = (current[0], behind - 1, new)
            continue
        if current is not None:
            yield current
        current = (first, behind - 1, new)
    if current is not None:
        yield current


def outcome(found: Decision | PortTable, protocol: int, port: int) -> str:
    """Return what becomes of a flow to this port."""
    decision = decided(found, protocol, port) if isinstance(found, PortTable) else found
    if decision.audit:
        return TOLD
    return ALLOWED if decision.allowed else DENIED


def decided(table: PortTable, protocol: int, port: int) -> Decision:
    """Return the decision of the longest port prefix."""
    for length in range(16, -1, -1):
        key = PortKey(protocol, port >> (16 - length) << (16 - length), length)
        if key in table.entries:
            return table.entries[key]
    return table.entries[PortKey(ANY_PROTOCOL, 0, 0)]

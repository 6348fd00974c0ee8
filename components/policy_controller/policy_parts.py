"""The smallest parts of policy documents: selectors, ports and networks. Each raises `Unusable` for what Kubernetes would refuse."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from ipaddress import IPv4Network, IPv6Network, ip_network
from typing import Any, Final

import msgspec

from vpccni.components.policy_controller.model import PROTOCOLS, TCP, Block, Network, PodPeer, PortRule
from vpccni.components.policy_controller.policy_wires import ClusterPeerWire, ClusterPortWire, PortWire, SelectorWire
from vpccni.components.policy_controller.selectors import (
    DOES_NOT_EXIST,
    EVERYTHING,
    EXISTS,
    IN,
    NOT_IN,
    OPERATORS,
    Requirement,
    Selector,
)

PORT_LAST: Final = 65535


class Unusable(ValueError):
    """A part of a document means nothing."""


def cluster_pods_of(peer: ClusterPeerWire) -> PodPeer | None:
    if peer.namespaces is not None:
        return PodPeer(EVERYTHING, selector_of(peer.namespaces))
    if peer.pods is not None:
        return PodPeer(selector_of(peer.pods.pod_selector), selector_of(peer.pods.namespace_selector))
    return None


def selector_of(wire: SelectorWire) -> Selector:
    """Return a selector. Raises `Unusable` for one that Kubernetes would refuse."""
    requirements = [Requirement(key, IN, (value,)) for key, value in (wire.match_labels or {}).items()]
    for row in wire.match_expressions or ():
        if row.operator not in OPERATORS:
            raise Unusable(f"operator {row.operator!r} is none of {', '.join(sorted(OPERATORS))}")
        if bool(row.values) != (row.operator in (IN, NOT_IN)):
            needs = "no values" if row.operator in (EXISTS, DOES_NOT_EXIST) else "values"
            raise Unusable(f"operator {row.operator} on {row.key!r} takes {needs}")
        requirements.append(Requirement(row.key, row.operator, tuple(sorted(set(row.values or ())))))
    return Selector(tuple(sorted(requirements)))


def port_of(document: Any) -> PortRule:
    wire = msgspec.convert(document, PortWire)
    protocol = _protocol(wire.protocol)
    if isinstance(wire.port, str):
        if wire.end_port is not None:
            raise Unusable("endPort needs a port that is a number")
        return PortRule(protocol, name=_name(wire.port))
    if wire.port is None:
        if wire.end_port is not None:
            raise Unusable("endPort needs a port")
        return PortRule(protocol)
    return _range(protocol, wire.port, wire.end_port)


def cluster_ports_of(document: Any) -> tuple[PortRule, ...]:
    """Return what one item names: several kinds may stand in it (spec policy.md 2.4)."""
    wire = msgspec.convert(document, ClusterPortWire)
    found = []
    if wire.port_number is not None:
        found.append(_range(_protocol(wire.port_number.protocol), wire.port_number.port, None))
    if wire.port_range is not None:
        found.append(_range(_protocol(wire.port_range.protocol), wire.port_range.start, wire.port_range.end))
    if wire.named_port is not None:
        found.append(PortRule(TCP, name=_name(wire.named_port)))  # it carries no protocol: TCP (T-133)
    if not found:
        raise Unusable("names no port")
    return tuple(found)


def _protocol(text: str | None) -> str:
    protocol = text or TCP
    if protocol not in PROTOCOLS:
        raise Unusable(f"protocol {protocol!r} is none of {', '.join(sorted(PROTOCOLS))}")
    return protocol


def _name(text: str) -> str:
    if not text:
        raise Unusable("the port's name is empty")
    return text


def _range(protocol: str, first: int, last: int | None) -> PortRule:
    if not 1 <= first <= PORT_LAST:
        raise Unusable(f"port {first} is not in 1 to {PORT_LAST}")
    if last is None or last == first:
        return PortRule(protocol, first)
    if not first < last <= PORT_LAST:
        raise Unusable(f"the range ends at {last}, which is not in {first} to {PORT_LAST}")
    return PortRule(protocol, first, last)


def blocks_of(cidr: str, excepts: Sequence[str]) -> list[Block]:
    """Return the block, or none where the exceptions leave nothing of it."""
    network = _network(cidr)
    cut = [other for other in map(_network, excepts) if other.version == network.version and other.overlaps(network)]
    if any(other.prefixlen <= network.prefixlen for other in cut):
        return []
    return [Block(network, tuple(sorted(set(cut), key=lambda one: (one.network_address, one.prefixlen))))]


def _network(text: str) -> Network:
    """Return the network; a bare address is one of a single address. Host bits are cut off (spec policy.md T-027)."""
    address, slash, length = text.partition("/")
    try:
        if slash and not length.isdecimal():
            raise ValueError(f"{length!r} is no prefix length")
        found: IPv4Network | IPv6Network = ip_network((address, int(length)) if slash else address, strict=False)
    except ValueError as error:
        raise Unusable(f"{text!r} is no CIDR: {error}") from error
    return found


def dict_of(document: Any) -> Mapping[str, object]:
    return document if isinstance(document, dict) else {}

"""Services on egress: a virtual address is judged by the backends behind it, never by itself (spec policy.md 3.7, W-18).

The packet is judged before kube-proxy turns the virtual address into a backend's, so the rules must say of the virtual address what they say
of the backends. A port of it is open when every backend that may answer is open on the port it answers on; it is denied when any is. A block
that has the virtual address in it, but not the backends, loses it. A service without backends is left alone: nothing answers there.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from vpccni.components.policy_controller.allowed import Allowed, unite
from vpccni.components.policy_controller.cluster import Cluster, Vip, VipPort
from vpccni.components.policy_controller.model import DENY, Address, Block, Port
from vpccni.shared.kube.objects import Key


@dataclass
class _Findings:
    """What is to be done to a direction, found before any of it is done."""

    open: list[tuple[Address, VipPort]] = field(default_factory=list)
    carve: dict[Block, set[Address]] = field(default_factory=dict)
    mixed: set[Key] = field(default_factory=set)


def with_services(allowed: Allowed, cluster: Cluster) -> frozenset[Key]:
    """Add the virtual addresses of services to `allowed`; return the services only some of whose backends it allows."""
    vips = cluster.all_vips() if allowed.blocks else cluster.vips_before(allowed.exact)
    found = _find(allowed, vips)
    for block, addresses in found.carve.items():
        allowed.carve(block, addresses)
    opened: dict[Address, set[Port]] = {}
    for address, port in found.open:
        if not allowed.blocks_at(address, port.protocol, port.number):
            opened.setdefault(address, set()).add(Port(port.protocol, port.number))
    for address, ports in opened.items():
        unite(allowed.exact, address, frozenset(ports))
    return frozenset(found.mixed)


def _find(allowed: Allowed, vips: Iterable[Vip]) -> _Findings:
    found = _Findings()
    for vip in vips:
        for port in vip.ports:
            hits = sum(allowed.allows(address, port.protocol, number) for address, number in port.backends)
            if hits and (allowed.action == DENY or hits == len(port.backends)):
                found.open.append((vip.address, port))
            elif port.backends and not allowed.action:
                for block in allowed.blocks_at(vip.address, port.protocol, port.number):
                    found.carve.setdefault(block, set()).add(vip.address)
            if 0 < hits < len(port.backends):
                found.mixed.add(vip.service)
    return found

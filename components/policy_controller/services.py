"""Services on egress: a virtual address is judged by the backends behind it, never by itself (spec policy.md 3.7, W-18).

The packet is judged before kube-proxy turns the virtual address into a backend's, so the rules must say of the virtual address what they say
of the backends. A port of it is open when every backend that may answer is open on the port it answers on; it is denied when any is. A block
that has the virtual address in it, but not the backends, loses it. A service without backends is left alone: nothing answers there.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from vpccni.components.policy_controller.allowed import Allowed, unite
from vpccni.components.policy_controller.cluster import Cluster, Vip
from vpccni.components.policy_controller.model import DENY, Address, Block, Port
from vpccni.shared.kube.objects import Key


@dataclass
class _Findings:
    """What is to be done to a direction, found before any of it is done."""

    open: dict[Address, set[Port]] = field(default_factory=dict)
    carve: dict[Block, set[Address]] = field(default_factory=dict)
    mixed: set[Key] = field(default_factory=set)


def with_services(allowed: Allowed, cluster: Cluster) -> frozenset[Key]:
    """Add the virtual addresses of services to `allowed`; return the services only some of whose backends it allows."""
    vips = cluster.all_vips() if allowed.blocks else cluster.vips_before(allowed.exact)
    found = _find(allowed, vips)
    for block, addresses in found.carve.items():
        allowed.carve(block, addresses)
    for address, ports in found.open.items():
        unite(allowed.exact, address, frozenset(ports))
    return frozenset(found.mixed)


def matters(reach: Iterable[Allowed], before: Sequence[Vip], after: Sequence[Vip]) -> bool:
    """Tell whether it makes a difference to an egress that a service was the one and is the other.

    `reach`: the parts of the egress without services. It costs a look at this service's backends, a pass one at all services.
    """
    return any(_find(part, before) != _find(part, after) for part in reach)


def _find(allowed: Allowed, vips: Iterable[Vip]) -> _Findings:
    found = _Findings()
    for vip in vips:
        _look_at(allowed, vip, found)
    return found


def _look_at(allowed: Allowed, vip: Vip, found: _Findings) -> None:
    """Find what one virtual address needs: to be open on a port, where no block opens it anyway, or to be out of a block."""
    to_open: list[Port] = []
    carved: set[Block] = set()
    for port in vip.ports:
        hits = sum(allowed.allows(address, port.protocol, number) for address, number in port.backends)
        if hits and (allowed.action == DENY or hits == len(port.backends)):
            to_open.append(Port(port.protocol, port.number))
        elif port.backends and not allowed.action:
            carved.update(allowed.blocks_at(vip.address, port.protocol, port.number))
        if 0 < hits < len(port.backends):
            found.mixed.add(vip.service)
    for one in to_open:
        if carved.issuperset(allowed.blocks_at(vip.address, one.protocol, one.number)):
            found.open.setdefault(vip.address, set()).add(one)
    for block in carved:
        found.carve.setdefault(block, set()).add(vip.address)

"""What one direction of a policy opens (or denies, or passes): addresses, blocks and domains, each with its ports."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv6Address, collapse_addresses, ip_network
from typing import TypeVar

from vpccni.components.policy_controller.model import Address, Block, Entry, Network, Port

Ports = frozenset[Port] | None
"""None: every port of every protocol."""
P = TypeVar("P", bound=Hashable)


@dataclass
class Allowed:
    """The part of a direction with one action (empty: NetworkPolicy's, which only allows).

    Ports of the same place are united; "all ports" takes in every other (spec policy.md W-6).
    """

    action: str = ""
    exact: dict[Address, Ports] = field(default_factory=dict)
    blocks: dict[Block, Ports] = field(default_factory=dict)
    domains: dict[str, Ports] = field(default_factory=dict)

    def allows(self, address: Address, protocol: str, number: int) -> bool:
        """Tell whether traffic to this address and port is meant."""
        if address in self.exact and has_port(self.exact[address], protocol, number):
            return True
        return bool(self.blocks_at(address, protocol, number))

    def blocks_at(self, address: Address, protocol: str, number: int) -> list[Block]:
        """Return the blocks that open this address and port."""
        return [
            block for block, ports in self.blocks.items() if holds(block, address) and has_port(ports, protocol, number)
        ]

    def carve(self, block: Block, addresses: Iterable[Address]) -> None:
        """Take addresses out of a block."""
        ports = self.blocks.pop(block)
        cut = (*block.excepts, *map(ip_network, addresses))
        unite(self.blocks, Block(block.network, _collapsed(cut)), ports)

    def copy(self) -> Allowed:
        """Return another with the same places, for one of the two to change."""
        return Allowed(self.action, dict(self.exact), dict(self.blocks), dict(self.domains))

    def entries(self) -> Iterator[Entry]:
        """Yield the rows of endpoint objects."""
        for address, ports in self.exact.items():
            yield Entry(str(address), ports=_sorted(ports), action=self.action)
        for block, ports in self.blocks.items():
            excepts = tuple(str(one) for one in block.excepts)
            yield Entry(str(block.network), excepts, _sorted(ports), action=self.action)
        for domain, ports in self.domains.items():
            yield Entry("", ports=_sorted(ports), domain=domain, action=self.action)


def unite(places: dict[P, Ports], place: P, ports: Ports) -> None:
    """Open ports at a place, beside those it has."""
    if place not in places:
        places[place] = ports
        return
    before = places[place]
    places[place] = None if before is None or ports is None else before | ports


def has_port(ports: Ports, protocol: str, number: int) -> bool:
    """Tell whether a port is among these."""
    if ports is None:
        return True
    return any(
        one.protocol == protocol and (one.number == 0 or one.number <= number <= (one.end or one.number))
        for one in ports
    )


def holds(block: Block, address: IPv4Address | IPv6Address) -> bool:
    """Tell whether an address is in the block and in none of its exceptions."""
    return address in block.network and not any(address in one for one in block.excepts)


def _collapsed(networks: Iterable[Network]) -> tuple[Network, ...]:
    """Return the fewest networks with the same addresses: virtual addresses lie close together."""
    one_family: list[Network] = list(networks)
    return tuple(collapse_addresses(one_family))  # type: ignore[type-var]  # a block's exceptions are of its family


def _sorted(ports: Ports) -> tuple[Port, ...]:
    return () if ports is None else tuple(sorted(ports))

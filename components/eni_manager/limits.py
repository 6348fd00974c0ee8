"""How many ENIs and addresses an instance type may have (spec ipam.md 25).

The table is `limits.tsv`, made by `make_limits` from published data; a type it lacks is asked of EC2 (`DescribeInstanceTypes`).
A row: type, IPv4 addresses an ENI, default card, cards as `index:enis,...`, hypervisor, bare metal (0 or 1).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class InstanceLimits:
    """Limits of one type. `cards`: (index, ENIs) pairs; `addresses_per_eni` includes the ENI's own primary address.

    `kubelet_pods`: what this node's kubelet says, 0 while that is not known.
    """

    addresses_per_eni: int
    default_card: int
    cards: tuple[tuple[int, int], ...]
    hypervisor: str
    bare_metal: bool
    kubelet_pods: int = 0

    @property
    def slots(self) -> int:
        """Secondary addresses (or prefixes) that an ENI can hold."""
        return self.addresses_per_eni - 1

    @property
    def prefixes(self) -> bool:
        """Tell whether the type can have /28 prefixes (spec ipam.md 4)."""
        return self.hypervisor == "nitro" or self.bare_metal

    @property
    def enis(self) -> int:
        """ENIs of the default card."""
        return dict(self.cards)[self.default_card]

    @property
    def max_pods(self) -> int:
        """The kubelet's number of pods, else the published one: all secondary addresses, and two that share the node's (spec ipam.md 25)."""
        return self.kubelet_pods or self.enis * self.slots + 2

    def row(self, instance_type: str) -> str:
        """Return the line of the table for this type."""
        cards = ",".join(f"{index}:{enis}" for index, enis in self.cards)
        return "\t".join(
            (
                instance_type,
                str(self.addresses_per_eni),
                str(self.default_card),
                cards,
                self.hypervisor,
                str(int(self.bare_metal)),
            )
        )


def find_limits(table: str, instance_type: str) -> InstanceLimits | None:
    """Return the row of the type, or None. Reads the one line that matters: a thousand rows are not kept."""
    start = table.find(f"\n{instance_type}\t")
    return None if start < 0 else parse_row(table[start + 1 :].split("\n", 1)[0])


def parse_row(row: str) -> InstanceLimits:
    """Return the limits that a line of the table tells."""
    _, addresses, default_card, cards, hypervisor, bare_metal = row.split("\t")
    pairs = (pair.split(":") for pair in cards.split(","))
    return InstanceLimits(
        addresses_per_eni=int(addresses),
        default_card=int(default_card),
        cards=tuple((int(index), int(enis)) for index, enis in pairs),
        hypervisor=hypervisor,
        bare_metal=bare_metal == "1",
    )


def eni_limit(limits: InstanceLimits, card: int, max_eni: int | None) -> int:
    """Return the ENIs a card may have: its limit, lowered by `MAX_ENI` when that is at least 1 (spec env.md 1)."""
    most = dict(limits.cards)[card]
    return min(most, max_eni) if max_eni is not None and max_eni >= 1 else most


def limits_of(described: Mapping[str, Any]) -> InstanceLimits:
    """Return the limits in one element of DescribeInstanceTypes."""
    network = described["NetworkInfo"]
    cards = network.get("NetworkCards") or [
        {"NetworkCardIndex": 0, "MaximumNetworkInterfaces": network["MaximumNetworkInterfaces"]}
    ]
    return InstanceLimits(
        addresses_per_eni=network["Ipv4AddressesPerInterface"],
        default_card=network.get("DefaultNetworkCardIndex", 0),
        cards=tuple((card["NetworkCardIndex"], card["MaximumNetworkInterfaces"]) for card in cards),
        hypervisor=described.get("Hypervisor") or "unknown",
        bare_metal=described["BareMetal"],
    )

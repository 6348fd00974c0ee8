"""What the manager knows, in one place: the loop's thread alone changes it, each part by putting a new value in place of the old."""

from __future__ import annotations

from dataclasses import dataclass, field

from vpccni.components.eni_manager.facts import InstanceFacts
from vpccni.components.eni_manager.inventory import Picture
from vpccni.components.eni_manager.kube_facts import EniConfig
from vpccni.components.eni_manager.limits import InstanceLimits
from vpccni.components.eni_manager.network_cards import managed_cards
from vpccni.components.eni_manager.subnets import Subnets
from vpccni.shared.names import SubnetId


@dataclass
class State:
    """The picture with what was read beside it.

    `groups`: the primary ENI's security groups, as metadata shows them. `custom`: with custom networking the ENIConfig that new ENIs
    come from, or why there is none; without it None.
    """

    instance: InstanceFacts
    limits: InstanceLimits
    subnets: Subnets
    by_prefix: bool
    ipv6: bool = False
    multi_nic: bool = False
    picture: Picture = field(default_factory=Picture)
    vpc_cidrs: list[str] = field(default_factory=list)
    vpc_ipv6_cidrs: list[str] = field(default_factory=list)
    groups: tuple[str, ...] = ()
    custom: EniConfig | str | None = None

    @property
    def unit(self) -> int:
        """Addresses in an item: a prefix (/28, of an IPv6 node /80) or a single address."""
        if self.ipv6:
            return 1 << 48
        return 16 if self.by_prefix else 1

    def cards(self) -> tuple[int, ...]:
        """Return the network cards whose ENIs are ours to use, in order."""
        return managed_cards(self.picture, self.limits, multi_nic=self.multi_nic)

    def candidates(self) -> tuple[SubnetId, ...]:
        """Return the subnets that new ENIs may come from, the best first."""
        if self.custom is None:
            return self.subnets.candidates()
        return () if isinstance(self.custom, str) else (SubnetId(self.custom.subnet_id),)

    def groups_of_new(self) -> tuple[str, ...]:
        """Return the security groups of a new ENI (spec ipam.md 15, 16)."""
        named = self.custom.groups if isinstance(self.custom, EniConfig) else ()
        return tuple(sorted(named)) or self.groups

    def groups_kept(self) -> tuple[str, ...]:
        """Return the groups that ENIs are kept at; empty with custom networking: then each has its own."""
        return self.groups if self.custom is None else ()

    def show(self, picture: Picture) -> None:
        """Take a new picture; which ENIs are excluded follows from the subnets."""
        self.picture = picture.with_excluded(self.subnets.excluded())

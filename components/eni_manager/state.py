"""What the manager knows, in one place: the loop's thread alone changes it, each part by putting a new value in place of the old."""

from __future__ import annotations

from dataclasses import dataclass, field

from vpccni.components.eni_manager.facts import InstanceFacts
from vpccni.components.eni_manager.inventory import Picture
from vpccni.components.eni_manager.limits import InstanceLimits
from vpccni.components.eni_manager.subnets import Subnets


@dataclass
class State:
    """The picture with what was read beside it. `groups`: the primary ENI's security groups, as metadata shows them."""

    instance: InstanceFacts
    limits: InstanceLimits
    subnets: Subnets
    by_prefix: bool
    picture: Picture = field(default_factory=Picture)
    vpc_cidrs: list[str] = field(default_factory=list)
    groups: tuple[str, ...] = ()

    @property
    def unit(self) -> int:
        """Addresses in an item: a /28 prefix or a single address."""
        return 16 if self.by_prefix else 1

    def show(self, picture: Picture) -> None:
        """Take a new picture; which ENIs are excluded follows from the subnets."""
        self.picture = picture.with_excluded(self.subnets.excluded())

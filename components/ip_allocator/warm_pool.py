"""How many addresses a card should have, and what may be given back (spec ipam.md 7, 10, 11; secondary addresses).

Names as in the specification: T total, A assigned, F = T - A free (cooling ones count), W warm and M minimum IP target,
P addresses an ENI can hold. Pure: a shape and the settings in, a number or a choice out.

Growing and shrinking never chase each other: nothing is given back whose loss would make the pool low again (W10).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

ENI_AGE_S: Final = 60.0  # spec ipam.md 2: minimum age of an ENI before it may be freed
ENIS_SIMULATED_AT_MOST: Final = 64


@dataclass(frozen=True)
class Targets:
    """The warm settings. W and M 0: off."""

    warm_eni: int
    warm_ip: int
    minimum_ip: int
    max_pods: int

    @property
    def by_address(self) -> bool:
        """Whether W or M rule, instead of whole ENIs."""
        return self.warm_ip > 0 or self.minimum_ip > 0


@dataclass(frozen=True)
class EniShape:
    """What the plan needs of an ENI: its addresses by place. `removable`: not primary, trunk or EFA."""

    eni_id: str
    addresses: int
    held: int
    cooling: int
    age_s: float
    removable: bool
    accepts: bool = True


@dataclass(frozen=True)
class Shape:
    """The ENIs of a card (fenced ones and fenced addresses left out), P, and how many ENIs it may have."""

    enis: tuple[EniShape, ...]
    slots: int
    max_enis: int
    waiting: int = 0
    """Sandboxes that asked and got nothing: demand, counted as assigned."""

    @property
    def total(self) -> int:
        return sum(eni.addresses for eni in self.enis)

    @property
    def assigned(self) -> int:
        return sum(eni.held for eni in self.enis) + self.waiting

    @property
    def room(self) -> int:
        """Addresses that could still be added, on the ENIs there are and on new ones."""
        here = sum(max(0, self.slots - eni.addresses) for eni in self.enis if eni.accepts)
        return here + self.slots * max(0, self.max_enis - len(self.enis))


def is_low(total: int, assigned: int, slots: int, targets: Targets) -> bool:
    """Return whether the pool must grow (spec ipam.md 7, first match wins)."""
    if targets.max_pods and total >= targets.max_pods:
        return False
    if targets.by_address:
        return shortage(total, assigned, targets) > 0
    free = total - assigned
    return free < slots * targets.warm_eni or free <= 0


def shortage(total: int, assigned: int, targets: Targets) -> int:
    """Return `short` of the IP-target mode."""
    return max(targets.warm_ip - (total - assigned), targets.minimum_ip - total, 0)


def surplus(total: int, assigned: int, targets: Targets) -> int:
    """Return `over` of the IP-target mode."""
    return max(min(max(total - assigned - targets.warm_ip, 0), total - targets.minimum_ip), 0)


def wanted_total(shape: Shape, targets: Targets) -> int:
    """Return how many addresses the card should have; at least what it has, at most what fits.

    MINIMUM_IP_TARGET alone never grows beyond its floor, whoever waits (spec ipam.md W23: kept as the reference has it).
    """
    floor_only = targets.minimum_ip > 0 and targets.warm_ip == 0
    assigned = shape.assigned - shape.waiting if floor_only else shape.assigned
    if not is_low(shape.total, assigned, shape.slots, targets):
        return shape.total
    if targets.by_address:
        grown = shape.total + shortage(shape.total, assigned, targets)
        return min(grown, shape.total + shape.room)
    return _whole_enis(shape, targets)


def _whole_enis(shape: Shape, targets: Targets) -> int:
    """Fill ENIs one after the other, as the reference's passes do, until the pool is no longer low."""
    gaps = sorted(shape.slots - eni.addresses for eni in shape.enis if eni.accepts and eni.addresses < shape.slots)
    gaps += [shape.slots] * min(ENIS_SIMULATED_AT_MOST, max(0, shape.max_enis - len(shape.enis)))
    total = shape.total
    for gap in gaps:
        if not is_low(total, shape.assigned, shape.slots, targets):
            break
        total += gap
    return total


def surrender_addresses(shape: Shape, targets: Targets) -> list[tuple[str, int]]:
    """Return how many free, cooled addresses to give back from which ENI, emptiest ENI first. Only in IP-target mode."""
    if not targets.by_address:
        return []
    over = surplus(shape.total, shape.assigned, targets)
    chosen: list[tuple[str, int]] = []
    for eni in sorted(shape.enis, key=lambda eni: (eni.held, not eni.removable, eni.eni_id)):
        give = min(over, eni.addresses - eni.held - eni.cooling)
        if give > 0:
            chosen.append((eni.eni_id, give))
            over -= give
    return chosen


def surrender_eni(shape: Shape, targets: Targets) -> str | None:
    """Return one ENI that can go: removable, old enough, empty and cool, and the rest still satisfies every target."""
    candidates = [eni for eni in shape.enis if _may_go(eni) and _rest_suffices(shape, eni, targets)]
    return min(candidates, key=lambda eni: (eni.addresses, eni.eni_id)).eni_id if candidates else None


def _may_go(eni: EniShape) -> bool:
    return eni.removable and eni.held == 0 and eni.cooling == 0 and eni.age_s >= ENI_AGE_S


def _rest_suffices(shape: Shape, eni: EniShape, targets: Targets) -> bool:
    left = shape.total - eni.addresses
    if is_low(left, shape.assigned, shape.slots, targets):
        return False
    if targets.by_address:
        return left - shape.assigned >= targets.warm_ip and left >= targets.minimum_ip
    return shape.total - shape.assigned >= (targets.warm_eni + 1) * shape.slots


def split(free: Sequence[str], count: int) -> list[str]:
    """Return the last `count` of `free`: the highest addresses go back first, so an ENI's block stays dense."""
    return list(free[len(free) - count :]) if count else []

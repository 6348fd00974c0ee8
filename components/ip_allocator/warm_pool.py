"""How many addresses a card should have, and what may be given back (spec ipam.md 7, 10, 11).

Names as in the specification: T total, A assigned, C cooling, F = T - A free, W warm and M minimum IP target, P addresses an ENI can
hold, S addresses of a block (1, or 16 for a prefix). Pure: a shape and the settings in, a number or a choice out.

Two rules are ours. What cools cannot be given out, so it is not counted as warm (W11). Nothing is given back whose loss would make the
pool low again, so growing and shrinking never chase each other (W10).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

ENI_AGE_S: Final = 60.0  # spec ipam.md 2: minimum age of an ENI before it may be freed
STEPS_SIMULATED_AT_MOST: Final = 1024


@dataclass(frozen=True)
class Targets:
    """The warm settings. W and M 0: off."""

    warm_eni: int
    warm_ip: int
    minimum_ip: int
    max_pods: int
    warm_prefix: int = 1

    @property
    def by_address(self) -> bool:
        """Whether W or M rule, instead of whole ENIs or prefixes."""
        return self.warm_ip > 0 or self.minimum_ip > 0


@dataclass(frozen=True)
class EniShape:
    """What the plan needs of an ENI: its addresses (of the kind in force) by place.

    `free_blocks`: blocks in force that are wholly free and cooled. `items`: blocks of both kinds: what fills its slots. `others`:
    addresses of the other kind that pods hold. `removable`: not primary, trunk or EFA. `accepts`: may get more.
    """

    eni_id: str
    addresses: int
    held: int
    cooling: int
    age_s: float
    removable: bool
    free_blocks: int
    items: int
    others: int = 0
    accepts: bool = True


@dataclass(frozen=True)
class Shape:
    """The open ENIs of a card (fenced ones and fenced blocks left out), slots an ENI, S, and how many open ENIs it may have."""

    enis: tuple[EniShape, ...]
    slots: int
    max_enis: int
    waiting: int = 0
    """Sandboxes that asked and got nothing: demand, counted as assigned."""
    size: int = 1

    @property
    def total(self) -> int:
        return sum(eni.addresses for eni in self.enis)

    @property
    def assigned(self) -> int:
        return sum(eni.held for eni in self.enis) + self.waiting

    @property
    def cooling(self) -> int:
        return sum(eni.cooling for eni in self.enis)

    @property
    def free_blocks(self) -> int:
        return sum(eni.free_blocks for eni in self.enis)

    @property
    def gaps(self) -> list[int]:
        """Blocks that could still be added: on each ENI there is, the fullest first, then on each new one."""
        here = sorted(self.slots - eni.items for eni in self.enis if eni.accepts and eni.items < self.slots)
        return here + [self.slots] * max(0, self.max_enis - len(self.enis))


@dataclass(frozen=True)
class Level:
    """The numbers of a pool that decide whether it is low."""

    total: int
    assigned: int
    cooling: int = 0
    waiting: int = 0

    @property
    def free(self) -> int:
        return self.total - self.assigned


def is_low(level: Level, slots: int, size: int, targets: Targets) -> bool:
    """Return whether the pool must grow (spec ipam.md 7, first match wins; cooling addresses do not help who waits)."""
    if targets.max_pods and level.total >= targets.max_pods:
        return False
    if targets.by_address:
        return shortage(level, targets) > 0
    warm = targets.warm_prefix * size if size > 1 else targets.warm_eni * slots
    return level.free < warm or level.free <= 0 or (level.waiting > 0 and level.free - level.cooling <= 0)


def shortage(level: Level, targets: Targets) -> int:
    """Return `short` of the IP-target mode."""
    return max(targets.warm_ip - (level.free - level.cooling), targets.minimum_ip - level.total, 0)


def surplus(level: Level, targets: Targets) -> int:
    """Return `over` of the IP-target mode."""
    usable = level.free - level.cooling
    return max(min(max(usable - targets.warm_ip, 0), level.total - targets.minimum_ip), 0)


def level_of(shape: Shape, targets: Targets) -> Level:
    """Return the numbers that decide.

    MINIMUM_IP_TARGET alone never grows beyond its floor, whoever waits (spec ipam.md W23: kept as the reference has it).
    """
    waiting = 0 if stops_at_minimum(targets) else shape.waiting
    return Level(shape.total, shape.assigned - shape.waiting + waiting, shape.cooling, waiting)


def stops_at_minimum(targets: Targets) -> bool:
    """Return whether the settings keep the pool from ever growing beyond MINIMUM_IP_TARGET (W23)."""
    return targets.minimum_ip > 0 and targets.warm_ip == 0


def wanted_total(shape: Shape, targets: Targets) -> int:
    """Return how many addresses the card should have; at least what it has, at most what fits."""
    level = level_of(shape, targets)
    if not is_low(level, shape.slots, shape.size, targets):
        return shape.total
    if targets.by_address:
        blocks = min(_blocks(shortage(level, targets), shape.size), sum(shape.gaps))
        return shape.total + blocks * shape.size
    if shape.size > 1:
        return _whole_prefixes(shape, level, targets)
    return _whole_enis(shape, level, targets)


def _blocks(addresses: int, size: int) -> int:
    return -(-addresses // size)


def _whole_enis(shape: Shape, level: Level, targets: Targets) -> int:
    """Fill ENIs one after the other, as the reference's passes do, until the pool is no longer low."""
    for gap in shape.gaps[:STEPS_SIMULATED_AT_MOST]:
        if not is_low(level, shape.slots, shape.size, targets):
            break
        level = Level(level.total + gap, level.assigned, level.cooling, level.waiting)
    return level.total


def _whole_prefixes(shape: Shape, level: Level, targets: Targets) -> int:
    """Add prefixes, pass by pass, until the pool is no longer low (spec ipam.md 7, how many to add)."""
    room, free = sum(shape.gaps), shape.free_blocks
    for _ in range(STEPS_SIMULATED_AT_MOST):
        if not room or not is_low(level, shape.slots, shape.size, targets):
            break
        add = min(room, max(1, targets.warm_prefix - free))
        room, free = room - add, free + add
        level = Level(level.total + add * shape.size, level.assigned, level.cooling, level.waiting)
    return level.total


def surrender_blocks(shape: Shape, targets: Targets) -> list[tuple[str, int]]:
    """Return how many free, cooled blocks to give back from which ENI, emptiest ENI first."""
    over = _blocks_over(shape, targets)
    chosen: list[tuple[str, int]] = []
    for eni in sorted(shape.enis, key=lambda eni: (eni.held + eni.others, not eni.removable, eni.eni_id)):
        give = min(over, eni.free_blocks)
        if give > 0:
            chosen.append((eni.eni_id, give))
            over -= give
    return chosen


def _blocks_over(shape: Shape, targets: Targets) -> int:
    """Return how many blocks are too many: IP targets, or WARM_PREFIX_TARGET in prefix mode; never so many that the pool is low."""
    level = level_of(shape, targets)
    if targets.by_address:
        if shape.size == 1:
            return surplus(level, targets)
        have = shape.total // shape.size
        needed = _blocks(max(level.assigned + level.cooling + targets.warm_ip, targets.minimum_ip), shape.size)
        return max(min(shape.free_blocks, have - needed), 0)
    if shape.size == 1:
        return 0
    spare = max(shape.free_blocks - targets.warm_prefix, 0)
    while spare and is_low(_less(level, spare * shape.size), shape.slots, shape.size, targets):
        spare -= 1
    return spare


def _less(level: Level, addresses: int) -> Level:
    return Level(level.total - addresses, level.assigned, level.cooling, level.waiting)


def surrender_eni(shape: Shape, targets: Targets) -> str | None:
    """Return one ENI that can go: removable, old enough, empty and cool, and the rest still satisfies every target."""
    candidates = [eni for eni in shape.enis if may_go(eni) and _rest_suffices(shape, eni, targets)]
    return min(candidates, key=lambda eni: (eni.addresses, eni.eni_id)).eni_id if candidates else None


def may_go(eni: EniShape) -> bool:
    """Return whether nothing on the ENI itself speaks against freeing it."""
    return eni.removable and eni.held == eni.others == eni.cooling == 0 and eni.age_s >= ENI_AGE_S


def _rest_suffices(shape: Shape, eni: EniShape, targets: Targets) -> bool:
    level = _less(level_of(shape, targets), eni.addresses)
    if is_low(level, shape.slots, shape.size, targets):
        return False
    if targets.by_address:
        warm, floor = (_blocks(want, shape.size) * shape.size for want in (targets.warm_ip, targets.minimum_ip))
        return level.free - level.cooling >= warm and level.total >= floor
    if shape.size > 1:
        return shape.free_blocks - eni.free_blocks >= targets.warm_prefix
    return shape.total - level.assigned >= (targets.warm_eni + 1) * shape.slots

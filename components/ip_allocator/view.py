"""Pool, ledger and clock seen together: the shape that the warm-pool plan needs, and the blocks a plan's numbers stand for."""

from __future__ import annotations

from collections.abc import Sequence

from vpccni.components.ip_allocator.blocks import Block
from vpccni.components.ip_allocator.ledger import Ledger
from vpccni.components.ip_allocator.pool import Occupancy, PoolEni, cooling_in, fenced, unclaimed_in, uneven
from vpccni.components.ip_allocator.warm_pool import EniShape, Shape, may_go
from vpccni.shared.messages.inventory import Inventory


class View:
    """A moment of the node's addresses."""

    def __init__(
        self, occupancy: Occupancy, ledger: Ledger, inventory: Inventory, *, now: float, period_s: float
    ) -> None:
        self._pool, self._ledger, self._inventory = occupancy.pool, ledger, inventory
        self._now = now
        self._cools = cooling_in(occupancy.pool, ledger, now=now, period_s=period_s)
        unclaimed = unclaimed_in(occupancy.pool, ledger)
        self._used = occupancy.used + unclaimed if unclaimed else occupancy.used
        self._tallies = occupancy.tallies
        self._one_by_one = uneven(occupancy, ledger, self._cools, unclaimed)

    def shape(self, card: int, *, waiting: int) -> Shape:
        """Return what the warm-pool plan needs of a card. `waiting`: sandboxes that asked for an address of it and got none."""
        opened, closed = [], 0
        for eni in self._pool.enis:
            if eni.eni.card != card or not eni.eni.managed:
                continue
            if eni.opened and not self._given_up(eni):
                opened.append(self._eni_shape(eni))
            else:
                closed += 1
        limit = sum(one.max_enis for one in self._inventory.cards if one.card == card)
        return Shape(tuple(opened), self._inventory.slots, limit - closed, waiting, self._pool.size)

    def pick(self, numbers: Sequence[tuple[str, int]]) -> list[Block]:
        """Return the free blocks that `numbers` (ENI, how many) stand for: the last ones, so that an ENI's rest stays dense."""
        by_id = {eni.eni.eni_id: eni for eni in self._pool.enis}
        chosen: list[Block] = []
        for eni_id, number in numbers:
            free = [block for block in by_id[eni_id].blocks if block.in_force and self._may_leave(by_id[eni_id], block)]
            chosen += free[len(free) - number :]
        return chosen

    def leftovers(self) -> tuple[list[Block], list[str]]:
        """Return what no new pod may use and no pod uses any more: blocks, and whole ENIs that are excluded."""
        blocks: list[Block] = []
        enis: list[str] = []
        for eni in self._pool.enis:
            if self._given_up(eni) or not eni.eni.managed or not eni.eni.confirmed or eni.eni.is_trunk:
                continue
            if eni.eni.excluded and may_go(self._eni_shape(eni)):
                enis.append(eni.eni.eni_id)
                continue
            if eni.eni.excluded or eni.in_force < len(eni.blocks):
                blocks += [
                    block
                    for block in eni.blocks
                    if (eni.eni.excluded or not block.in_force) and self._may_leave(eni, block)
                ]
        return blocks, enis

    def _given_up(self, eni: PoolEni) -> bool:
        return eni.eni.eni_id in self._ledger.fenced_enis

    def _eni_shape(self, eni: PoolEni) -> EniShape:
        if eni.eni.eni_id in self._one_by_one:
            return self._counted_shape(eni)
        tally = self._tallies[eni.eni.eni_id]
        return self._shape_of(
            eni, eni.addresses, tally.held, cooling=0, free_blocks=eni.in_force - tally.busy, others=tally.others
        )

    def _counted_shape(self, eni: PoolEni) -> EniShape:
        ours = [block for block in eni.blocks if block.in_force and not fenced(self._ledger, eni, block)]
        others = [block for block in eni.blocks if not block.in_force]
        return self._shape_of(
            eni,
            sum(block.size for block in ours),
            sum(self._used[block.item] for block in ours),
            cooling=sum(self._cools[block.item] for block in ours),
            free_blocks=sum(self._may_leave(eni, block) for block in ours),
            others=sum(self._used[block.item] + self._cools[block.item] for block in others),
        )

    def _shape_of(
        self, eni: PoolEni, addresses: int, held: int, *, cooling: int, free_blocks: int, others: int
    ) -> EniShape:
        place = eni.eni
        return EniShape(
            eni_id=place.eni_id,
            addresses=addresses,
            held=held,
            cooling=cooling,
            age_s=self._now - place.attached_at,
            removable=not (place.is_primary or place.is_trunk or place.is_efa),
            free_blocks=free_blocks,
            items=len(eni.blocks),
            others=others,
        )

    def _may_leave(self, eni: PoolEni, block: Block) -> bool:
        return not (fenced(self._ledger, eni, block) or self._used[block.item] or self._cools[block.item])

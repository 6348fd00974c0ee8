"""The pool: which addresses exist and may be given out, from the manager's inventory and the programmer's usable ENIs.

An address is assignable when its ENI is usable (links, table and routes are in place), confirmed (EC2 agrees that it is ours) and open
to pods, its block is of the kind in force (prefixes or single addresses, spec ipam.md 8), and the ledger has no other place for it.
The fullest ENI and block are used first so that the others drain (spec ipam.md W21).
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from vpccni.components.ip_allocator.blocks import PREFIX_SIZE, Block, addresses_of
from vpccni.components.ip_allocator.ledger import Holding, Ledger, hold, is_cooling
from vpccni.shared.messages.allocation import Assign
from vpccni.shared.messages.inventory import Eni, Inventory
from vpccni.shared.messages.wiring import UsableEnis


@dataclass(frozen=True, slots=True)
class PoolEni:
    """An ENI with its blocks. `table` 0: the kernel is not ready. `opened`: pods may use it (managed, not excluded, no trunk)."""

    eni: Eni
    blocks: tuple[Block, ...]
    table: int
    opened: bool

    @property
    def serves(self) -> bool:
        """Whether its addresses may go to pods now."""
        return self.opened and self.table > 0 and self.eni.confirmed


@dataclass(frozen=True)
class Pool:
    """`enis`: all of the instance. `eni_of`: the ENI of every known address. `size`: addresses of a block in force."""

    enis: tuple[PoolEni, ...]
    eni_of: Mapping[str, PoolEni]
    size: int = 1
    unclaimed: frozenset[str] = frozenset()
    """Addresses the kernel leads to pods that nobody claims: never given out, never given back."""


@dataclass(frozen=True)
class Census:
    """How many addresses are in which place. `total`: blocks in force on open ENIs, without fenced ones; `pods`: all that are held."""

    total: int = 0
    assigned: int = 0
    assignable: int = 0
    cooling: int = 0
    fenced: int = 0
    unconfirmed: int = 0
    unclaimed: int = 0
    pods: int = 0


def build(inventory: Inventory, usable: UsableEnis, unclaimed: frozenset[str]) -> Pool:
    """Return the pool of an inventory and the ENIs that the kernel is ready for."""
    tables = {eni.eni_id: eni.route_table for eni in usable.enis}
    enis = tuple(
        PoolEni(
            eni,
            (
                *(Block(address, (address,), not inventory.by_prefix) for address in eni.addresses),
                *(Block(prefix, addresses_of(prefix), inventory.by_prefix) for prefix in eni.prefixes),
            ),
            tables.get(eni.eni_id, 0),
            eni.managed and not eni.excluded and not eni.is_trunk,
        )
        for eni in inventory.enis
    )
    eni_of = {address: eni for eni in enis for block in eni.blocks for address in block.addresses}
    return Pool(enis, eni_of, PREFIX_SIZE if inventory.by_prefix else 1, unclaimed)


def fenced(ledger: Ledger, eni: PoolEni, block: Block) -> bool:
    """Return whether the block, or its whole ENI, was given up."""
    return block.item in ledger.fenced or eni.eni.eni_id in ledger.fenced_enis


def count(pool: Pool, ledger: Ledger, *, now: float, period_s: float) -> Census:
    """Return the census."""
    holders = ledger.holders()
    total = assigned = assignable = cooling = given_up = unconfirmed = unclaimed = 0
    for eni in pool.enis:
        for block in eni.blocks:
            if fenced(ledger, eni, block):
                given_up += len(block.addresses)
                continue
            if not (eni.opened and block.in_force):
                continue
            total += len(block.addresses)
            for address in block.addresses:
                if address in holders:
                    assigned += 1
                elif address in pool.unclaimed:
                    unclaimed += 1
                elif not eni.serves:
                    unconfirmed += 1
                elif is_cooling(ledger, address, now=now, period_s=period_s):
                    cooling += 1
                else:
                    assignable += 1
    return Census(total, assigned, assignable, cooling, given_up, unconfirmed, unclaimed, len(holders))


def assign(
    pool: Pool, ledger: Ledger, asks: Sequence[Assign], *, now: float, period_s: float, wall_ns: int
) -> tuple[Ledger, list[Holding | None]]:
    """Return the next ledger and a holding for each ask, None where nothing is left. Asking again for a sandbox changes nothing."""
    fresh: dict[object, Holding] = {}
    answers: list[Holding | None] = []
    new = sum(ask.sandbox not in ledger.held for ask in asks)
    free = best_free(pool, ledger, new, now=now, period_s=period_s)
    for ask in asks:
        holding = ledger.held.get(ask.sandbox) or fresh.get(ask.sandbox)
        if holding is None and free:
            eni, address = free.pop(0)
            place = eni.eni
            holding = Holding(
                ask.sandbox, ask.pod, address, place.eni_id, place.card, place.device_number, eni.table, wall_ns
            )
            fresh[ask.sandbox] = holding
        answers.append(with_place(pool, holding) if holding else None)
    return (hold(ledger, fresh.values()) if fresh else ledger), answers


def with_place(pool: Pool, holding: Holding) -> Holding:
    """Return the holding with the ENI and table the pool knows for its address now; unchanged when it knows none."""
    known = pool.eni_of.get(holding.address)
    if known is None:
        return holding
    eni, table = known.eni, known.table or holding.route_table
    if (eni.eni_id, table) == (holding.eni_id, holding.route_table):
        return holding
    return replace(holding, eni_id=eni.eni_id, card=eni.card, device_number=eni.device_number, route_table=table)


def best_free(pool: Pool, ledger: Ledger, number: int, *, now: float, period_s: float) -> list[tuple[PoolEni, str]]:
    """Return at most `number` addresses to give out, the best first: fullest ENI, fullest block, the one that rested longest."""
    if not number:
        return []
    holders = ledger.holders()
    ranked = heapq.nsmallest(number, _ranked(pool, ledger, holders, now=now, period_s=period_s))
    return [(pool.enis[rank[-3]], rank[-1]) for rank in ranked]


def _ranked(
    pool: Pool, ledger: Ledger, holders: Mapping[str, object], *, now: float, period_s: float
) -> Iterator[tuple[int, int, int, float, int, int, str]]:
    """Yield (ENI's use, device, block's use, last released, ENI, position, address) of what may be given out; smaller is better."""
    for number, eni in enumerate(pool.enis):
        if not eni.serves:
            continue
        blocks = [block for block in eni.blocks if block.in_force and not fenced(ledger, eni, block)]
        used = [sum(address in holders for address in block.addresses) for block in blocks]
        whole = sum(used)
        position = 0
        for block, held in zip(blocks, used, strict=True):
            for address in block.addresses:
                position += 1
                if address in holders or address in pool.unclaimed:
                    continue
                if is_cooling(ledger, address, now=now, period_s=period_s):
                    continue
                rested = ledger.released_at.get(address, float("-inf"))
                yield -whole, eni.eni.device_number, -held, rested, number, position, address

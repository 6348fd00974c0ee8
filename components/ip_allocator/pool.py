"""The pool: which addresses exist and may be given out, from the manager's inventory and the programmer's usable ENIs.

An address is assignable when its ENI is usable (links, table and routes are in place), confirmed (EC2 agrees that it is ours) and open
to pods, its block is of the kind in force (prefixes or single addresses, spec ipam.md 8), and the ledger has no other place for it.
The fullest ENI and block are used first so that the others drain (spec ipam.md W21). Nothing here walks over all addresses: blocks are
counted (`Occupancy`), and only the block that is given out from is looked into.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain

from vpccni.components.ip_allocator.blocks import Block, Finder, block_of
from vpccni.components.ip_allocator.ledger import Change, Holding, Ledger, hold, is_cooling
from vpccni.shared.messages.allocation import Assign
from vpccni.shared.messages.base import Sandbox
from vpccni.shared.messages.inventory import Eni, Inventory
from vpccni.shared.messages.wiring import UsableEnis

PREFIX_SIZE = 16
PREFIX_SIZE_V6 = 1 << 48
LOST_HISTORY = 1024
"""So many addresses above the highest that is held in a /80 may have been given back lately: the lowest free one is always used."""


@dataclass(frozen=True, slots=True)
class PoolEni:
    """An ENI with its blocks. `table` 0: the kernel is not ready. `opened`: pods may use it (managed, not excluded, no trunk).

    `addresses` and `in_force`: how many addresses and blocks of the kind in force it has.
    """

    eni: Eni
    blocks: tuple[Block, ...]
    table: int
    opened: bool
    addresses: int
    in_force: int

    @property
    def serves(self) -> bool:
        """Whether its addresses may go to pods now."""
        return self.opened and self.table > 0 and self.eni.confirmed


@dataclass(frozen=True)
class Pool:
    """`enis`: all of the instance. `eni_of`: the ENI of every block, by item. `size`: addresses of a block in force."""

    enis: tuple[PoolEni, ...]
    eni_of: Mapping[str, PoolEni]
    finder: Finder
    size: int = 1
    cards: tuple[int, ...] = (0,)
    """The network cards that pods get addresses on, in the order in which they are asked."""
    unclaimed: frozenset[str] = frozenset()
    """Addresses the kernel leads to pods that nobody claims: never given out, never given back."""

    def eni_with(self, address: str) -> PoolEni | None:
        """Return the ENI that has the address, or None."""
        block = self.finder.find(address)
        return self.eni_of[block.item] if block else None


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
    enis = tuple(_pool_eni(eni, inventory, tables.get(eni.eni_id, 0)) for eni in inventory.enis)
    eni_of = {block.item: eni for eni in enis for block in eni.blocks}
    finder = Finder(block for eni in enis for block in eni.blocks)
    cards = tuple(sorted(limit.card for limit in inventory.cards))
    return Pool(enis, eni_of, finder, _block_size(inventory), cards, unclaimed)


def _block_size(inventory: Inventory) -> int:
    if inventory.ipv6:
        return PREFIX_SIZE_V6
    return PREFIX_SIZE if inventory.by_prefix else 1


def _pool_eni(eni: Eni, inventory: Inventory, table: int) -> PoolEni:
    """Of several IPv6 prefixes the first alone is in force (spec ipam.md 17); pods on the others keep their addresses."""
    by_prefix, in_force = inventory.by_prefix, eni.prefixes[:1] if inventory.ipv6 else eni.prefixes
    blocks = (
        *(block_of(address, in_force=not by_prefix) for address in eni.addresses),
        *(block_of(prefix, in_force=by_prefix and prefix in in_force) for prefix in eni.prefixes),
    )
    sizes = [block.size for block in blocks if block.in_force]
    return PoolEni(eni, blocks, table, eni.managed and not eni.excluded and not eni.is_trunk, sum(sizes), len(sizes))


@dataclass(slots=True)
class Tally:
    """What pods hold of one ENI: addresses of the kind in force, blocks these lie in, and addresses of the other kind."""

    held: int = 0
    busy: int = 0
    others: int = 0


@dataclass
class Occupancy:
    """How many addresses of each block and each ENI pods hold, by item and ENI id; kept up with each change of the ledger."""

    pool: Pool
    used: Counter[str] = field(default_factory=Counter)
    tallies: defaultdict[str, Tally] = field(default_factory=lambda: defaultdict(Tally))
    start: dict[str, int] = field(default_factory=dict)
    """Large blocks: no address before this position is free."""

    @classmethod
    def of(cls, pool: Pool, ledger: Ledger, before: Occupancy | None = None) -> Occupancy:
        """Count once; `before`: what is known of the pool that this one takes the place of."""
        occupancy = cls(pool, start=dict(before.start) if before else {})
        occupancy.note(Change(hold=tuple(ledger.holdings())))
        return occupancy

    def note(self, change: Change) -> None:
        """Take over a change that was applied."""
        for holding in change.let_go:
            self._count(holding.address, -1)
        for holding in change.hold:
            self._count(holding.address, 1)
        for address in (*(holding.address for holding in change.let_go), *change.rested):
            block = self.pool.finder.find(address)
            if block is not None and block.item in self.start:
                self.start[block.item] = min(self.start[block.item], block.position(address))

    def _count(self, address: str, more: int) -> None:
        if (block := self.pool.finder.find(address)) is None:
            return
        before = self.used[block.item]
        self.used[block.item] = before + more
        tally = self.tallies[self.pool.eni_of[block.item].eni.eni_id]
        if block.in_force:
            tally.held += more
            tally.busy += (before + more > 0) - (before > 0)
        else:
            tally.others += more


def uneven(occupancy: Occupancy, ledger: Ledger, *others: Iterable[str]) -> set[str]:
    """Return the ids of the ENIs that have fenced blocks or one of `others` (items): what tallies do not tell."""
    eni_of = occupancy.pool.eni_of
    items = chain(ledger.fenced, *others)
    return {eni_of[item].eni.eni_id for item in items if item in eni_of} | ledger.fenced_enis


def fenced(ledger: Ledger, eni: PoolEni, block: Block) -> bool:
    """Return whether the block, or its whole ENI, was given up."""
    return block.item in ledger.fenced or eni.eni.eni_id in ledger.fenced_enis


def cooling_in(pool: Pool, ledger: Ledger, *, now: float, period_s: float) -> Counter[str]:
    """Return how many addresses of each block cool, by item."""
    found: Counter[str] = Counter()
    for address in ledger.released_at:
        if address not in ledger.holders and is_cooling(ledger, address, now=now, period_s=period_s):
            block = pool.finder.find(address)
            if block is not None:
                found[block.item] += 1
    return found


def unclaimed_in(pool: Pool, ledger: Ledger) -> Counter[str]:
    """Return how many addresses of each block unknown pods use, by item."""
    blocks = (pool.finder.find(address) for address in pool.unclaimed if address not in ledger.holders)
    return Counter(block.item for block in blocks if block is not None)


def count(occupancy: Occupancy, ledger: Ledger, *, now: float, period_s: float, card: int | None = None) -> Census:
    """Return the census, of all cards or of one."""
    pool = occupancy.pool
    cools, unknown = cooling_in(pool, ledger, now=now, period_s=period_s), unclaimed_in(pool, ledger)
    total = assigned = assignable = cooling = given_up = unconfirmed = unclaimed = 0
    one_by_one = uneven(occupancy, ledger, cools, unknown)
    for eni in pool.enis:
        if card is not None and eni.eni.card != card:
            continue
        if eni.eni.eni_id not in one_by_one:
            if eni.opened:
                held = occupancy.tallies[eni.eni.eni_id].held
                total += eni.addresses
                assigned += held
                unconfirmed += 0 if eni.serves else eni.addresses - held
                assignable += eni.addresses - held if eni.serves else 0
            continue
        for block in eni.blocks:
            if fenced(ledger, eni, block):
                given_up += block.size
                continue
            if not (eni.opened and block.in_force):
                continue
            used, strange = occupancy.used[block.item], unknown[block.item]
            total += block.size
            assigned += used
            unclaimed += strange
            if not eni.serves:
                unconfirmed += block.size - used - strange
            else:
                cooling += cools[block.item]
                assignable += block.size - used - strange - cools[block.item]
    return Census(total, assigned, assignable, cooling, given_up, unconfirmed, unclaimed, len(ledger.held))


def with_lost_history(pool: Pool, ledger: Ledger) -> list[str]:
    """Return the addresses that may have been given back lately when nobody knows which were (spec ipam.md W38)."""
    reach: dict[str, int] = {}
    for address in ledger.holders:
        if (block := pool.finder.find(address)) is not None:
            reach[block.item] = max(reach.get(block.item, 0), block.position(address) + 1)
    blocks = [block for eni in pool.enis for block in eni.blocks]
    ends = [block.size if block.size <= PREFIX_SIZE else reach.get(block.item, 0) + LOST_HISTORY for block in blocks]
    return [block.address(position) for block, end in zip(blocks, ends, strict=True) for position in range(end)]


def assign(
    occupancy: Occupancy, ledger: Ledger, asks: Sequence[Assign], *, now: float, period_s: float, wall_ns: int
) -> tuple[Change, list[tuple[Holding, ...]]]:
    """Return the change and the holdings for each ask, none where nothing is left. Asking again for a sandbox changes nothing.

    An ordinary ask gets one address, of the first card that has one; a multi-NIC ask one of every card, or nothing (spec ipam.md 18).
    """
    fresh: dict[Sandbox, tuple[Holding, ...]] = {}
    answers: list[tuple[Holding, ...]] = []
    supply = _Supply(occupancy, ledger, now=now, period_s=period_s)
    for ask in asks:
        holdings = ledger.held.get(ask.sandbox) or fresh.get(ask.sandbox)
        if holdings is None:
            found = supply.of_every_card() if ask.multi_nic else supply.of_any_card()
            holdings = tuple(_holding(ask, eni, address, wall_ns) for eni, address in found)
            fresh[ask.sandbox] = holdings
        answers.append(tuple(with_place(occupancy.pool, holding) for holding in holdings))
    return hold(ledger, chain.from_iterable(fresh.values())), answers


def _holding(ask: Assign, eni: PoolEni, address: str, wall_ns: int) -> Holding:
    place = eni.eni
    return Holding(ask.sandbox, ask.pod, address, place.eni_id, place.card, place.device_number, eni.table, wall_ns)


class _Supply:
    """What may be given out in one batch, by card; nothing is given out twice."""

    def __init__(self, occupancy: Occupancy, ledger: Ledger, *, now: float, period_s: float) -> None:
        cards = occupancy.pool.cards
        self._free = {card: best_free(occupancy, ledger, card, now=now, period_s=period_s) for card in cards}

    def of_any_card(self) -> list[tuple[PoolEni, str]]:
        """Return one address of the first card that has one, or nothing."""
        for free in self._free.values():
            if (found := next(free, None)) is not None:
                return [found]
        return []

    def of_every_card(self) -> list[tuple[PoolEni, str]]:
        """Return one address of every card, or nothing: then what was found stays for the next."""
        found = {card: next(free, None) for card, free in self._free.items()}
        complete = [one for one in found.values() if one is not None]
        if len(complete) == len(found):
            return complete
        for card, one in found.items():
            if one is not None:
                self._free[card] = chain([one], self._free[card])
        return []


def with_place(pool: Pool, holding: Holding) -> Holding:
    """Return the holding with the ENI and table the pool knows for its address now; unchanged when it knows none."""
    known = pool.eni_with(holding.address)
    if known is None:
        return holding
    eni, table = known.eni, known.table or holding.route_table
    if (eni.eni_id, table) == (holding.eni_id, holding.route_table):
        return holding
    return replace(holding, eni_id=eni.eni_id, card=eni.card, device_number=eni.device_number, route_table=table)


def best_free(
    occupancy: Occupancy, ledger: Ledger, card: int, *, now: float, period_s: float
) -> Iterator[tuple[PoolEni, str]]:
    """Yield what may be given out on a card, the best first: fullest ENI, fullest block, the address that rested longest."""

    def rested(address: str) -> float:
        return ledger.released_at.get(address, float("-inf"))

    used, tallies = occupancy.used, occupancy.tallies
    serving = [
        eni
        for eni in occupancy.pool.enis
        if eni.eni.card == card
        and eni.serves
        and tallies[eni.eni.eni_id].held < eni.addresses
        and eni.eni.eni_id not in ledger.fenced_enis
    ]
    for eni in sorted(serving, key=lambda eni: (-tallies[eni.eni.eni_id].held, eni.eni.device_number)):
        blocks = [
            block
            for block in eni.blocks
            if block.in_force and used[block.item] < block.size and block.item not in ledger.fenced
        ]
        for block in sorted(blocks, key=lambda block: (-used[block.item], rested(block.item))):
            for address in _in_order(block, occupancy, ledger, rested):
                if not is_cooling(ledger, address, now=now, period_s=period_s):
                    yield eni, address


def _in_order(block: Block, occupancy: Occupancy, ledger: Ledger, rested: Callable[[str], float]) -> Iterable[str]:
    """Return the addresses of a block that nobody uses: of a small one the longest rested first, of a large one the lowest first."""
    holders, unclaimed = ledger.holders, occupancy.pool.unclaimed
    if block.size > PREFIX_SIZE:
        return _lowest(block, occupancy, lambda address: address in holders or address in unclaimed)
    every = (block.address(position) for position in range(block.size))
    return sorted((address for address in every if address not in holders and address not in unclaimed), key=rested)


def _lowest(block: Block, occupancy: Occupancy, taken: Callable[[str], bool]) -> Iterator[str]:
    """Yield free addresses upwards, and remember how far the block is full."""
    full_so_far = True
    for position in range(occupancy.start.get(block.item, 0), block.size):
        address = block.address(position)
        if not taken(address):
            full_so_far = False
            yield address
        elif full_so_far:
            occupancy.start[block.item] = position + 1

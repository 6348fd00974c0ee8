"""The pool: which addresses exist and may be given out, from the manager's inventory and the programmer's usable ENIs.

An address is assignable when its ENI is usable (links, table and routes are in place), confirmed (EC2 agrees that it is ours),
managed, not excluded, and the ledger has no other place for it. The fullest ENI is used first so that ENIs drain (spec ipam.md W21).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from vpccni.components.ip_allocator.ledger import Holding, Ledger, hold, is_cooling
from vpccni.shared.messages.allocation import Assign
from vpccni.shared.messages.inventory import Eni, Inventory
from vpccni.shared.messages.wiring import UsableEnis


@dataclass(frozen=True)
class Pool:
    """`tables`: route table by ENI id, for usable ENIs. `eni_of`: every known address's ENI, usable or not."""

    enis: tuple[Eni, ...]
    tables: Mapping[str, int]
    eni_of: Mapping[str, Eni]

    @property
    def serving_enis(self) -> tuple[Eni, ...]:
        """ENIs whose addresses may go to pods."""
        return tuple(eni for eni in self.enis if eni.eni_id in self.tables and eni.confirmed)


@dataclass(frozen=True)
class Census:
    """How many addresses are in which place. `total` counts addresses of ENIs that pods may use, without fenced ones."""

    total: int
    assigned: int
    assignable: int
    cooling: int
    fenced: int
    unconfirmed: int


def build(inventory: Inventory, usable: UsableEnis) -> Pool:
    """Return the pool of an inventory and the ENIs that the kernel is ready for."""
    enis = tuple(eni for eni in inventory.enis if eni.managed and not eni.excluded and not eni.is_trunk)
    tables = {eni.eni_id: eni.route_table for eni in usable.enis}
    return Pool(enis, tables, {address: eni for eni in inventory.enis for address in eni.addresses})


def count(pool: Pool, ledger: Ledger, *, now: float, period_s: float) -> Census:
    """Return the census."""
    holders = ledger.holders()
    serving = {eni.eni_id for eni in pool.serving_enis}
    total = assignable = cooling = fenced = unconfirmed = 0
    for eni in pool.enis:
        gone = eni.eni_id in ledger.fenced_enis
        for address in eni.addresses:
            if gone or address in ledger.fenced:
                fenced += 1
                continue
            total += 1
            if address in holders:
                continue
            if eni.eni_id not in serving:
                unconfirmed += 1
            elif is_cooling(ledger, address, now=now, period_s=period_s):
                cooling += 1
            else:
                assignable += 1
    return Census(total, len(holders), assignable, cooling, fenced, unconfirmed)


def assign(
    pool: Pool, ledger: Ledger, asks: Sequence[Assign], *, now: float, period_s: float, wall_ns: int
) -> tuple[Ledger, list[Holding | None]]:
    """Return the next ledger and a holding for each ask, None where nothing is left. Asking again for a sandbox changes nothing."""
    fresh: dict[str, Holding] = {}
    answers: list[Holding | None] = []
    free = _free_in_order(pool, ledger, now=now, period_s=period_s)
    given: dict[object, Holding] = {}
    for ask in asks:
        holding = ledger.held.get(ask.sandbox) or given.get(ask.sandbox)
        if holding is None and free:
            eni, address = free.pop()
            holding = Holding(
                ask.sandbox, ask.pod, address, eni.eni_id, eni.card, eni.device_number, pool.tables[eni.eni_id], wall_ns
            )
            given[ask.sandbox] = fresh[address] = holding
        answers.append(with_place(pool, holding) if holding else None)
    return (hold(ledger, fresh.values()) if fresh else ledger), answers


def with_place(pool: Pool, holding: Holding) -> Holding:
    """Return the holding with the ENI and table the pool knows for its address now; unchanged when it knows none."""
    eni = pool.eni_of.get(holding.address)
    table = pool.tables.get(eni.eni_id, holding.route_table) if eni else 0
    if eni is None or (eni.eni_id, table) == (holding.eni_id, holding.route_table):
        return holding
    return replace(holding, eni_id=eni.eni_id, card=eni.card, device_number=eni.device_number, route_table=table)


def _free_in_order(pool: Pool, ledger: Ledger, *, now: float, period_s: float) -> list[tuple[Eni, str]]:
    """Return what may be given out, the best choice last: fullest ENI, then the address that rested longest."""
    holders = ledger.holders()
    found: list[tuple[tuple[int, int, float], Eni, str]] = []
    for eni in pool.serving_enis:
        if eni.eni_id in ledger.fenced_enis:
            continue
        used = sum(address in holders for address in eni.addresses)
        for position, address in enumerate(eni.addresses):
            taken = address in holders or address in ledger.fenced
            if taken or is_cooling(ledger, address, now=now, period_s=period_s):
                continue
            rested = -ledger.released_at.get(address, float("-inf"))
            found.append(((used, -eni.device_number, rested - position * 1e-6), eni, address))
    found.sort(key=lambda item: item[0])
    return [(eni, address) for _, eni, address in found]

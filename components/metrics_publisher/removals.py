"""What EC2 took away although pods used it, seen between two inventories (spec operations.md 2.2, `awscni_force_removed_*`). Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from vpccni.components.metrics_publisher.pool import cidrs_of, is_assigned
from vpccni.shared.messages.allocation import LedgerEntry
from vpccni.shared.messages.inventory import Inventory


@dataclass(frozen=True, slots=True)
class Removed:
    """How many ENIs, and how many addresses (those of the ENIs among them), went while pods held them."""

    enis: int = 0
    addresses: int = 0


def removed(before: Inventory | None, after: Inventory, entries: Iterable[LedgerEntry]) -> Removed:
    """Return what pods held in the picture before and what the next one no longer shows; a first picture takes nothing away."""
    if before is None:
        return Removed()
    were, are = _by_eni(before), _by_eni(after)
    gone = [
        entry
        for entry in entries
        if is_assigned(entry)
        and _holds(were.get(entry.eni_id, set()), entry)
        and not _holds(are.get(entry.eni_id, set()), entry)
    ]
    return Removed(len({entry.eni_id for entry in gone} - are.keys()), len(gone))


def _by_eni(inventory: Inventory) -> dict[str, set[str]]:
    return {eni.eni_id: {str(cidr) for cidr in cidrs_of(eni)} for eni in inventory.enis}


def _holds(cidrs: set[str], entry: LedgerEntry) -> bool:
    return any(entry_cidr in cidrs for entry_cidr in (f"{entry.address}/32", _prefix_of(entry.address)))


def _prefix_of(address: str) -> str:
    """Return the /28 an address lies in: EC2 gives prefixes of that size only."""
    head, _, last = address.rpartition(".")
    return f"{head}.{int(last) & ~15}/28"

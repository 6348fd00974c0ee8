"""What EC2 took away although pods hold it, seen between two inventories (spec operations.md 2.2, `awscni_force_removed_*`). Pure.

What this process gives up is fenced, which nothing that is held can be; so an address that goes while it is held went against our
will: its ENI was detached by hand, or another program took it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from vpccni.components.ip_allocator.blocks import Finder, block_of
from vpccni.shared.messages.inventory import Eni, Inventory


@dataclass(frozen=True, slots=True)
class Losses:
    """How many ENIs, and how many addresses (those of the ENIs among them), went while pods held them."""

    enis: int = 0
    addresses: int = 0


def losses(before: Inventory | None, after: Inventory, held: Iterable[str]) -> Losses:
    """Return what `after` lacks of what pods hold; a first inventory takes nothing away, nor does a move to another ENI."""
    if before is None:
        return Losses()
    owner = {item: eni.eni_id for eni in before.enis for item in _items(eni)}
    gone = owner.keys() - {item for eni in after.enis for item in _items(eni)}
    if not gone:
        return Losses()
    finder = Finder(block_of(item, in_force=True) for item in gone)
    lost = [block.item for address in held if (block := finder.find(address)) is not None]
    return Losses(len({owner[item] for item in lost} - {eni.eni_id for eni in after.enis}), len(lost))


def _items(eni: Eni) -> list[str]:
    return [*eni.addresses, *eni.prefixes]

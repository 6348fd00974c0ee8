"""What is wished of the ENI manager for each network card, and how much of it somebody waits for (spec ipam.md 7, 18). Pure.

An ordinary sandbox that waits can be helped by any card, a multi-NIC one needs every card. So ordinary ones count on the first card;
what that card cannot have for them counts on the next.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Final

from vpccni.components.ip_allocator import warm_pool
from vpccni.components.ip_allocator.blocks import Block
from vpccni.components.ip_allocator.ledger import Ledger
from vpccni.components.ip_allocator.pool import Pool
from vpccni.components.ip_allocator.view import View
from vpccni.components.ip_allocator.warm_pool import Shape, Targets
from vpccni.shared.messages.inventory import CardTarget

RESERVE: Final = 1
"""So many addresses should be free at any moment: fewer, and growing is urgent."""


@dataclass(frozen=True)
class Demand:
    """Sandboxes that asked and got nothing: those that any card helps, and those that need every card."""

    ordinary: int = 0
    multi_nic: int = 0


def targets_of(card: int, settings: Targets) -> Targets:
    """Return the warm settings of a card: the operator's on the first, one free address and one in all on the others."""
    return settings if card == 0 else replace(settings, warm_eni=0, warm_ip=1, minimum_ip=1)


def shapes(pool: Pool, view: View, demand: Demand, settings: Targets) -> Iterator[tuple[int, Shape, Targets]]:
    """Yield what the plan needs of each card, and the card's settings."""
    left = demand.ordinary
    for card in pool.cards:
        shape, targets = view.shape(card, waiting=left + demand.multi_nic), targets_of(card, settings)
        yield card, shape, targets
        free = warm_pool.wanted_total(shape, targets) - (shape.assigned - shape.waiting) - shape.cooling
        left -= min(left, max(free - demand.multi_nic, 0))


def card_targets(
    pool: Pool, ledger: Ledger, view: View, demand: Demand, settings: Targets, assignable: Mapping[int, int]
) -> tuple[list[CardTarget], int]:
    """Return the wish for each card, and how many of the missing addresses are urgent. `assignable`: by card, what is free now."""
    found, urgent = [], 0
    for card, shape, targets in shapes(pool, view, demand, settings):
        enis = [eni for eni in pool.enis if eni.eni.card == card]
        fences = ledger.fenced
        given_up = [
            (eni.eni.eni_id, block.item)
            for eni in (enis if fences else ())
            for block in eni.blocks
            if block.item in fences
        ]
        gone = sorted(ledger.fenced_enis & {eni.eni.eni_id for eni in enis})
        found.append(CardTarget(card, warm_pool.wanted_total(shape, targets), given_up, gone))
        urgent += max(shape.waiting - assignable[card] + RESERVE, 0)
    return found, urgent


def surplus(pool: Pool, view: View, demand: Demand, settings: Targets) -> tuple[list[Block], list[str]]:
    """Return what is too much: of each card one whole ENI, or else single blocks."""
    blocks: list[Block] = []
    enis: list[str] = []
    for _, shape, targets in shapes(pool, view, demand, settings):
        if eni := warm_pool.surrender_eni(shape, targets):
            enis.append(eni)
        else:
            blocks += view.pick(warm_pool.surrender_blocks(shape, targets))
    return blocks, enis

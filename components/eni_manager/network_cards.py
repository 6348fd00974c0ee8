"""Which network cards are ours to use, and how many ENIs each may have (spec ipam.md 18)."""

from __future__ import annotations

from vpccni.components.eni_manager.inventory import Picture
from vpccni.components.eni_manager.limits import InstanceLimits, eni_limit
from vpccni.shared.messages.inventory import CardLimit


def managed_cards(picture: Picture, limits: InstanceLimits, *, multi_nic: bool) -> tuple[int, ...]:
    """Return the cards that pods' addresses come from: the primary ENI's, and with ENABLE_MULTI_NIC the others.

    A card with an efa-only ENI and no ENI of ours is left to whoever uses it for EFA alone.
    """
    if not multi_nic:
        return (limits.default_card,)
    efa_only = {eni.cloud.card for eni in picture.enis.values() if eni.cloud.interface_type == "efa-only"}
    ours = {eni.cloud.card for eni in picture.enis.values() if eni.managed}
    return tuple(card for card, _ in sorted(limits.cards) if card not in efa_only - ours)


def card_limits(picture: Picture, limits: InstanceLimits, max_eni: int, cards: tuple[int, ...]) -> list[CardLimit]:
    """Return how many ENIs of ours each card may have; counted anew each time (spec ipam.md W29)."""
    strange = [eni.cloud.card for eni in picture.enis.values() if not eni.managed]
    return [CardLimit(card, max(eni_limit(limits, card, max_eni) - strange.count(card), 0)) for card in cards]

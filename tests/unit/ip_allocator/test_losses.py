from __future__ import annotations

import msgspec
import pytest
from support.facts import an_eni, an_inventory

from vpccni.components.ip_allocator.losses import Losses, losses
from vpccni.shared.messages.inventory import Inventory


def inventory(**items: list[str]) -> Inventory:
    """Return an inventory of ENIs by id, each with its addresses and prefixes."""
    return an_inventory(
        *(
            an_eni(
                number,
                [item for item in held if "/" not in item],
                eni_id=eni_id,
                prefixes=[item for item in held if "/" in item],
            )
            for number, (eni_id, held) in enumerate(items.items())
        )
    )


BEFORE = inventory(a=["10.0.1.5", "10.0.1.6"], b=["10.0.2.16/28"])
HELD = ["10.0.1.5", "10.0.2.17", "10.0.2.20"]


@pytest.mark.spec("operations.17.12")
@pytest.mark.parametrize(
    ("after", "lost"),
    [
        (BEFORE, Losses()),
        (inventory(a=["10.0.1.5"], b=["10.0.2.16/28"]), Losses()),
        (inventory(a=["10.0.1.6"], b=["10.0.2.16/28"]), Losses(enis=0, addresses=1)),
        (inventory(a=["10.0.1.5", "10.0.1.6"]), Losses(enis=1, addresses=2)),
        (inventory(a=["10.0.1.5", "10.0.1.6"], b=[]), Losses(enis=0, addresses=2)),
        (inventory(a=["10.0.1.5", "10.0.1.6", "10.0.2.16/28"]), Losses()),
        (inventory(c=[]), Losses(enis=2, addresses=3)),
    ],
    ids=["nothing", "a free one", "one address", "an ENI", "a prefix", "a move to another ENI", "everything"],
)
def test_what_pods_hold_and_the_next_inventory_lacks_is_lost(after: Inventory, lost: Losses) -> None:
    assert losses(BEFORE, after, HELD) == lost


def test_a_first_inventory_takes_nothing_away() -> None:
    assert losses(None, inventory(a=[]), HELD) == Losses()


def test_ipv6_prefixes_are_counted_without_being_listed() -> None:
    wide = msgspec.structs.replace(BEFORE, enis=inventory(a=["fd00:1::/80"]).enis)
    assert losses(wide, inventory(a=[]), ["fd00:1::7"]) == Losses(enis=0, addresses=1)

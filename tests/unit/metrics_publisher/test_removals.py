from __future__ import annotations

import msgspec

from vpccni.components.metrics_publisher.pool import Picture
from vpccni.components.metrics_publisher.removals import Removed, removed
from vpccni.shared.messages.inventory import Eni, Inventory


def without(inventory: Inventory, *, eni: str = "", address: str = "", prefix: str = "") -> Inventory:
    """Return the inventory without an ENI, or without an address or prefix on any."""

    def less(one: Eni) -> Eni:
        addresses = [other for other in one.addresses if other != address]
        prefixes = [other for other in one.prefixes if other != prefix]
        return msgspec.structs.replace(one, addresses=addresses, prefixes=prefixes)

    return msgspec.structs.replace(inventory, enis=[less(one) for one in inventory.enis if one.eni_id != eni])


def test_what_a_pod_holds_counts_and_what_cools_or_is_free_does_not(picture: Picture) -> None:
    before = picture.inventory
    assert before is not None
    entries = picture.entries()
    assert removed(None, before, entries) == Removed()
    assert removed(before, before, entries) == Removed()
    assert removed(before, without(before, eni="eni-a"), entries) == Removed(enis=1, addresses=1)
    assert removed(before, without(before, address="10.0.0.5"), entries) == Removed(enis=0, addresses=1)
    assert removed(before, without(before, address="10.0.0.6"), entries) == Removed()
    assert removed(before, without(before, eni="eni-b"), entries) == Removed(), "its one address cools down"


def test_an_address_of_a_prefix_goes_with_its_prefix(picture: Picture) -> None:
    before = picture.inventory
    assert before is not None
    held = [msgspec.structs.replace(entry, released_at_ns=0) for entry in picture.entries()]
    assert removed(before, without(before, prefix="10.0.0.16/28"), held) == Removed(enis=0, addresses=1)
    assert removed(before, without(before, eni="eni-b"), held) == Removed(enis=1, addresses=1)


def test_a_record_that_no_picture_ever_showed_is_none_of_ec2s_doing(picture: Picture) -> None:
    before = picture.inventory
    assert before is not None
    bare = without(before, eni="eni-a")
    assert removed(bare, bare, picture.entries()) == Removed()

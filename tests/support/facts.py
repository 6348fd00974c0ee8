"""An instance and its ENIs as the manager publishes them, for tests that care about a few of their fields."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from vpccni.shared.messages.inventory import CardLimit, Eni, Inventory
from vpccni.shared.messages.wiring import UsableEni, UsableEnis


def an_eni(number: int, addresses: Iterable[str] = (), **more: Any) -> Eni:
    """Return the ENI of a device number; 0 is the primary one."""
    fields: dict[str, Any] = {
        "eni_id": f"eni-{number}",
        "mac": f"02:00:00:00:00:{number:02x}",
        "card": 0,
        "device_number": number,
        "primary_address": f"10.0.{number}.4",
        "subnet_id": "subnet-1",
        "subnet_cidr": "10.0.0.0/16",
        "is_primary": number == 0,
        "addresses": list(addresses),
    }
    return Eni(**{**fields, **more})


def an_inventory(*enis: Eni, **more: Any) -> Inventory:
    """Return the inventory of an m5.large."""
    fields: dict[str, Any] = {
        "instance_id": "i-1",
        "instance_type": "m5.large",
        "region": "us-west-2",
        "availability_zone": "us-west-2a",
        "primary_address": "10.0.0.4",
        "primary_mac": "02:00:00:00:00:00",
        "vpc_cidrs": ["10.0.0.0/16"],
        "cards": [CardLimit(0, 3)],
        "slots": 9,
        "max_pods": 29,
        "enis": list(enis),
    }
    return Inventory(**{**fields, **more})


def usable(*enis: Eni) -> UsableEnis:
    """Return what the programmer publishes when the kernel is ready for these ENIs."""
    return UsableEnis(enis=[UsableEni(one.eni_id, one.device_number + 1, 10 + one.device_number) for one in enis])

from __future__ import annotations

import pytest

from vpccni.components.metrics_publisher.pool import Picture
from vpccni.shared.messages.allocation import LedgerEntry, LedgerState
from vpccni.shared.messages.base import PodRef, Sandbox
from vpccni.shared.messages.inventory import CardLimit, Eni, Inventory
from vpccni.shared.messages.wiring import UsableEni, UsableEnis


def eni(
    eni_id: str, device: int, addresses: list[str], *, prefixes: list[str] | None = None, managed: bool = True
) -> Eni:
    return Eni(
        eni_id=eni_id,
        mac="02:00:00:00:00:01",
        card=0,
        device_number=device,
        primary_address="10.0.0.1",
        subnet_id="subnet-1",
        subnet_cidr="10.0.0.0/24",
        is_primary=device == 0,
        addresses=addresses,
        prefixes=prefixes or [],
        managed=managed,
    )


@pytest.fixture
def picture() -> Picture:
    """Two ENIs of ours and a foreign one; one pod, one address cooling down."""
    enis = [
        eni("eni-a", 0, ["10.0.0.5", "10.0.0.6"]),
        eni("eni-b", 1, [], prefixes=["10.0.0.16/28"]),
        eni("eni-x", 2, ["10.0.0.9"], managed=False),
    ]
    inventory = Inventory(
        instance_id="i-1",
        instance_type="m5.large",
        region="r",
        availability_zone="z",
        primary_address="10.0.0.1",
        primary_mac="02:00:00:00:00:01",
        vpc_cidrs=["10.0.0.0/16"],
        cards=[CardLimit(0, 3)],
        slots=9,
        max_pods=29,
        enis=enis,
    )
    box = Sandbox("container-1", "eth0")
    entries = [
        LedgerEntry("10.0.0.5", "eni-a", box, PodRef("default", "web", "u"), 1_700_000_000_120_000_000),
        LedgerEntry(
            "10.0.0.17",
            "eni-b",
            box,
            PodRef("default", "old", "v"),
            1_700_000_000_000_000_000,
            1_700_000_001_000_000_000,
        ),
    ]
    usable = UsableEnis(enis=[UsableEni("eni-b", 2, 7)])
    return Picture(inventory=inventory, ledger=LedgerState(entries=entries, fenced=[]), usable=usable)

from __future__ import annotations

import pytest
from support.facts import an_eni, an_inventory

from vpccni.components.metrics_publisher.pool import Picture
from vpccni.shared.messages.allocation import LedgerEntry, LedgerState
from vpccni.shared.messages.base import PodRef, Sandbox
from vpccni.shared.messages.wiring import UsableEni, UsableEnis


@pytest.fixture
def picture() -> Picture:
    """Two ENIs of ours and a foreign one; one pod, one address cooling down."""
    enis = [
        an_eni(0, ["10.0.0.5", "10.0.0.6"], eni_id="eni-a"),
        an_eni(1, eni_id="eni-b", prefixes=["10.0.0.16/28"]),
        an_eni(2, ["10.0.0.9"], eni_id="eni-x", managed=False),
    ]
    inventory = an_inventory(*enis)
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

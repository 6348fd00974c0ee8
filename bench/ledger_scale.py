"""The allocator's own part with ten thousand holdings: choose, book, save, and the same backwards. No socket, no other process."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Final

from vpccni.components.ip_allocator import ledger as books
from vpccni.components.ip_allocator import pool as pools
from vpccni.components.ip_allocator.checkpoint import Checkpoint
from vpccni.components.ip_allocator.ledger import Change, Ledger
from vpccni.shared.messages.allocation import Assign
from vpccni.shared.messages.base import PodRef, Sandbox
from vpccni.shared.messages.inventory import CardLimit, Eni, Inventory
from vpccni.shared.messages.wiring import UsableEni, UsableEnis

HELD: Final = 10_000
PERIOD_S: Final = 30.0
PREFIX: Final = "2001:db8:0:1::/80"
FOLDER: Final = "/dev/shm"


def seconds(rounds: int) -> list[float]:
    """Return what one assign and one release took, checkpoint (on tmpfs) included, with 10,000 other pods on one /80."""
    eni = Eni("eni-1", "02:00:00:00:00:01", 0, 0, "10.0.0.4", "subnet-1", "10.0.0.0/16", True, [], [PREFIX])
    inventory = Inventory(
        instance_id="i-1", instance_type="m5.large", region="r", availability_zone="z", primary_address="10.0.0.4",
        primary_mac=eni.mac, vpc_cidrs=[], cards=[CardLimit(0, 3)], slots=9, max_pods=0, enis=[eni], by_prefix=True, ipv6=True,
    )  # fmt: skip
    ledger = Ledger()
    occupancy = pools.Occupancy.of(
        pools.build(inventory, UsableEnis(enis=[UsableEni("eni-1", 254, 2)]), frozenset()), ledger
    )
    with tempfile.TemporaryDirectory(prefix="bench-ledger-", dir=FOLDER) as folder:
        store = Checkpoint(Path(folder) / "ipam.json", boot_id="bench", clock=time.monotonic)
        asks = [_ask(f"held-{number}") for number in range(HELD)]
        change, _ = pools.assign(occupancy, ledger, asks, now=0, period_s=PERIOD_S, wall_ns=1)
        ledger.apply(change)
        occupancy.note(change)
        store.save(ledger)
        return [_round(occupancy, ledger, store, number) for number in range(rounds)]


def _round(occupancy: pools.Occupancy, ledger: Ledger, store: Checkpoint, number: int) -> float:
    ask, now = _ask(f"new-{number}"), number * (PERIOD_S + 1)
    begin = time.perf_counter()
    change, _ = pools.assign(occupancy, ledger, [ask], now=now, period_s=PERIOD_S, wall_ns=1)
    _put(occupancy, ledger, store, change)
    _put(occupancy, ledger, store, books.release(ledger, [ask.sandbox], now=now))
    return time.perf_counter() - begin


def _put(occupancy: pools.Occupancy, ledger: Ledger, store: Checkpoint, change: Change) -> None:
    ledger.apply(change)
    occupancy.note(change)
    store.save(ledger, change)


def _ask(name: str) -> Assign:
    return Assign(sandbox=Sandbox(name, "eth0"), pod=PodRef("default", name))

"""What the ledger and the kernel say of each other: sandboxes that are gone, and veths the ledger does not know.

A sandbox is released by audit only when two `Wirings` snapshots, further apart than the deadline of an ADD, both lack it: neither
its veth nor an ADD in flight (design 5). A wired sandbox that the ledger lacks is adopted; one whose address another holds is told.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from vpccni.components.ip_allocator.ledger import Holding, Ledger
from vpccni.shared.messages.base import Sandbox
from vpccni.shared.messages.wiring import Wirings

MISSING_FOR_S: Final = 25.0
"""More than the deadline of an ADD (20 s, design 5)."""


@dataclass(frozen=True)
class Findings:
    """`missing`: since when each unwired sandbox was seen without a veth; `gone`: those to release now."""

    missing: dict[Sandbox, float]
    gone: tuple[Sandbox, ...]
    adopted: tuple[Holding, ...]
    conflicts: tuple[str, ...]


def compare(ledger: Ledger, wirings: Wirings, missing: dict[Sandbox, float], *, now: float, wall_ns: int) -> Findings:
    """Return what to do about the differences. `missing` is that of the comparison before."""
    seen = {wiring.sandbox for wiring in wirings.wirings} | set(wirings.in_flight)
    names = {(wiring.pod.namespace, wiring.pod.name) for wiring in wirings.wirings if not wiring.sandbox.container_id}
    unwired = {
        sandbox: missing.get(sandbox, now)
        for sandbox, holding in ledger.held.items()
        if sandbox not in seen and (holding.pod.namespace, holding.pod.name) not in names
    }
    gone = tuple(sandbox for sandbox, since in unwired.items() if now - since > MISSING_FOR_S)
    holders = ledger.holders()
    adopted, conflicts = [], []
    for wiring in wirings.wirings:
        if not wiring.sandbox.container_id or wiring.sandbox in ledger.held or wiring.sandbox in wirings.in_flight:
            continue
        for address in wiring.addresses[:1]:
            if address in holders:
                conflicts.append(f"{address}: routed to {wiring.host_veth} ({wiring.pod}), held by {holders[address]}")
            else:
                adopted.append(Holding(wiring.sandbox, wiring.pod, address, assigned_at_ns=wall_ns))
                holders[address] = wiring.sandbox
    return Findings(unwired, gone, tuple(adopted), tuple(conflicts))

"""What the ledger and the kernel say of each other: sandboxes that are gone, and veths the ledger does not know.

A sandbox is released by audit only when two `Wirings` snapshots, further apart than the deadline of an ADD, both lack it: neither
its veth nor an ADD in flight (design 5). A wired sandbox that the ledger lacks is adopted when it is seen again later (a snapshot may be
older than a release); one whose address another holds is told.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from vpccni.components.ip_allocator.ledger import Holding, Ledger
from vpccni.shared.messages.base import Sandbox
from vpccni.shared.messages.wiring import Wirings

MISSING_FOR_S: Final = 25.0
"""More than the deadline of an ADD (20 s, design 5)."""
UNKNOWN_FOR_S: Final = 2.0
"""More than a `Wirings` may be behind a release (0.5 s, see the programmer)."""


@dataclass(frozen=True)
class Findings:
    """`missing`, `unknown`: since when each sandbox was seen without a veth, or not in the ledger; `gone`: to release now."""

    missing: dict[Sandbox, float]
    unknown: dict[Sandbox, float]
    gone: tuple[Sandbox, ...]
    adopted: tuple[Holding, ...]
    conflicts: tuple[str, ...]


def compare(
    ledger: Ledger, wirings: Wirings, before: Findings, *, now: float, wall_ns: int, at_once: bool = False
) -> Findings:
    """Return what to do about the differences. `before`: the comparison before; `at_once`: adopt without waiting (a rebuild)."""
    seen = {wiring.sandbox for wiring in wirings.wirings} | set(wirings.in_flight)
    names = {(wiring.pod.namespace, wiring.pod.name) for wiring in wirings.wirings if not wiring.sandbox.container_id}
    missing = {
        sandbox: before.missing.get(sandbox, now)
        for sandbox, (holding, *_) in ledger.held.items()
        if sandbox not in seen and (holding.pod.namespace, holding.pod.name) not in names
    }
    strangers = [
        wiring
        for wiring in wirings.wirings
        if wiring.sandbox.container_id and wiring.sandbox not in ledger.held and wiring.sandbox not in wirings.in_flight
    ]
    unknown = {wiring.sandbox: before.unknown.get(wiring.sandbox, now) for wiring in strangers}
    holders = dict(ledger.holders)
    adopted, conflicts = [], []
    for wiring in strangers:
        if not at_once and now - unknown[wiring.sandbox] < UNKNOWN_FOR_S:
            continue
        for address in wiring.addresses[:1]:
            if address in holders:
                conflicts.append(f"{address}: routed to {wiring.host_veth} ({wiring.pod}), held by {holders[address]}")
            else:
                adopted.append(Holding(wiring.sandbox, wiring.pod, address, assigned_at_ns=wall_ns))
                holders[address] = wiring.sandbox
    gone = tuple(sandbox for sandbox, since in missing.items() if now - since > MISSING_FOR_S)
    return Findings(missing, unknown, gone, tuple(adopted), tuple(conflicts))


NOTHING: Final = Findings({}, {}, (), (), ())
"""The comparison before the first."""

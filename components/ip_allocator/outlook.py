"""What the others are told of the ledger: as much as one message takes."""

from __future__ import annotations

from typing import Final

from vpccni.components.ip_allocator.ledger import Holding, Ledger
from vpccni.shared.messages.allocation import LedgerEntry, LedgerState

ENTRIES_BYTES_AT_MOST: Final = 768 * 1024
"""Of the bus's 1 MiB: a snapshot carries the other messages of this process too."""
ENTRY_BYTES: Final = 160
"""What an entry takes beside its texts: the members' names, the lengths and the times."""
COOLING_AT_MOST: Final = 1000


def ledger_state(ledger: Ledger) -> LedgerState:
    """Return the ledger as the event: the latest assigned that fit, oldest first, and how many others there are."""
    entries: list[LedgerEntry] = []
    left = ENTRIES_BYTES_AT_MOST
    for holding in (holding for holdings in reversed(ledger.held.values()) for holding in reversed(holdings)):
        left -= _bytes(holding)
        if left < 0:
            break
        entries.append(
            LedgerEntry(holding.address, holding.eni_id, holding.sandbox, holding.pod, holding.assigned_at_ns)
        )
    entries.reverse()
    cooling = [(address, at) for address, at in ledger.released_at.items() if address not in ledger.holders]
    return LedgerState(
        entries=entries,
        fenced=sorted(ledger.fenced),
        omitted=len(ledger.holders) - len(entries),
        cooling=cooling[-COOLING_AT_MOST:],
        fenced_enis=sorted(ledger.fenced_enis),
    )


def _bytes(holding: Holding) -> int:
    sandbox, pod = holding.sandbox, holding.pod
    texts = (
        holding.address, holding.eni_id, sandbox.container_id, sandbox.ifname, sandbox.network, pod.namespace, pod.name, pod.uid,
    )  # fmt: skip
    return ENTRY_BYTES + sum(len(text.encode()) for text in texts)

"""The ledger: every address is held by one sandbox, cooling down, fenced, or free; never two of these.

    free ──assign──▶ held ──release──▶ cooling ──period over──▶ free
      └──────────────fence──▶ fenced ──EC2 took it away──▶ (forgotten)

A ledger is a value: each function returns the next one, so a save that fails leaves the old one in force. Which addresses exist
at all is not the ledger's business but the pool's (`pool`): the ledger never forgets a holder because evidence is missing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from vpccni.components.ip_allocator.blocks import Block, covers
from vpccni.shared.messages.allocation import AssignedInterface
from vpccni.shared.messages.base import PodRef, Sandbox


@dataclass(frozen=True, slots=True)
class Holding:
    """One address in the hands of one sandbox. `eni_id` is empty for records of another implementation until the pool knows."""

    sandbox: Sandbox
    pod: PodRef
    address: str
    eni_id: str = ""
    card: int = 0
    device_number: int = 0
    route_table: int = 0
    assigned_at_ns: int = 0

    def interface(self) -> AssignedInterface:
        """Return the holding as the programmer needs it."""
        return AssignedInterface(self.address, self.eni_id, self.card, self.device_number, self.route_table)


@dataclass(frozen=True)
class Ledger:
    """`released_at`: CLOCK_BOOTTIME seconds by address, kept while it cools; `fenced_enis`: whole ENIs given up."""

    held: Mapping[Sandbox, Holding] = field(default_factory=dict)
    released_at: Mapping[str, float] = field(default_factory=dict)
    fenced: frozenset[str] = frozenset()
    """Items given up: addresses and prefixes."""
    fenced_enis: frozenset[str] = frozenset()

    def holders(self) -> dict[str, Sandbox]:
        """Return who holds each held address."""
        return {holding.address: sandbox for sandbox, holding in self.held.items()}


class DoubleUse(Exception):
    """An address would get a second place; the message names both."""


def hold(ledger: Ledger, holdings: Iterable[Holding]) -> Ledger:
    """Return the ledger with new holdings; raises `DoubleUse` when one of the addresses or sandboxes is taken."""
    held = dict(ledger.held)
    released = dict(ledger.released_at)
    taken = ledger.holders()
    for holding in holdings:
        if holding.address in taken:
            raise DoubleUse(f"{holding.address} is held by {taken[holding.address]}, asked for {holding.sandbox}")
        if holding.sandbox in held:
            raise DoubleUse(f"{holding.sandbox} holds {held[holding.sandbox].address}, asked for {holding.address}")
        if covers(ledger.fenced, holding.address) or holding.eni_id in ledger.fenced_enis:
            raise DoubleUse(f"{holding.address} on {holding.eni_id} is fenced, asked for {holding.sandbox}")
        held[holding.sandbox] = holding
        taken[holding.address] = holding.sandbox
        released.pop(holding.address, None)
    return replace(ledger, held=held, released_at=released)


def release(ledger: Ledger, sandboxes: Iterable[Sandbox], *, now: float) -> Ledger:
    """Return the ledger without these sandboxes; their addresses cool from `now`. Unknown ones change nothing."""
    held = dict(ledger.held)
    released = dict(ledger.released_at)
    for sandbox in sandboxes:
        holding = held.pop(sandbox, None)
        if holding is not None:
            released[holding.address] = now
    return replace(ledger, held=held, released_at=released) if len(held) != len(ledger.held) else ledger


def is_cooling(ledger: Ledger, address: str, *, now: float, period_s: float) -> bool:
    """Return whether the address was released at most `period_s` ago (inclusive, spec ipam.md 3)."""
    released = ledger.released_at.get(address)
    return released is not None and now - released <= period_s


def rest_all(ledger: Ledger, addresses: Iterable[str], *, now: float) -> Ledger:
    """Return the ledger with every free address of `addresses` cooling from `now`: their history was lost (spec ipam.md W38)."""
    holders = ledger.holders()
    released = {address: now for address in addresses if address not in holders}
    return replace(ledger, released_at={**ledger.released_at, **released})


def forget_cooled(ledger: Ledger, *, now: float, period_s: float) -> Ledger:
    """Return the ledger without cool-downs that are over."""
    kept = {address: at for address, at in ledger.released_at.items() if now - at <= period_s}
    return replace(ledger, released_at=kept) if len(kept) != len(ledger.released_at) else ledger


def fence(ledger: Ledger, blocks: Iterable[Block], enis: Iterable[str]) -> Ledger:
    """Return the ledger with free blocks and ENIs fenced; raises `DoubleUse` for a block with an address somebody holds."""
    blocks, holders = tuple(blocks), ledger.holders()
    both = sorted(address for block in blocks for address in block.addresses if address in holders)
    if both:
        raise DoubleUse(f"{', '.join(both)} cannot be fenced: held")
    items = frozenset(block.item for block in blocks)
    return replace(ledger, fenced=ledger.fenced | items, fenced_enis=ledger.fenced_enis | frozenset(enis))


def forget_gone(ledger: Ledger, *, items: frozenset[str], enis: frozenset[str]) -> Ledger:
    """Return the ledger without the fences of what EC2 no longer has: `items` and `enis` are all that are still attached."""
    fenced, fenced_enis = ledger.fenced & items, ledger.fenced_enis & enis
    if fenced == ledger.fenced and fenced_enis == ledger.fenced_enis:
        return ledger
    return replace(ledger, fenced=fenced, fenced_enis=fenced_enis)

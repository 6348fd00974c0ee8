"""The ledger: every address is held by one sandbox, cooling down, fenced, or free; never two of these. A sandbox holds one address, or
one on each of several network cards, which it gets and gives back together.

    free ──assign──▶ held ──release──▶ cooling ──period over──▶ free
      └──────────────fence──▶ fenced ──EC2 took it away──▶ (forgotten)

The functions read the ledger and return a `Change`; `Ledger.apply` puts it in force and returns the change that undoes it, for a save
that fails. So no call copies ten thousand holdings. Which addresses exist at all is not the ledger's business but the pool's (`pool`):
the ledger never forgets a holder because evidence is missing.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import chain

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
class Change:
    """What becomes different: holdings that begin and end (all of a sandbox's together), cool-downs that begin (address: CLOCK_BOOTTIME
    seconds) and end, fences."""

    hold: tuple[Holding, ...] = ()
    let_go: tuple[Holding, ...] = ()
    rest: Mapping[str, float] = field(default_factory=dict)
    rested: tuple[str, ...] = ()
    fence: frozenset[str] = frozenset()
    unfence: frozenset[str] = frozenset()
    fence_enis: frozenset[str] = frozenset()
    unfence_enis: frozenset[str] = frozenset()

    def __bool__(self) -> bool:
        return bool(
            self.hold
            or self.let_go
            or self.rest
            or self.rested
            or self.fence
            or self.unfence
            or self.fence_enis
            or self.unfence_enis
        )


NOTHING = Change()


class Ledger:
    """The state. `held` by sandbox, in card order, and `holders` by address; `released_at`: what cools; `fenced`: addresses and prefixes
    given up; `fenced_enis`: whole ENIs given up. Others read; only `apply` writes."""

    __slots__ = ("fenced", "fenced_enis", "held", "holders", "released_at")

    def __init__(
        self,
        held: Iterable[Holding] = (),
        released_at: Mapping[str, float] | None = None,
        fenced: Iterable[str] = (),
        fenced_enis: Iterable[str] = (),
    ) -> None:
        self.held: dict[Sandbox, tuple[Holding, ...]] = {}
        self.holders: dict[str, Sandbox] = {}
        self._begin(held)
        self.released_at = dict(released_at or {})
        self.fenced = set(fenced)
        self.fenced_enis = set(fenced_enis)

    def holdings(self) -> Iterator[Holding]:
        """Return every holding, the sandbox that came first first."""
        return chain.from_iterable(self.held.values())

    def _begin(self, holdings: Iterable[Holding]) -> None:
        for holding in holdings:
            self.held[holding.sandbox] = (*self.held.get(holding.sandbox, ()), holding)
            self.holders[holding.address] = holding.sandbox

    def apply(self, change: Change) -> Change:
        """Put the change in force; return the one that takes it back."""
        before = {address: self.released_at[address] for address in change.rested if address in self.released_at}
        before |= {address: self.released_at[address] for address in change.rest if address in self.released_at}
        fresh = tuple(address for address in change.rest if address not in self.released_at)
        for holding in change.let_go:
            self.held.pop(holding.sandbox, None)
            del self.holders[holding.address]
        self._begin(change.hold)
        for address in change.rested:
            self.released_at.pop(address, None)
        self.released_at.update(change.rest)
        undo = Change(
            hold=change.let_go,
            let_go=change.hold,
            rest=before,
            rested=fresh,
            fence=change.unfence & self.fenced,
            unfence=change.fence - self.fenced,
            fence_enis=change.unfence_enis & self.fenced_enis,
            unfence_enis=change.fence_enis - self.fenced_enis,
        )
        self.fenced = (self.fenced | change.fence) - change.unfence
        self.fenced_enis = (self.fenced_enis | change.fence_enis) - change.unfence_enis
        return undo


class DoubleUse(Exception):
    """An address would get a second place; the message names both."""


def hold(ledger: Ledger, holdings: Iterable[Holding]) -> Change:
    """Return the change of new holdings; raises `DoubleUse` when one of the addresses or sandboxes is taken.

    What a sandbox holds on several cards comes in one change.
    """
    new: dict[str, Holding] = {}
    for holding in holdings:
        taken = ledger.holders.get(holding.address) or (
            new[holding.address].sandbox if holding.address in new else None
        )
        if taken is not None:
            raise DoubleUse(f"{holding.address} is held by {taken}, asked for {holding.sandbox}")
        if holding.sandbox in ledger.held:
            raise DoubleUse(f"{holding.sandbox} holds an address, asked for {holding.address}")
        if holding.eni_id in ledger.fenced_enis or (ledger.fenced and covers(ledger.fenced, holding.address)):
            raise DoubleUse(f"{holding.address} on {holding.eni_id} is fenced, asked for {holding.sandbox}")
        new[holding.address] = holding
    return Change(hold=tuple(new.values()), rested=tuple(address for address in new if address in ledger.released_at))


def release(ledger: Ledger, sandboxes: Iterable[Sandbox], *, now: float) -> Change:
    """Return the change that ends all holdings of these sandboxes; their addresses cool from `now`. Unknown ones change nothing."""
    ended = tuple(holding for sandbox in dict.fromkeys(sandboxes) for holding in ledger.held.get(sandbox, ()))
    return Change(let_go=ended, rest={holding.address: now for holding in ended})


def is_cooling(ledger: Ledger, address: str, *, now: float, period_s: float) -> bool:
    """Return whether the address was released at most `period_s` ago (inclusive, spec ipam.md 3)."""
    released = ledger.released_at.get(address)
    return released is not None and now - released <= period_s


def rest_all(ledger: Ledger, addresses: Iterable[str], *, now: float) -> Change:
    """Return the change that lets every free address of `addresses` cool from `now`: their history was lost (spec ipam.md W38)."""
    return Change(rest={address: now for address in addresses if address not in ledger.holders})


def forget_cooled(ledger: Ledger, *, now: float, period_s: float) -> Change:
    """Return the change that drops cool-downs that are over."""
    return Change(rested=tuple(address for address, at in ledger.released_at.items() if now - at > period_s))


def fence(ledger: Ledger, blocks: Iterable[Block], enis: Iterable[str]) -> Change:
    """Return the change that fences free blocks and ENIs; raises `DoubleUse` for a block with an address somebody holds."""
    blocks = tuple(blocks)
    both = sorted(address for address in ledger.holders if covers([block.item for block in blocks], address))
    if both:
        raise DoubleUse(f"{', '.join(both)} cannot be fenced: held")
    return Change(
        fence=frozenset(block.item for block in blocks) - ledger.fenced, fence_enis=frozenset(enis) - ledger.fenced_enis
    )


def forget_gone(ledger: Ledger, *, items: frozenset[str], enis: frozenset[str]) -> Change:
    """Return the change that drops the fences of what EC2 no longer has: `items` and `enis` are all that are still attached."""
    return Change(unfence=frozenset(ledger.fenced - items), unfence_enis=frozenset(ledger.fenced_enis - enis))

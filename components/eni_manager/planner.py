"""The allocator's wish turned into the fewest EC2 calls.

Growing: ENIs with room are filled before a new one is made. Of those that can take all that is missing the fullest is chosen, else
the one with most room: so no plan with fewer calls exists, and the addresses stay together. Shrinking: only what the allocator
surrendered, one call an ENI. What is already under way (`Busy`) counts as done. The plan is data; planning again after it was
carried out gives nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from vpccni.components.eni_manager.inventory import HeldEni, Picture
from vpccni.shared.messages.inventory import CapacityTarget, CardLimit, CardTarget
from vpccni.shared.names import EniId


@dataclass(frozen=True, slots=True)
class AssignTo:
    """Add `count` secondary addresses to an ENI."""

    eni_id: EniId
    count: int


@dataclass(frozen=True, slots=True)
class CreateOn:
    """Create and attach an ENI with `count` secondary addresses."""

    card: int
    count: int


@dataclass(frozen=True, slots=True)
class UnassignFrom:
    """Take surrendered addresses from an ENI."""

    eni_id: EniId
    addresses: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Plan:
    """What to call. `short`: addresses that the limits do not allow."""

    assign: tuple[AssignTo, ...] = ()
    create: tuple[CreateOn, ...] = ()
    unassign: tuple[UnassignFrom, ...] = ()
    free: tuple[EniId, ...] = ()
    short: int = 0

    @property
    def grows(self) -> bool:
        return bool(self.assign or self.create)


@dataclass(frozen=True, slots=True)
class Busy:
    """What is under way. `enis`: changed right now, with the addresses each gains; `creating`: (card, addresses); `freeing`."""

    enis: Mapping[EniId, int] = field(default_factory=dict)
    creating: Sequence[tuple[int, int]] = ()
    freeing: frozenset[EniId] = frozenset()

    @property
    def pending_addresses(self) -> int:
        return sum(self.enis.values()) + sum(count for _, count in self.creating)


def plan(wish: CapacityTarget, picture: Picture, cards: Sequence[CardLimit], slots: int, busy: Busy) -> Plan:
    """Return the calls that lead from `picture` to `wish`. Never above the limits, never anything not surrendered."""
    limits = {limit.card: limit.max_enis for limit in cards}
    parts = [_plan_card(target, picture, limits.get(target.card, 0), slots, busy) for target in wish.cards]
    return Plan(
        assign=tuple(step for part in parts for step in part.assign),
        create=tuple(step for part in parts for step in part.create),
        unassign=tuple(step for part in parts for step in part.unassign),
        free=tuple(step for part in parts for step in part.free),
        short=sum(part.short for part in parts),
    )


def _plan_card(target: CardTarget, picture: Picture, max_enis: int, slots: int, busy: Busy) -> Plan:
    enis = [eni for eni in picture.enis.values() if eni.managed and eni.cloud.card == target.card]
    leaving = frozenset(EniId(name) for name in target.surrendered_enis) | busy.freeing
    surrendered = frozenset(address for _, address in target.surrendered_addresses)
    creating = [count for card, count in busy.creating if card == target.card]
    gaining = {eni.eni_id: busy.enis.get(eni.eni_id, 0) for eni in enis}
    have = sum(creating) + sum(gaining.values()) + _kept_addresses(enis, leaving, surrendered)
    rooms = {
        eni.eni_id: slots - eni.items
        for eni in enis
        if eni.may_grow and eni.eni_id not in leaving and eni.eni_id not in busy.enis and eni.items < slots
    }
    assign, missing = _fill(rooms, max(target.total_addresses - have, 0))
    create, short = _create(target.card, max_enis - len(enis) - len(creating), slots, missing)
    return Plan(assign, create, _unassign(target, enis, leaving, busy), _free(target, enis, busy), short)


def _kept_addresses(enis: Sequence[HeldEni], leaving: frozenset[EniId], surrendered: frozenset[str]) -> int:
    return sum(len(set(eni.addresses) - surrendered) for eni in enis if eni.eni_id not in leaving)


def _fill(rooms: dict[EniId, int], missing: int) -> tuple[tuple[AssignTo, ...], int]:
    """Return the fewest assigns; `rooms` is used up."""
    steps = []
    while missing and rooms:
        enough = {eni_id: room for eni_id, room in rooms.items() if room >= missing}
        if enough:
            eni_id = min(enough, key=lambda one: (enough[one], one))
        else:
            eni_id = max(rooms, key=lambda one: (rooms[one], one))
        count = min(rooms.pop(eni_id), missing)
        steps.append(AssignTo(eni_id, count))
        missing -= count
    return tuple(steps), missing


def _create(card: int, room: int, slots: int, missing: int) -> tuple[tuple[CreateOn, ...], int]:
    steps = []
    while missing and room > 0 and slots > 0:
        count = min(slots, missing)
        steps.append(CreateOn(card, count))
        missing, room = missing - count, room - 1
    return tuple(steps), missing


def _unassign(
    target: CardTarget, enis: Sequence[HeldEni], leaving: frozenset[EniId], busy: Busy
) -> tuple[UnassignFrom, ...]:
    steps = []
    for eni in sorted(enis, key=lambda one: one.eni_id):
        given_up = {address for eni_id, address in target.surrendered_addresses if eni_id == eni.eni_id}
        gone = tuple(sorted(given_up & set(eni.addresses)))
        if gone and eni.eni_id not in leaving and eni.eni_id not in busy.enis:
            steps.append(UnassignFrom(eni.eni_id, gone))
    return tuple(steps)


def _free(target: CardTarget, enis: Sequence[HeldEni], busy: Busy) -> tuple[EniId, ...]:
    given_up = frozenset(target.surrendered_enis)
    return tuple(
        sorted(
            eni.eni_id
            for eni in enis
            if eni.eni_id in given_up and eni.may_go and eni.eni_id not in busy.freeing and eni.eni_id not in busy.enis
        )
    )

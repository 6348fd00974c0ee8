"""The allocator's wish turned into the fewest EC2 calls.

Growing: ENIs with room are filled before a new one is made. Of those that can take all that is missing the fullest is chosen, else
the one with most room: so no plan with fewer calls exists, and the addresses stay together. What an ENI under way will have room for
waits for it, rather than for one more ENI. Shrinking: only what the allocator
surrendered, one call an ENI and kind. What is already under way (`Busy`) counts as done. The plan is data; planning again after it
was carried out gives nothing.

What is counted are items: single addresses, or /28 prefixes where those are in force. Items of the other kind occupy slots and
nothing else (spec ipam.md 8).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from vpccni.components.eni_manager.inventory import HeldEni, Picture
from vpccni.shared.messages.inventory import CapacityTarget, CardLimit, CardTarget
from vpccni.shared.names import EniId, SubnetId

CORDONED: Final = "CORDONED"
"""The node takes no new pods (spec ipam.md 21)."""
PROVISIONING_OFF: Final = "PROVISIONING_OFF"
"""DISABLE_NETWORK_RESOURCE_PROVISIONING or ENABLE_IMDS_ONLY_MODE: EC2 is not to be changed."""


@dataclass(frozen=True, slots=True)
class AssignTo:
    """Add `count` items to an ENI."""

    eni_id: EniId
    count: int


@dataclass(frozen=True, slots=True)
class CreateOn:
    """Create and attach an ENI with `count` items."""

    card: int
    count: int


@dataclass(frozen=True, slots=True)
class UnassignFrom:
    """Take surrendered items of one kind from an ENI."""

    eni_id: EniId
    items: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Terms:
    """What growing may use.

    `unit`: addresses in an item, 1 or 16. `closed`: subnets that are full. `may_create`: one is open. `spare_primary`: custom
    networking, the primary ENI gets nothing more (spec ipam.md 16).
    """

    slots: int
    unit: int = 1
    closed: frozenset[SubnetId] = frozenset()
    may_create: bool = True
    spare_primary: bool = False

    @property
    def by_prefix(self) -> bool:
        return self.unit > 1


@dataclass(frozen=True, slots=True)
class Plan:
    """What to call.

    `short`: addresses that the limits do not allow; `held_back`: addresses that no open subnet can give; `restraint`: why growth that is
    wished and possible is not in the plan.
    """

    assign: tuple[AssignTo, ...] = ()
    create: tuple[CreateOn, ...] = ()
    unassign: tuple[UnassignFrom, ...] = ()
    free: tuple[EniId, ...] = ()
    short: int = 0
    held_back: int = 0
    restraint: str = ""

    @property
    def grows(self) -> bool:
        return bool(self.assign or self.create)


@dataclass(frozen=True, slots=True)
class Busy:
    """What is under way. `enis`: changed right now, with the items each gains; `creating`: (card, items); `freeing`."""

    enis: Mapping[EniId, int] = field(default_factory=dict)
    creating: Sequence[tuple[int, int]] = ()
    freeing: frozenset[EniId] = frozenset()

    @property
    def pending_items(self) -> int:
        return sum(self.enis.values()) + sum(count for _, count in self.creating)

    @property
    def grows(self) -> bool:
        return bool(self.creating) or any(self.enis.values())

    @property
    def shrinks(self) -> bool:
        return bool(self.freeing) or 0 in self.enis.values()


def plan(wish: CapacityTarget, picture: Picture, cards: Sequence[CardLimit], terms: Terms, busy: Busy) -> Plan:
    """Return the calls that lead from `picture` to `wish`. Never above the limits, never anything not surrendered."""
    limits = {limit.card: limit.max_enis for limit in cards}
    parts = [_plan_card(target, picture, limits.get(target.card, 0), terms, busy) for target in wish.cards]
    return Plan(
        assign=tuple(step for part in parts for step in part.assign),
        create=tuple(step for part in parts for step in part.create),
        unassign=tuple(step for part in parts for step in part.unassign),
        free=tuple(step for part in parts for step in part.free),
        short=sum(part.short for part in parts),
        held_back=sum(part.held_back for part in parts),
    )


def restrained(todo: Plan, restraint: str) -> Plan:
    """Return the plan without what a restraint forbids. Addresses are given back all the same, unless provisioning is off."""
    if not restraint:
        return todo
    unassign = todo.unassign if restraint == CORDONED else ()
    return Plan(
        unassign=unassign, short=todo.short, held_back=todo.held_back, restraint=restraint if todo.grows else ""
    )


def _plan_card(target: CardTarget, picture: Picture, max_enis: int, terms: Terms, busy: Busy) -> Plan:
    enis = [eni for eni in picture.enis.values() if eni.managed and eni.cloud.card == target.card]
    leaving = frozenset(EniId(name) for name in target.surrendered_enis) | busy.freeing
    surrendered = frozenset(item for _, item in target.surrendered_addresses)
    creating = [count for card, count in busy.creating if card == target.card]
    gaining = sum(busy.enis.get(eni.eni_id, 0) for eni in enis)
    have = sum(creating) + gaining + _kept_items(enis, leaving, surrendered, terms)
    wanted = -(-target.total_addresses // terms.unit)
    growable = [
        eni
        for eni in enis
        if eni.may_grow
        and eni.eni_id not in leaving
        and eni.items < terms.slots
        and not (eni.is_primary and terms.spare_primary)
    ]
    idle = [eni for eni in growable if eni.eni_id not in busy.enis]
    rooms = {eni.eni_id: terms.slots - eni.items for eni in idle if eni.cloud.subnet_id not in terms.closed}
    behind = sum(terms.slots - eni.items for eni in idle if eni.cloud.subnet_id in terms.closed)
    assign, missing = _fill(rooms, max(wanted - have, 0))
    missing -= min(missing, _room_to_come(growable, creating, terms, busy))
    free_enis = max(max_enis - len(enis) - len(creating), 0)
    create, missing = _create(target.card, free_enis if terms.may_create else 0, terms.slots, missing)
    behind += 0 if terms.may_create else free_enis * terms.slots
    held_back = min(missing, behind)
    return Plan(
        assign,
        create,
        _unassign(target, enis, leaving, busy),
        _free(target, enis, busy),
        short=(missing - held_back) * terms.unit,
        held_back=held_back * terms.unit,
    )


def _room_to_come(growable: Sequence[HeldEni], creating: Sequence[int], terms: Terms, busy: Busy) -> int:
    """Count what the ENIs that are changed or made right now can take afterwards: sooner, and with fewer calls, than another ENI.

    One of `creating` without items is on its way out (or of the other kind): it takes nothing.
    """
    here = [
        terms.slots - eni.items - busy.enis[eni.eni_id]
        for eni in growable
        if eni.eni_id in busy.enis and eni.cloud.subnet_id not in terms.closed
    ]
    return sum(max(room, 0) for room in (*here, *(terms.slots - count for count in creating if count)))


def _kept_items(enis: Sequence[HeldEni], leaving: frozenset[EniId], surrendered: frozenset[str], terms: Terms) -> int:
    """Count what pods may use: nothing of a trunk, an excluded ENI, or the kind that is not in force."""
    return sum(
        len(set(eni.in_force(by_prefix=terms.by_prefix)) - surrendered)
        for eni in enis
        if eni.eni_id not in leaving and eni.serves_pods
    )


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
    """Return a step for each ENI that gives something up; where it gives both kinds, the addresses first."""
    steps = []
    for eni in sorted(enis, key=lambda one: one.eni_id):
        if eni.eni_id in leaving or eni.eni_id in busy.enis:
            continue
        given_up = {item for eni_id, item in target.surrendered_addresses if eni_id == eni.eni_id}
        gone = [sorted(given_up & set(kind)) for kind in (eni.addresses, eni.cloud.prefixes)]
        if items := gone[0] or gone[1]:
            steps.append(UnassignFrom(eni.eni_id, tuple(items)))
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

"""IPv6 nodes: one /80 prefix a network card, enough for all pods there will ever be (spec ipam.md 17). Pure.

    none ──> assigned, retried for ever ──> in use ──> EC2 no longer shows it: lost ──> it, or another, is put back: in use

Nothing is grown, shrunk or swept. Of several prefixes the first that was seen is in use; the others are left alone. Pods on a lost
prefix have no network until it is back, and another one does not give it to them: so none is taken instead of it silently. Only a
process that starts and finds it lost takes another, and says so, after the time that EC2's reads may be behind its writes.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from math import inf
from typing import Final

from vpccni.components.eni_manager.facts import CloudEni
from vpccni.components.eni_manager.inventory import HeldEni, Picture
from vpccni.components.eni_manager.planner import AssignTo, CreateOn, Plan, Terms
from vpccni.shared.messages.inventory import CardLimit

PREFIX_LOST: Final = "PREFIX_LOST"
READS_BEHIND_S: Final = 15.0
"""EC2's reads may show the state before a write for this long: so late a start believes that a prefix is gone."""


@dataclass(frozen=True, slots=True)
class Watch:
    """`used`: by card, the prefix that pods have addresses of. `lost`: by card, when another may be taken (CLOCK_BOOTTIME seconds)."""

    used: Mapping[int, str] = field(default_factory=dict)
    lost: Mapping[int, float] = field(default_factory=dict)
    is_start: bool = True

    @classmethod
    def remembered(cls, enis: Iterable[CloudEni]) -> Watch:
        """Return what an earlier process used, as far as that is known."""
        used: dict[int, str] = {}
        for eni in sorted(enis, key=lambda eni: (eni.card, eni.device_number)):
            if eni.prefixes:
                used.setdefault(eni.card, eni.prefixes[0])
        return cls(used)

    def after(self, picture: Picture, cards: Collection[int], *, now: float) -> Watch:
        """Return it after a look at the ENIs."""
        there = {prefix for eni in picture.enis.values() for prefix in eni.cloud.prefixes}
        used, lost = dict(self.used), dict(self.lost)
        for card in cards:
            serving = [eni.cloud.prefixes[0] for eni in serving_on(picture, card) if eni.cloud.prefixes]
            if serving:
                lost.pop(card, None)
                if used.get(card) not in serving:
                    used[card] = serving[0]
            elif card in used and used[card] not in there:
                lost.setdefault(card, now + READS_BEHIND_S if self.is_start else inf)
        return Watch(used, lost, is_start=False)

    def next_at(self, *, now: float) -> float | None:
        """Return when a prefix may be taken for a lost one, None while there is nothing to wait for."""
        return min((at for at in self.lost.values() if now < at < inf), default=None)

    def blocked(self, *, now: float) -> frozenset[int]:
        """Return the cards that get no other prefix now."""
        return frozenset(card for card, at in self.lost.items() if now < at)


def serving_on(picture: Picture, card: int) -> list[HeldEni]:
    """Return the ENIs of a card that pods may use, the one to be preferred first."""
    enis = [eni for eni in picture.enis.values() if eni.cloud.card == card and eni.serves_pods]
    return sorted(enis, key=lambda eni: (not eni.is_primary, eni.cloud.device_number))


def plan_prefixes(
    picture: Picture, cards: Sequence[CardLimit], terms: Terms, *, growing: Collection[int], blocked: Collection[int]
) -> Plan:
    """Return the calls after which each card has a prefix: on an ENI it has, else on a new one.

    `growing`: cards that get an ENI already; `blocked`: cards whose prefix is lost.
    """
    assign: list[AssignTo] = []
    create: list[CreateOn] = []
    short = held_back = 0
    for limit in cards:
        enis = serving_on(picture, limit.card)
        if limit.card in growing or any(eni.cloud.prefixes for eni in enis):
            continue
        if enis:
            assign += [AssignTo(eni.eni_id, 1) for eni in enis if eni.may_grow and limit.card not in blocked][:1]
        elif _owned(picture, limit.card) >= limit.max_enis:
            short += 1
        elif not terms.may_create:
            held_back += 1
        elif limit.card not in blocked:
            create.append(CreateOn(limit.card, 1))
    return Plan(
        tuple(assign),
        tuple(create),
        short=short * terms.unit,
        held_back=held_back * terms.unit,
        restraint=PREFIX_LOST if blocked else "",
    )


def _owned(picture: Picture, card: int) -> int:
    return sum(eni.managed and eni.cloud.card == card for eni in picture.enis.values())

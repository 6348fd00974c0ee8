"""Which unattached ENIs are leaked (spec ipam.md 13.8, W13, W25).

Ours are those with our description and an instance tag. An ENI of this instance is leaked when no journal entry knows it; an ENI of
another instance only when that instance is gone: what a living node is about to attach is its own affair, however long it takes.

    stamp missing or unreadable -> stamped, left for a later pass        too young -> left        else -> deleted
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from vpccni.components.eni_manager.facts import DESCRIPTION_PREFIX, TAG_CLUSTER, TAG_CREATED, CloudEni
from vpccni.shared.names import EniId

YOUNG: Final = timedelta(minutes=5)  # spec ipam.md 2
SWEEPS_AN_HOUR: Final = 4.0
"""How many nodes of a cluster sweep for vanished instances within an hour, on average."""
CHANCE_UNKNOWN: Final = 1 / 24
"""A node that does not know how many nodes there are sweeps once a day."""


@dataclass(frozen=True, slots=True)
class Sweep:
    """What to do with the ENIs found."""

    stamp: tuple[EniId, ...]
    delete: tuple[EniId, ...]


def candidates(found: Iterable[CloudEni], *, own: str, cluster: str, in_journal: frozenset[EniId]) -> list[CloudEni]:
    """Return those that may be leaked: this instance's, and the cluster's. Without a cluster name, no named cluster's."""
    return [
        eni
        for eni in found
        if eni.description.startswith(DESCRIPTION_PREFIX)
        and eni.status == "available"
        and eni.eni_id not in in_journal
        and (eni.instance_tag == own or eni.tags.get(TAG_CLUSTER, "") == cluster)
    ]


def judge(enis: Iterable[CloudEni], *, own: str, living: frozenset[str], now: datetime) -> Sweep:
    """Return what to do. `living`: instances that exist; `now`: wall clock with zone, as the stamps are."""
    stamp, delete = [], []
    for eni in enis:
        if eni.instance_tag != own and eni.instance_tag in living:
            continue
        created = _stamp(eni)
        if created is None:
            stamp.append(eni.eni_id)
        elif eni.instance_tag == own or now - created >= YOUNG:
            delete.append(eni.eni_id)
    return Sweep(tuple(sorted(stamp)), tuple(sorted(delete)))


def chance(nodes: int | None) -> float:
    """Return the probability with which a node sweeps in an hour, so that the cluster's cost does not grow with its nodes."""
    return CHANCE_UNKNOWN if not nodes else min(1.0, SWEEPS_AN_HOUR / nodes)


def _stamp(eni: CloudEni) -> datetime | None:
    try:
        created = datetime.fromisoformat(eni.tags.get(TAG_CREATED, ""))
    except ValueError:
        return None
    return created if created.tzinfo is not None else None

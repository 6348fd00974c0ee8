"""Rows to endpoint objects, with the fewest writes: what is stored stays where it is, and what is new fills what is written anyway.

Each of the three lists of an object has at most `size` rows (spec policy.md 3.10). A policy has one object at least. Nothing is moved between
objects but when more than twice as many are in use as needed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Final, Generic, TypeVar

from vpccni.components.policy_controller.model import Entry, Head, Rows, Stored, Target
from vpccni.components.policy_controller.resolve import Group

SPARSE: Final = 2
"""So many times more objects than needed are put together."""
R = TypeVar("R", Entry, Target)


@dataclass(frozen=True, slots=True)
class Wanted:
    """One object as it should be."""

    head: Head
    rows: Rows


@dataclass(frozen=True, slots=True)
class Plan:
    """Creates go first, then updates, then deletions (spec policy.md 3.5): nothing allowed is missing in between."""

    create: tuple[Wanted, ...] = ()
    update: tuple[tuple[Stored, Wanted], ...] = ()
    delete: tuple[Stored, ...] = ()

    def __len__(self) -> int:
        return len(self.create) + len(self.update) + len(self.delete)


def plan_objects(head: Head, rows: Rows, stored: Sequence[Stored], *, size: int) -> Plan:
    """Return the writes that make the stored objects hold exactly these rows."""
    placed = _Placement(rows, stored, size)
    placed.fill()
    kept = [(one, rows) for one, rows in placed.kept if len(rows)]
    spare = [one for one, rows in placed.kept if not len(rows)]
    new = placed.new
    if not kept and not new and spare:
        kept = [(spare.pop(0), Rows())]
    elif not kept and not new:
        new = [Rows()]
    head = replace(head, parts=len(kept) + len(new))
    return Plan(
        create=tuple(Wanted(head, rows) for rows in new),
        update=tuple((one, Wanted(head, rows)) for one, rows in kept if (one.head, one.rows) != (head, rows)),
        delete=(*spare, *placed.dissolved),
    )


def name_groups(policy: str, groups: Sequence[Group], stored: Iterable[Stored]) -> list[tuple[str, Group]]:
    """Return the groups with what each has as `spec.policyRef.name`.

    One group has the policy's own name: the one whose pods are there already, else the largest. Others, which exist only where pods of one
    policy declare a named port differently, have the policy's name and a digest of their numbers, so that an agent takes them for a policy
    of its own and none of the pods gets the ports of another.
    """
    here = {target for one in stored if one.head.reference == policy for target in one.rows.targets}
    plain = max(groups, key=lambda group: (len(group.targets & here), len(group.targets), group.numbers))
    return [(policy if group is plain else f"{policy}.{_digest(group.numbers)}", group) for group in groups]


def _digest(numbers: tuple[int, ...]) -> str:
    return hashlib.sha256(",".join(map(str, numbers)).encode()).hexdigest()[:8]


class _Placement:
    """Which rows go into which object. `kept`: stored objects with the rows that they have now; `new`: the rows of new ones."""

    def __init__(self, rows: Rows, stored: Sequence[Stored], size: int) -> None:
        self._ingress = _Pool(rows.ingress, size)
        self._egress = _Pool(rows.egress, size)
        self._targets = _Pool(rows.targets, size)
        keep, self.dissolved = _worth_keeping(stored, rows, size)
        self.kept = [(one, self._kept(one.rows)) for one in keep]
        self.new: list[Rows] = []

    def fill(self) -> None:
        """Place what is left: into objects that are written anyway (or else deleted), then into the emptiest, then into new ones."""
        for at in sorted(range(len(self.kept)), key=lambda at: self._preference(*self.kept[at])):
            one, rows = self.kept[at]
            self.kept[at] = (one, self._filled(rows))
        while self._ingress.left or self._egress.left or self._targets.left:
            self.new.append(self._filled(Rows()))

    def _preference(self, one: Stored, rows: Rows) -> tuple[bool, bool, int, str]:
        return (one.rows == rows and len(rows) > 0, not len(rows), len(rows), one.name)

    def _kept(self, rows: Rows) -> Rows:
        return Rows(self._ingress.keep(rows.ingress), self._egress.keep(rows.egress), self._targets.keep(rows.targets))

    def _filled(self, rows: Rows) -> Rows:
        return Rows(self._ingress.fill(rows.ingress), self._egress.fill(rows.egress), self._targets.fill(rows.targets))


class _Pool(Generic[R]):
    """The rows of one list that have no place yet."""

    def __init__(self, rows: frozenset[R], size: int) -> None:
        self.left: set[R] = set(rows)
        self._size = size
        self._order: list[R] | None = None

    def keep(self, rows: frozenset[R]) -> frozenset[R]:
        """Return the rows that may stay where they are; they have their place now."""
        stay = rows & self.left
        if len(stay) > self._size:
            stay = frozenset(sorted(stay)[: self._size])
        self.left -= stay
        return frozenset(stay)

    def fill(self, rows: frozenset[R]) -> frozenset[R]:
        """Return the rows with as many more as have room: the first in order, so that the same facts give the same objects."""
        if self._order is None:
            self._order = sorted(self.left, reverse=True)
        room = max(self._size - len(rows), 0)
        added = [self._order.pop() for _ in range(min(room, len(self._order)))]
        self.left.difference_update(added)
        return rows.union(added) if added else rows


def _worth_keeping(stored: Sequence[Stored], rows: Rows, size: int) -> tuple[list[Stored], list[Stored]]:
    """Return the objects whose rows stay where they are, those with the most first, and those that are given up to save objects."""
    used = {one.name: _used(one.rows, rows) for one in stored}
    order = sorted(stored, key=lambda one: (-used[one.name], one.name))
    needed = max(1, *(-(-len(part) // size) for part in (rows.ingress, rows.egress, rows.targets)))
    in_use = sum(count > 0 for count in used.values())
    if in_use <= SPARSE * needed:
        return order, []
    return order[:needed], order[needed:]


def _used(stored: Rows, wanted: Rows) -> int:
    """Return how many of the stored rows are wanted."""
    return (
        len(stored.ingress & wanted.ingress) + len(stored.egress & wanted.egress) + len(stored.targets & wanted.targets)
    )

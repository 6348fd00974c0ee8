"""Warm-pool arithmetic: the specification's vectors and steady states, and that growing and shrinking never chase each other."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from vpccni.components.ip_allocator.warm_pool import (
    EniShape,
    Level,
    Shape,
    Targets,
    is_low,
    shortage,
    surplus,
    surrender_blocks,
    surrender_eni,
    wanted_total,
)

PREFIX = 16


@dataclass(frozen=True)
class Card:
    """A plain model of a card: blocks by ENI, each the number of its addresses that pods hold."""

    slots: int
    max_enis: int
    size: int = 1
    enis: tuple[tuple[int, ...], ...] = ((),)
    waiting: int = 0
    age_s: float = 999.0

    def with_pods(self, pods: int) -> Card:
        """Hold `pods` addresses, the fullest ENI first, as the pool does; whoever finds nothing waits."""
        enis = []
        for eni in self.enis:
            blocks = []
            for _ in eni:
                blocks.append(min(pods, self.size))
                pods -= blocks[-1]
            enis.append(tuple(blocks))
        return replace(self, enis=tuple(enis), waiting=pods)

    def shape(self) -> Shape:
        enis = tuple(
            EniShape(
                f"eni-{number}",
                len(eni) * self.size,
                sum(eni),
                0,
                self.age_s,
                removable=number > 0,
                free_blocks=eni.count(0),
                items=len(eni),
            )
            for number, eni in enumerate(self.enis)
        )
        return Shape(enis, self.slots, self.max_enis, self.waiting, self.size)

    def grown(self, targets: Targets) -> Card:
        """Grow as the manager would: fill what is there, then new ENIs."""
        shape = self.shape()
        missing = -(-(wanted_total(shape, targets) - shape.total) // self.size)
        enis = []
        for eni in self.enis:
            add = min(missing, self.slots - len(eni))
            enis.append(eni + (0,) * add)
            missing -= add
        while missing > 0:
            enis.append((0,) * min(self.slots, missing))
            missing -= len(enis[-1])
        return replace(self, enis=tuple(enis))

    def shrunk(self, targets: Targets) -> Card:
        """Give back what the plan gives back in one pass."""
        shape = self.shape()
        gone = surrender_eni(shape, targets)
        less = {} if gone else dict(surrender_blocks(shape, targets))
        enis = []
        for number, eni in enumerate(self.enis):
            if f"eni-{number}" == gone:
                continue
            free = less.get(f"eni-{number}", 0)
            enis.append(tuple(used for used in eni if used) + (0,) * (eni.count(0) - free))
        return replace(self, enis=tuple(enis))

    @property
    def counts(self) -> list[int]:
        return [len(eni) for eni in self.enis]


@pytest.mark.parametrize(
    ("total", "used", "slots", "warm_eni", "warm_ip", "max_pods", "low"),
    [
        (0, 0, 14, 1, 0, 0, True),
        (0, 0, 14, 0, 0, 0, True),
        (0, 0, 14, 1, 3, 0, True),
        (3, 0, 3, 1, 1, 0, False),
        (3, 1, 3, 1, 0, 0, True),
        (3, 1, 3, 0, 0, 0, False),
        (3, 3, 3, 1, 0, 0, True),
        (3, 3, 3, 0, 0, 0, True),
        (3, 3, 3, 1, 5, 3, False),
    ],
)
def test_the_pool_is_low_exactly_when_the_vectors_say(
    total: int, used: int, slots: int, warm_eni: int, warm_ip: int, max_pods: int, low: bool
) -> None:
    assert is_low(Level(total, used), slots, 1, Targets(warm_eni, warm_ip, 0, max_pods)) is low


@pytest.mark.parametrize(("total", "short", "over"), [(0, 5, 0), (2, 3, 0), (5, 0, 0)])
def test_shortage_and_surplus_are_those_of_the_vectors(total: int, short: int, over: int) -> None:
    targets = Targets(1, 5, 0, 0)
    assert (shortage(Level(total, 0), targets), surplus(Level(total, 0), targets)) == (short, over)


@pytest.mark.parametrize(("prefixes", "missing", "over"), [(0, 1, 0), (2, 0, 1), (1, 0, 0)])
def test_a_warm_ip_target_counts_whole_prefixes(prefixes: int, missing: int, over: int) -> None:
    card, targets = Card(9, 3, PREFIX, ((0,) * prefixes,)), Targets(1, 5, 0, 0)
    assert wanted_total(card.shape(), targets) - prefixes * PREFIX == missing * PREFIX
    assert sum(number for _, number in surrender_blocks(card.shape(), targets)) == over


T3 = {"slots": 3, "max_enis": 3}
M5 = {"slots": 9, "max_enis": 3}
P3 = {"slots": 49, "max_enis": 15}
T3_PREFIX = {"slots": 3, "max_enis": 3, "size": PREFIX}


@pytest.mark.parametrize(
    ("limits", "targets", "steps"),
    [
        (T3, Targets(1, 0, 0, 0), [(0, [3]), (5, [3, 3, 3]), (9, [3, 3, 3])]),
        (T3, Targets(1, 1, 1, 0), [(0, [1]), (5, [3, 3]), (9, [3, 3, 3])]),
        (T3, Targets(1, 2, 5, 0), [(0, [3, 2]), (5, [3, 3, 1]), (9, [3, 3, 3])]),
        (T3, Targets(1, 0, 5, 0), [(5, [3, 2]), (6, [3, 2])]),
        (P3, Targets(1, 0, 0, 0), [(0, [49]), (3, [49, 49]), (95, [49, 49, 49])]),
        (P3, Targets(1, 5, 10, 0), [(0, [10]), (7, [12]), (15, [20]), (45, [49, 1])]),
        (M5, Targets(1, 0, 0, 0), [(0, [9]), (1, [9, 9]), (9, [9, 9]), (18, [9, 9, 9]), (27, [9, 9, 9])]),
        (M5, Targets(1, 2, 10, 0), [(0, [9, 1]), (8, [9, 1]), (9, [9, 2]), (12, [9, 5]), (27, [9, 9, 9])]),
        (T3_PREFIX, Targets(1, 0, 0, 0, 1), [(0, [1]), (5, [2]), (16, [2]), (17, [3]), (58, [3, 2])]),
        (T3_PREFIX, Targets(1, 1, 1, 0, 1), [(0, [1]), (5, [1]), (17, [2]), (58, [3, 1])]),
        (T3_PREFIX, Targets(1, 7, 20, 0, 1), [(0, [2]), (5, [2]), (17, [2]), (58, [3, 2])]),
    ],
)
def test_the_steady_states_are_those_of_the_table(
    limits: dict[str, int], targets: Targets, steps: list[tuple[int, list[int]]]
) -> None:
    card = Card(**limits)
    for pods, expected in steps:
        card = card.with_pods(pods).grown(targets)
        assert card.counts == expected


def test_twenty_pods_going_down_to_one_give_back_what_the_specification_says() -> None:
    targets = Targets(1, 2, 10, 0)
    card = Card(**M5).grown(targets).with_pods(20).grown(targets)
    assert sum(card.counts) == 22
    card = card.with_pods(1)
    for _ in range(4):
        card = card.shrunk(targets)
    assert card.counts == [9, 1]


def test_whole_enis_go_one_by_one_until_one_enis_worth_is_free() -> None:
    targets = Targets(1, 0, 0, 0)
    card = Card(**M5).with_pods(20).grown(targets).with_pods(0)
    assert card.shrunk(targets).counts == [9, 9]
    assert card.shrunk(targets).shrunk(targets).counts == [9]
    assert card.shrunk(targets).shrunk(targets).shrunk(targets).counts == [9]


@pytest.mark.spec("ipam.W11")
def test_what_cools_is_not_warm_and_is_not_given_back() -> None:
    targets = Targets(1, 2, 0, 0)
    cooling = EniShape("eni-0", 10, 0, 10, 999.0, removable=False, free_blocks=0, items=10)
    shape = Shape((cooling,), 14, 3)
    assert wanted_total(shape, targets) == 12
    assert surrender_blocks(shape, targets) == []
    cooled = replace(cooling, cooling=0, free_blocks=10)
    assert wanted_total(Shape((cooled,), 14, 3), targets) == 10
    assert surrender_blocks(Shape((cooled,), 14, 3), targets) == [("eni-0", 8)]


@pytest.mark.spec("ipam.W11")
def test_who_waits_while_everything_cools_lets_the_pool_grow_in_every_mode() -> None:
    cooling = EniShape("eni-0", 9, 0, 9, 999.0, removable=False, free_blocks=0, items=9)
    shape = Shape((cooling,), 9, 3, waiting=1)
    assert wanted_total(shape, Targets(0, 0, 0, 0)) == 18
    assert wanted_total(replace(shape, waiting=0), Targets(0, 0, 0, 0)) == 9


@pytest.mark.spec("ipam.W22")
@given(
    slots=st.integers(1, 14),
    max_enis=st.integers(1, 6),
    warm_eni=st.integers(0, 4),
    max_pods=st.integers(1, 60),
    pods=st.integers(0, 60),
)
def test_never_more_than_max_pods_and_one_enis_rest(
    slots: int, max_enis: int, warm_eni: int, max_pods: int, pods: int
) -> None:
    targets = Targets(warm_eni, 0, 0, max_pods)
    card = Card(slots, max_enis)
    for _ in range(5):
        card = card.with_pods(min(pods, max_pods)).grown(targets)
    assert sum(card.counts) <= max_pods + slots - 1


def test_a_minimum_alone_never_grows_beyond_its_floor_whoever_waits() -> None:
    targets = Targets(1, 0, 5, 0)
    assert Card(**T3).grown(targets).with_pods(9).grown(targets).counts == [3, 2]


@pytest.mark.spec("ipam.W10")
@settings(max_examples=300, deadline=None)
@given(
    size=st.sampled_from([1, PREFIX]),
    warm_eni=st.integers(0, 3),
    warm_ip=st.integers(0, 40),
    minimum=st.integers(0, 60),
    warm_prefix=st.integers(0, 3),
    max_pods=st.sampled_from([0, 8, 29, 110]),
    slots=st.integers(1, 14),
    max_enis=st.integers(1, 6),
    before=st.integers(0, 120),
    pods=st.integers(0, 120),
)
@example(1, 0, 0, 0, 0, 0, 9, 3, 0, 9)
@example(PREFIX, 0, 0, 0, 0, 0, 9, 3, 0, 16)
def test_a_settled_pool_neither_grows_nor_shrinks(
    size: int,
    warm_eni: int,
    warm_ip: int,
    minimum: int,
    warm_prefix: int,
    max_pods: int,
    slots: int,
    max_enis: int,
    before: int,
    pods: int,
) -> None:
    """From any number of pods to any other: the moves end, and then no grow and no shrink is left."""
    targets = Targets(warm_eni, warm_ip, minimum, max_pods, warm_prefix)
    card = Card(slots, max_enis, size)
    for number in (before, pods):
        seen = []
        for _ in range(60):
            card = card.with_pods(number).grown(targets).with_pods(number)
            after = card.shrunk(targets)
            if after.counts == card.counts:
                break
            assert after.with_pods(number).grown(targets).counts == after.counts, "shrinks what it must grow again"
            seen.append(card.counts)
            card = after
        else:
            raise AssertionError(f"still moving: {seen[-4:]} with {targets}")

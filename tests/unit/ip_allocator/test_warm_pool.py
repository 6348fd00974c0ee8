"""Warm-pool arithmetic: the specification's vectors and steady states, and that growing and shrinking never chase each other."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vpccni.components.ip_allocator.warm_pool import (
    EniShape,
    Shape,
    Targets,
    is_low,
    shortage,
    surplus,
    surrender_addresses,
    surrender_eni,
    wanted_total,
)


def shape(counts: list[int], held: int, *, slots: int, max_enis: int, age_s: float = 999.0) -> Shape:
    enis = []
    waiting = max(0, held - sum(counts))
    for number, count in enumerate(counts):
        mine = min(held, count)
        held -= mine
        enis.append(EniShape(f"eni-{number}", count, mine, 0, age_s, number > 0))
    return Shape(tuple(enis), slots, max_enis, waiting)


def settle(counts: list[int], pods: int, *, slots: int, max_enis: int, targets: Targets) -> list[int]:
    """Grow as the manager would (fill what is there, then new ENIs) until nothing more is wanted."""
    now = shape(counts, pods, slots=slots, max_enis=max_enis)
    missing = wanted_total(now, targets) - now.total
    filled = []
    for count in counts:
        add = min(missing, slots - count)
        filled.append(count + add)
        missing -= add
    while missing > 0:
        filled.append(min(slots, missing))
        missing -= filled[-1]
    return filled


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
    assert is_low(total, used, slots, Targets(warm_eni, warm_ip, 0, max_pods)) is low


@pytest.mark.parametrize(("total", "short", "over"), [(0, 5, 0), (2, 3, 0), (5, 0, 0)])
def test_shortage_and_surplus_are_those_of_the_vectors(total: int, short: int, over: int) -> None:
    targets = Targets(1, 5, 0, 0)
    assert (shortage(total, 0, targets), surplus(total, 0, targets)) == (short, over)


T3 = {"slots": 3, "max_enis": 3}
M5 = {"slots": 9, "max_enis": 3}
P3 = {"slots": 49, "max_enis": 15}


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
    ],
)
def test_the_steady_states_are_those_of_the_table(
    limits: dict[str, int], targets: Targets, steps: list[tuple[int, list[int]]]
) -> None:
    counts = [0]
    for pods, expected in steps:
        counts = settle(counts, pods, targets=targets, **limits)
        assert counts == expected


@pytest.mark.spec("ipam.W10")
@given(
    warm_eni=st.integers(0, 3),
    warm_ip=st.integers(0, 12),
    minimum=st.integers(0, 20),
    slots=st.integers(1, 14),
    max_enis=st.integers(1, 6),
    pods=st.integers(0, 40),
)
def test_a_settled_pool_neither_grows_nor_shrinks(
    warm_eni: int, warm_ip: int, minimum: int, slots: int, max_enis: int, pods: int
) -> None:
    targets = Targets(warm_eni, warm_ip, minimum, 0)
    counts = [0]
    for _ in range(40):
        held = min(pods, sum(counts))
        grown = settle(counts, held, slots=slots, max_enis=max_enis, targets=targets)
        now = shape(grown, held, slots=slots, max_enis=max_enis)
        gone = surrender_eni(now, targets)
        less = dict(surrender_addresses(now, targets)) if gone is None else {}
        kept = [count - less.get(f"eni-{number}", 0) for number, count in enumerate(grown) if f"eni-{number}" != gone]
        if kept == counts:
            return
        counts = kept
    raise AssertionError(f"still moving: {counts} with {targets}")

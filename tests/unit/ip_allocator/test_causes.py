"""Why an ADD gets no address: one word, the numbers, and whether waiting helps."""

from __future__ import annotations

import pytest

from vpccni.components.ip_allocator.causes import WORTH_WAITING_S, explain
from vpccni.components.ip_allocator.pool import Census
from vpccni.shared.messages.inventory import CardLimit, Growth, Inventory

NOW = 100.0
FULL = Census(total=27, assigned=27, pods=27)


def inventory(growth: Growth | None = None, *, max_pods: int = 110) -> Inventory:
    return Inventory(
        instance_id="i-1",
        instance_type="m5.large",
        region="us-west-2",
        availability_zone="us-west-2a",
        primary_address="10.0.0.4",
        primary_mac="02:00:00:00:00:00",
        vpc_cidrs=[],
        cards=[CardLimit(0, 3)],
        slots=9,
        max_pods=max_pods,
        enis=[],
        growth=growth or Growth(),
    )


def test_before_the_first_inventory_it_is_starting_and_worth_waiting() -> None:
    cause, _, retry = explain(None, None, can_grow=False, cools_in_s=None, now=NOW)
    assert (cause, retry > 0) == ("STARTING", True)


@pytest.mark.parametrize("cause", ["SUBNET_FULL", "FRAGMENTED", "THROTTLED", "DENIED", "EC2_DOWN"])
@pytest.mark.parametrize(("lasts_s", "waits"), [(1.0, True), (WORTH_WAITING_S + 1, False)])
def test_what_ec2_says_is_passed_on_and_waited_for_only_when_it_ends_soon(
    cause: str, lasts_s: float, waits: bool
) -> None:
    growth = Growth(cause, "subnet-1 has no free address", NOW + lasts_s)
    found, detail, retry = explain(inventory(growth), FULL, can_grow=True, cools_in_s=None, now=NOW)
    assert (found, retry > 0) == (cause, waits)
    assert "subnet-1 has no free address" in detail
    assert "27 addresses: 27 assigned" in detail


@pytest.mark.parametrize(
    ("census", "max_pods", "can_grow", "cools_in_s", "held_down", "cause", "waits"),
    [
        (FULL, 27, True, None, False, "MAX_PODS", False),
        (FULL, 110, False, None, False, "ENI_LIMIT", False),
        (FULL, 110, True, None, False, "GROWING", True),
        (Census(total=27, assigned=20, cooling=7, pods=20), 110, False, 3.0, False, "COOLDOWN", True),
        (Census(total=27, assigned=20, cooling=7, pods=20), 110, False, 29.0, False, "COOLDOWN", False),
        (Census(total=27, assigned=20, unconfirmed=7, pods=20), 110, False, None, False, "GROWING", True),
        (Census(total=5, assigned=5, pods=5), 110, False, None, True, "MINIMUM_ONLY", False),
    ],
)
def test_each_state_has_its_word(
    census: Census,
    max_pods: int,
    can_grow: bool,
    cools_in_s: float | None,
    held_down: bool,
    cause: str,
    waits: bool,
) -> None:
    found, _, retry = explain(
        inventory(max_pods=max_pods), census, can_grow=can_grow, cools_in_s=cools_in_s, now=NOW, held_down=held_down
    )
    assert (found, retry > 0) == (cause, waits)

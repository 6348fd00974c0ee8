"""Why an ADD gets no address: one word, the numbers, and whether waiting helps."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest
from support.facts import an_inventory

from vpccni.components.eni_manager import hindrance, outlook, planner
from vpccni.components.ip_allocator import causes
from vpccni.components.ip_allocator.causes import WORTH_WAITING_S, explain
from vpccni.components.ip_allocator.pool import Census
from vpccni.shared.messages.inventory import Growth, Inventory

ROOT = Path(__file__).parents[3]
NOW = 100.0
FULL = Census(total=27, assigned=27, pods=27)
WORDS = {
    word
    for module in (causes, hindrance, outlook, planner)
    for name, word in vars(module).items()
    if isinstance(word, str) and name == word
}
"""A cause is a constant that is called what it says."""


def inventory(growth: Growth | None = None, *, max_pods: int = 110) -> Inventory:
    return an_inventory(max_pods=max_pods, growth=growth or Growth())


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


@pytest.mark.parametrize("cause", ["ENI_LIMIT", "NO_SUBNET", "NO_ENI_CONFIG", "CORDONED", "PROVISIONING_OFF"])
def test_what_only_an_operator_can_change_is_said_at_once_unless_an_address_is_near(cause: str) -> None:
    def waits(census: Census, *, pending: int = 0, cools_in_s: float | None = None) -> bool:
        here = msgspec.structs.replace(inventory(Growth(cause, "", 0.0)), pending_addresses=pending)
        found, _, retry = explain(here, census, can_grow=True, cools_in_s=cools_in_s, now=NOW)
        assert found == cause
        return retry > 0

    assert not waits(FULL)
    assert not waits(replace(FULL, cooling=1), cools_in_s=WORTH_WAITING_S + 1)
    assert waits(replace(FULL, cooling=1), cools_in_s=WORTH_WAITING_S - 1)
    assert waits(FULL, pending=1)
    assert waits(replace(FULL, unconfirmed=1))


def test_every_cause_word_of_the_code_is_in_the_document_with_its_anchor_and_advice_and_no_other() -> None:
    document = (ROOT / "docs/errors.md").read_text()
    row = re.compile(r'^\| <a id="(\w+)"></a>`(\w+)` \| (.+) \| (.+) \|$', re.MULTILINE)
    rows = row.findall(document)
    assert all(anchor == word.lower() and meaning.strip() and advice.strip() for anchor, word, meaning, advice in rows)
    assert sorted(word for _, word, _, _ in rows) == sorted({*WORDS, "INTERNAL"})  # the last is the programmer's own


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

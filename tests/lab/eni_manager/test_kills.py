"""SIGKILL before and after every effect of growing and shrinking: the restarted manager gets there, and no ENI is left behind."""

from __future__ import annotations

import random
import time

import pytest
from tests.lab.eni_manager.conftest import WITHIN_S, Manager, addresses, primary

from vpccni.shared.errors import BusError

GROW_EFFECTS = {
    "ec2.AssignPrivateIpAddresses": 1,
    "ec2.CreateNetworkInterface": 1,
    "ec2.AttachNetworkInterface": 1,
    "ec2.DescribeNetworkInterfaces": 1,
    "ec2.ModifyNetworkInterfaceAttribute": 1,
    "journal.write": 4,
    "journal.rename": 4,
}
SHRINK_EFFECTS = {
    "ec2.UnassignPrivateIpAddresses": 1,
    "ec2.DescribeNetworkInterfaces": 2,
    "ec2.DetachNetworkInterface": 1,
    "ec2.DeleteNetworkInterface": 1,
    "journal.write": 3,
    "journal.rename": 3,
}


def points(effects: dict[str, int]) -> list[tuple[str, int, bool]]:
    return [
        (name, nth, before)
        for name, times in effects.items()
        for nth in range(1, times + 1)
        for before in (True, False)
    ]


def sample(all_points: list[tuple[str, int, bool]]) -> list[object]:
    """All points in the full run; every day a seeded half."""
    chosen = set(random.Random(3).sample(range(len(all_points)), len(all_points) // 2))
    return [
        pytest.param(*point, marks=() if number in chosen else pytest.mark.full, id=f"{point[0]}-{point[1]}-{'before' if point[2] else 'after'}")
        for number, point in enumerate(all_points)
    ]  # fmt: skip


def agrees_with_ec2(manager: Manager) -> bool:
    inventory = manager.wait(lambda one: True)
    in_ec2 = {eni["NetworkInterfaceId"]: set(eni["addresses"]) for eni in manager.ec2_enis()}
    ours = {eni.eni_id: {eni.primary_address, *eni.addresses} for eni in inventory.enis}
    return in_ec2 == ours


def settles(manager: Manager) -> None:
    """Fail unless EC2 and the inventory show the same ENIs and addresses: nothing leaked, nothing invented."""
    deadline = time.monotonic() + WITHIN_S
    while not agrees_with_ec2(manager):
        assert time.monotonic() < deadline, (manager.ec2_enis(), manager.peer.inventory())
        time.sleep(0.1)


def wish_or_die(
    manager: Manager, total: int, *, addresses: list[tuple[str, str]] | None = None, enis: list[str] | None = None
) -> None:
    try:
        manager.wish(total, addresses=addresses, enis=enis)
    except BusError:
        assert manager.process is not None
        manager.wait_for_death()


def test_growing_and_shrinking_pass_the_effects_that_the_kills_name(manager: Manager) -> None:
    manager.record(True)
    manager.wish(12)
    full = manager.wait(lambda one: len(addresses(one)) == 12)
    grown = manager.record(True)
    manager.wish(8, addresses=[(primary(full).eni_id, primary(full).addresses[0])],
                 enis=[eni.eni_id for eni in full.enis if not eni.is_primary])  # fmt: skip
    manager.wait(lambda one: len(one.enis) == 1)
    time.sleep(1.0)
    shrunk = manager.record(False)
    for effects, passed in ((GROW_EFFECTS, grown), (SHRINK_EFFECTS, shrunk)):
        for name, times in effects.items():
            assert passed.count(name) >= times, (name, passed)
        others = ("imds.", "remembered.", "ec2.CreateTags", "ec2.DescribeSubnets")  # not part of an ENI's way
        assert {name for name in passed if not name.startswith(others)} <= set(effects)


@pytest.mark.spec("ipam.W13")
@pytest.mark.parametrize(("effect", "nth", "before"), sample(points(GROW_EFFECTS)))
def test_killed_while_growing(manager: Manager, effect: str, nth: int, before: bool) -> None:
    manager.arm(effect, before=before, nth=nth)
    wish_or_die(manager, 12)
    manager.wait_for_death()
    manager.start()
    manager.wish(12)
    manager.wait(lambda one: len(addresses(one)) == 12 and len(one.enis) == 2 and not one.pending_addresses)
    settles(manager)


@pytest.mark.spec("ipam.W13", "ipam.W42")
@pytest.mark.parametrize(("effect", "nth", "before"), sample(points(SHRINK_EFFECTS)))
def test_killed_while_shrinking(manager: Manager, effect: str, nth: int, before: bool) -> None:
    manager.wish(12)
    full = manager.wait(lambda one: len(addresses(one)) == 12)
    first, second = sorted(full.enis, key=lambda eni: not eni.is_primary)
    kept = set(first.addresses[2:])
    given = [(first.eni_id, address) for address in first.addresses[:2]]
    manager.arm(effect, before=before, nth=nth)
    wish_or_die(manager, len(kept), addresses=given, enis=[second.eni_id])
    manager.wait_for_death()
    manager.start()
    manager.wish(len(kept), addresses=given, enis=[second.eni_id])
    manager.wait(lambda one: len(one.enis) == 1 and addresses(one) == kept)
    settles(manager)

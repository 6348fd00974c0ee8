"""For every published instance type: the calls from no pod to as many as fit are the least there can be."""

from __future__ import annotations

from importlib.resources import files

import pytest

from vpccni.components.eni_manager.facts import CloudEni
from vpccni.components.eni_manager.inventory import HeldEni, Picture
from vpccni.components.eni_manager.limits import InstanceLimits, parse_row
from vpccni.components.eni_manager.planner import Busy, Plan, Terms, plan
from vpccni.shared.messages.inventory import CapacityTarget, CardLimit, CardTarget
from vpccni.shared.names import EniId, SubnetId

CALLS_OF_AN_ENI = 3  # create, attach, delete on termination
CALLS_OF_AN_ASSIGN = 1


def types() -> list[tuple[str, InstanceLimits]]:
    lines = files("vpccni.components.eni_manager").joinpath("limits.tsv").read_text().splitlines()
    return [(line.split("\t")[0], parse_row(line)) for line in lines if not line.startswith("#")]


def eni(number: int, items: int, *, unit: int) -> HeldEni:
    names = tuple(f"10.{number}.{i // 16}.{i % 16 * 16}" + ("/28" if unit > 1 else "") for i in range(items))
    cloud = CloudEni(
        eni_id=EniId(f"eni-{number}"), mac="m", status="in-use", interface_type="interface", subnet_id=SubnetId("s"),
        primary_address="10.255.0.1", device_number=number, addresses=names if unit == 1 else (),
        prefixes=names if unit > 1 else (),
    )  # fmt: skip
    return HeldEni(cloud=cloud, subnet_cidr="10.0.0.0/8", is_primary=number == 0, managed=True, attached_at=0.0)


def carried_out(todo: Plan, held: dict[int, int]) -> tuple[dict[int, int], int]:
    """Return the items by ENI after a plan, and the mutating calls it took."""
    after = dict(held)
    for step in todo.assign:
        after[int(step.eni_id.removeprefix("eni-"))] += step.count
    for new in todo.create:
        after[len(after)] = new.count
    return after, CALLS_OF_AN_ASSIGN * len(todo.assign) + CALLS_OF_AN_ENI * len(todo.create)


def planned(total: int, held: dict[int, int], limits: InstanceLimits, unit: int) -> Plan:
    wish = CapacityTarget(cards=[CardTarget(card=0, total_addresses=total)], reason="test")
    picture = Picture({EniId(f"eni-{n}"): eni(n, items, unit=unit) for n, items in held.items()})
    return plan(wish, picture, [CardLimit(0, limits.enis)], Terms(limits.slots, unit), Busy())


def least_calls(items: int, limits: InstanceLimits) -> int:
    """The primary is filled by one call, each further ENI comes with its items."""
    enis = -(-items // limits.slots)
    return (CALLS_OF_AN_ASSIGN if items else 0) + CALLS_OF_AN_ENI * max(enis - 1, 0)


@pytest.mark.parametrize("unit", [1, 16])
def test_one_burst_costs_the_least_calls_on_every_type(unit: int) -> None:
    for name, limits in types():
        if limits.slots == 0 or (unit > 1 and not limits.prefixes):
            continue
        most = limits.enis * limits.slots
        for items in {1, limits.slots, limits.slots + 1, most // 2, most} - {0}:
            todo = planned(min(items, most) * unit, {0: 0}, limits, unit)
            after, calls = carried_out(todo, {0: 0})
            assert sum(after.values()) == min(items, most), name
            assert calls == least_calls(min(items, most), limits), (name, items)
            assert max(after.values()) <= limits.slots, name
            assert len(after) <= limits.enis, name
            assert not planned(min(items, most) * unit, after, limits, unit).grows, name
        assert planned((most + 5) * unit, {0: 0}, limits, unit).short == 5 * unit, name


def test_growing_eni_by_eni_costs_one_call_more_for_each_eni_at_most() -> None:
    """As WARM_ENI_TARGET grows a pool: the wish rises by one ENI's worth at a time."""
    for name, limits in types():
        if limits.slots == 0:
            continue
        held, calls = {0: 0}, 0
        for enis in range(1, limits.enis + 1):
            held, more = carried_out(planned(enis * limits.slots, held, limits, 1), held)
            calls += more
        bound = least_calls(limits.enis * limits.slots, limits)
        assert bound <= calls <= bound + limits.enis, name


def test_there_is_a_row_for_every_size_of_node() -> None:
    known = dict(types())
    assert len(known) > 700
    assert (known["t3.small"].enis, known["t3.small"].slots) == (3, 3)
    assert not known["t2.medium"].prefixes
    assert known["m5.metal"].prefixes

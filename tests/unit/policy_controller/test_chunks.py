"""Rows into objects: whole, stable, and with few writes."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vpccni.components.policy_controller.chunks import Plan, name_groups, plan_objects
from vpccni.components.policy_controller.model import Entry, Head, Rows, Stored, Target
from vpccni.components.policy_controller.resolve import Group

HEAD = Head("p", {}, ("Ingress",))


def entries(*numbers: int) -> frozenset[Entry]:
    return frozenset(Entry(f"10.0.{number // 256}.{number % 256}") for number in numbers)


def targets(*numbers: int) -> frozenset[Target]:
    return frozenset(Target("n", f"pod-{number}", f"10.1.0.{number}", "10.0.9.1") for number in numbers)


def rows(ingress: int = 0, egress: int = 0, pods: int = 0) -> Rows:
    return Rows(entries(*range(ingress)), entries(*range(egress)), targets(*range(pods)))


class Api:
    """The objects as the API would have them after each plan."""

    def __init__(self, size: int = 200) -> None:
        self.size, self.objects, self.made = size, dict[str, Stored](), 0

    def apply(self, wanted: Rows, head: Head = HEAD) -> Plan:
        plan = plan_objects(head, wanted, list(self.objects.values()), size=self.size)
        for one in plan.create:
            self.made += 1
            name = f"p-{self.made}"
            self.objects[name] = Stored(name, "n", "u", "1", one.head, one.rows)
        for stored, one in plan.update:
            self.objects[stored.name] = replace(stored, head=one.head, rows=one.rows)
        for stored in plan.delete:
            del self.objects[stored.name]
        return plan

    def union(self) -> Rows:
        parts = [one.rows for one in self.objects.values()]
        return Rows(
            frozenset().union(*(part.ingress for part in parts)),
            frozenset().union(*(part.egress for part in parts)),
            frozenset().union(*(part.targets for part in parts)),
        )

    def counts(self) -> list[int]:
        return [len(part) for one in self.objects.values() for part in (one.rows.ingress, one.rows.egress, one.rows.targets)]  # fmt: skip


@pytest.mark.spec("policy.T-124")
def test_three_objects_hold_450_peers_and_250_pods() -> None:
    api = Api()
    plan = api.apply(rows(450, 10, 250))
    assert (len(plan.create), len(plan)) == (3, 3)
    assert max(api.counts()) <= 200
    assert api.union() == rows(450, 10, 250)
    assert {one.head.parts for one in api.objects.values()} == {3}


@pytest.mark.spec("policy.T-125")
def test_a_policy_that_selects_nothing_has_one_empty_object() -> None:
    api = Api()
    api.apply(Rows())
    assert [len(one.rows) for one in api.objects.values()] == [0]
    api.apply(rows(5))
    api.apply(Rows())
    assert [len(one.rows) for one in api.objects.values()] == [0]
    assert api.made == 1


@pytest.mark.spec("policy.T-126")
def test_one_of_a_thousand_peers_replaced_is_one_write_each() -> None:
    api = Api()
    api.apply(rows(1000, 0, 3))
    gone = Rows(entries(*range(1, 1000)), frozenset(), targets(0, 1, 2))
    assert len(api.apply(gone)) == 1
    back = Rows(entries(*range(1, 1000), 5000), frozenset(), targets(0, 1, 2))
    assert len(api.apply(back)) <= 2
    assert api.union() == back


def test_the_head_is_written_where_it_differs() -> None:
    api = Api()
    api.apply(rows(1))
    assert len(api.apply(rows(1), replace(HEAD, isolation=("Ingress", "Egress")))) == 1


def test_many_half_empty_objects_are_put_together() -> None:
    api = Api(size=10)
    api.apply(rows(100))
    left = Rows(frozenset(one for number, one in enumerate(sorted(entries(*range(100)))) if number % 10 == 0))
    api.apply(left)
    assert api.union() == left
    assert len(api.objects) <= 2


sets = st.builds(
    lambda *parts: Rows(entries(*parts[0]), entries(*parts[1]), targets(*parts[2])),
    *[st.sets(st.integers(0, 30), max_size=25)] * 3,
)


@settings(max_examples=150, deadline=None)
@given(st.lists(sets, min_size=1, max_size=6), st.integers(1, 7))
def test_every_plan_holds_exactly_what_is_wanted_and_the_next_is_empty(wanted: list[Rows], size: int) -> None:
    api = Api(size)
    for one in wanted:
        api.apply(one)
        assert api.union() == one
        assert sum(api.counts()) == len(one), "a row is in two objects"
        assert max(api.counts()) <= size
        assert api.objects
        assert {stored.head.parts for stored in api.objects.values()} == {len(api.objects)}
        assert len(api.apply(one)) == 0


@settings(max_examples=100, deadline=None)
@given(st.sets(st.integers(0, 200), min_size=1, max_size=60), st.sets(st.integers(300, 400), max_size=5), st.data())
def test_a_few_changed_rows_are_a_few_writes(start: set[int], added: set[int], data: st.DataObject) -> None:
    api = Api(size=5)
    api.apply(Rows(entries(*start)))
    gone = data.draw(st.sets(st.sampled_from(sorted(start)), max_size=4))
    before = dict(api.objects)
    plan = api.apply(Rows(entries(*(start - gone), *added)))
    if len(before) == len(api.objects):
        assert len(plan) <= len(gone) + max(len(added) - len(gone), 0) + 1
    assert api.union().ingress == entries(*(start - gone), *added)


def group(numbers: tuple[int, ...], *pods: int) -> Group:
    return Group(numbers, targets(*pods), frozenset())


def test_the_one_group_has_the_policys_name() -> None:
    only = group((8080,), 1, 2)
    assert name_groups("p", [only], []) == [("p", only)]


def test_the_group_that_is_there_keeps_the_name_while_another_grows() -> None:
    stored = [Stored("p-1", "n", "u", "1", HEAD, Rows(targets=targets(1, 2, 3)))]
    old, new = group((8080,), 1), group((9090,), 4, 5, 6)
    named = {numbers.numbers: name for name, numbers in name_groups("p", [new, old], stored)}
    assert named[(8080,)] == "p"
    assert named[(9090,)].startswith("p.")
    assert named == {one.numbers: name for name, one in name_groups("p", [old, new], stored)}

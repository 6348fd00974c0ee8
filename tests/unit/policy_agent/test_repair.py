from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from vpccni.components.policy_agent.layout import PodEntry
from vpccni.components.policy_agent.repair import RepairPlan, SeenLink, plan_repair

OURS = {"handle_ingress": 11, "handle_egress": 12}
PROGRAMS = st.sampled_from([OURS, {}, {"handle_ingress": 11}, {"handle_ingress": 1, "handle_egress": 2}])
ENTRIES = st.dictionaries(st.integers(1, 6), st.sampled_from("ab").map(lambda name: PodEntry.of(3, link=name)))
LINKS = st.dictionaries(st.integers(1, 6), st.builds(SeenLink, st.sampled_from("ab"), PROGRAMS))


def test_a_link_with_our_programs_is_left_alone() -> None:
    assert plan_repair({3: PodEntry.of(3, link="a")}, {3: SeenLink("a", OURS)}, OURS) == RepairPlan((), ())


def test_an_index_that_a_stranger_got_is_forgotten_and_not_touched() -> None:
    assert plan_repair({3: PodEntry.of(3, link="a")}, {3: SeenLink("docker0", {})}, OURS) == RepairPlan((), (3,))


@given(ENTRIES, LINKS)
def test_a_plan_carried_out_leaves_nothing_to_do_and_never_touches_other_links(
    entries: dict[int, PodEntry], links: dict[int, SeenLink]
) -> None:
    plan = plan_repair(entries, links, OURS)
    assert set(plan.refilter) | set(plan.forget) <= set(entries)
    left = {index: entry for index, entry in entries.items() if index not in plan.forget}
    mended = {index: SeenLink(link.name, OURS) if index in plan.refilter else link for index, link in links.items()}
    assert plan_repair(left, mended, OURS) == RepairPlan((), ())

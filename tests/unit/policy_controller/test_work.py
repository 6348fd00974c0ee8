"""What is due when."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from vpccni.components.policy_controller.work import AGAIN, TOGETHER_S, Work


def test_its_own_change_is_due_at_once_and_once() -> None:
    work: Work[str] = Work(1.0)
    work.add("p", 10.0)
    work.add("p", 10.0)
    assert (work.take(10.0), work.take(10.0)) == ("p", None)


def test_changes_of_others_are_done_soon_and_then_once_a_period() -> None:
    work: Work[str] = Work(1.0)
    work.add_for_others("p", 10.0)
    assert work.take(10.0) is None
    assert work.take(10.0 + TOGETHER_S) == "p"
    work.done("p")
    for at in (10.1, 10.2, 10.9):
        work.add_for_others("p", at)
    assert work.take(11.0) is None
    assert work.wait_s(11.0) == 10.0 + TOGETHER_S + 1.0 - 11.0
    assert work.take(11.1) == "p"


def test_what_changes_during_a_pass_is_done_again_afterwards_never_beside_it() -> None:
    work: Work[str] = Work(0.0)
    work.add("p", 1.0)
    work.take(1.0)
    work.add("p", 1.0)
    assert work.take(1.0) is None
    assert work.wait_s(1.0) is None
    work.done("p")
    assert work.take(1.0) == "p"


def test_failures_are_tried_again_after_growing_pauses_with_an_end_and_a_change_ends_the_wait() -> None:
    work: Work[str] = Work(0.0)
    pauses = []
    work.add("p", 0.0)
    for _ in range(20):
        assert work.take(1e6) == "p"
        pauses.append(work.failed("p", 0.0, random=0.0))
    assert pauses == sorted(pauses)
    assert (pauses[0], pauses[-1]) == (AGAIN.first_s, AGAIN.longest_s)
    work.add("p", 5.0)
    assert work.take(5.0) == "p"
    assert work.failed("p", 5.0, random=0.0) == AGAIN.first_s


def test_the_longest_due_goes_first_and_what_is_gone_is_forgotten() -> None:
    work: Work[str] = Work(0.0)
    work.add("late", 2.0)
    work.add("early", 1.0)
    work.add("gone", 0.0)
    work.forget("gone")
    assert [work.take(3.0), work.take(3.0), work.take(3.0)] == ["early", "late", None]
    assert work.running == 2


steps = st.lists(st.tuples(st.sampled_from(("add", "others", "take", "done", "failed", "forget", "wait")), st.integers(0, 3)), max_size=60)  # fmt: skip


@given(steps)
def test_nothing_is_lost_or_done_twice_at_once(steps: list[tuple[str, int]]) -> None:
    work: Work[int] = Work(1.0)
    now, wanted, running = 0.0, set[int](), set[int]()
    for what, key in steps:
        now += 0.01
        if what in ("add", "others"):
            (work.add if what == "add" else work.add_for_others)(key, now)
            wanted.add(key)
        elif what == "take":
            taken = work.take(now)
            if taken is not None:
                assert taken in wanted - running
                wanted.discard(taken)
                running.add(taken)
        elif what == "wait":
            now += 0.5
        elif what == "forget":
            work.forget(key)
            wanted.discard(key)
            running.discard(key)
        elif key in running:
            running.discard(key)
            if what == "done":
                work.done(key)
            else:
                work.failed(key, now, 0.0)
                wanted.add(key)
        assert len(work) == len(wanted)
    for key in running:
        work.done(key)
    late = {work.take(now + 1e6) for _ in wanted}
    assert late == wanted
    assert work.wait_s(now) is None

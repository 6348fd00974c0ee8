"""How often EC2 is asked: buckets, growing pauses, one probe, and what a throttled node does as a whole."""

from __future__ import annotations

import random

import pytest

from vpccni.components.eni_manager.manners import MUTATING, READING, Manners

ASSIGN, CREATE, LOOK = "AssignPrivateIpAddresses", "CreateNetworkInterface", "DescribeNetworkInterfaces"


def ask(manners: Manners, action: str, now: float, *, routine: bool = False) -> float:
    return manners.wait_s(action, routine=routine, now=now)


@pytest.mark.parametrize(("action", "rate"), [(ASSIGN, MUTATING), (LOOK, READING)])
def test_a_bucket_gives_its_burst_and_then_its_rate(action: str, rate: object) -> None:
    manners = Manners()
    bucket = MUTATING if rate is MUTATING else READING
    assert all(ask(manners, action, 0.0) == 0 for _ in range(int(bucket.burst)))
    assert ask(manners, action, 0.0) == pytest.approx(1 / bucket.per_s)
    assert ask(manners, action, 1 / bucket.per_s) == 0
    assert manners.tokens(action, now=1000.0) == bucket.burst


def test_actions_have_buckets_of_their_own() -> None:
    manners = Manners()
    while ask(manners, ASSIGN, 0.0) == 0:
        pass
    assert ask(manners, CREATE, 0.0) == 0


def test_pauses_grow_and_end_with_an_answer() -> None:
    manners, now, pauses = Manners(), 0.0, []
    for _ in range(7):
        assert ask(manners, ASSIGN, now) == 0
        manners.throttled(ASSIGN, now=now, random=0.0)
        pauses.append(manners.open_at(ASSIGN) - now)
        now = manners.open_at(ASSIGN)
    assert pauses == [1, 2, 4, 8, 16, 30, 30]
    assert ask(manners, ASSIGN, now) == 0
    manners.answered(ASSIGN)
    assert manners.open_at(ASSIGN) == 0


def test_one_call_probes_while_the_others_wait() -> None:
    manners = Manners()
    manners.throttled(ASSIGN, now=0.0, random=0.0)
    assert ask(manners, ASSIGN, 1.0) == 0
    assert ask(manners, ASSIGN, 1.0) > 1
    manners.answered(ASSIGN)
    assert ask(manners, ASSIGN, 1.0) == 0


def test_calls_throttled_together_count_once() -> None:
    manners = Manners()
    for _ in range(5):
        manners.throttled(ASSIGN, now=0.0, random=0.0)
    assert manners.open_at(ASSIGN) == 1.0


def test_one_throttled_action_leaves_the_others_open_and_makes_routine_wait() -> None:
    manners = Manners()
    manners.throttled(ASSIGN, now=0.0, random=0.0)
    assert ask(manners, CREATE, 0.0) == 0
    assert ask(manners, LOOK, 0.0) == 0
    assert ask(manners, LOOK, 0.0, routine=True) == 1.0


def test_two_throttled_actions_close_the_account() -> None:
    manners = Manners()
    manners.throttled(ASSIGN, now=0.0, random=0.0)
    manners.throttled(CREATE, now=0.5, random=0.0)
    assert manners.open_at(LOOK) == manners.open_at(CREATE) == 2.5
    assert ask(manners, CREATE, 2.5) == 0
    assert ask(manners, ASSIGN, 2.5) > 0


@pytest.mark.spec("ipam.W5")
@pytest.mark.parametrize("seed", range(50))
def test_a_minute_of_throttling_ends_in_a_call_every_half_minute_and_is_over_15_s_after(seed: int) -> None:
    chance, manners = random.Random(seed), Manners()
    began, ended = 0.0, 60.0
    calls: list[float] = []
    served: dict[str, float] = {}
    now = began
    while len(served) < 2 and now < 200:
        for action in (ASSIGN, CREATE):
            if action not in served and manners.wait_s(action, routine=False, now=now) == 0:
                calls.append(now)
                if now < ended:
                    manners.throttled(action, now=now, random=chance.random())
                else:
                    manners.answered(action)
                    served[action] = now
        now += 0.05
    assert len([at for at in calls if 30 <= at < 60]) <= 2  # one of the last 30 s, and the one that begins them
    assert len([at for at in calls if at < 60]) <= 9
    assert min(served.values()) <= ended + 15
    assert max(served.values()) <= ended + 15.1

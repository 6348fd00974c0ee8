"""IPv6 nodes: addresses out of one /80, lowest first, cooled down, restored, rebuilt; never a wish for capacity."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.facts import an_eni, an_inventory, usable

from vpccni.components.ip_allocator import causes
from vpccni.components.ip_allocator import ledger as books
from vpccni.components.ip_allocator import pool as pools
from vpccni.components.ip_allocator.checkpoint import Checkpoint
from vpccni.components.ip_allocator.ledger import Holding, Ledger
from vpccni.shared.messages.allocation import Assign
from vpccni.shared.messages.base import PodRef, Sandbox
from vpccni.shared.messages.inventory import Eni, Growth

PERIOD_S = 30.0
PREFIX, OTHER = "2001:db8:0:100:1::/80", "2001:db8:0:100:2::/80"
HEAD = PREFIX.removesuffix("/80")


def ask(number: int) -> Assign:
    return Assign(sandbox=Sandbox(f"c{number}", "eth0"), pod=PodRef("default", f"pod-{number}"))


def primary(*prefixes: str, **more: object) -> Eni:
    return an_eni(0, [], prefixes=list(prefixes), **more)


def occupancy_of(ledger: Ledger, *enis: Eni) -> pools.Occupancy:
    pool = pools.build(an_inventory(*enis, by_prefix=True, ipv6=True), usable(*enis), frozenset())
    return pools.Occupancy.of(pool, ledger)


def given_out(ledger: Ledger, occupancy: pools.Occupancy, number: int, *, now: float) -> str:
    change, answers = pools.assign(occupancy, ledger, [ask(number)], now=now, period_s=PERIOD_S, wall_ns=1)
    ledger.apply(change)
    occupancy.note(change)
    return "".join(holding.address for holding in answers[0])


def test_the_first_pod_gets_the_first_address_and_a_released_one_rests() -> None:
    ledger = Ledger()
    occupancy = occupancy_of(ledger, primary(PREFIX))
    assert [given_out(ledger, occupancy, number, now=0) for number in range(3)] == [HEAD, f"{HEAD}1", f"{HEAD}2"]
    change = books.release(ledger, [ask(1).sandbox], now=10)
    ledger.apply(change)
    occupancy.note(change)
    assert given_out(ledger, occupancy, 3, now=10 + PERIOD_S) == f"{HEAD}3"
    assert given_out(ledger, occupancy, 4, now=10.1 + PERIOD_S) == f"{HEAD}1"


def test_of_several_prefixes_the_first_alone_is_given_out_from_and_pods_on_the_other_stay_known() -> None:
    ledger = Ledger([Holding(ask(1).sandbox, ask(1).pod, "2001:db8:0:100:2::", "eni-0")])
    occupancy = occupancy_of(ledger, primary(PREFIX, OTHER))
    assert given_out(ledger, occupancy, 2, now=0) == HEAD
    assert occupancy.pool.eni_with("2001:db8:0:100:2::") is not None
    assert pools.count(occupancy, ledger, now=0, period_s=PERIOD_S).total == 1 << 48


def test_a_doubted_prefix_gives_nothing_out_and_keeps_its_pods() -> None:
    ledger = Ledger([Holding(ask(1).sandbox, ask(1).pod, HEAD, "eni-0")])
    occupancy = occupancy_of(ledger, primary(PREFIX, confirmed=False))
    assert given_out(ledger, occupancy, 2, now=0) == ""
    assert ledger.holders == {HEAD: ask(1).sandbox}


def test_the_file_has_the_key_ipv6_and_gives_the_same_ledger_back(tmp_path: Path) -> None:
    ledger = Ledger()
    given_out(ledger, occupancy_of(ledger, primary(PREFIX)), 1, now=0)
    store = Checkpoint(tmp_path / "ipam.json", boot_id="boot-1", clock=lambda: 0.0)
    store.save(ledger)
    assert f'"ipv6":"{HEAD}"' in (tmp_path / "ipam.json").read_text()
    loaded = store.load().ledger
    assert loaded is not None
    assert loaded.holders == ledger.holders


@pytest.mark.spec("ipam.W38")
def test_after_a_lost_history_what_pods_may_have_given_back_rests() -> None:
    ledger = Ledger([Holding(ask(1).sandbox, ask(1).pod, f"{HEAD}5", "eni-0")])
    occupancy = occupancy_of(ledger, primary(PREFIX))
    ledger.apply(books.rest_all(ledger, pools.with_lost_history(occupancy.pool, ledger), now=100.0))
    assert given_out(ledger, occupancy, 2, now=100.0) == f"{HEAD}{5 + 1 + pools.LOST_HISTORY:x}"
    assert given_out(ledger, occupancy, 3, now=101.0 + PERIOD_S) != ""


def test_without_a_prefix_the_cause_is_what_keeps_the_manager_from_it_and_max_pods_play_no_part() -> None:
    denied = an_inventory(primary(), by_prefix=True, ipv6=True, growth=Growth("DENIED", "no permission", 10.0))
    assert causes.explain(denied, pools.Census(), can_grow=True, cools_in_s=None, now=5.0)[0] == "DENIED"
    many = an_inventory(primary(), by_prefix=True, ipv6=True, max_pods=3)
    cause, detail, retry_ms = causes.explain(many, pools.Census(pods=9), can_grow=True, cools_in_s=None, now=5.0)
    assert (cause, retry_ms > 0) == ("GROWING", True)
    assert "0 IPv6 prefixes" in detail


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 20), st.sampled_from([0.0, 1.0, PERIOD_S + 1])), max_size=60))
def test_no_address_is_held_twice_or_given_out_before_its_time(events: list[tuple[bool, int, float]]) -> None:
    ledger, now, ended = Ledger(), 0.0, dict[str, float]()
    occupancy = occupancy_of(ledger, primary(PREFIX))
    for adds, number, pause in events:
        now += pause
        if adds:
            known = ledger.held.get(ask(number).sandbox)
            address = given_out(ledger, occupancy, number, now=now)
            assert address
            assert known or now - ended.get(address, -1e9) > PERIOD_S
        else:
            change = books.release(ledger, [ask(number).sandbox], now=now)
            ended |= {holding.address: now for holding in change.let_go}
            ledger.apply(change)
            occupancy.note(change)
        assert len(ledger.holders) == len(ledger.held)

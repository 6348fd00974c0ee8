"""Prefixes, mode switches and excluded ENIs: what is given out first, and what is given back when its pods have left."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.facts import an_eni, an_inventory, usable

from vpccni.components.ip_allocator import ledger as books
from vpccni.components.ip_allocator import pool as pools
from vpccni.components.ip_allocator.blocks import Block
from vpccni.components.ip_allocator.ledger import Change, DoubleUse, Holding, Ledger
from vpccni.components.ip_allocator.view import View
from vpccni.shared.messages.allocation import Assign
from vpccni.shared.messages.base import PodRef, Sandbox
from vpccni.shared.messages.inventory import Eni

PERIOD_S = 30.0
NOW = 1000.0
PREFIX_A, PREFIX_B = "10.0.0.16/28", "10.0.0.32/28"


class Moment:
    """A node of some ENIs with the addresses that pods hold."""

    def __init__(self, enis: Sequence[Eni], held: Sequence[str] = (), *, by_prefix: bool) -> None:
        self.inventory = an_inventory(*enis, max_pods=110, by_prefix=by_prefix)
        self.pool = pools.build(self.inventory, usable(*enis), frozenset())
        self.ledger = Ledger([Holding(Sandbox(f"c-{one}", "eth0"), PodRef(), one) for one in held])
        self.occupancy = pools.Occupancy.of(self.pool, self.ledger)

    def apply(self, change: Change) -> None:
        self.ledger.apply(change)
        self.occupancy.note(change)

    def view(self) -> View:
        return View(self.occupancy, self.ledger, self.inventory, now=NOW, period_s=PERIOD_S)

    def give(self, number: int) -> list[str]:
        asks = [Assign(sandbox=Sandbox(f"new-{one}", "eth0"), pod=PodRef()) for one in range(number)]
        change, given = pools.assign(self.occupancy, self.ledger, asks, now=NOW, period_s=PERIOD_S, wall_ns=1)
        self.apply(change)
        return [holding.address for holdings in given for holding in holdings]


def test_all_sixteen_addresses_of_a_prefix_are_given_out() -> None:
    moment = Moment([an_eni(0, prefixes=[PREFIX_A])], by_prefix=True)
    assert sorted(moment.give(17)) == sorted(f"10.0.0.{host}" for host in range(16, 32))


@pytest.mark.spec("ipam.W21")
def test_the_fullest_prefix_is_used_first_so_that_the_other_can_go() -> None:
    moment = Moment([an_eni(0, prefixes=[PREFIX_A, PREFIX_B])], ["10.0.0.40"], by_prefix=True)
    assert moment.give(3) == ["10.0.0.32", "10.0.0.33", "10.0.0.34"]
    assert [(one.free_blocks, one.items, one.held) for one in moment.view().shape(0, waiting=0).enis] == [(1, 2, 4)]


def test_pods_of_the_other_mode_keep_their_addresses_and_new_pods_use_the_mode_in_force() -> None:
    moment = Moment([an_eni(0, addresses=["10.0.0.5", "10.0.0.6"], prefixes=[PREFIX_A])], ["10.0.0.5"], by_prefix=True)
    assert moment.give(1) == ["10.0.0.16"]
    census = pools.count(moment.occupancy, moment.ledger, now=NOW, period_s=PERIOD_S)
    assert (census.total, census.assigned, census.pods) == (16, 1, 2)


@pytest.mark.spec("ipam.W16")
@pytest.mark.parametrize("by_prefix", [True, False])
def test_blocks_of_the_other_mode_go_when_their_last_pod_has_left_and_cooled(by_prefix: bool) -> None:
    one = an_eni(0, addresses=["10.0.0.5", "10.0.0.6"], prefixes=[PREFIX_A, PREFIX_B])
    in_use = "10.0.0.5" if by_prefix else "10.0.0.17"
    moment = Moment([one], [in_use], by_prefix=by_prefix)
    blocks, enis = moment.view().leftovers()
    assert ([block.item for block in blocks], enis) == ((["10.0.0.6"] if by_prefix else [PREFIX_B]), [])
    moment.apply(books.release(moment.ledger, [Sandbox(f"c-{in_use}", "eth0")], now=NOW - 10))
    assert len(moment.view().leftovers()[0]) == 1
    moment.apply(books.forget_cooled(moment.ledger, now=NOW + 60, period_s=PERIOD_S))
    assert len(moment.view().leftovers()[0]) == 2


@pytest.mark.spec("ipam.W14")
def test_an_excluded_eni_gives_nothing_out_and_goes_when_it_is_empty() -> None:
    enis = [an_eni(0, addresses=["10.0.0.5"]), an_eni(1, addresses=["10.0.1.5", "10.0.1.6"], excluded=True)]
    moment = Moment(enis, ["10.0.1.5"], by_prefix=False)
    assert moment.give(2) == ["10.0.0.5"]
    blocks, gone = moment.view().leftovers()
    assert ([block.item for block in blocks], gone) == (["10.0.1.6"], [])
    moment.apply(Change(let_go=tuple(moment.ledger.holdings())))
    assert moment.view().leftovers() == ([], ["eni-1"])
    assert moment.view().shape(0, waiting=0).max_enis == 2


def test_what_ec2_does_not_confirm_is_not_given_back() -> None:
    moment = Moment([an_eni(0, ["10.0.0.5"], confirmed=False)], by_prefix=True)
    assert moment.view().leftovers() == ([], [])


def test_a_prefix_with_one_pod_cannot_be_fenced_and_a_fenced_one_gives_nothing_out() -> None:
    moment = Moment([an_eni(0, prefixes=[PREFIX_A])], ["10.0.0.20"], by_prefix=True)
    [block] = moment.pool.enis[0].blocks
    with pytest.raises(DoubleUse, match=r"10\.0\.0\.20"):
        books.fence(moment.ledger, [block], [])
    empty = Moment([an_eni(0, prefixes=[PREFIX_A])], by_prefix=True)
    empty.apply(books.fence(empty.ledger, [block], []))
    assert empty.give(1) == []
    with pytest.raises(DoubleUse, match="fenced"):
        books.hold(empty.ledger, [Holding(Sandbox("x", "eth0"), PodRef(), "10.0.0.20")])


def test_of_a_v6_prefix_the_lowest_free_address_is_given_out_and_a_returned_one_again() -> None:
    moment = Moment([an_eni(0, prefixes=["2001:db8:0:1::/80"])], by_prefix=True)
    assert moment.give(3) == ["2001:db8:0:1::", "2001:db8:0:1::1", "2001:db8:0:1::2"]
    moment.apply(books.release(moment.ledger, [Sandbox("new-1", "eth0")], now=NOW - 100))
    moment.apply(books.forget_cooled(moment.ledger, now=NOW, period_s=PERIOD_S))
    assert moment.give(4) == ["2001:db8:0:1::", "2001:db8:0:1::1", "2001:db8:0:1::2", "2001:db8:0:1::3"]
    assert pools.count(moment.occupancy, moment.ledger, now=NOW, period_s=PERIOD_S).assigned == 4


def test_picking_takes_the_last_free_blocks_so_that_the_rest_stays_dense() -> None:
    moment = Moment([an_eni(0, addresses=[f"10.0.0.{host}" for host in range(5, 10)])], ["10.0.0.9"], by_prefix=False)
    assert [block.item for block in moment.view().pick([("eni-0", 2)])] == ["10.0.0.7", "10.0.0.8"]
    assert isinstance(moment.view().pick([("eni-0", 1)])[0], Block)


@pytest.mark.spec("ipam.W40")
def test_ten_thousand_pods_of_one_v6_prefix_hold_distinct_addresses_and_none_is_looked_through_for_the_next() -> None:
    moment = Moment([an_eni(0, prefixes=["2001:db8:0:1::/80"])], by_prefix=True)
    assert len(set(moment.give(10_000))) == 10_000
    moment.apply(books.release(moment.ledger, [Sandbox("new-9999", "eth0")], now=NOW - 100))
    assert moment.give(10_000)[-1] == "2001:db8:0:1::270f"
    looked_at = LookedAt(moment.ledger.holders)
    moment.ledger.holders = looked_at
    asks = [Assign(sandbox=Sandbox("next", "eth0"), pod=PodRef())]
    _, [(given,)] = pools.assign(moment.occupancy, moment.ledger, asks, now=NOW, period_s=PERIOD_S, wall_ns=1)
    assert given.address == "2001:db8:0:1::2710"
    assert looked_at.number < 10


class LookedAt(dict[str, Sandbox]):
    """Holders that count how often somebody looks an address up."""

    number = 0

    def __contains__(self, key: object) -> bool:
        self.number += 1
        return super().__contains__(key)


def one_by_one(moment: Moment, eni: pools.PoolEni) -> tuple[str, int, int, int, int, int]:
    """Return an ENI's id, addresses, held, cooling, free blocks and pods of the other kind, by looking at every address."""
    ledger = moment.ledger

    def cools(address: str) -> bool:
        return address not in ledger.holders and books.is_cooling(ledger, address, now=NOW, period_s=PERIOD_S)

    rows, others = [], 0
    for block in eni.blocks:
        addresses = [block.address(position) for position in range(block.size)]
        held, cooling = sum(one in ledger.holders for one in addresses), sum(map(cools, addresses))
        if not block.in_force:
            others += held + cooling
        elif block.item not in ledger.fenced:
            rows.append((block.size, held, cooling, int(held == cooling == 0)))
    size, held, cooling, free = (sum(column) for column in zip(*rows, strict=True)) if rows else (0, 0, 0, 0)
    return eni.eni.eni_id, size, held, cooling, free, others


ADDRESSES = [f"10.0.0.{host}" for host in range(5, 12)]


@given(
    by_prefix=st.booleans(),
    held=st.sets(st.sampled_from([*ADDRESSES, *(f"10.0.0.{host}" for host in (16, 17, 31, 32, 47))])),
    steps=st.lists(st.tuples(st.integers(0, 2), st.integers(0, 20)), max_size=12),
    fence=st.booleans(),
    excluded=st.booleans(),
)
def test_what_is_counted_along_is_what_a_look_at_every_block_finds(
    by_prefix: bool, held: set[str], steps: list[tuple[int, int]], fence: bool, excluded: bool
) -> None:
    enis = [
        an_eni(0, addresses=ADDRESSES[:4], prefixes=[PREFIX_A]),
        an_eni(1, addresses=ADDRESSES[4:], prefixes=[PREFIX_B], excluded=excluded),
    ]
    moment = Moment(enis, sorted(held), by_prefix=by_prefix)
    for kind, number in steps:
        sandboxes = list(moment.ledger.held)
        if kind == 0:
            moment.give(number % 3)
        elif kind == 1 and sandboxes:
            gone = sandboxes[number % len(sandboxes)]
            moment.apply(books.release(moment.ledger, [gone], now=NOW - (number % 2) * 2 * PERIOD_S))
        else:
            moment.apply(books.forget_cooled(moment.ledger, now=NOW, period_s=PERIOD_S))
    if fence:
        free = [(one.eni_id, 1) for one in moment.view().shape(0, waiting=0).enis if one.free_blocks]
        moment.apply(books.fence(moment.ledger, moment.view().pick(free), []))
    anew = pools.Occupancy.of(moment.pool, moment.ledger)
    assert +anew.used == +moment.occupancy.used
    assert [anew.tallies[eni.eni_id] for eni in enis] == [moment.occupancy.tallies[eni.eni_id] for eni in enis]
    assert [
        (one.eni_id, one.addresses, one.held, one.cooling, one.free_blocks, one.others)
        for one in moment.view().shape(0, waiting=0).enis
    ] == [one_by_one(moment, eni) for eni in moment.pool.enis if eni.opened]
    census = pools.count(moment.occupancy, moment.ledger, now=NOW, period_s=PERIOD_S)
    listed = [one_by_one(moment, eni)[1:] for eni in moment.pool.enis if eni.opened]
    assert (census.total, census.assigned, census.cooling) == tuple(sum(row[at] for row in listed) for at in (0, 1, 2))
    assert census.assignable == census.total - census.assigned - census.cooling

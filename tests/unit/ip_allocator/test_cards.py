"""Several network cards: one address on each or none at all, a file a card, and a wish a card that comes to rest."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from support.facts import an_eni, an_inventory, usable

from vpccni.components.ip_allocator import audit, wish
from vpccni.components.ip_allocator import ledger as books
from vpccni.components.ip_allocator import pool as pools
from vpccni.components.ip_allocator.checkpoint import Checkpoint
from vpccni.components.ip_allocator.ledger import Change, Holding, Ledger
from vpccni.components.ip_allocator.view import View
from vpccni.components.ip_allocator.warm_pool import Targets
from vpccni.components.ip_allocator.wish import Demand
from vpccni.shared.messages.allocation import Assign
from vpccni.shared.messages.base import PodRef, Sandbox
from vpccni.shared.messages.inventory import CardLimit, CardTarget, Eni
from vpccni.shared.messages.wiring import Wiring, Wirings

PERIOD_S = 30.0
MANAGED = (0, 2)
"""Card 1 is left to EFA alone."""


def ask(number: int, *, multi_nic: bool = False) -> Assign:
    return Assign(sandbox=Sandbox(f"c{number}", "eth0"), pod=PodRef("default", f"pod-{number}"), multi_nic=multi_nic)


def on_card(card: int, *addresses: str, **more: Any) -> Eni:
    return an_eni(card, addresses, card=card, device_number=1 if card else 0, **more)


class Node:
    """A ledger over the pool of a node with managed cards 0 and 2."""

    def __init__(self, *enis: Eni, ledger: Ledger | None = None, by_prefix: bool = False) -> None:
        cards = [CardLimit(card, 2) for card in MANAGED]
        self.inventory = an_inventory(*enis, cards=cards, by_prefix=by_prefix)
        self.ledger = ledger or Ledger()
        pool = pools.build(self.inventory, usable(*enis), frozenset())
        self.occupancy = pools.Occupancy.of(pool, self.ledger)

    def apply(self, change: Change) -> Change:
        undo = self.ledger.apply(change)
        self.occupancy.note(change)
        return undo

    def assign(self, *asks: Assign, now: float = 0.0) -> list[list[str]]:
        change, answers = pools.assign(self.occupancy, self.ledger, asks, now=now, period_s=PERIOD_S, wall_ns=1)
        self.apply(change)
        return [[holding.address for holding in holdings] for holdings in answers]

    def wishes(self, demand: Demand, targets: Targets, *, now: float = 1000.0) -> tuple[list[CardTarget], int]:
        view = View(self.occupancy, self.ledger, self.inventory, now=now, period_s=PERIOD_S)
        free = {
            card: pools.count(self.occupancy, self.ledger, now=now, period_s=PERIOD_S, card=card).assignable
            for card in MANAGED
        }
        return wish.card_targets(self.occupancy.pool, self.ledger, view, demand, targets, free)

    def surplus(self, targets: Targets, *, now: float = 1000.0) -> tuple[list[str], list[str]]:
        view = View(self.occupancy, self.ledger, self.inventory, now=now, period_s=PERIOD_S)
        blocks, enis = wish.surplus(self.occupancy.pool, view, Demand(), targets)
        return [block.item for block in blocks], enis


@pytest.mark.spec("ipam.W20")
def test_a_multi_nic_pod_gets_one_address_of_every_managed_card_or_books_nothing() -> None:
    node = Node(on_card(0, "10.0.0.5", "10.0.0.6", "10.0.0.7"), on_card(2, "10.0.2.5"))
    assert node.assign(ask(1, multi_nic=True)) == [["10.0.0.5", "10.0.2.5"]]
    assert node.assign(ask(1, multi_nic=True)) == [["10.0.0.5", "10.0.2.5"]]
    before = dict(node.ledger.holders)
    assert node.assign(ask(2, multi_nic=True)) == [[]]
    assert node.ledger.holders == before
    assert not books.release(node.ledger, [ask(2).sandbox], now=1.0)


def test_what_a_multi_nic_pod_could_not_use_goes_to_the_next_ask_of_the_batch() -> None:
    node = Node(on_card(0, "10.0.0.5"), on_card(2))
    assert node.assign(ask(1, multi_nic=True), ask(2), ask(3)) == [[], ["10.0.0.5"], []]


def test_an_ordinary_pod_takes_the_first_card_that_has_an_address() -> None:
    node = Node(on_card(2, "10.0.2.5"), on_card(0, "10.0.0.5"))
    assert node.assign(ask(1), ask(2), ask(3)) == [["10.0.0.5"], ["10.0.2.5"], []]


def test_a_release_ends_all_addresses_of_a_pod_and_they_rest() -> None:
    node = Node(on_card(0, "10.0.0.5"), on_card(2, "10.0.2.5"))
    node.assign(ask(1, multi_nic=True))
    node.apply(books.release(node.ledger, [ask(1).sandbox], now=10.0))
    assert (node.ledger.held, set(node.ledger.released_at)) == ({}, {"10.0.0.5", "10.0.2.5"})
    assert node.assign(ask(2), now=11.0) == [[]]


def test_a_change_taken_back_leaves_the_ledger_as_it_was() -> None:
    node = Node(on_card(0, "10.0.0.5"), on_card(2, "10.0.2.5"))
    node.assign(ask(1, multi_nic=True))
    before = dict(node.ledger.held)
    node.apply(node.apply(books.release(node.ledger, [ask(1).sandbox], now=10.0)))
    assert node.ledger.held == before


def test_a_pod_wired_on_two_cards_is_adopted_with_both_addresses() -> None:
    box, pod = Sandbox("c1", "eth0"), PodRef("default", "web")
    wirings = [Wiring(box, pod, f"eni{n}", 10 + n, [address]) for n, address in enumerate(("10.0.0.5", "10.0.2.5"))]
    found = audit.compare(
        Ledger(), Wirings(wirings=wirings, in_flight=[]), audit.NOTHING, now=0.0, wall_ns=1, at_once=True
    )
    node = Node(on_card(0, "10.0.0.5"), on_card(2, "10.0.2.5"))
    placed = [pools.with_place(node.occupancy.pool, holding) for holding in found.adopted]
    node.apply(books.hold(node.ledger, placed))
    assert [(one.address, one.card) for one in node.ledger.held[box]] == [("10.0.0.5", 0), ("10.0.2.5", 2)]


# ---------------------------------------------------------------------- what is wished


REFERENCE = Targets(warm_eni=1, warm_ip=0, minimum_ip=0, max_pods=0)


def test_the_cards_above_0_have_one_free_address_whatever_the_settings_say() -> None:
    node = Node(on_card(0, *(f"10.0.0.{n}" for n in range(5, 14))), on_card(2, "10.0.2.5"))
    totals = {one.card: one.total_addresses for one in node.wishes(Demand(), REFERENCE)[0]}
    assert totals == {0: 9, 2: 1}
    node.assign(ask(1, multi_nic=True))
    assert {one.card: one.total_addresses for one in node.wishes(Demand(), REFERENCE)[0]}[2] == 2


def test_a_card_without_an_eni_gets_its_first_address_at_once() -> None:
    cards, urgent = Node(on_card(0, *(f"10.0.0.{n}" for n in range(5, 14)))).wishes(Demand(), REFERENCE)
    assert [(one.card, one.total_addresses) for one in cards] == [(0, 9), (2, 1)]
    assert urgent == 1


def test_who_waits_counts_on_the_first_card_with_room_or_on_every_card() -> None:
    few = Targets(warm_eni=0, warm_ip=1, minimum_ip=0, max_pods=0)
    full = Node(on_card(0, "10.0.0.5"), on_card(2, "10.0.2.5"))
    full.assign(ask(1, multi_nic=True))
    ordinary = {one.card: one.total_addresses for one in full.wishes(Demand(ordinary=4), few)[0]}
    assert ordinary == {0: 6, 2: 2}
    everywhere = {one.card: one.total_addresses for one in full.wishes(Demand(multi_nic=4), few)[0]}
    assert everywhere == {0: 6, 2: 6}
    beyond = {one.card: one.total_addresses for one in full.wishes(Demand(ordinary=20), few)[0]}
    assert beyond == {0: 18, 2: 1 + 3 + 1}


@pytest.mark.spec("ipam.W9")
@pytest.mark.parametrize("held", [0, 1, 15, 16])
def test_in_prefix_mode_an_idle_card_keeps_its_prefix_and_gets_no_other(held: int) -> None:
    settings = Targets(warm_eni=0, warm_ip=0, minimum_ip=0, max_pods=0, warm_prefix=1)
    second = ["10.0.2.32/28"] if held == 16 else []
    enis = [on_card(0, prefixes=["10.0.0.16/28", "10.0.0.32/28"]), on_card(2, prefixes=["10.0.2.16/28", *second])]
    node = Node(*enis, by_prefix=True)
    node.assign(*(ask(number, multi_nic=True) for number in range(held)))
    for step in range(120):  # ten minutes of reviews
        cards, _ = node.wishes(Demand(), settings, now=1000.0 + 5 * step)
        have = {eni.card: 16 * len(eni.prefixes) for eni in enis}
        assert {one.card: one.total_addresses for one in cards}[2] == have[2]
        assert not [item for item in node.surplus(settings, now=1000.0 + 5 * step)[0] if item.startswith("10.0.2.")]


@given(st.integers(0, 20), st.integers(0, 20), st.integers(0, 9), st.sampled_from([REFERENCE, Targets(0, 2, 3, 0)]))
def test_a_wish_that_was_met_is_not_followed_by_another(
    ordinary: int, everywhere: int, have: int, targets: Targets
) -> None:
    def node(*counts: int) -> Node:
        enis = [
            an_eni(
                10 * card + device, [f"10.{card}.{device}.{n}" for n in range(5, 5 + min(9, count - start))], card=card
            )
            for card, count in zip(MANAGED, counts, strict=True)
            for device, start in enumerate(range(0, max(count, 1), 9))
        ]
        return Node(*enis)

    demand = Demand(ordinary, everywhere)
    first = {one.card: one.total_addresses for one in node(have, have).wishes(demand, targets)[0]}
    met = node(first[0], first[2])
    again = {one.card: one.total_addresses for one in met.wishes(demand, targets)[0]}
    assert again == first


# ---------------------------------------------------------------------- the files


def store(folder: Path) -> Checkpoint:
    return Checkpoint(folder / "ipam.json", boot_id="boot-1", clock=lambda: 1000.0)


def allocations(path: Path) -> list[dict[str, Any]]:
    return list(json.loads(path.read_text())["allocations"])


def test_each_card_has_its_file_in_the_public_form(tmp_path: Path) -> None:
    node = Node(on_card(0, "10.0.0.5", "10.0.0.6"), on_card(2, "10.0.2.5"))
    node.assign(ask(1, multi_nic=True), ask(2))
    store(tmp_path).save(node.ledger)
    first, other = allocations(tmp_path / "ipam.json"), allocations(tmp_path / "ipam-nic-2.json")
    assert [(one["ipv4"], one["metadata"]["interfacesCount"]) for one in first] == [("10.0.0.5", 2), ("10.0.0.6", 1)]
    assert [(one["ipv4"], one["metadata"]["interfacesCount"]) for one in other] == [("10.0.2.5", 2)]
    loaded = store(tmp_path).load().ledger
    assert loaded is not None
    assert loaded.held == node.ledger.held


def test_the_file_of_a_card_that_has_no_pod_left_is_an_empty_list(tmp_path: Path) -> None:
    node, files = Node(on_card(0, "10.0.0.5"), on_card(2, "10.0.2.5")), store(tmp_path)
    node.assign(ask(1, multi_nic=True))
    files.save(node.ledger)
    node.apply(books.release(node.ledger, [ask(1).sandbox], now=0.0))
    files.save(node.ledger)
    assert allocations(tmp_path / "ipam-nic-2.json") == []


def public(card: int, address: str) -> dict[str, Any]:
    metadata = {"k8sPodNamespace": "default", "k8sPodName": "web", "interfacesCount": 2}
    entry = {"networkName": "aws-cni", "containerID": "c1", "ifName": "eth0", "ipv4": address, "metadata": metadata}
    return {"version": "vpc-cni-ipam/1", "allocations": [entry]}


def test_the_references_files_of_all_cards_are_read(tmp_path: Path) -> None:
    (tmp_path / "ipam.json").write_text(json.dumps(public(0, "10.0.0.5")))
    (tmp_path / "ipam-nic-2.json").write_text(json.dumps(public(2, "10.0.2.5")))
    loaded = store(tmp_path).load().ledger
    assert loaded is not None
    assert [(one.address, one.card) for one in loaded.held[Sandbox("c1", "eth0")]] == [("10.0.0.5", 0), ("10.0.2.5", 2)]


def test_a_broken_file_of_a_card_beside_the_references_is_kept_aside_and_the_ledger_rebuilt(tmp_path: Path) -> None:
    (tmp_path / "ipam.json").write_text(json.dumps(public(0, "10.0.0.5")))
    (tmp_path / "ipam-nic-2.json").write_text("{")
    loaded = store(tmp_path).load()
    assert loaded.ledger is None
    assert "ipam-nic-2.json" in loaded.trouble
    assert len(list(tmp_path.glob("ipam*.unreadable-*"))) == 2


# ---------------------------------------------------------------------- any order of events


class CardsMachine(RuleBasedStateMachine):
    """Ordinary and multi-NIC pods come and go; the process dies between the files of the cards."""

    @initialize()
    def start(self) -> None:
        self.folder = tempfile.TemporaryDirectory()
        self.path = Path(self.folder.name)
        self.now = 1000.0
        self.enis = [on_card(card, *(f"10.0.{card}.{n}" for n in range(5, 9 - card))) for card in MANAGED]
        self.node, self.files = Node(*self.enis), store(self.path)
        self.files.save(self.node.ledger)

    def save(self, change: Change) -> None:
        self.node.apply(change)
        self.files.save(self.node.ledger, change)

    def change_of(self, numbers: list[int]) -> Change:
        asks = [ask(number, multi_nic=number % 2 == 0) for number in numbers]
        return pools.assign(self.node.occupancy, self.node.ledger, asks, now=self.now, period_s=PERIOD_S, wall_ns=1)[0]

    @rule(numbers=st.lists(st.integers(0, 9), min_size=1, max_size=4))
    def assign(self, numbers: list[int]) -> None:
        self.save(self.change_of(numbers))

    @rule(number=st.integers(0, 9))
    def release(self, number: int) -> None:
        self.save(books.release(self.node.ledger, [ask(number).sandbox], now=self.now))

    @rule(seconds=st.sampled_from([1.0, PERIOD_S + 1]))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @rule(number=st.integers(0, 9), adds=st.booleans())
    def die_before_the_commit(self, number: int, adds: bool) -> None:
        """The files of the cards above 0 are new, that of card 0 is old: nobody got an answer, so nothing has happened."""
        before, held = (self.path / "ipam.json").read_bytes(), dict(self.node.ledger.held)
        ended = books.release(self.node.ledger, [ask(number).sandbox], now=self.now)
        self.save(self.change_of([number]) if adds else ended)
        (self.path / "ipam.json").write_bytes(before)
        self.restart()
        assert self.node.ledger.held == held

    @rule()
    def restart(self) -> None:
        self.files = store(self.path)
        loaded = self.files.load()
        assert not loaded.trouble
        self.node = Node(*self.enis, ledger=loaded.ledger)
        self.files.save(self.node.ledger)

    @invariant()
    def each_pod_has_all_it_asked_for(self) -> None:
        for sandbox, holdings in self.node.ledger.held.items():
            cards = [holding.card for holding in holdings]
            assert cards == list(MANAGED) if int(sandbox.container_id[1:]) % 2 == 0 else len(cards) == 1

    @invariant()
    def every_address_is_held_once_and_in_the_file_of_its_card(self) -> None:
        holdings = list(self.node.ledger.holdings())
        assert {one.address: one.sandbox for one in holdings} == self.node.ledger.holders
        assert len(holdings) == len(self.node.ledger.holders)
        for card in MANAGED:
            path = self.files.card_path(card)
            written = {one["ipv4"] for one in allocations(path)} if path.exists() else set()
            assert written == {one.address for one in holdings if one.card == card}

    def teardown(self) -> None:
        if hasattr(self, "folder"):
            self.folder.cleanup()


CardsMachine.TestCase.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
TestCards = CardsMachine.TestCase


def test_holdings_of_a_pod_are_taken_in_one_change() -> None:
    box = Sandbox("c1", "eth0")
    ledger = Ledger([Holding(box, PodRef(), "10.0.0.5", card=0), Holding(box, PodRef(), "10.0.2.5", card=2)])
    with pytest.raises(books.DoubleUse):
        books.hold(ledger, [Holding(box, PodRef(), "10.0.2.6", card=2)])

"""The ledger against a plain model: whatever the order of events and crashes, each address is in exactly one place."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from support.facts import an_eni, an_inventory, usable

from vpccni.components.ip_allocator import checkpoint
from vpccni.components.ip_allocator import ledger as books
from vpccni.components.ip_allocator import pool as pools
from vpccni.components.ip_allocator.blocks import block_of
from vpccni.components.ip_allocator.checkpoint import Checkpoint
from vpccni.components.ip_allocator.ledger import Change, DoubleUse, Holding, Ledger
from vpccni.shared.messages.allocation import Assign
from vpccni.shared.messages.base import PodRef, Sandbox
from vpccni.shared.messages.inventory import Eni

PERIOD_S = 30.0


def ask(number: int) -> Assign:
    return Assign(sandbox=Sandbox(f"c{number}", "eth0"), pod=PodRef("default", f"pod-{number}"))


class Books:
    """A ledger over a pool, as the service keeps them."""

    def __init__(self, *enis: Eni, ready: tuple[Eni, ...] | None = None, ledger: Ledger | None = None) -> None:
        self.ledger = ledger or Ledger()
        pool = pools.build(an_inventory(*enis), usable(*(enis if ready is None else ready)), frozenset())
        self.occupancy = pools.Occupancy.of(pool, self.ledger)

    def apply(self, change: Change) -> Change:
        undo = self.ledger.apply(change)
        self.occupancy.note(change)
        return undo

    def assign(self, *asks: Assign, now: float) -> list[tuple[Holding, ...]]:
        change, given = pools.assign(self.occupancy, self.ledger, asks, now=now, period_s=PERIOD_S, wall_ns=1)
        self.apply(change)
        return given


def test_asking_again_for_a_sandbox_gives_the_same_address_and_changes_nothing() -> None:
    node = Books(an_eni(0, ["10.0.0.5", "10.0.0.6"]))
    first = node.assign(ask(1), now=0)
    change, second = pools.assign(node.occupancy, node.ledger, [ask(1)], now=5, period_s=PERIOD_S, wall_ns=9)
    assert first == second
    assert not change


def test_a_cooling_address_is_not_given_out_at_exactly_the_period_and_is_after_it() -> None:
    node = Books(an_eni(0, ["10.0.0.5"]))
    node.assign(ask(1), now=0)
    node.apply(books.release(node.ledger, [ask(1).sandbox], now=100))
    assert node.assign(ask(2), now=100 + PERIOD_S) == [()]
    assert node.assign(ask(2), now=100.1 + PERIOD_S) != [()]


def test_an_unconfirmed_or_unusable_eni_gives_nothing_out() -> None:
    unconfirmed, unusable = an_eni(0, ["10.0.0.5"], confirmed=False), an_eni(1, ["10.0.1.5"])
    assert Books(unconfirmed, unusable, ready=(unconfirmed,)).assign(ask(1), now=0) == [()]


@pytest.mark.spec("ipam.W21")
def test_the_fullest_eni_is_used_first_and_the_address_that_rested_longest() -> None:
    first, second = an_eni(0, ["10.0.0.5", "10.0.0.6"]), an_eni(1, ["10.0.1.5", "10.0.1.6", "10.0.1.7"])
    held = Ledger(
        [Holding(Sandbox("a", "eth0"), PodRef(), "10.0.1.5", "eni-1")], {"10.0.1.6": -90.0, "10.0.1.7": -99.0}
    )
    [(given,)] = Books(first, second, ledger=held).assign(ask(1), now=0)
    assert given.address == "10.0.1.7"


def test_fencing_a_held_address_is_refused() -> None:
    held = Ledger([Holding(Sandbox("a", "eth0"), PodRef(), "10.0.0.5", "eni-0")])
    with pytest.raises(DoubleUse, match=r"10\.0\.0\.5"):
        books.fence(held, [block_of("10.0.0.5", in_force=True)], [])


def document(ledger: Ledger) -> tuple[object, ...]:
    """Return the whole state, comparable."""
    return dict(ledger.held), dict(ledger.released_at), set(ledger.fenced), set(ledger.fenced_enis)


class LedgerMachine(RuleBasedStateMachine):
    """Assign, release, fence, lose the process between write and rename, restart: over a real checkpoint file."""

    @initialize()
    def start(self) -> None:
        self.folder = tempfile.TemporaryDirectory()
        self.path = Path(self.folder.name) / "ipam.json"
        self.now = 1000.0
        self.enis = [an_eni(n, [f"10.0.{n}.{host}" for host in range(5, 9)]) for n in range(2)]
        self.everything = {address for one in self.enis for address in one.addresses}
        self.store = self.open()
        self.node = Books(*self.enis)
        self.answered: dict[Sandbox, str] = {}
        self.ended_at: dict[str, float] = {}

    def open(self) -> Checkpoint:
        return Checkpoint(self.path, boot_id="boot-1", clock=lambda: self.now)

    @property
    def ledger(self) -> Ledger:
        return self.node.ledger

    def save(self, change: Change) -> None:
        self.node.apply(change)
        self.store.save(self.ledger, change)

    @rule(numbers=st.lists(st.integers(0, 11), min_size=1, max_size=4))
    def assign(self, numbers: list[int]) -> None:
        asks = [ask(number) for number in numbers]
        change, answers = pools.assign(
            self.node.occupancy, self.ledger, asks, now=self.now, period_s=PERIOD_S, wall_ns=1
        )
        self.save(change)
        for one, holdings in zip(asks, answers, strict=True):
            for holding in holdings:
                assert self.answered.get(one.sandbox, holding.address) == holding.address
                ended = self.ended_at.get(holding.address)
                assert one.sandbox in self.answered or ended is None or self.now - ended > PERIOD_S
                self.answered[one.sandbox] = holding.address

    @rule(number=st.integers(0, 11))
    def release(self, number: int) -> None:
        self.save(books.release(self.ledger, [ask(number).sandbox], now=self.now))
        address = self.answered.pop(ask(number).sandbox, None)
        if address:
            self.ended_at[address] = self.now

    @rule(seconds=st.sampled_from([0.5, 10.0, PERIOD_S, PERIOD_S + 1]))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @rule(position=st.integers(0, 7))
    def fence(self, position: int) -> None:
        address = sorted(self.everything)[position]
        if address not in self.ledger.holders:
            self.save(books.fence(self.ledger, [block_of(address, in_force=True)], []))

    @precondition(lambda self: self.ledger.fenced)
    @rule()
    def ec2_takes_the_fenced_away_and_they_come_back_later(self) -> None:
        left = frozenset(self.everything - self.ledger.fenced)
        self.save(books.forget_gone(self.ledger, items=left, enis=frozenset({"eni-0", "eni-1"})))

    @rule(number=st.integers(0, 11))
    def fail_to_save(self, number: int) -> None:
        before = document(self.ledger)
        change = books.release(self.ledger, [ask(number).sandbox], now=self.now)
        self.node.apply(self.node.apply(change))
        assert document(self.ledger) == before

    @rule()
    def write_the_file_whole(self) -> None:
        self.store.fold(self.ledger)

    @rule()
    def die_before_the_rename_and_restart(self) -> None:
        (self.path.parent / "ipam.json.tmp1").write_bytes(b'{"version":"vpc-cni-ipam/1","alloc')
        self.restart()

    @rule()
    def die_in_the_middle_of_a_line_and_restart(self) -> None:
        log = self.path.with_name("ipam.json.log")
        if log.exists():
            with log.open("ab") as file:
                file.write(b'{"hold":[{"networkName":"aws-')
        self.restart()

    @rule()
    def restart(self) -> None:
        before = document(self.ledger)
        self.store = self.open()
        loaded = self.store.load()
        assert not loaded.trouble
        self.node = Books(*self.enis, ledger=loaded.ledger or Ledger())
        assert document(self.ledger) == before
        assert not list(self.path.parent.glob("*.tmp*"))
        self.store.save(self.ledger)

    @invariant()
    def the_counts_are_those_of_a_recount(self) -> None:
        recount = pools.Occupancy.of(self.node.occupancy.pool, self.ledger).used
        assert +self.node.occupancy.used == +recount
        assert {address: sandbox for sandbox, address in self.answered.items()} == self.ledger.holders

    @invariant()
    def every_address_is_in_exactly_one_place(self) -> None:
        held = [holding.address for holding in self.ledger.holdings()]
        assert len(held) == len(set(held))
        assert not set(held) & self.ledger.fenced
        assert not set(held) & set(self.ledger.released_at)

    @invariant()
    def every_answered_sandbox_still_holds_its_address(self) -> None:
        assert {holding.sandbox: holding.address for holding in self.ledger.holdings()} == self.answered

    def teardown(self) -> None:
        if hasattr(self, "folder"):
            self.folder.cleanup()


class LoggedLedgerMachine(LedgerMachine):
    """The same with the log in use from the third holding on."""

    @initialize()
    def start(self) -> None:
        super().start()
        self.before = checkpoint.LOG_FROM
        checkpoint.LOG_FROM = 2  # type: ignore[misc]

    def teardown(self) -> None:
        checkpoint.LOG_FROM = self.before  # type: ignore[misc]
        super().teardown()


LoggedLedgerMachine.TestCase.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
TestLoggedLedger = LoggedLedgerMachine.TestCase
LedgerMachine.TestCase.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
TestLedger = pytest.mark.spec("ipam.W15")(LedgerMachine.TestCase)

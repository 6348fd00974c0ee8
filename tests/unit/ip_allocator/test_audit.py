"""The ledger against the kernel: nobody is released for want of one look, nobody adopted from a picture that is behind."""

from __future__ import annotations

import pytest

from vpccni.components.ip_allocator.audit import MISSING_FOR_S, NOTHING, UNKNOWN_FOR_S, compare
from vpccni.components.ip_allocator.ledger import Holding, Ledger
from vpccni.shared.messages.base import PodRef, Sandbox
from vpccni.shared.messages.wiring import Wiring, Wirings

ONE, TWO = Sandbox("c1", "eth0"), Sandbox("c2", "eth0")
POD = PodRef("default", "web")


def wirings(*sandboxes: Sandbox, in_flight: tuple[Sandbox, ...] = (), address: str = "10.0.0.9") -> Wirings:
    return Wirings(wirings=[Wiring(one, POD, "eni1", 7, [address]) for one in sandboxes], in_flight=list(in_flight))


@pytest.mark.spec("ipam.W17")
def test_a_sandbox_without_a_veth_is_released_only_after_more_than_an_adds_deadline() -> None:
    ledger = Ledger([Holding(ONE, POD, "10.0.0.5")])
    first = compare(ledger, wirings(), NOTHING, now=100, wall_ns=0)
    early = compare(ledger, wirings(), first, now=100 + MISSING_FOR_S, wall_ns=0)
    late = compare(ledger, wirings(), early, now=100.1 + MISSING_FOR_S, wall_ns=0)
    assert (first.gone, early.gone, late.gone) == ((), (), (ONE,))


def test_an_add_in_flight_is_never_released_and_starts_the_count_anew() -> None:
    ledger = Ledger([Holding(ONE, POD, "10.0.0.5")])
    first = compare(ledger, wirings(), NOTHING, now=0, wall_ns=0)
    flying = compare(ledger, wirings(in_flight=(ONE,)), first, now=20, wall_ns=0)
    after = compare(ledger, wirings(), flying, now=40, wall_ns=0)
    assert after.gone == ()


def test_a_wired_stranger_is_adopted_when_it_is_still_there_later() -> None:
    first = compare(Ledger(), wirings(TWO), NOTHING, now=0, wall_ns=3)
    later = compare(Ledger(), wirings(TWO), first, now=UNKNOWN_FOR_S, wall_ns=3)
    assert first.adopted == ()
    assert [holding.address for holding in later.adopted] == ["10.0.0.9"]


def test_a_rebuild_adopts_at_once_and_a_contested_address_is_told_not_taken() -> None:
    ledger = Ledger([Holding(ONE, POD, "10.0.0.9")])
    found = compare(ledger, wirings(ONE, TWO), NOTHING, now=0, wall_ns=0, at_once=True)
    assert found.adopted == ()
    assert len(found.conflicts) == 1
    assert "10.0.0.9" in found.conflicts[0]

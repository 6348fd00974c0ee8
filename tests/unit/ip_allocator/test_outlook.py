"""What is told of the ledger fits into a message, however large the ledger is."""

from __future__ import annotations

import msgspec
import pytest

from vpccni.components.ip_allocator.ledger import Holding, Ledger
from vpccni.components.ip_allocator.outlook import ledger_state
from vpccni.shared.codec import MESSAGE_BYTES_AT_MOST, pack
from vpccni.shared.messages.allocation import LedgerState
from vpccni.shared.messages.base import PodRef, Sandbox
from vpccni.shared.messages.common import Snapshot


def ledger(count: int, *, name: str) -> Ledger:
    return Ledger(
        Holding(
            Sandbox(f"{number:064d}", "eth0"),
            PodRef("n" * 63, f"{name}{number}", "01234567-89ab-cdef-0123-456789abcdef"),
            f"2600:1f13:1234:5678:9abc::{number:04x}",
            "eni-0123456789abcdef0",
            assigned_at_ns=1_700_000_000_000_000_000 + number,
        )
        for number in range(count)
    )


@pytest.mark.parametrize("name", ["p", "p" * 245, "\N{LATIN SMALL LETTER AE}" * 120])
def test_ten_thousand_addresses_are_told_as_far_as_a_message_goes_the_latest_first(name: str) -> None:
    told = ledger_state(ledger(10_000, name=name))
    assert len(pack(told)) < MESSAGE_BYTES_AT_MOST * 0.8
    body = ("allocation.ledger_state", msgspec.to_builtins(told))
    assert len(pack(Snapshot(epoch="e" * 16, sequence=1, messages=[body]))) < MESSAGE_BYTES_AT_MOST * 0.8
    assert len(told.entries) + told.omitted == 10_000
    assert len(told.entries) > 1000
    assert told.entries[-1].pod.name == f"{name}9999"
    assert [entry.assigned_at_ns for entry in told.entries] == sorted(entry.assigned_at_ns for entry in told.entries)


def test_a_node_of_ordinary_size_is_told_whole() -> None:
    small = ledger(737, name="pod-with-an-ordinary-name-")
    told = ledger_state(small)
    assert isinstance(told, LedgerState)
    assert (len(told.entries), told.omitted) == (737, 0)
    assert [entry.sandbox for entry in told.entries] == list(small.held)


def test_what_cools_is_told_with_the_time_of_its_release_and_what_is_held_again_is_not() -> None:
    one = ledger(2, name="p")
    held = next(iter(one.holders))
    again = Ledger(one.holdings(), released_at={"10.9.9.9": 5.0, held: 4.0}, fenced_enis=["eni-9"])
    assert (ledger_state(again).cooling, ledger_state(again).fenced_enis) == ([("10.9.9.9", 5.0)], ["eni-9"])

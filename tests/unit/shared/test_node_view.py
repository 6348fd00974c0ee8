from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.facts import an_eni, an_inventory
from support.node_copies import CALLS, NOW_NS, NOW_S, SECOND_NS, some_copies, some_heard

from vpccni.shared.messages.allocation import LedgerEntry, LedgerState
from vpccni.shared.messages.base import PodRef, Sandbox
from vpccni.shared.messages.wiring import UsableEni, UsableEnis
from vpccni.shared.node_view import COOLING, FENCED, FREE, HELD, STATES, WAITING, Copies, NodeView, view


def seen(copies: Copies) -> NodeView:
    return view(copies, some_heard(), wall_ns=NOW_NS, boot_s=NOW_S, cooldown_s=30)


def test_each_address_of_the_pool_has_one_state() -> None:
    enis = {eni.eni_id: eni for eni in seen(some_copies(3)).enis}
    states = {cell.address: cell.state for eni in enis.values() for block in eni.blocks for cell in block.cells}
    assert states["10.0.0.5"] == FREE
    assert states["10.0.0.6"] == FREE, "it has rested"
    assert states["10.0.2.9"] == WAITING, "its ENI is not confirmed"
    assert [states[f"10.0.16.{last}"] for last in range(4)] == [HELD, HELD, HELD, COOLING]
    assert states["10.0.31.240"] == FENCED
    assert enis["eni-1"].counts == {HELD: 3, FREE: 28, COOLING: 1, FENCED: 16, WAITING: 0}
    assert enis["eni-2"].marks == ("not confirmed by EC2 or metadata", "not usable in the kernel yet")
    assert enis["eni-3"].blocks == ()


def test_a_pod_comes_with_its_veth_and_what_the_programs_counted() -> None:
    rows = {row.address: row for row in seen(some_copies(3)).pods}
    assert len(rows) == 3
    assert rows["10.0.16.2"].pod == "default/web-002"
    assert rows["10.0.16.2"].host_veth == "eni00000000002"
    assert (rows["10.0.16.2"].ingress_bytes, rows["10.0.16.2"].egress_packets) == (4096, 6)
    assert (rows["10.0.16.2"].denied_packets, rows["10.0.16.1"].denied_packets) == (9, -1)
    assert rows["10.0.16.2"].held_s == pytest.approx(183)
    assert (rows["10.0.16.1"].host_veth, rows["10.0.16.1"].ingress_packets) == ("", -1)


def test_processes_say_their_own_word_and_silence_is_shown() -> None:
    rows = {row.name: row for row in seen(some_copies()).processes}
    assert {name: row.state for name, row in rows.items()} == {
        "eni_manager": "degraded",
        "ip_allocator": "serving",
        "netlink_programmer": "silent",
        "policy_agent": "silent",
        "metrics_publisher": "serving",
    }
    assert (rows["eni_manager"].restarts, rows["eni_manager"].up_s, rows["ip_allocator"].log_level) == (
        1,
        3690,
        "debug",
    )


def test_calls_are_counted_by_action_with_their_tokens() -> None:
    rows = {row.api: row for row in seen(some_copies()).calls}
    assign = rows["AssignPrivateIpAddresses"]
    assert (assign.calls, assign.errors, assign.mean_ms, assign.tokens) == (7, 2, 100, 12.5)
    assert rows["DeleteNetworkInterface"].denied
    assert rows["DescribeNetworkInterfaces"].tokens == -1
    twice = {(one.name, tuple(sorted(one.labels.items()))): one.value * 2 for one in CALLS}
    totals = view(some_copies(), some_heard(), wall_ns=NOW_NS, boot_s=NOW_S, cooldown_s=30, totals=twice)
    assert {row.api: row.calls for row in totals.calls}["AssignPrivateIpAddresses"] == 14


def test_with_no_copy_at_all_there_is_a_view_of_nothing() -> None:
    nothing = view(Copies(), {}, wall_ns=NOW_NS, boot_s=NOW_S, cooldown_s=30)
    assert (nothing.enis, nothing.pods, nothing.calls, nothing.pool) == ((), (), (), None)


def test_an_ipv6_prefix_shows_the_addresses_in_use_alone() -> None:
    entry = LedgerEntry("2001:db8::7", "eni-0", Sandbox("c", "eth0"), PodRef("a", "b", "u"), NOW_NS - SECOND_NS)
    copies = Copies(
        inventory=an_inventory(an_eni(0, prefixes=["2001:db8::/80"]), ipv6=True),
        ledger=LedgerState(entries=[entry], fenced=[]),
        usable=UsableEnis(enis=[UsableEni("eni-0", 254, 2)]),
    )
    (eni,) = seen(copies).enis
    assert [cell.address for block in eni.blocks for cell in block.cells] == ["2001:db8::7"]
    assert (eni.counts[HELD], eni.counts[FREE]) == (1, (1 << 48) - 1)


@given(st.integers(0, 110))
def test_no_address_is_counted_twice_or_left_out(pods: int) -> None:
    shown = seen(some_copies(pods))
    for eni in shown.enis:
        assert sum(eni.counts.values()) == sum(block.total for block in eni.blocks)
        assert set(eni.counts) == set(STATES)
    assert sum(eni.counts[HELD] for eni in shown.enis) == len(shown.pods) == pods


def test_a_view_is_plain_data() -> None:
    assert dataclasses.asdict(seen(some_copies()))["name"] == "ip-10-0-0-4.example"

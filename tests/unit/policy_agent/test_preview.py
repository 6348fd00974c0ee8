"""What would change is what changes: random policies before and after, and the outcome of packets under both."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.support.rule_sets import judged, packets, policy_sets

from vpccni.components.policy_agent import preview
from vpccni.components.policy_agent.compiler import RuleSet, compile_rule_set
from vpccni.components.policy_agent.evaluate import Packet
from vpccni.components.policy_agent.policy import (
    SCTP,
    TCP,
    UDP,
    Direction,
    Policy,
    PolicyKey,
    Ports,
    Rule,
    Tier,
    prefix,
)

NAMED = {"TCP": TCP, "UDP": UDP, "SCTP": SCTP}


def policy(*rules: Rule, audit: bool = False) -> Policy:
    key = PolicyKey("NetworkPolicy", "shop", "p")
    return Policy(key, Tier.NETWORK_POLICY, (rules, ()), frozenset({Direction.INGRESS}), audit=audit)


def changes(before: list[Policy], after: list[Policy]) -> list[preview.Difference]:
    return preview.differences(compile_rule_set(before, strict=False), compile_rule_set(after, strict=False))


def test_a_first_policy_denies_all_but_what_it_allows() -> None:
    one = policy(Rule(prefix("10.1.0.0/16"), (), (Ports(TCP, 80, 80),)), Rule(prefix("10.1.1.7")))
    assert changes([], [one]) == [
        (Direction.INGRESS, "denied", ("every port",), ("0.0.0.0/0 except 10.1.0.0/16", "::/0")),
        (
            Direction.INGRESS, "denied", ("TCP 0-79", "TCP 81-65535", "protocols other than TCP"),
            ("10.1.0.0/16 except 10.1.1.7/32",),
        ),
    ]  # fmt: skip


def test_a_change_tells_what_is_new_and_the_same_again_tells_nothing() -> None:
    before, after = policy(Rule(prefix("10.1.1.1"))), policy(Rule(prefix("10.1.1.1")), Rule(prefix("10.1.1.2")))
    assert changes([before], [after]) == [(Direction.INGRESS, "allowed", ("every port",), ("10.1.1.2/32",))]
    assert changes([after], [before]) == [(Direction.INGRESS, "denied", ("every port",), ("10.1.1.2/32",))]
    assert changes([after], [after]) == []
    told = changes([], [policy(audit=True)])
    assert {one.outcome for one in told} == {"audit deny"}


@given(policy_sets(), policy_sets(), st.lists(packets, min_size=1, max_size=12), st.booleans())
@settings(max_examples=200, deadline=None)
def test_exactly_what_changes_is_told(
    before: list[Policy], after: list[Policy], sent: list[Packet], strict: bool
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(preview, "EXCEPTS_SHOWN", 1000)
        sets = [compile_rule_set(one, strict=strict) for one in (before, after)]
        told = preview.differences(*sets)
    for packet in sent:
        was, new = (_outcome(one, packet) for one in sets)
        found = {one.outcome for one in told if _speaks_of(one, packet)}
        assert found == (set() if was == new else {new}), packet


def _outcome(rule_set: RuleSet, packet: Packet) -> str:
    decision = judged(rule_set, packet)
    return "audit deny" if decision.audit else "allowed" if decision.allowed else "denied"


def _speaks_of(one: preview.Difference, packet: Packet) -> bool:
    in_ports = any(_has(text, packet) for text in one.ports)
    return one.direction is packet.direction and in_ports and any(_holds(text, packet) for text in one.peers)


def _has(text: str, packet: Packet) -> bool:
    if text == preview.EVERY_PORT:
        return True
    if text.startswith("protocols other than "):
        named = text.removeprefix("protocols other than ").split(", ")
        return packet.protocol not in {NAMED[one] for one in named}
    name, _, ports = text.partition(" ")
    first, _, last = (ports or "0-65535").partition("-")
    return NAMED[name] == packet.protocol and int(first) <= packet.port <= int(last or first)


def _holds(text: str, packet: Packet) -> bool:
    network, _, excepts = text.partition(" except ")
    without = excepts.split(", ") if excepts else []
    return prefix(network).holds(packet.peer) and not any(prefix(one).holds(packet.peer) for one in without)

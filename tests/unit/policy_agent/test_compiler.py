from __future__ import annotations

import time
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.support.rule_sets import judged, packets, policy_sets

from vpccni.components.policy_agent.compiler import compile_rule_set, port_prefixes
from vpccni.components.policy_agent.evaluate import Packet, evaluate
from vpccni.components.policy_agent.policy import (
    SCTP,
    TCP,
    UDP,
    Action,
    Direction,
    Policy,
    PolicyKey,
    Ports,
    Rule,
    Tier,
    prefix,
)

INGRESS = frozenset({Direction.INGRESS})


def network_policy(*rules: Rule, name: str = "p", isolates: frozenset[Direction] = INGRESS) -> Policy:
    return Policy(PolicyKey("NetworkPolicy", "shop", name), Tier.NETWORK_POLICY, (rules, ()), isolates)


def cluster_policy(tier: Tier, priority: int, *rules: Rule, name: str = "c") -> Policy:
    return Policy(PolicyKey("ClusterNetworkPolicy", "", name), tier, (rules, rules), priority=priority)


def allows(
    policies: list[Policy], peer: str, port: int, *, protocol: int = TCP, strict: bool = False,
    direction: Direction = Direction.INGRESS,
) -> bool:  # fmt: skip
    """What the compiled rule set says, which must be what the direct evaluation says."""
    packet = Packet(direction, prefix(peer), protocol, port)
    decision = judged(compile_rule_set(policies, strict=strict), packet)
    direct = evaluate(policies, packet, strict=strict).decision
    assert (decision.allowed, decision.tier) == (direct.allowed, direct.tier)
    return decision.allowed


@given(policy_sets(), st.lists(packets, min_size=1, max_size=20), st.booleans())
@settings(max_examples=400)
@pytest.mark.spec("policy.W-4", "policy.W-5")
def test_the_compiled_tables_say_what_the_policies_say(
    policies: list[Policy], sent: list[Packet], strict: bool
) -> None:
    rule_set = compile_rule_set(policies, strict=strict)
    for packet in sent:
        decision, reason = judged(rule_set, packet), evaluate(policies, packet, strict=strict)
        assert decision._replace(rule=0) == reason.decision
        assert (decision.rule == 0) == (reason.rule is None and not decision.audit)
        if decision.rule:
            named = rule_set.rules[decision.rule]
            assert named.action is (Action.DENY if decision.audit or not decision.allowed else Action.ACCEPT)
            assert named.audit == decision.audit
            assert reason.rule is None or named.tier is decision.tier
            assert not named.ports or any(ports.has(packet.protocol, packet.port) for ports in named.ports)


@pytest.mark.spec("policy.T-115")
def test_each_protocol_of_a_cluster_policy_follows_its_own_rule() -> None:
    both = cluster_policy(
        Tier.ADMIN,
        1,
        Rule(prefix("10.0.0.0/8"), (), (Ports(UDP),)),
        Rule(prefix("10.0.0.0/8"), (), (Ports(TCP),), Action.DENY),
    )
    assert allows([both, network_policy()], "10.1.1.1", 53, protocol=UDP)
    assert not allows([both], "10.1.1.1", 53, protocol=TCP)
    assert allows([both], "10.1.1.1", 53, protocol=SCTP)


@pytest.mark.parametrize("tier", [Tier.NETWORK_POLICY, Tier.ADMIN, Tier.BASELINE])
def test_a_policy_in_audit_mode_denies_nothing_and_its_denial_is_named(tier: Tier) -> None:
    if tier is Tier.NETWORK_POLICY:
        told = network_policy(Rule(prefix("10.1.1.1")), name="told")
    else:
        told = cluster_policy(tier, 5, Rule(prefix("10.2.0.0/16"), (), (), Action.DENY), name="told")
    told = replace(told, audit=True)
    rule_set = compile_rule_set([told], strict=False)
    good, bad = (judged(rule_set, Packet(Direction.INGRESS, prefix(one), TCP, 80)) for one in ("10.1.1.1", "10.2.0.1"))
    assert (good.allowed, good.audit) == (True, False)
    assert (bad.allowed, bad.audit, bad.tier) == (True, True, tier)
    assert rule_set.rules[bad.rule].policy == told.key
    assert rule_set.judges
    assert not rule_set.sides[0].isolated, "what cannot be read passes too"


def test_audit_mode_opens_nothing() -> None:
    """Neither strict mode nor an enforced policy is loosened by what a policy in audit mode allows."""
    told = replace(network_policy(Rule(prefix("10.1.1.1")), name="told"), audit=True)
    assert not allows([told], "10.1.1.1", 80, strict=True)
    assert not allows([told, network_policy(Rule(prefix("10.3.0.0/16")))], "10.1.1.1", 80)
    admin = replace(cluster_policy(Tier.ADMIN, 1, Rule(prefix("10.1.1.1"))), audit=True)
    assert not allows([admin, network_policy()], "10.1.1.1", 80)


@given(policy_sets(), st.randoms(use_true_random=False))
def test_the_order_of_policies_and_rules_changes_no_byte(policies: list[Policy], random: object) -> None:
    turned = [
        Policy(one.key, one.tier, (one.rules[0][::-1], one.rules[1][::-1]), one.isolates, one.priority, one.audit)
        for one in reversed(policies)
    ]
    assert compile_rule_set(turned, strict=False) == compile_rule_set(policies, strict=False)


@given(st.integers(0, 65535), st.integers(0, 65535))
def test_port_prefixes_cover_exactly_their_range(one: int, other: int) -> None:
    first, last = sorted((one, other))
    at = first
    for port, length in port_prefixes(first, last):
        assert port == at
        at += 1 << (16 - length)
    assert at == last + 1
    assert len(port_prefixes(first, last)) <= 30


@pytest.mark.spec("policy.T-031", "policy.T-032", "policy.T-033", "policy.T-141")
def test_an_except_subtracts_from_its_own_rule_alone() -> None:
    web, tls = (Ports(TCP, 80, 80),), (Ports(TCP, 443, 443),)
    everything_but_ten = Rule(prefix("0.0.0.0/0"), (prefix("10.0.0.0/8"),))
    assert allows([network_policy(everything_but_ten, Rule(prefix("0.0.0.0/0"), (), web))], "10.1.1.1", 80)
    ten = Rule(prefix("10.0.0.0/8"), (prefix("10.1.0.0/16"),))
    assert allows([network_policy(ten, Rule(prefix("10.0.0.0/12"), (), tls))], "10.1.1.1", 443)
    ten = Rule(prefix("10.0.0.0/8"), (prefix("10.0.0.0/16"),))
    assert allows([network_policy(ten, Rule(prefix("10.0.0.0/12"), (), tls))], "10.2.3.4", 8080)
    nested = [
        network_policy(
            Rule(prefix("10.0.0.0/8"), (prefix("10.1.1.0/24"),)),
            Rule(prefix("10.1.0.0/16"), (), tls),
            Rule(prefix("10.1.1.7"), (), web),
        )
    ]
    assert [allows(nested, "10.1.1.7", port) for port in (80, 443, 9999)] == [True, True, False]


@pytest.mark.spec("policy.T-027", "policy.T-029", "policy.T-030", "policy.T-034")
def test_networks_inside_networks_unite_their_ports() -> None:
    host_bits = Rule(prefix("10.161.0.0/8"), (), (Ports(TCP, 80, 80),))
    assert allows([network_policy(host_bits, Rule(prefix("10.1.0.0/16"), (), (Ports(TCP, 443, 443),)))], "10.1.1.1", 80)
    everything_but = Rule(prefix("0.0.0.0/0"), (prefix("10.1.0.0/16"),))
    database = Rule(prefix("10.1.0.0/16"), (), (Ports(TCP, 3306, 3306),))
    peer = Rule(prefix("10.1.5.5"), (), (Ports(TCP, 80, 80),))
    assert [allows([network_policy(everything_but, database)], "10.1.9.9", port) for port in (3306, 80)] == [
        True,
        False,
    ]
    assert [allows([network_policy(everything_but, peer)], "10.1.5.5", port) for port in (80, 81)] == [True, False]
    assert allows([network_policy(everything_but, peer)], "10.2.0.1", 81)


@pytest.mark.spec("policy.T-036", "policy.T-037", "policy.T-038", "policy.T-039", "policy.T-040")
def test_ports_and_protocols() -> None:
    here = prefix("10.1.1.1")
    one = [network_policy(Rule(here, (), (Ports(TCP, 80, 80),)))]
    assert [allows(one, "10.1.1.1", 80), allows(one, "10.1.1.1", 81)] == [True, False]
    assert not allows(one, "10.1.1.1", 80, protocol=UDP)
    whole = [network_policy(Rule(here, (), (Ports(UDP),)))]
    assert [allows(whole, "10.1.1.1", 0, protocol=UDP), allows(whole, "10.1.1.1", 0)] == [True, False]
    range_of_ports = [network_policy(Rule(here, (), (Ports(TCP, 8000, 8010),)))]
    assert [allows(range_of_ports, "10.1.1.1", port) for port in (7999, 8000, 8005, 8010, 8011)] == [
        False, True, True, True, False,
    ]  # fmt: skip
    assert allows([network_policy(Rule(here, (), (Ports(SCTP, 9999, 9999),)))], "10.1.1.1", 9999, protocol=SCTP)


@pytest.mark.spec("policy.T-049", "policy.T-050", "policy.W-2")
def test_a_thousand_ports_on_one_address_are_all_and_only_those() -> None:
    ports = tuple(Ports(TCP, port, port) for port in range(1, 2001, 2))
    policies = [network_policy(Rule(prefix("10.1.1.1"), (), ports))]
    rule_set = compile_rule_set(policies, strict=False)
    opened = [
        port
        for port in (*range(2100), *range(2100, 65536, 97))
        if judged(rule_set, Packet(Direction.INGRESS, prefix("10.1.1.1"), TCP, port)).allowed
    ]
    assert opened == list(range(1, 2001, 2))
    everything = network_policy(Rule(prefix("10.1.1.1")), name="all")
    assert allows([*policies, everything], "10.1.1.1", 2)
    assert all(compile_rule_set(policies, strict=False) == rule_set for _ in range(5))


@pytest.mark.spec(
    "policy.T-106", "policy.T-107", "policy.T-108", "policy.T-109", "policy.T-110", "policy.T-111", "policy.T-112",
    "policy.T-113", "policy.T-116", "policy.T-117",
)  # fmt: skip
def test_tiers_and_priorities() -> None:
    anywhere = prefix("0.0.0.0/0")
    allow, closed = network_policy(Rule(anywhere)), network_policy()

    def rule(action: Action, *ports: Ports) -> Rule:
        return Rule(anywhere, (), ports, action)

    def cluster(tier: Tier, priority: int, action: Action, name: str = "c") -> Policy:
        return cluster_policy(tier, priority, rule(action), name=name)

    deny, accept, passing = Action.DENY, Action.ACCEPT, Action.PASS
    admin, baseline = Tier.ADMIN, Tier.BASELINE
    assert not allows([cluster(admin, 10, deny), allow], "10.1.1.1", 80)
    assert allows([cluster(admin, 10, accept), closed], "10.1.1.1", 80)
    assert allows([cluster(admin, 10, accept), cluster(admin, 50, deny, "d")], "10.1.1.1", 80)
    assert not allows([cluster(admin, 50, accept), cluster(admin, 10, deny, "d")], "10.1.1.1", 80)
    assert not allows([cluster(admin, 10, accept), cluster(admin, 10, deny, "d")], "10.1.1.1", 80)
    assert allows([cluster(admin, 10, passing), cluster(admin, 20, deny, "d"), allow], "10.1.1.1", 80)
    assert not allows([cluster(admin, 10, passing), cluster(baseline, 1, deny, "d")], "10.1.1.1", 80)
    assert allows([cluster(admin, 10, passing)], "10.1.1.1", 80)
    assert not allows([cluster(baseline, 1, accept), closed], "10.1.1.1", 80)
    assert allows([cluster(baseline, 1, deny), allow], "10.1.1.1", 80)
    assert not allows([cluster(baseline, 0, accept), cluster(admin, 1000, deny, "d")], "10.1.1.1", 80)
    assert not allows([cluster(baseline, 1, deny), allow], "10.1.1.1", 80, direction=Direction.EGRESS)
    nested = [
        cluster_policy(admin, 50, Rule(prefix("10.0.0.0/8"), (), (), deny)),
        cluster_policy(admin, 10, Rule(prefix("10.1.0.0/16"), (), (), accept), name="d"),
    ]
    assert [allows(nested, peer, 80) for peer in ("10.1.1.1", "10.2.1.1")] == [True, False]
    both = [cluster_policy(admin, 10, rule(deny), rule(deny, Ports(TCP, 443, 443)))]
    assert not allows(both, "10.1.1.1", 443, protocol=UDP)


@pytest.mark.spec("policy.5.6", "policy.T-075", "policy.T-077", "policy.T-120")
def test_strict_cuts_off_what_no_network_policy_selects() -> None:
    assert not allows([], "10.1.1.1", 80, strict=True)
    assert allows([], "10.1.1.1", 80)
    outward = network_policy(isolates=frozenset({Direction.EGRESS}))
    assert allows([outward], "10.1.1.1", 80, strict=True)
    accepted = cluster_policy(Tier.ADMIN, 1, Rule(prefix("10.1.1.1"), (), (), Action.ACCEPT))
    assert allows([accepted], "10.1.1.1", 80, strict=True)
    assert not allows([accepted], "10.1.1.2", 80, strict=True)


def test_rule_sets_with_the_same_peers_share_the_address_table() -> None:
    peers = [prefix(f"10.0.{number // 256}.{number % 256}") for number in range(500)]
    web, tls = (
        compile_rule_set([network_policy(*(Rule(one, (), (Ports(TCP, port, port),)) for one in peers))], strict=False)
        for port in (80, 443)
    )
    assert web.name != tls.name
    assert web.sides[0].addresses == tls.sides[0].addresses
    assert web.entries[:2] == (500, 0)


@pytest.mark.spec("policy.T-123", "policy.W-3")
def test_many_rules_on_one_network_cost_no_more_than_their_number() -> None:
    policies = [
        cluster_policy(
            Tier.ADMIN, 10, Rule(prefix("10.0.0.0/8"), (), (Ports(TCP, port, port),), Action.DENY), name=f"c{port}"
        )
        for port in range(1, 31)
    ]
    began = time.perf_counter()
    rule_set = compile_rule_set(policies, strict=False)
    assert time.perf_counter() - began < 2.0
    assert [len(table.entries) for table in rule_set.port_tables.values()] == [31, 31]

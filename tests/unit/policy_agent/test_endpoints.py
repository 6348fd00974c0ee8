from __future__ import annotations

from typing import Any

import msgspec
import pytest

from vpccni.components.policy_agent.endpoints import (
    MODE_ANNOTATION,
    PARTS_ANNOTATION,
    Endpoint,
    EndpointWire,
    endpoint,
    united,
)
from vpccni.components.policy_agent.policy import TCP, UDP, Action, Direction, PolicyKey, Ports, Rule, Tier, prefix

HOST = "10.0.1.20"


def read(spec: dict[str, Any], *, name: str = "p-1", namespace: str = "shop", **metadata: Any) -> Endpoint:
    document = {"metadata": {"name": name, "namespace": namespace, **metadata}, "spec": spec}
    return endpoint(msgspec.convert(document, EndpointWire), frozenset({HOST}))


def test_the_example_of_the_specification_is_read_whole() -> None:
    one = read(
        {
            "policyRef": {"name": "api-allow", "namespace": "shop"},
            "podIsolation": ["Ingress", "Egress"],
            "podSelectorEndpoints": [
                {"name": "api", "namespace": "shop", "podIP": "10.0.3.7", "hostIP": HOST},
                {"name": "elsewhere", "namespace": "shop", "podIP": "10.0.3.8", "hostIP": "10.0.1.21"},
                {"name": "host", "namespace": "shop", "podIP": HOST, "hostIP": HOST},
            ],
            "ingress": [{"cidr": "10.0.4.11", "ports": [{"protocol": "TCP", "port": 8080}]}],
            "egress": [
                {
                    "cidr": "0.0.0.0/0",
                    "except": ["10.0.0.0/8"],
                    "ports": [{"protocol": "TCP", "port": 443}, {"protocol": "TCP", "port": 8000, "endPort": 8100}],
                },
                {"domainName": "example.com", "ports": []},
            ],
        },
        ownerReferences=[{"kind": "NetworkPolicy", "name": "api-allow"}],
    )
    assert one.policy == PolicyKey("NetworkPolicy", "shop", "api-allow")
    assert one.isolates == {Direction.INGRESS, Direction.EGRESS}
    assert [pod.name for pod in one.pods] == ["api"]
    assert one.rules[0] == (Rule(prefix("10.0.4.11/32"), (), (Ports(TCP, 8080, 8080),)),)
    assert one.rules[1] == (
        Rule(prefix("0.0.0.0/0"), (prefix("10.0.0.0/8"),), (Ports(TCP, 443, 443), Ports(TCP, 8000, 8100))),
    )


@pytest.mark.spec("policy.T-014", "policy.T-134")
def test_policies_of_one_name_are_told_apart_by_their_owners_kind() -> None:
    kinds = [
        read({"policyRef": {"name": "p"}}, ownerReferences=[{"kind": kind}]).policy
        for kind in ("NetworkPolicy", "ApplicationNetworkPolicy")
    ]
    assert kinds[0] != kinds[1]


@pytest.mark.spec("policy.W-15", "policy.T-135")
def test_the_policys_name_is_never_guessed_from_the_objects() -> None:
    long = "x" * 253
    assert read({"policyRef": {"name": long}}, name="xxxxxabcde").policy.name == long


def test_a_cluster_object_has_tier_priority_and_actions() -> None:
    spec = {
        "policyRef": {"name": "c"},
        "tier": "Baseline",
        "priority": 20,
        "subject": {"namespaces": {"matchLabels": {"team": "a"}}},
        "egress": [{"cidr": "10.0.0.0/8", "action": "Deny", "ports": [{"protocol": "UDP"}]}],
    }
    one = read(spec, namespace="")
    assert (one.tier, one.priority) == (Tier.BASELINE, 20)
    assert one.rules[1] == (Rule(prefix("10.0.0.0/8"), (), (Ports(UDP),), Action.DENY),)
    assert one.subject is not None
    assert one.subject.namespaces is not None


@pytest.mark.parametrize(
    "rule",
    [
        {"cidr": "junk"},
        {"cidr": "10.0.0.0/8", "except": ["junk"]},
        {"cidr": "10.0.0.0/8", "ports": [{"protocol": "XYZ"}]},
        {"cidr": "10.0.0.0/8", "ports": [{"port": 90, "endPort": 80}]},
        {"cidr": "10.0.0.0/8", "ports": [{"port": 70000}]},
        {"cidr": "::ffff:10.0.0.1"},
    ],
)
def test_a_rule_that_cannot_be_read_opens_nothing_and_is_counted(rule: dict[str, Any]) -> None:
    one = read({"policyRef": {"name": "p"}, "podIsolation": ["Ingress"], "ingress": [rule, {"cidr": "10.0.0.1"}]})
    assert one.rules[0] == (Rule(prefix("10.0.0.1")),)
    assert one.unreadable == 1


@pytest.mark.spec("policy.T-122", "policy.W-31")
def test_a_domain_name_opens_nothing_and_is_no_fault() -> None:
    spec = {"policyRef": {"name": "p"}, "podIsolation": ["Egress"], "egress": [{"domainName": "example.com"}]}
    one = read(spec)
    assert (one.rules[Direction.EGRESS], one.unreadable) == ((), 0)
    assert one.isolates == {Direction.EGRESS}


def test_a_policy_is_in_audit_mode_when_all_its_objects_say_so() -> None:
    told = read({"policyRef": {"name": "p"}}, annotations={MODE_ANNOTATION: "audit"})
    enforced = read({"policyRef": {"name": "p"}})
    assert told.audit
    assert not enforced.audit
    assert united([told, told]).audit
    assert not united([told, enforced]).audit


@pytest.mark.parametrize(("told", "parts"), [("3", 3), ("", 0), ("some", 0), ("-1", 0)])
def test_an_object_tells_how_many_its_policy_has(told: str, parts: int) -> None:
    assert read({"policyRef": {"name": "p"}}, annotations={PARTS_ANNOTATION: told}).parts == parts


def test_all_objects_of_a_policy_count_together() -> None:
    first = read({"policyRef": {"name": "p"}, "podIsolation": ["Ingress"], "ingress": [{"cidr": "10.0.0.1"}]})
    second = read({"policyRef": {"name": "p"}, "podIsolation": ["Egress"], "ingress": [{"cidr": "10.0.0.2"}]})
    policy = united([first, second])
    assert [str(rule.network) for rule in policy.rules[0]] == ["10.0.0.1/32", "10.0.0.2/32"]
    assert policy.isolates == {Direction.INGRESS, Direction.EGRESS}

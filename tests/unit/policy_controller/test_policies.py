"""Documents to policies: what cannot be used is named, and nothing raises."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.policies import Doc, cluster_of, pod_document, policy

from vpccni.components.policy_controller.model import Kind, Policy, PortRule
from vpccni.components.policy_controller.policies import MODE_ANNOTATION, held_of
from vpccni.components.policy_controller.policy_wires import PolicyWire
from vpccni.components.policy_controller.resolve import resolve

SUBJECT: Doc = {"podSelector": {}}


def texts(read: Policy) -> str:
    return "\n".join(problem.text for problem in read.problems)


def with_egress(rule: Any) -> Doc:
    return {**SUBJECT, "policyTypes": ["Egress"], "egress": [rule, {"to": [{"podSelector": {}}]}]}


@pytest.mark.parametrize(
    ("rule", "word"),
    [
        ({"to": [{"ipBlock": {"cidr": "10.0.0.0/255.0.0.0"}}]}, "no CIDR"),
        ({"to": [{"ipBlock": {"cidr": "10.0.0.0/8", "except": ["junk"]}}]}, "no CIDR"),
        ({"to": [{"ipBlock": {"cidr": "10.0.0.0/8"}, "podSelector": {}}]}, "exactly one"),
        ({"to": [{}]}, "exactly one"),
        ({"to": [{"podSelector": {"matchExpressions": [{"key": "a", "operator": "Like", "values": ["x"]}]}}]}, "Like"),
        ({"to": [{"podSelector": {"matchExpressions": [{"key": "a", "operator": "In"}]}}]}, "takes values"),
        ({"ports": [{"protocol": "ICMP"}]}, "ICMP"),
        ({"ports": [{"port": 70000}]}, "70000"),
        ({"ports": [{"port": 90, "endPort": 80}]}, "range"),
        ({"ports": [{"port": "http", "endPort": 80}]}, "endPort"),
        ({"ports": [{"endPort": 80}]}, "endPort"),
        ({"ports": [{"port": True}]}, "port"),
        ("no rule", "Expected"),
    ],
)
def test_a_bad_part_is_named_with_its_place_and_allows_nothing_while_others_hold(rule: Any, word: str) -> None:
    read = policy(Kind.APPLICATION, with_egress(rule))
    assert word in texts(read)
    assert "spec.egress[0]" in texts(read)
    entries = resolve(read, cluster_of([pod_document("a", "10.0.0.1")])).egress
    assert {entry.cidr for entry in entries} == {"10.0.0.1"}


@pytest.mark.parametrize("spec", [None, [], "x", {"podSelector": []}, {"podSelector": {"matchExpressions": [{}]}}])
def test_a_policy_whose_subject_cannot_be_read_selects_nothing(spec: Any) -> None:
    for kind in Kind:
        read = policy(kind, spec)
        if spec is not None or kind is Kind.CLUSTER:
            assert read.subject is None
            assert read.problems
        resolve(read, cluster_of([pod_document("a", "10.0.0.1")]))


@pytest.mark.parametrize(
    "change", [{"tier": "Middle"}, {"priority": 1001}, {"subject": {}}, {"subject": {"networks": ["10.0.0.0/8"]}}]
)
def test_a_cluster_policy_without_place_or_subject_is_not_used(change: Doc) -> None:
    spec = {"tier": "Admin", "priority": 1, "subject": {"namespaces": {}}, **change}
    assert policy(Kind.CLUSTER, spec).subject is None


@pytest.mark.spec("policy.T-121")
def test_domains_with_deny_or_beside_another_selector_are_refused() -> None:
    rule = {"action": "Deny", "to": [{"domainNames": ["example.com"]}]}
    spec = {"tier": "Admin", "priority": 1, "subject": {"namespaces": {}}, "egress": [rule]}
    assert "domainNames" in texts(policy(Kind.CLUSTER, spec))
    mixed = {"to": [{"domainNames": ["example.com"], "podSelector": {}}]}
    assert "exactly one" in texts(policy(Kind.APPLICATION, with_egress(mixed)))


def test_an_exception_that_covers_its_block_leaves_nothing_and_one_beside_it_changes_nothing() -> None:
    rules = [{"to": [{"ipBlock": {"cidr": "10.0.0.0/8", "except": [other]}}]} for other in ("10.0.0.0/7", "11.0.0.0/8")]  # fmt: skip
    covered, beside = policy(Kind.NETWORK, {**SUBJECT, "egress": rules}).egress
    assert covered.blocks == ()
    assert beside.blocks[0].excepts == ()


def test_types_are_defaulted_as_kubernetes_does() -> None:
    for spec, isolation in (
        ({}, ("Ingress",)),
        ({"egress": [{}]}, ("Ingress", "Egress")),
        ({"policyTypes": ["Egress", "Ingress"]}, ("Ingress", "Egress")),
        ({"policyTypes": ["Egress"]}, ("Egress",)),
    ):
        assert policy(Kind.NETWORK, {**SUBJECT, **spec}).isolation == isolation


def test_an_empty_list_of_peers_means_any_to_one_kind_and_none_to_the_other() -> None:
    spec = {**SUBJECT, "ingress": [{"from": []}]}
    assert [policy(kind, spec).ingress[0].is_anywhere for kind in (Kind.NETWORK, Kind.APPLICATION)] == [True, False]


def test_a_range_of_one_port_is_that_port() -> None:
    spec = {**SUBJECT, "ingress": [{"ports": [{"port": 80, "endPort": 80}]}]}
    assert policy(Kind.NETWORK, spec).ingress[0].ports == (PortRule("TCP", 80),)


def test_audit_mode_is_read_and_another_word_is_told() -> None:
    assert policy(Kind.NETWORK, SUBJECT, annotations={MODE_ANNOTATION: "audit"}).is_audit
    other = policy(Kind.NETWORK, SUBJECT, annotations={MODE_ANNOTATION: "watch"})
    assert not other.is_audit
    assert "watch" in texts(other)


scalars = st.one_of(st.none(), st.booleans(), st.integers(-1, 70000), st.sampled_from(("TCP", "http", "10.0.0.0/8", "Admin", "Deny", "In", "")))  # fmt: skip
names = st.sampled_from(
    "podSelector namespaceSelector matchLabels matchExpressions key operator values ingress egress from to ports protocol port endPort ipBlock cidr except domainNames "
    "policyTypes tier priority subject namespaces pods networks action portNumber portRange namedPort start end".split()
)
junk = st.recursive(scalars, lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(names, inner, max_size=4)), max_leaves=25)  # fmt: skip


@pytest.mark.spec("policy.W-16")
@settings(max_examples=300, deadline=None)
@given(st.sampled_from(tuple(Kind)), junk)
def test_no_document_raises(kind: Kind, spec: Any) -> None:
    wire = msgspec.json.decode(json.dumps({"metadata": {"name": "p", "namespace": "n"}, "spec": spec}), type=PolicyWire)
    resolve(held_of(kind, wire).policy, cluster_of([pod_document("a", "10.0.0.1")]))

"""PolicyEndpoint and ClusterPolicyEndpoint: what of the objects is read, and what it means. Pure (spec policy.md 2.2, 2.3).

A rule that cannot be read (no address, a protocol nobody knows) is left out and counted; the rest of its object counts. Domain
names are not enforced (spec policy.md 1): they open nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Final, NamedTuple

import msgspec

from vpccni.components.policy_agent.policy import (
    PORT_AT_MOST,
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
from vpccni.components.policy_agent.selectors import Selector
from vpccni.shared.kube import Wire

PROTOCOLS: Final[Mapping[str, int]] = {"TCP": TCP, "UDP": UDP, "SCTP": SCTP}
TIERS: Final[Mapping[str, Tier]] = {"Admin": Tier.ADMIN, "Baseline": Tier.BASELINE}
ACTIONS: Final[Mapping[str, Action]] = {"Accept": Action.ACCEPT, "Deny": Action.DENY, "Pass": Action.PASS}
DIRECTIONS: Final[Mapping[str, Direction]] = {"Ingress": Direction.INGRESS, "Egress": Direction.EGRESS}
CLUSTER_KIND: Final = "ClusterNetworkPolicy"
DEFAULT_KIND: Final = "NetworkPolicy"


class PortWire(msgspec.Struct, frozen=True, rename="camel"):
    protocol: str = "TCP"
    port: int | None = None
    end_port: int | None = None


class RuleWire(msgspec.Struct, frozen=True, rename={"excepts": "except"}):
    cidr: str = ""
    excepts: list[str] = []
    ports: list[PortWire] = []
    action: str = "Accept"


class PodWire(msgspec.Struct, frozen=True, rename={"host": "hostIP", "address": "podIP"}):
    host: str = ""
    address: str = ""
    name: str = ""
    namespace: str = ""


class PolicyRefWire(msgspec.Struct, frozen=True):
    name: str = ""
    namespace: str = ""


class PairWire(msgspec.Struct, frozen=True, rename="camel"):
    namespace_selector: Selector = Selector()
    pod_selector: Selector = Selector()


class SubjectWire(msgspec.Struct, frozen=True):
    namespaces: Selector | None = None
    pods: PairWire | None = None


class SpecWire(msgspec.Struct, frozen=True, rename="camel"):
    policy_ref: PolicyRefWire = PolicyRefWire()
    pod_selector: Selector | None = None
    pod_isolation: list[str] = []
    pod_selector_endpoints: list[PodWire] = []
    ingress: list[RuleWire] = []
    egress: list[RuleWire] = []
    tier: str = ""
    priority: int = 0
    subject: SubjectWire = SubjectWire()


class EndpointWire(Wire, frozen=True):
    """Either kind: members that the other has are at their defaults."""

    spec: SpecWire = SpecWire()


class ListedPod(NamedTuple):
    """A pod of this node that the object names."""

    namespace: str
    name: str
    address: str


@dataclass(frozen=True, slots=True)
class Subject:
    """Whom the policy means, by labels; `namespaces` None: the policy's own namespace."""

    pods: Selector
    namespaces: Selector | None = None


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One object. `unreadable`: rules that were left out. `triggered`: when the cause of its last change happened, as told.

    `parts`: how many objects its policy has, as it says; 0 where it does not. `owner`: the uid of what it was made for, empty where it
    does not say: pods that name a port differently are in objects of several policies with one owner.
    """

    policy: PolicyKey
    tier: Tier
    rules: tuple[tuple[Rule, ...], tuple[Rule, ...]]
    isolates: frozenset[Direction]
    pods: frozenset[ListedPod]
    subject: Subject | None
    priority: int = 0
    unreadable: int = 0
    triggered: str = ""
    audit: bool = False
    parts: int = 0
    owner: str = ""


TRIGGER_ANNOTATION: Final = "networking.k8s.aws/last-change-trigger-time"
MODE_ANNOTATION: Final = "networking.k8s.aws/policy-mode"
PARTS_ANNOTATION: Final = "networking.k8s.aws/endpoint-parts"
AUDIT: Final = "audit"


def endpoint(wire: EndpointWire, local_hosts: frozenset[str]) -> Endpoint:
    """Return what an object means to a node with these addresses. Raises ValueError for a tier that is none."""
    spec, metadata = wire.spec, wire.metadata
    rules, unreadable = _rules(spec)
    # hostNetwork pods have their node's address: nothing is attached to them (spec policy.md 5.5, 2).
    pods = frozenset(
        ListedPod(one.namespace, one.name, one.address)
        for one in spec.pod_selector_endpoints
        if one.host in local_hosts and one.address != one.host
    )
    if not metadata.namespace:
        if spec.tier not in TIERS:
            raise ValueError(f"{spec.tier!r} is no tier")
        key = PolicyKey(CLUSTER_KIND, "", spec.policy_ref.name)
        tier, subject, isolates = TIERS[spec.tier], _cluster_subject(spec.subject), frozenset[Direction]()
    else:
        kind = next((one.kind for one in metadata.owner_references if one.kind), DEFAULT_KIND)
        key = PolicyKey(kind, spec.policy_ref.namespace or metadata.namespace, spec.policy_ref.name)
        tier = Tier.NETWORK_POLICY
        isolates = frozenset(DIRECTIONS[one] for one in spec.pod_isolation if one in DIRECTIONS)
        subject = None if spec.pod_selector is None else Subject(spec.pod_selector)
    triggered = metadata.annotations.get(TRIGGER_ANNOTATION, "")
    is_audit = metadata.annotations.get(MODE_ANNOTATION) == AUDIT
    told = metadata.annotations.get(PARTS_ANNOTATION, "")
    parts = int(told) if told.isascii() and told.isdigit() else 0
    owner = next((one.uid for one in metadata.owner_references if one.uid), "")
    return Endpoint(
        key, tier, rules, isolates, pods, subject, spec.priority, unreadable, triggered, is_audit, parts, owner
    )


def _cluster_subject(subject: SubjectWire) -> Subject | None:
    if subject.pods is not None:
        return Subject(subject.pods.pod_selector, subject.pods.namespace_selector)
    return None if subject.namespaces is None else Subject(Selector(), subject.namespaces)


def _rules(spec: SpecWire) -> tuple[tuple[tuple[Rule, ...], tuple[Rule, ...]], int]:
    both = [[_rule(one) for one in wires if one.cidr] for wires in (spec.ingress, spec.egress)]
    unreadable = sum(rule is None for rules in both for rule in rules)
    ingress, egress = (tuple(rule for rule in rules if rule is not None) for rules in both)
    return (ingress, egress), unreadable


def _rule(wire: RuleWire) -> Rule | None:
    try:
        ports = _ports(tuple(wire.ports))
        return Rule(prefix(wire.cidr), tuple(prefix(one) for one in wire.excepts), ports, ACTIONS[wire.action])
    except (ValueError, KeyError):
        return None


@lru_cache(maxsize=4096)
def _ports(wires: tuple[PortWire, ...]) -> tuple[Ports, ...]:
    """Return the ports of a rule; one tuple for all rules that say the same. Raises ValueError or KeyError."""
    return tuple(_range(one) for one in wires)


def _range(wire: PortWire) -> Ports:
    protocol = PROTOCOLS[wire.protocol]
    if wire.port is None:
        return Ports(protocol)
    last = wire.end_port if wire.end_port is not None else wire.port
    if not 0 <= wire.port <= last <= PORT_AT_MOST:
        raise ValueError(f"{wire.port} to {last} are no ports")
    return Ports(protocol, wire.port, last)


def united(endpoints: Iterable[Endpoint]) -> Policy:
    """Return a policy from all its objects: no list of one object means anything without the others' (spec policy.md 3.10).

    It is in audit mode when every object says so: until then it is enforced.
    """
    parts = list(endpoints)
    ingress, egress = (tuple(rule for part in parts for rule in part.rules[way]) for way in Direction)
    first = parts[0]
    isolates = frozenset[Direction]().union(*(one.isolates for one in parts))
    is_audit = all(one.audit for one in parts)
    return Policy(first.policy, first.tier, (ingress, egress), isolates, first.priority, is_audit)

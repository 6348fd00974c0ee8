"""Documents to policies: defaults of the API, and what is wrong with them. Never raises for what an object contains.

A part that cannot be used is left out and named in `problems`, so that one bad rule does not take the others with it. A bad part of an
allowing rule allows nothing; a document whose subject cannot be read selects nothing (spec policy.md W-16).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from ipaddress import IPv4Network, IPv6Network, ip_network
from typing import Any, Final, TypeVar

import msgspec

from vpccni.components.policy_controller import model
from vpccni.components.policy_controller.model import (
    ACTIONS,
    EGRESS,
    INGRESS,
    PROTOCOLS,
    TCP,
    TIERS,
    Block,
    Held,
    Kind,
    Network,
    PodPeer,
    Policy,
    PolicyId,
    PortRule,
    Problem,
    Rule,
)
from vpccni.components.policy_controller.selectors import (
    DOES_NOT_EXIST,
    EVERYTHING,
    EXISTS,
    IN,
    NOT_IN,
    OPERATORS,
    Requirement,
    Selector,
)
from vpccni.shared.kube import Wire

MODE_ANNOTATION: Final = "networking.k8s.aws/policy-mode"
"""On a policy: `audit` has it judged and logged, not enforced. Copied to its endpoint objects."""
AUDIT: Final = "audit"
MODES: Final = frozenset({AUDIT, "enforce"})
PORT_LAST: Final = 65535
PRIORITY_LAST: Final = 1000  # spec policy.md 2.4
PROBLEMS_AT_MOST: Final = 20
INVALID: Final = "Invalid"
W = TypeVar("W")


class PolicyWire(Wire, frozen=True):
    """Any of the three kinds; what is in it is read part by part."""

    spec: Any = None
    status: Any = None


# -- parts of documents


class _Expression(msgspec.Struct, frozen=True):
    key: str
    operator: str
    values: list[str] | None = None


class _Selector(msgspec.Struct, frozen=True, rename="camel"):
    match_labels: dict[str, str] | None = None
    match_expressions: list[_Expression] | None = None


class _IpBlock(msgspec.Struct, frozen=True):
    cidr: str
    excepts: list[str] | None = msgspec.field(default=None, name="except")


class _Peer(msgspec.Struct, frozen=True, rename="camel"):
    pod_selector: _Selector | None = None
    namespace_selector: _Selector | None = None
    ip_block: _IpBlock | None = None
    domain_names: list[str] | None = None


class _Port(msgspec.Struct, frozen=True, rename="camel"):
    protocol: str | None = None
    port: int | str | None = None
    end_port: int | None = None


class _Rule(msgspec.Struct, frozen=True):
    ports: list[Any] | None = None
    source: list[Any] | None = msgspec.field(default=None, name="from")
    to: list[Any] | None = None


class _Spec(msgspec.Struct, frozen=True, rename="camel"):
    pod_selector: _Selector = _Selector()
    policy_types: list[str] | None = None
    ingress: list[Any] | None = None
    egress: list[Any] | None = None


class _ClusterPods(msgspec.Struct, frozen=True, rename="camel"):
    namespace_selector: _Selector
    pod_selector: _Selector


class _ClusterPeer(msgspec.Struct, frozen=True, rename="camel"):
    namespaces: _Selector | None = None
    pods: _ClusterPods | None = None
    networks: list[str] | None = None
    domain_names: list[str] | None = None


class _PortNumber(msgspec.Struct, frozen=True):
    port: int
    protocol: str | None = None


class _PortRange(msgspec.Struct, frozen=True):
    start: int
    end: int
    protocol: str | None = None


class _ClusterPort(msgspec.Struct, frozen=True, rename="camel"):
    port_number: _PortNumber | None = None
    port_range: _PortRange | None = None
    named_port: str | None = None


class _ClusterRule(msgspec.Struct, frozen=True):
    action: str
    source: list[Any] | None = msgspec.field(default=None, name="from")
    to: list[Any] | None = None
    ports: list[Any] | None = None


class _ClusterSpec(msgspec.Struct, frozen=True):
    tier: str
    priority: int
    subject: _ClusterPeer
    ingress: list[Any] | None = None
    egress: list[Any] | None = None


class _Status(msgspec.Struct, frozen=True):
    conditions: list[dict[str, Any]] | None = None


# -- reading


class _Unusable(ValueError):
    """A part of a document means nothing."""


@dataclass
class _Notes:
    """What is found wrong while a document is read."""

    problems: list[Problem] = field(default_factory=list)

    def add(self, at: str, why: object) -> None:
        text = str(why).removeprefix("Object contains unknown value")
        if len(self.problems) < PROBLEMS_AT_MOST:
            self.problems.append(Problem(INVALID, f"{at}: {text}"))


def held_of(kind: Kind, wire: PolicyWire) -> Held:
    """Return a policy of the API as it is kept."""
    meta = wire.metadata
    try:
        conditions = tuple(msgspec.convert(wire.status or {}, _Status).conditions or ())
    except msgspec.ValidationError:
        conditions = ()  # not of the form that we write: it is written anew
    return Held(
        policy_of(PolicyId(kind, meta.namespace, meta.name), wire),
        resource_version=meta.resource_version,
        is_deleting=bool(meta.deletion_timestamp),
        finalizers=tuple(meta.finalizers),
        conditions=conditions,
    )


def policy_of(policy_id: PolicyId, wire: PolicyWire) -> Policy:
    """Return what a document means."""
    notes, meta = _Notes(), wire.metadata
    mode = meta.annotations.get(MODE_ANNOTATION, "enforce")
    if mode not in MODES:
        notes.add(f"annotation {MODE_ANNOTATION}", f"{mode!r} is none of {', '.join(sorted(MODES))}; it is enforced")
    try:
        read = _cluster_policy if policy_id.kind is Kind.CLUSTER else _namespaced_policy
        meant = read(policy_id, wire.spec if wire.spec is not None else {}, notes)
    except (msgspec.ValidationError, _Unusable) as error:
        notes.add("spec", error)
        meant = {"subject": None, "subject_document": {}}
    return Policy(
        id=policy_id,
        uid=meta.uid,
        generation=meta.generation,
        is_audit=mode == AUDIT,
        problems=tuple(notes.problems),
        **meant,
    )


def _namespaced_policy(policy_id: PolicyId, document: Any, notes: _Notes) -> dict[str, Any]:
    spec = msgspec.convert(document, _Spec)
    types = spec.policy_types or []
    for unknown in sorted(set(types) - {INGRESS, EGRESS}):
        notes.add("spec.policyTypes", f"{unknown!r} is none of Ingress, Egress")
    wanted = [kind for kind in (INGRESS, EGRESS) if kind in types]
    if not types:  # the API server's default for NetworkPolicy; nobody gives it to the other kind (spec policy.md 7.3)
        wanted = [INGRESS, EGRESS] if spec.egress else [INGRESS]
    reader = _Reader(policy_id, notes)
    return {
        "subject": PodPeer(_selector(spec.pod_selector), namespace=policy_id.namespace),
        "subject_document": _dict(document.get("podSelector")),
        "isolation": tuple(wanted),
        "ingress": reader.rules(spec.ingress, INGRESS) if INGRESS in wanted else (),
        "egress": reader.rules(spec.egress, EGRESS) if EGRESS in wanted else (),
    }


def _cluster_policy(policy_id: PolicyId, document: Any, notes: _Notes) -> dict[str, Any]:
    spec = msgspec.convert(document, _ClusterSpec)
    if spec.tier not in TIERS:
        raise _Unusable(f"tier {spec.tier!r} is none of {', '.join(sorted(TIERS))}")
    if not 0 <= spec.priority <= PRIORITY_LAST:
        raise _Unusable(f"priority {spec.priority} is not in 0 to {PRIORITY_LAST}")
    if (subject := _cluster_pods(spec.subject)) is None:
        raise _Unusable("subject must have one of namespaces and pods")
    reader = _Reader(policy_id, notes)
    return {
        "subject": subject,
        "subject_document": _dict(document.get("subject")),
        "tier": spec.tier,
        "priority": spec.priority,
        "ingress": reader.rules(spec.ingress, INGRESS),
        "egress": reader.rules(spec.egress, EGRESS),
    }


class _Reader:
    """Reads the rules of one policy; parts that cannot be used go to the notes."""

    def __init__(self, policy_id: PolicyId, notes: _Notes) -> None:
        self._id, self._notes = policy_id, notes
        self._is_cluster = policy_id.kind is Kind.CLUSTER

    def rules(self, documents: Sequence[Any] | None, direction: str) -> tuple[Rule, ...]:
        found = []
        for number, document in enumerate(documents or ()):
            at = f"spec.{direction.lower()}[{number}]"
            try:
                found.append(
                    self._cluster_rule(document, at, direction)
                    if self._is_cluster
                    else self._rule(document, at, direction)
                )
            except (msgspec.ValidationError, _Unusable) as error:
                self._notes.add(at, error)
        return tuple(found)

    def _rule(self, document: Any, at: str, direction: str) -> Rule:
        rule = msgspec.convert(document, _Rule)
        peers = rule.source if direction == INGRESS else rule.to
        # An empty list is "no peer" in an ApplicationNetworkPolicy, which keeps it (spec policy.md 3.8); in a NetworkPolicy it is as absent.
        is_anywhere = peers is None or (not peers and self._id.kind is Kind.NETWORK)
        ports = self._each(rule.ports, f"{at}.ports", _port) if rule.ports else None
        read = [peer for part in self._each(peers, f"{at}.{'from' if direction == INGRESS else 'to'}", self._peer(direction)) for peer in part]  # fmt: skip
        return _rule_of(read, ports, is_anywhere=is_anywhere)

    def _peer(self, direction: str) -> Any:
        def read(document: Any) -> Sequence[PodPeer | Block | str]:
            peer = msgspec.convert(document, _Peer)
            has_pods = peer.pod_selector is not None or peer.namespace_selector is not None
            if (peer.ip_block is not None) + (peer.domain_names is not None) + has_pods != 1:
                raise _Unusable("must have exactly one of ipBlock, domainNames and selectors")
            if peer.ip_block is not None:
                return _blocks(peer.ip_block.cidr, peer.ip_block.excepts or ())
            if peer.domain_names is not None:
                if direction == INGRESS or self._id.kind is Kind.NETWORK:
                    raise _Unusable(
                        "domainNames are for egress of ApplicationNetworkPolicies and ClusterNetworkPolicies"
                    )
                return peer.domain_names
            pods = _selector(peer.pod_selector) if peer.pod_selector is not None else EVERYTHING
            if peer.namespace_selector is None:
                return [PodPeer(pods, namespace=self._id.namespace)]
            return [PodPeer(pods, _selector(peer.namespace_selector))]

        return read

    def _cluster_rule(self, document: Any, at: str, direction: str) -> Rule:
        rule = msgspec.convert(document, _ClusterRule)
        if rule.action not in ACTIONS:
            raise _Unusable(f"action {rule.action!r} is none of {', '.join(sorted(ACTIONS))}")

        def read(document: Any) -> Sequence[PodPeer | Block | str]:
            peer = msgspec.convert(document, _ClusterPeer)
            given = sum(part is not None for part in (peer.namespaces, peer.pods, peer.networks, peer.domain_names))
            if given != 1 or (direction == INGRESS and (peer.networks or peer.domain_names)):
                raise _Unusable("must have exactly one kind of peer, and in ingress only namespaces or pods")
            if peer.domain_names is not None:
                if rule.action == model.DENY:
                    raise _Unusable("domainNames can only be used with Accept action")
                return peer.domain_names
            if peer.networks is not None:
                return [block for network in peer.networks for block in _blocks(network, ())]
            pods = _cluster_pods(peer)
            return [pods] if pods is not None else []

        peers = rule.source if direction == INGRESS else rule.to
        read_peers = [peer for part in self._each(peers, f"{at}.{'from' if direction == INGRESS else 'to'}", read) for peer in part]  # fmt: skip
        parts = self._each(rule.ports, f"{at}.ports", _cluster_ports)
        ports = tuple(port for part in parts for port in part) if rule.ports else None
        return _rule_of(read_peers, ports, is_anywhere=False, action=rule.action)

    def _each(self, documents: Sequence[Any] | None, at: str, read: Any) -> tuple[Any, ...]:
        found = []
        for number, document in enumerate(documents or ()):
            try:
                found.append(read(document))
            except (msgspec.ValidationError, _Unusable) as error:
                self._notes.add(f"{at}[{number}]", error)
        return tuple(found)


def _rule_of(
    peers: Sequence[PodPeer | Block | str],
    ports: tuple[PortRule, ...] | None,
    *,
    is_anywhere: bool,
    action: str = "",
) -> Rule:
    return Rule(
        pods=tuple(peer for peer in peers if isinstance(peer, PodPeer)),
        blocks=tuple(peer for peer in peers if isinstance(peer, Block)),
        domains=tuple(peer for peer in peers if isinstance(peer, str)),
        is_anywhere=is_anywhere,
        ports=ports,
        action=action,
    )


def _cluster_pods(peer: _ClusterPeer) -> PodPeer | None:
    if peer.namespaces is not None:
        return PodPeer(EVERYTHING, _selector(peer.namespaces))
    if peer.pods is not None:
        return PodPeer(_selector(peer.pods.pod_selector), _selector(peer.pods.namespace_selector))
    return None


def _selector(wire: _Selector) -> Selector:
    """Return a selector. Raises `_Unusable` for one that Kubernetes would refuse."""
    requirements = [Requirement(key, IN, (value,)) for key, value in (wire.match_labels or {}).items()]
    for row in wire.match_expressions or ():
        if row.operator not in OPERATORS:
            raise _Unusable(f"operator {row.operator!r} is none of {', '.join(sorted(OPERATORS))}")
        if bool(row.values) != (row.operator in (IN, NOT_IN)):
            needs = "no values" if row.operator in (EXISTS, DOES_NOT_EXIST) else "values"
            raise _Unusable(f"operator {row.operator} on {row.key!r} takes {needs}")
        requirements.append(Requirement(row.key, row.operator, tuple(sorted(set(row.values or ())))))
    return Selector(tuple(sorted(requirements)))


def _port(document: Any) -> PortRule:
    wire = msgspec.convert(document, _Port)
    protocol = _protocol(wire.protocol)
    if isinstance(wire.port, str):
        if wire.end_port is not None:
            raise _Unusable("endPort needs a port that is a number")
        return PortRule(protocol, name=_name(wire.port))
    if wire.port is None:
        if wire.end_port is not None:
            raise _Unusable("endPort needs a port")
        return PortRule(protocol)
    return _range(protocol, wire.port, wire.end_port)


def _cluster_ports(document: Any) -> tuple[PortRule, ...]:
    """Return what one item names: several kinds may stand in it (spec policy.md 2.4)."""
    wire = msgspec.convert(document, _ClusterPort)
    found = []
    if wire.port_number is not None:
        found.append(_range(_protocol(wire.port_number.protocol), wire.port_number.port, None))
    if wire.port_range is not None:
        found.append(_range(_protocol(wire.port_range.protocol), wire.port_range.start, wire.port_range.end))
    if wire.named_port is not None:
        found.append(PortRule(TCP, name=_name(wire.named_port)))  # it carries no protocol: TCP (T-133)
    if not found:
        raise _Unusable("names no port")
    return tuple(found)


def _protocol(text: str | None) -> str:
    protocol = text or TCP
    if protocol not in PROTOCOLS:
        raise _Unusable(f"protocol {protocol!r} is none of {', '.join(sorted(PROTOCOLS))}")
    return protocol


def _name(text: str) -> str:
    if not text:
        raise _Unusable("the port's name is empty")
    return text


def _range(protocol: str, first: int, last: int | None) -> PortRule:
    if not 1 <= first <= PORT_LAST:
        raise _Unusable(f"port {first} is not in 1 to {PORT_LAST}")
    if last is None or last == first:
        return PortRule(protocol, first)
    if not first < last <= PORT_LAST:
        raise _Unusable(f"the range ends at {last}, which is not in {first} to {PORT_LAST}")
    return PortRule(protocol, first, last)


def _blocks(cidr: str, excepts: Sequence[str]) -> list[Block]:
    """Return the block, or none where the exceptions leave nothing of it."""
    network = _network(cidr)
    cut = [other for other in map(_network, excepts) if other.version == network.version and other.overlaps(network)]
    if any(other.prefixlen <= network.prefixlen for other in cut):
        return []
    return [Block(network, tuple(sorted(set(cut), key=lambda one: (one.network_address, one.prefixlen))))]


def _network(text: str) -> Network:
    """Return the network; a bare address is one of a single address. Host bits are cut off (spec policy.md T-027)."""
    address, slash, length = text.partition("/")
    try:
        if slash and not length.isdecimal():
            raise ValueError(f"{length!r} is no prefix length")
        found: IPv4Network | IPv6Network = ip_network((address, int(length)) if slash else address, strict=False)
    except ValueError as error:
        raise _Unusable(f"{text!r} is no CIDR: {error}") from error
    return found


def _dict(document: Any) -> Mapping[str, object]:
    return document if isinstance(document, dict) else {}

"""Documents to policies: defaults of the API, and what is wrong with them. Never raises for what an object contains.

A part that cannot be used is left out and named in `problems`, so that one bad rule does not take the others with it. A bad part of an
allowing rule allows nothing; of a document whose subject cannot be read nothing is used (spec policy.md W-16).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec

from vpccni.components.policy_controller import model
from vpccni.components.policy_controller.model import (
    ACTIONS,
    EGRESS,
    INGRESS,
    TIERS,
    Block,
    Held,
    Kind,
    PodPeer,
    Policy,
    PolicyId,
    PortRule,
    Problem,
    Rule,
)
from vpccni.components.policy_controller.policy_parts import (
    Unusable,
    blocks_of,
    cluster_pods_of,
    cluster_ports_of,
    dict_of,
    port_of,
    selector_of,
)
from vpccni.components.policy_controller.policy_wires import (
    ClusterPeerWire,
    ClusterRuleWire,
    ClusterSpecWire,
    PeerWire,
    PolicyWire,
    RuleWire,
    SpecWire,
    StatusWire,
)
from vpccni.components.policy_controller.selectors import (
    EVERYTHING,
)

MODE_ANNOTATION: Final = "networking.k8s.aws/policy-mode"
"""On a policy: `audit` has it judged and logged, not enforced. Copied to its endpoint objects."""
AUDIT: Final = "audit"
MODES: Final = frozenset({AUDIT, "enforce"})
PRIORITY_LAST: Final = 1000  # spec policy.md 2.4
PROBLEMS_AT_MOST: Final = 20
INVALID: Final = "Invalid"


# -- reading


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
        conditions = tuple(msgspec.convert(wire.status or {}, StatusWire).conditions or ())
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
    except (msgspec.ValidationError, Unusable) as error:
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
    spec = msgspec.convert(document, SpecWire)
    types = spec.policy_types or []
    for unknown in sorted(set(types) - {INGRESS, EGRESS}):
        notes.add("spec.policyTypes", f"{unknown!r} is none of Ingress, Egress")
    wanted = [kind for kind in (INGRESS, EGRESS) if kind in types]
    if not types:  # the API server's default for NetworkPolicy; nobody gives it to the other kind (spec policy.md 7.3)
        wanted = [INGRESS, EGRESS] if spec.egress else [INGRESS]
    reader = _Reader(policy_id, notes)
    return {
        "subject": PodPeer(selector_of(spec.pod_selector), namespace=policy_id.namespace),
        "subject_document": dict_of(document.get("podSelector")),
        "isolation": tuple(wanted),
        "ingress": reader.rules(spec.ingress, INGRESS) if INGRESS in wanted else (),
        "egress": reader.rules(spec.egress, EGRESS) if EGRESS in wanted else (),
    }


def _cluster_policy(policy_id: PolicyId, document: Any, notes: _Notes) -> dict[str, Any]:
    spec = msgspec.convert(document, ClusterSpecWire)
    if spec.tier not in TIERS:
        raise Unusable(f"tier {spec.tier!r} is none of {', '.join(sorted(TIERS))}")
    if not 0 <= spec.priority <= PRIORITY_LAST:
        raise Unusable(f"priority {spec.priority} is not in 0 to {PRIORITY_LAST}")
    if (subject := cluster_pods_of(spec.subject)) is None:
        raise Unusable("subject must have one of namespaces and pods")
    reader = _Reader(policy_id, notes)
    return {
        "subject": subject,
        "subject_document": dict_of(document.get("subject")),
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
            except (msgspec.ValidationError, Unusable) as error:
                self._notes.add(at, error)
        return tuple(found)

    def _rule(self, document: Any, at: str, direction: str) -> Rule:
        rule = msgspec.convert(document, RuleWire)
        peers = rule.source if direction == INGRESS else rule.to
        # An empty list is "no peer" in an ApplicationNetworkPolicy, which keeps it (spec policy.md 3.8); in a NetworkPolicy it is as absent.
        is_anywhere = peers is None or (not peers and self._id.kind is Kind.NETWORK)
        ports = self._each(rule.ports, f"{at}.ports", port_of) if rule.ports else None
        read = [peer for part in self._each(peers, f"{at}.{'from' if direction == INGRESS else 'to'}", self._peer(direction)) for peer in part]  # fmt: skip
        return _rule_of(read, ports, is_anywhere=is_anywhere)

    def _peer(self, direction: str) -> Any:
        def read(document: Any) -> Sequence[PodPeer | Block | str]:
            peer = msgspec.convert(document, PeerWire)
            has_pods = peer.pod_selector is not None or peer.namespace_selector is not None
            if (peer.ip_block is not None) + (peer.domain_names is not None) + has_pods != 1:
                raise Unusable("must have exactly one of ipBlock, domainNames and selectors")
            if peer.ip_block is not None:
                return blocks_of(peer.ip_block.cidr, peer.ip_block.excepts or ())
            if peer.domain_names is not None:
                if direction == INGRESS or self._id.kind is Kind.NETWORK:
                    raise Unusable(
                        "domainNames are for egress of ApplicationNetworkPolicies and ClusterNetworkPolicies"
                    )
                return peer.domain_names
            pods = selector_of(peer.pod_selector) if peer.pod_selector is not None else EVERYTHING
            if peer.namespace_selector is None:
                return [PodPeer(pods, namespace=self._id.namespace)]
            return [PodPeer(pods, selector_of(peer.namespace_selector))]

        return read

    def _cluster_rule(self, document: Any, at: str, direction: str) -> Rule:
        rule = msgspec.convert(document, ClusterRuleWire)
        if rule.action not in ACTIONS:
            raise Unusable(f"action {rule.action!r} is none of {', '.join(sorted(ACTIONS))}")

        def read(document: Any) -> Sequence[PodPeer | Block | str]:
            peer = msgspec.convert(document, ClusterPeerWire)
            given = sum(part is not None for part in (peer.namespaces, peer.pods, peer.networks, peer.domain_names))
            if given != 1 or (direction == INGRESS and (peer.networks or peer.domain_names)):
                raise Unusable("must have exactly one kind of peer, and in ingress only namespaces or pods")
            if peer.domain_names is not None:
                if rule.action == model.DENY:
                    raise Unusable("domainNames can only be used with Accept action")
                return peer.domain_names
            if peer.networks is not None:
                return [block for network in peer.networks for block in blocks_of(network, ())]
            pods = cluster_pods_of(peer)
            return [pods] if pods is not None else []

        peers = rule.source if direction == INGRESS else rule.to
        read_peers = [peer for part in self._each(peers, f"{at}.{'from' if direction == INGRESS else 'to'}", read) for peer in part]  # fmt: skip
        parts = self._each(rule.ports, f"{at}.ports", cluster_ports_of)
        ports = tuple(port for part in parts for port in part) if rule.ports else None
        return _rule_of(read_peers, ports, is_anywhere=False, action=rule.action)

    def _each(self, documents: Sequence[Any] | None, at: str, read: Any) -> tuple[Any, ...]:
        found = []
        for number, document in enumerate(documents or ()):
            try:
                found.append(read(document))
            except (msgspec.ValidationError, Unusable) as error:
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

"""Endpoint objects, conditions and events as the API has them: read into values, written from values."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec

from vpccni.components.policy_controller.chunks import Wanted
from vpccni.components.policy_controller.model import (
    EGRESS,
    INGRESS,
    TCP,
    Document,
    Entry,
    Head,
    Held,
    Kind,
    Policy,
    PolicyId,
    Port,
    Problem,
    Rows,
    Stored,
    Target,
)
from vpccni.components.policy_controller.policies import AUDIT, MODE_ANNOTATION
from vpccni.shared.kube import Wire
from vpccni.shared.kube.resources import (
    APPLICATION_NETWORK_POLICIES,
    CLUSTER_NETWORK_POLICIES,
    CLUSTER_POLICY_ENDPOINTS,
    NETWORK_POLICIES,
    POLICY_ENDPOINTS,
    Resource,
)

CHANGED_AT: Final = "networking.k8s.aws/last-change-trigger-time"  # spec policy.md 2.2
PARTS: Final = "networking.k8s.aws/endpoint-parts"
"""How many objects a policy has, on each of them, where it is more than one: an agent can wait for all (spec policy.md W-10)."""
FINALIZERS: Final[Mapping[Kind, str]] = {  # spec policy.md 3.5
    Kind.NETWORK: "networking.k8s.aws/resources",
    Kind.APPLICATION: "networking.k8s.aws/anp-resources",
    Kind.CLUSTER: "networking.k8s.aws/cnp-resources",
}
POLICIES: Final[Mapping[Kind, Resource]] = {
    Kind.NETWORK: NETWORK_POLICIES,
    Kind.APPLICATION: APPLICATION_NETWORK_POLICIES,
    Kind.CLUSTER: CLUSTER_NETWORK_POLICIES,
}
WITH_STATUS: Final = frozenset({Kind.APPLICATION, Kind.CLUSTER})
"""NetworkPolicy has no status: what is wrong with one is told in events alone."""
NAME_BASE_AT_MOST: Final = 58
"""Of `generateName`, which the API server cuts and adds five characters to."""
REPORTER: Final = "policy-controller"
ACCEPTED, RESOLVED = "Accepted", "Resolved"
INVALID: Final = "Invalid"
MESSAGE_AT_MOST: Final = 1024


class _Reference(msgspec.Struct, frozen=True):
    name: str = ""


class _Port(msgspec.Struct, frozen=True, rename="camel"):
    protocol: str = TCP
    port: int | None = None
    end_port: int | None = None


class _Entry(msgspec.Struct, frozen=True, rename="camel"):
    cidr: str = ""
    excepts: list[str] | None = msgspec.field(default=None, name="except")
    ports: list[_Port] | None = None
    domain_name: str = ""
    action: str = ""


class _Target(msgspec.Struct, frozen=True):
    name: str = ""
    namespace: str = ""
    podIP: str = ""
    hostIP: str = ""


class _Spec(msgspec.Struct, frozen=True, rename="camel"):
    policy_ref: _Reference = _Reference()
    pod_selector: dict[str, Any] | None = None
    subject: dict[str, Any] | None = None
    pod_isolation: list[str] | None = None
    tier: str = ""
    priority: int = 0
    pod_selector_endpoints: list[_Target] | None = None
    ingress: list[_Entry] | None = None
    egress: list[_Entry] | None = None


class EndpointWire(Wire, frozen=True):
    """A PolicyEndpoint or ClusterPolicyEndpoint."""

    spec: _Spec = _Spec()


def stored_of(wire: EndpointWire) -> Stored | None:
    """Return an endpoint object; None for one that no policy owns, or that is being deleted."""
    meta, spec = wire.metadata, wire.spec
    owner = next((one for one in meta.owner_references if one.controller and one.kind in tuple(Kind)), None)
    if owner is None or meta.deletion_timestamp:
        return None
    return Stored(
        name=meta.name,
        namespace=meta.namespace,
        owner_uid=owner.uid,
        resource_version=meta.resource_version,
        head=Head(
            reference=spec.policy_ref.name,
            subject=spec.subject or spec.pod_selector or {},
            isolation=_in_order(spec.pod_isolation or ()),
            tier=spec.tier,
            priority=spec.priority,
            is_audit=meta.annotations.get(MODE_ANNOTATION) == AUDIT,
            parts=_number(meta.annotations.get(PARTS, "1")),
        ),
        rows=Rows(
            frozenset(map(_entry_of, spec.ingress or ())),
            frozenset(map(_entry_of, spec.egress or ())),
            frozenset(
                Target(one.namespace, one.name, one.podIP, one.hostIP) for one in spec.pod_selector_endpoints or ()
            ),
        ),
        annotations=meta.annotations,
    )


def endpoints_of(kind: Kind) -> Resource:
    """Return the kind of endpoint objects of a kind of policies."""
    return CLUSTER_POLICY_ENDPOINTS if kind is Kind.CLUSTER else POLICY_ENDPOINTS


def head_of(policy: Policy, reference: str) -> Head:
    """Return what all objects of a group of a policy's pods have in common.

    Only the objects under the policy's own name tell its selector: agents take a new pod for selected by it, and would give the pod the
    rows of every group.
    """
    tells_selector = reference == policy.id.name or policy.id.kind is Kind.CLUSTER
    return Head(
        reference=reference,
        subject=policy.subject_document if tells_selector else {},
        isolation=policy.isolation,
        tier=policy.tier,
        priority=policy.priority,
        is_audit=policy.is_audit,
    )


def new_object(policy: Policy, wanted: Wanted, *, changed_at: str) -> Document:
    """Return a new endpoint object; `changed_at`: now, RFC 3339 with nanoseconds."""
    resource, is_cluster = endpoints_of(policy.id.kind), policy.id.kind is Kind.CLUSTER
    owner = {
        "apiVersion": _api_version(POLICIES[policy.id.kind]),
        "kind": str(policy.id.kind),
        "name": policy.id.name,
        "uid": policy.uid,
        "controller": True,
        "blockOwnerDeletion": True,
    }
    return {
        "apiVersion": _api_version(resource),
        "kind": "ClusterPolicyEndpoint" if is_cluster else "PolicyEndpoint",
        "metadata": {
            "generateName": f"{wanted.head.reference}-"[:NAME_BASE_AT_MOST],
            **({} if is_cluster else {"namespace": policy.id.namespace}),
            "annotations": _annotations({}, wanted.head, changed_at),
            "ownerReferences": [owner],
        },
        "spec": _spec(policy.id, wanted),
    }


def object_patch(policy: Policy, stored: Stored, wanted: Wanted, *, changed_at: str) -> list[Document]:
    """Return the JSON patch that makes a stored object the wanted one; it fails (409) where the object is not the one we know."""
    return [
        {"op": "replace", "path": "/metadata/resourceVersion", "value": stored.resource_version},
        {
            "op": "add",
            "path": "/metadata/annotations",
            "value": _annotations(stored.annotations, wanted.head, changed_at),
        },
        {"op": "replace", "path": "/spec", "value": _spec(policy.id, wanted)},
    ]


def conditions_of(held: Held, problems: Sequence[Problem], *, now: str) -> list[Document]:
    """Return a policy's conditions; those of others, and the time of what did not change, stay. `now`: RFC 3339."""
    wrong = [problem for problem in problems if problem.reason == INVALID]
    open_ends = [problem for problem in problems if problem.reason != INVALID]
    ours = (
        _condition(ACCEPTED, wrong, ACCEPTED, "every part of the policy can be used"),
        _condition(RESOLVED, open_ends, RESOLVED, "every name and selector leads where it says"),
    )
    before = {str(one.get("type")): one for one in held.conditions}
    result: dict[str, Document] = dict(before)
    for condition in ours:
        kind = str(condition["type"])
        was = before.get(kind, {})
        since = was.get("lastTransitionTime", now) if was.get("status") == condition["status"] else now
        result[kind] = {
            **condition,
            "observedGeneration": held.policy.generation,
            "lastTransitionTime": since,
        }
    return list(result.values())


def event_of(policy: Policy, problem: Problem, *, reporter: str, now: str) -> Document:
    """Return the event that tells a problem. Its name is made of what it says: told twice, it is there already (409). `now`: MicroTime."""
    said = "\n".join((policy.uid, str(policy.generation), problem.reason, problem.text))
    digest = hashlib.sha256(said.encode()).hexdigest()[:16]
    namespace = policy.id.namespace or "default"
    regarding = {
        "apiVersion": _api_version(POLICIES[policy.id.kind]),
        "kind": str(policy.id.kind),
        "name": policy.id.name,
        "namespace": policy.id.namespace,
        "uid": policy.uid,
    }
    return {
        "apiVersion": "events.k8s.io/v1",
        "kind": "Event",
        "metadata": {"name": f"{policy.id.name[:230]}.{digest}", "namespace": namespace},
        "eventTime": now,
        "type": "Warning",
        "reason": problem.reason,
        "action": "Resolve",
        "note": problem.text[:MESSAGE_AT_MOST],
        "regarding": {key: value for key, value in regarding.items() if value},
        "reportingController": REPORTER,
        "reportingInstance": reporter[:128],
    }


def _condition(kind: str, problems: Sequence[Problem], reason: str, text: str) -> dict[str, object]:
    if problems:
        reason, text = problems[0].reason, "; ".join(problem.text for problem in problems)
    return {
        "type": kind,
        "status": "False" if problems else "True",
        "reason": reason,
        "message": text[:MESSAGE_AT_MOST],
    }


def _spec(policy_id: PolicyId, wanted: Wanted) -> Document:
    head, rows = wanted.head, wanted.rows
    if policy_id.kind is Kind.CLUSTER:
        about: dict[str, object] = {
            "policyRef": {"name": head.reference},
            "tier": head.tier,
            "priority": head.priority,
            "subject": head.subject,
        }
    else:
        about = {
            "policyRef": {"name": head.reference, "namespace": policy_id.namespace},
            **({"podSelector": head.subject} if head.reference == policy_id.name else {}),
            "podIsolation": list(head.isolation),
        }
    return {
        **about,
        "podSelectorEndpoints": [
            {"name": one.name, "namespace": one.namespace, "podIP": one.pod_ip, "hostIP": one.host_ip}
            for one in sorted(rows.targets)
        ],
        "ingress": [_entry(one) for one in sorted(rows.ingress)],
        "egress": [_entry(one) for one in sorted(rows.egress)],
    }


def _entry(entry: Entry) -> Document:
    members: dict[str, object] = {
        "cidr": entry.cidr,
        "except": list(entry.excepts),
        "ports": [_port(port) for port in entry.ports],
        "domainName": entry.domain,
        "action": entry.action,
    }
    return {key: value for key, value in members.items() if value}


def _port(port: Port) -> Document:
    members = {"protocol": port.protocol, "port": port.number, "endPort": port.end}
    return {key: value for key, value in members.items() if value}


def _entry_of(wire: _Entry) -> Entry:
    ports = sorted({Port(port.protocol, port.port or 0, port.end_port or 0) for port in wire.ports or ()})
    return Entry(wire.cidr, tuple(wire.excepts or ()), tuple(ports), wire.domain_name, wire.action)


def _annotations(before: Mapping[str, str], head: Head, changed_at: str) -> dict[str, str]:
    ours = {PARTS: str(head.parts) if head.parts > 1 else "", MODE_ANNOTATION: AUDIT if head.is_audit else ""}
    merged = {**before, **ours, CHANGED_AT: changed_at}
    return {key: value for key, value in merged.items() if value or key not in ours}


def _in_order(isolation: Sequence[str]) -> tuple[str, ...]:
    known = [one for one in (INGRESS, EGRESS) if one in isolation]
    return (*known, *sorted(set(isolation) - {INGRESS, EGRESS}))


def _number(text: str) -> int:
    return int(text) if text.isdecimal() else 0


def _api_version(resource: Resource) -> str:
    return f"{resource.group}/{resource.version}"

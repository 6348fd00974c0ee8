"""The members of policy documents that are read. The parts of a spec are decoded one by one, so that a bad one spoils no other."""

from __future__ import annotations

from typing import Any

import msgspec

from vpccni.shared.kube import Wire


class PolicyWire(Wire, frozen=True):
    """Any of the three kinds; what is in it is read part by part."""

    spec: Any = None
    status: Any = None


class ExpressionWire(msgspec.Struct, frozen=True):
    key: str
    operator: str
    values: list[str] | None = None


class SelectorWire(msgspec.Struct, frozen=True, rename="camel"):
    match_labels: dict[str, str] | None = None
    match_expressions: list[ExpressionWire] | None = None


class IpBlockWire(msgspec.Struct, frozen=True):
    cidr: str
    excepts: list[str] | None = msgspec.field(default=None, name="except")


class PeerWire(msgspec.Struct, frozen=True, rename="camel"):
    pod_selector: SelectorWire | None = None
    namespace_selector: SelectorWire | None = None
    ip_block: IpBlockWire | None = None
    domain_names: list[str] | None = None


class PortWire(msgspec.Struct, frozen=True, rename="camel"):
    protocol: str | None = None
    port: int | str | None = None
    end_port: int | None = None


class RuleWire(msgspec.Struct, frozen=True):
    ports: list[Any] | None = None
    source: list[Any] | None = msgspec.field(default=None, name="from")
    to: list[Any] | None = None


class SpecWire(msgspec.Struct, frozen=True, rename="camel"):
    pod_selector: SelectorWire = SelectorWire()
    policy_types: list[str] | None = None
    ingress: list[Any] | None = None
    egress: list[Any] | None = None


class ClusterPodsWire(msgspec.Struct, frozen=True, rename="camel"):
    namespace_selector: SelectorWire
    pod_selector: SelectorWire


class ClusterPeerWire(msgspec.Struct, frozen=True, rename="camel"):
    namespaces: SelectorWire | None = None
    pods: ClusterPodsWire | None = None
    networks: list[str] | None = None
    domain_names: list[str] | None = None


class PortNumberWire(msgspec.Struct, frozen=True):
    port: int
    protocol: str | None = None


class PortRangeWire(msgspec.Struct, frozen=True):
    start: int
    end: int
    protocol: str | None = None


class ClusterPortWire(msgspec.Struct, frozen=True, rename="camel"):
    port_number: PortNumberWire | None = None
    port_range: PortRangeWire | None = None
    named_port: str | None = None


class ClusterRuleWire(msgspec.Struct, frozen=True):
    action: str
    source: list[Any] | None = msgspec.field(default=None, name="from")
    to: list[Any] | None = None
    ports: list[Any] | None = None


class ClusterSpecWire(msgspec.Struct, frozen=True):
    tier: str
    priority: int
    subject: ClusterPeerWire
    ingress: list[Any] | None = None
    egress: list[Any] | None = None


class StatusWire(msgspec.Struct, frozen=True):
    conditions: list[dict[str, Any]] | None = None

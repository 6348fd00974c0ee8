"""What is known of pods, namespaces, services and policies, and what is wanted of endpoint objects. Values only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import Final

from vpccni.components.policy_controller.selectors import Selector

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network
Labels = Mapping[str, str]
Document = Mapping[str, object]

INGRESS: Final = "Ingress"
EGRESS: Final = "Egress"
TCP: Final = "TCP"
PROTOCOLS: Final = frozenset({TCP, "UDP", "SCTP"})
ACCEPT, DENY, PASS = "Accept", "Deny", "Pass"
ACTIONS: Final = frozenset({ACCEPT, DENY, PASS})
TIERS: Final = frozenset({"Admin", "Baseline"})


# -- the cluster


@dataclass(frozen=True, slots=True)
class ContainerPort:
    """A port that a container declares under a name."""

    name: str
    protocol: str
    number: int


@dataclass(frozen=True, slots=True)
class Pod:
    """A pod that has an address and is neither succeeded nor failed (spec policy.md 3.6); others are not kept."""

    namespace: str
    name: str
    labels: Labels
    address: Address
    host_ip: str
    host_network: bool
    ports: tuple[ContainerPort, ...] = ()

    def number_of(self, name: str, protocol: str) -> int:
        """Return the number of a named port, the first declaration counts; 0 if there is none."""
        return next((port.number for port in self.ports if (port.name, port.protocol) == (name, protocol)), 0)


@dataclass(frozen=True, slots=True)
class ServicePort:
    """What a service listens on; `name` is empty for the only port of a service."""

    name: str
    protocol: str
    number: int


@dataclass(frozen=True, slots=True)
class Service:
    """A service with virtual addresses; headless ones are not kept."""

    namespace: str
    name: str
    addresses: tuple[Address, ...]
    ports: tuple[ServicePort, ...]


@dataclass(frozen=True, slots=True)
class Slice:
    """One EndpointSlice: the addresses behind a service that take traffic, and the ports they take it on."""

    namespace: str
    service: str
    ports: tuple[ServicePort, ...]
    ready: frozenset[Address]
    serving: frozenset[Address]
    """Terminating, but still serving: used where nothing of the service is ready."""


# -- policies


class Kind(StrEnum):
    """The three kinds of policies; the value is the API's kind and the metric label `policy_type`."""

    NETWORK = "NetworkPolicy"
    APPLICATION = "ApplicationNetworkPolicy"
    CLUSTER = "ClusterNetworkPolicy"


@dataclass(frozen=True, slots=True, order=True)
class PolicyId:
    """A policy's name; kinds may share names. `namespace` is empty for the cluster's."""

    kind: Kind
    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.kind} {self.namespace}/{self.name}" if self.namespace else f"{self.kind} {self.name}"


@dataclass(frozen=True, slots=True, order=True)
class Problem:
    """Something that is wrong with a policy: a word for programs and a sentence for people."""

    reason: str
    text: str


@dataclass(frozen=True, slots=True)
class PodPeer:
    """Pods by label. `namespaces`: selects among namespaces; None means those of `namespace` alone."""

    pods: Selector
    namespaces: Selector | None = None
    namespace: str = ""


@dataclass(frozen=True, slots=True)
class Block:
    """Addresses of a network without those of others inside it."""

    network: Network
    excepts: tuple[Network, ...] = ()


@dataclass(frozen=True, slots=True)
class PortRule:
    """A port that a rule names. `number` 0: all of the protocol; `end` 0: no range; `name` instead of a number: each pod's own."""

    protocol: str
    number: int = 0
    end: int = 0
    name: str = ""


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule: any of the peers on any of the ports. `ports` None: all ports; empty: none of the ports named can be used."""

    pods: tuple[PodPeer, ...] = ()
    blocks: tuple[Block, ...] = ()
    domains: tuple[str, ...] = ()
    is_anywhere: bool = False
    ports: tuple[PortRule, ...] | None = None
    action: str = ""


@dataclass(frozen=True, slots=True)
class Policy:
    """A policy after defaults. `subject` None: its document cannot be used at all, see `problems`."""

    id: PolicyId
    uid: str
    generation: int
    subject: PodPeer | None
    subject_document: Document
    isolation: tuple[str, ...] = ()
    tier: str = ""
    priority: int = 0
    ingress: tuple[Rule, ...] = ()
    egress: tuple[Rule, ...] = ()
    is_audit: bool = False
    problems: tuple[Problem, ...] = ()


@dataclass(frozen=True, slots=True)
class Held:
    """A policy as the API holds it: what it means, and what a write to it needs."""

    policy: Policy
    resource_version: str
    is_deleting: bool
    finalizers: tuple[str, ...] = ()
    conditions: tuple[Document, ...] = ()


# -- endpoint objects


@dataclass(frozen=True, slots=True, order=True)
class Port:
    """A port of an entry: `number` 0 means all of the protocol, `end` 0 no range."""

    protocol: str
    number: int = 0
    end: int = 0


@dataclass(frozen=True, slots=True, order=True)
class Entry:
    """One row of an endpoint object. No ports: all ports of all protocols. A domain stands instead of a cidr."""

    cidr: str
    excepts: tuple[str, ...] = ()
    ports: tuple[Port, ...] = ()
    domain: str = ""
    action: str = ""


@dataclass(frozen=True, slots=True, order=True)
class Target:
    """A pod that the policy applies to."""

    namespace: str
    name: str
    pod_ip: str
    host_ip: str


@dataclass(frozen=True, slots=True)
class Head:
    """What all objects of one policy have in common. `reference` is `spec.policyRef.name`: see `chunks.name_groups`."""

    reference: str
    subject: Document
    isolation: tuple[str, ...] = ()
    tier: str = ""
    priority: int = 0
    is_audit: bool = False
    parts: int = 1


@dataclass(frozen=True, slots=True)
class Rows:
    """The three lists of an object, without order."""

    ingress: frozenset[Entry] = frozenset()
    egress: frozenset[Entry] = frozenset()
    targets: frozenset[Target] = frozenset()

    def __len__(self) -> int:
        return len(self.ingress) + len(self.egress) + len(self.targets)


@dataclass(frozen=True, slots=True)
class Stored:
    """An endpoint object as the API has it; `owner_uid` is the policy's."""

    name: str
    namespace: str
    owner_uid: str
    resource_version: str
    head: Head
    rows: Rows
    annotations: Mapping[str, str] = field(default_factory=dict)

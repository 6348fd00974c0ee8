"""Messages that `policy_agent` answers or publishes."""

from __future__ import annotations

import msgspec

from vpccni.shared.messages.base import Message, PodRef, Sandbox


class PolicyInterface(msgspec.Struct, frozen=True):
    """The host end of a pod's veth pair and the pod's address behind it."""

    host_veth: str
    ifindex: int
    address: str


class Attach(Message, frozen=True, kw_only=True, tag="policy.attach"):
    """Put the verdict of this pod in force on its host veths, before they have carrier. Answer: `Attached`.

    Asking twice leaves a filter that is already right alone.
    """

    sandbox: Sandbox
    pod: PodRef
    interfaces: list[PolicyInterface]
    mode: str


class Attached(Message, frozen=True, kw_only=True, tag="policy.attached"):
    """Filters are in place on every interface asked for."""

    sandbox: Sandbox


class Detach(Message, frozen=True, kw_only=True, tag="policy.detach"):
    """The sandbox is gone: forget its interfaces (filters go with the links). Answer: `Done`; asking twice is a success."""

    sandbox: Sandbox
    ifindexes: list[int]


class PolicyCounters(msgspec.Struct, frozen=True):
    """Packets and bytes the programs judged for one interface since its attach."""

    ifindex: int
    host_veth: str
    ingress_packets: int
    ingress_bytes: int
    egress_packets: int
    egress_bytes: int
    ingress_dropped_packets: int = 0
    ingress_dropped_bytes: int = 0
    egress_dropped_packets: int = 0
    egress_dropped_bytes: int = 0


class PolicyState(Message, frozen=True, kw_only=True, tag="policy.state"):
    """What is loaded and attached; published after a change (at most once a second) and with the heartbeat."""

    layout: str
    program_ids: list[int]
    attached: list[PolicyCounters]


class GetVerdict(Message, frozen=True, kw_only=True, tag="policy.get_verdict"):
    """What becomes of a new flow of a pod? `direction`: `egress` (the pod calls `address` at `port`) or `ingress` (`address` calls
    the pod at `port`). Answer: `Verdicts`; asking changes nothing.
    """

    namespace: str
    name: str
    direction: str
    address: str
    protocol: int
    port: int


class VerdictStory(msgspec.Struct, frozen=True):
    """The verdict on one interface of the pod. `policies` select it; `because` names the rule, or why there is none."""

    host_veth: str
    address: str
    allowed: bool
    tier: str
    because: str
    policies: list[str]


class Verdicts(Message, frozen=True, kw_only=True, tag="policy.verdicts"):
    """One story an interface; none: no pod of that name has policy here. `known` false: the API has not told the policies yet."""

    stories: list[VerdictStory]
    known: bool


class PolicyName(msgspec.Struct, frozen=True):
    """One policy; `namespace` is empty for those of the cluster."""

    kind: str
    namespace: str
    name: str


class PreviewPolicies(Message, frozen=True, kw_only=True, tag="policy.preview"):
    """What would change for this node's pods if `policies` had these endpoint objects (JSON documents) instead of theirs? Answer:
    `Previews`; asking changes nothing.
    """

    policies: list[PolicyName]
    endpoints: list[str]


class PolicyChange(msgspec.Struct, frozen=True):
    """Flows of `direction` between the pod and `peers` at `ports` would be `outcome`: allowed, denied, or audit deny (passed and told)."""

    direction: str
    outcome: str
    ports: list[str]
    peers: list[str]


class PodPreview(msgspec.Struct, frozen=True):
    """One pod. `isolated`: directions that would be from then on; `opened`: that would be no more. No changes: it stays as it is."""

    pod: PodRef
    isolated: list[str]
    opened: list[str]
    changes: list[PolicyChange]


class Previews(Message, frozen=True, kw_only=True, tag="policy.previews"):
    """One a pod with policy in force on this node. `known` false: the API has not told the policies yet."""

    pods: list[PodPreview]
    known: bool

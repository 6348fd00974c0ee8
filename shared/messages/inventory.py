"""Messages that `eni_manager` answers or publishes: the ENIs of this instance, and the wish for more or fewer addresses."""

from __future__ import annotations

import msgspec

from vpccni.shared.messages.base import Message


class Eni(msgspec.Struct, frozen=True):
    """One attached ENI as EC2 and metadata agree on it.

    `addresses`: secondary IPv4 addresses (never the ENI's own primary address), `prefixes`: in CIDR text, /28, on an IPv6 node /80.
    `primary_ipv6` and `subnet_ipv6_cidr`: empty where the ENI has no IPv6 address or its subnet no IPv6 range.
    `confirmed` false: known, but the last look at EC2 or metadata did not show it as ours: give nothing out from it.
    `managed` false: not ours to use (tag no_manage and others, spec ipam.md 3). `attached_at`: CLOCK_BOOTTIME seconds.
    """

    eni_id: str
    mac: str
    card: int
    device_number: int
    primary_address: str
    subnet_id: str
    subnet_cidr: str
    is_primary: bool
    addresses: list[str]
    prefixes: list[str] = []
    is_trunk: bool = False
    is_efa: bool = False
    managed: bool = True
    excluded: bool = False
    confirmed: bool = True
    attached_at: float = 0.0
    primary_ipv6: str = ""
    subnet_ipv6_cidr: str = ""


class CardLimit(msgspec.Struct, frozen=True):
    """How many ENIs of ours this network card may have (instance limit, MAX_ENI and unmanaged ENIs already taken off)."""

    card: int
    max_enis: int


class Growth(msgspec.Struct, frozen=True):
    """Why growing does not go on now, or all empty. `cause`: word of docs/errors.md; `until`: CLOCK_BOOTTIME seconds of the next try."""

    cause: str = ""
    detail: str = ""
    until: float = 0.0


class Inventory(Message, frozen=True, kw_only=True, tag="inventory.inventory"):
    """The whole picture of this instance; published when anything in it changed, never before the first complete look.

    `slots`: secondary addresses (or prefixes) an ENI can hold. `max_pods`: 0 when not known. `by_prefix`: new pods use /28 prefixes
    (ENABLE_PREFIX_DELEGATION on a type that can), otherwise secondary addresses. `ipv6`: the node's pods have IPv6 addresses
    (ENABLE_IPv6), all out of one /80 prefix a card, which is enough for ever: nothing is grown or shrunk (spec ipam.md 17).
    """

    instance_id: str
    instance_type: str
    region: str
    availability_zone: str
    primary_address: str
    primary_mac: str
    vpc_cidrs: list[str]
    cards: list[CardLimit]
    slots: int
    max_pods: int
    enis: list[Eni]
    growth: Growth = Growth()
    pending_addresses: int = 0
    by_prefix: bool = False
    ipv6: bool = False
    vpc_ipv6_cidrs: list[str] = []


class CardTarget(msgspec.Struct, frozen=True):
    """What the allocator wants of one card.

    `total_addresses`: addresses of the kind in force (a prefix counts 16) the card should have, not counting surrendered ones; the
    manager grows up to it, rounding up to whole prefixes, and never shrinks because of it. Only what is surrendered may be taken away:
    it is fenced in the ledger. `surrendered_addresses`: (ENI id, address or prefix), of either kind.
    """

    card: int
    total_addresses: int
    surrendered_addresses: list[tuple[str, str]] = []
    surrendered_enis: list[str] = []


class CapacityTarget(Message, frozen=True, kw_only=True, tag="inventory.capacity_target"):
    """The allocator's present wish, complete: it replaces the one before. Answer: `CapacityAccepted` at once, never after EC2.

    `urgent`: so many of the missing addresses somebody waits for, or the next one would. The rest is warm pool, and may be put off a
    little so that the nodes of a large cluster do not ask EC2 all together.
    """

    cards: list[CardTarget]
    reason: str
    urgent: int = 1 << 30


class CapacityAccepted(Message, frozen=True, kw_only=True, tag="inventory.capacity_accepted"):
    """Noted; what comes of it shows in `Inventory` (growth tells why nothing comes)."""


class Report(Message, frozen=True, kw_only=True, tag="inventory.report"):
    """Something an operator should see as a Kubernetes event on the node's aws-node pod or on `pod`. Answer: `Done`."""

    reason: str
    note: str
    pod_namespace: str = ""
    pod_name: str = ""


class NodeFacts(Message, frozen=True, kw_only=True, tag="inventory.node_facts"):
    """What Kubernetes says of this node; published when it changed, not before the Node object was read once.

    `exists`: the Node object is there. `max_pods`: the kubelet's number, 0 when it gives none. `unschedulable`: cordoned (spec ipam.md 21).
    `eni_config`: the name that labels and annotations choose (spec ipam.md 16); with custom networking its subnet and security groups
    (empty: the primary ENI's), or in `eni_config_problem` why they are not known.
    """

    node_name: str
    exists: bool
    max_pods: int = 0
    unschedulable: bool = False
    eni_config: str = "default"
    eni_config_subnet: str = ""
    eni_config_groups: list[str] = []
    eni_config_problem: str = ""


class PodFact(msgspec.Struct, frozen=True):
    """One pod of this node. `pod_eni`: the text of annotation vpc.amazonaws.com/pod-eni, empty without a branch ENI; `pod_ips`: that of
    vpc.amazonaws.com/pod-ips. `static_uid`: of a pod that the kubelet reads from a file, the uid under which the runtime knows it.
    """

    uid: str
    namespace: str
    name: str
    pod_eni: str = ""
    pod_ips: str = ""
    static_uid: str = ""
    address: str = ""
    terminating: bool = False


class PodFacts(Message, frozen=True, kw_only=True, tag="inventory.pod_facts"):
    """All pods of this node as Kubernetes shows them; published soon after a change, not before the first list is complete."""

    pods: list[PodFact]

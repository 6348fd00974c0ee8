"""What EC2 and instance metadata say, as plain values: the adapters make them, the core reads them.

The items that pods get are of the node's family: on an IPv6 node `prefixes` are /80 and secondary IPv4 addresses are left out, as if
they were not there. So what the core knows of items (seen, doubted, settling, gone) holds for both.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from vpccni.shared.names import EniId, SubnetId

DESCRIPTION_PREFIX = "aws-K8S-"  # spec ipam.md 13.2, and 13.8: only such ENIs are ever swept
TAG_INSTANCE = "node.k8s.amazonaws.com/instance_id"  # spec ipam.md 13.7
TAG_CREATED = "node.k8s.amazonaws.com/createdAt"
TAG_NO_MANAGE = "node.k8s.amazonaws.com/no_manage"
TAG_CLUSTER = "cluster.k8s.amazonaws.com/name"
TAG_OWNER = "eks:eni:owner"


@dataclass(frozen=True, slots=True)
class InstanceFacts:
    """This instance, read once from metadata at start (spec ipam.md 22)."""

    instance_id: str
    instance_type: str
    region: str
    availability_zone: str
    primary_address: str
    primary_mac: str
    primary_eni: EniId
    subnet_id: SubnetId
    vpc_id: str


@dataclass(frozen=True, slots=True)
class MetadataEni:
    """One ENI as metadata shows it. `addresses`: the first is the primary one. `ipv6`: its own IPv6 address, empty without one.
    `problem`: why it cannot be read, else empty."""

    mac: str
    eni_id: EniId
    device_number: int = 0
    card: int = 0
    subnet_id: SubnetId | None = None
    subnet_cidr: str = ""
    addresses: tuple[str, ...] = ()
    prefixes: tuple[str, ...] = ()
    ipv6: str = ""
    subnet_cidr_v6: str = ""
    problem: str = ""


@dataclass(frozen=True, slots=True)
class CloudEni:
    """One ENI as EC2 shows it. `status`: available, in-use, attaching, ...; `addresses` are secondary ones only.
    `ipv6`: its own IPv6 address, empty without one."""

    eni_id: EniId
    mac: str
    status: str
    interface_type: str
    subnet_id: SubnetId
    primary_address: str
    addresses: tuple[str, ...] = ()
    prefixes: tuple[str, ...] = ()
    tags: dict[str, str] = field(default_factory=dict)
    groups: tuple[str, ...] = ()
    description: str = ""
    attachment_id: str = ""
    instance_id: str = ""
    attachment_status: str = ""
    card: int = 0
    device_number: int = 0
    delete_on_termination: bool = False
    ipv6: str = ""

    @property
    def instance_tag(self) -> str:
        """The instance that made it, attached or not."""
        return self.tags.get(TAG_INSTANCE, "")

    def is_attached_to(self, instance_id: str) -> bool:
        """Tell whether the attachment to this instance is complete."""
        return self.instance_id == instance_id and self.attachment_status == "attached"


@dataclass(frozen=True, slots=True)
class NewEni:
    """Everything a CreateNetworkInterface carries: kept in the journal, since a repetition must be equal to the letter.

    `addresses`: how many items, which are prefixes where `by_prefix` says so. `ipv6`: an IPv6 address of its own and no items; its
    prefix comes once it is attached (spec ipam.md 13.2).
    """

    token: str
    subnet_id: SubnetId
    groups: tuple[str, ...]
    description: str
    tags: tuple[tuple[str, str], ...]
    addresses: int
    by_prefix: bool = False
    ipv6: bool = False


def eni_tags(instance_id: str, cluster_name: str, additional: Mapping[str, str], created_at: str) -> dict[str, str]:
    """Return the tags of an ENI we create (spec ipam.md 13.7). The operator's may replace the owner, nothing else."""
    owner = {TAG_CLUSTER: cluster_name, TAG_OWNER: "amazon-vpc-cni"} if cluster_name else {}
    fixed = {TAG_CREATED: created_at, TAG_INSTANCE: instance_id}
    return {**owner, **additional, **fixed, **({TAG_CLUSTER: cluster_name} if cluster_name else {})}

"""From the original's messages to ours and back. Pure (spec rpc.md 3, 4, 6)."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from vpccni.components.compat.messages import (
    AddNetworkReply,
    AddNetworkRequest,
    DelNetworkReply,
    DelNetworkRequest,
    IPAllocationMetadata,
    NetworkPolicyAgentConfigReply,
)
from vpccni.shared.messages.allocation import AssignedInterface
from vpccni.shared.messages.base import PodRef, Sandbox
from vpccni.shared.messages.inventory import Inventory
from vpccni.shared.settings import Settings

UNKNOWN_POD = "1 error occurred:\n\t* datastore: unknown pod\n\n"
"""The original's plugin looks for the last three words and takes them for success (spec rpc.md 9)."""
HASH_DIGITS = 11


def sandbox_of(request: AddNetworkRequest | DelNetworkRequest) -> Sandbox | None:
    """Return the sandbox of a request, None when a part of its key is missing."""
    if not (request.container_id and request.ifname and request.network_name):
        return None
    return Sandbox(request.container_id, request.ifname, request.network_name)


def pod_of(request: AddNetworkRequest | DelNetworkRequest) -> PodRef:
    """Return the pod; the original's ADD does not tell its uid."""
    uid = request.pod_uid if isinstance(request, DelNetworkRequest) else ""
    return PodRef(request.pod_namespace, request.pod_name, uid)


def added(interfaces: Sequence[AssignedInterface], inventory: Inventory, settings: Settings) -> AddNetworkReply:
    """Return the reply to an ADD that got its addresses."""
    reply = AddNetworkReply(
        success=True,
        addresses=[_metadata(one) for one in interfaces],
        network_policy_mode=settings.network_policy_mode,
    )
    if inventory.ipv6:
        reply.vpc_ipv6_cidrs = list(inventory.vpc_ipv6_cidrs)
        return reply
    reply.external_snat = settings.external_snat
    reply.vpc_cidrs = [*inventory.vpc_cidrs, *(() if settings.external_snat else settings.exclude_snat_cidrs)]
    return reply


def released(interfaces: Sequence[AssignedInterface], settings: Settings) -> DelNetworkReply:
    """Return the reply to a DEL of a sandbox that held addresses."""
    return DelNetworkReply(
        success=True,
        addresses=[_metadata(one) for one in interfaces],
        network_policy_mode=settings.network_policy_mode,
    )


def policy_config(inventory: Inventory, settings: Settings) -> NetworkPolicyAgentConfigReply:
    """Return what a node agent asks for at its start; only the address of the cluster's family is told."""
    primary_ipv6 = next((eni.primary_ipv6 for eni in inventory.enis if eni.is_primary), "")
    return NetworkPolicyAgentConfigReply(
        mode=settings.network_policy_mode,
        multi_nic=settings.multi_nic,
        node_ipv4="" if inventory.ipv6 else inventory.primary_address,
        node_ipv6=primary_ipv6 if inventory.ipv6 else "",
        instance_id=inventory.instance_id,
        region=inventory.region,
    )


def host_veth(namespace: str, name: str, prefix: str, index: int) -> str:
    """Return the host end's name of a pod's interface (spec dataplane.md 3)."""
    full = f"{namespace}.{name}" if index == 0 else f"{namespace}.{name}.{index}"
    return prefix + hashlib.sha1(full.encode(), usedforsecurity=False).hexdigest()[:HASH_DIGITS]


def _metadata(one: AssignedInterface) -> IPAllocationMetadata:
    ipv6 = ":" in one.address
    return IPAllocationMetadata(
        ipv4="" if ipv6 else one.address,
        ipv6=one.address if ipv6 else "",
        device_number=one.device_number,
        route_table=one.route_table,
    )

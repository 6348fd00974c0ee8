"""The original's messages, by their public names and numbers (spec rpc.md 2), and those of gRPC's health service."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from vpccni.components.compat.wire import BOOL, INT32, TEXT, Field, ProtoMessage

SERVING, NOT_SERVING = 1, 2


@dataclass
class AddNetworkRequest(ProtoMessage):
    """The plugin wants addresses for a sandbox."""

    pod_name: str = ""
    pod_namespace: str = ""
    infra_container_id: str = ""
    netns: str = ""
    ifname: str = ""
    network_name: str = ""
    container_id: str = ""
    client_version: str = ""
    multi_nic: bool = False

    FIELDS = (
        Field(1, "pod_name", TEXT),
        Field(2, "pod_namespace", TEXT),
        Field(3, "infra_container_id", TEXT),
        Field(4, "netns", TEXT),
        Field(5, "ifname", TEXT),
        Field(6, "network_name", TEXT),
        Field(7, "container_id", TEXT),
        Field(8, "client_version", TEXT),
        Field(9, "multi_nic", BOOL),
    )


@dataclass
class IPAllocationMetadata(ProtoMessage):
    """One address, plain, of the cluster's family."""

    ipv4: str = ""
    ipv6: str = ""
    device_number: int = 0
    route_table: int = 0

    FIELDS = (
        Field(1, "ipv4", TEXT),
        Field(2, "ipv6", TEXT),
        Field(3, "device_number", INT32),
        Field(4, "route_table", INT32),
    )


@dataclass
class AddNetworkReply(ProtoMessage):
    """The addresses, and what the plugin needs to wire them. Members of branch pods stay at their defaults."""

    success: bool = False
    addresses: list[IPAllocationMetadata] = field(default_factory=list)
    external_snat: bool = False
    vpc_cidrs: list[str] = field(default_factory=list)
    pod_vlan_id: int = 0
    pod_eni_mac: str = ""
    pod_eni_gateway: str = ""
    parent_ifindex: int = 0
    vpc_ipv6_cidrs: list[str] = field(default_factory=list)
    network_policy_mode: str = ""

    FIELDS = (
        Field(1, "success", BOOL),
        Field(2, "addresses", IPAllocationMetadata, many=True),
        Field(5, "external_snat", BOOL),
        Field(6, "vpc_cidrs", TEXT, many=True),
        Field(7, "pod_vlan_id", INT32),
        Field(8, "pod_eni_mac", TEXT),
        Field(9, "pod_eni_gateway", TEXT),
        Field(10, "parent_ifindex", INT32),
        Field(12, "vpc_ipv6_cidrs", TEXT, many=True),
        Field(13, "network_policy_mode", TEXT),
    )


@dataclass
class DelNetworkRequest(ProtoMessage):
    """The sandbox is gone."""

    pod_name: str = ""
    pod_namespace: str = ""
    infra_container_id: str = ""
    reason: str = ""
    ifname: str = ""
    network_name: str = ""
    container_id: str = ""
    client_version: str = ""
    pod_uid: str = ""

    FIELDS = (
        Field(1, "pod_name", TEXT),
        Field(2, "pod_namespace", TEXT),
        Field(3, "infra_container_id", TEXT),
        Field(5, "reason", TEXT),
        Field(6, "ifname", TEXT),
        Field(7, "network_name", TEXT),
        Field(8, "container_id", TEXT),
        Field(9, "client_version", TEXT),
        Field(10, "pod_uid", TEXT),
    )


@dataclass
class DelNetworkReply(ProtoMessage):
    """What the sandbox had, for its tear-down."""

    success: bool = False
    addresses: list[IPAllocationMetadata] = field(default_factory=list)
    pod_vlan_id: int = 0
    network_policy_mode: str = ""

    FIELDS = (
        Field(1, "success", BOOL),
        Field(2, "addresses", IPAllocationMetadata, many=True),
        Field(4, "pod_vlan_id", INT32),
        Field(6, "network_policy_mode", TEXT),
    )


@dataclass
class EnforceNpRequest(ProtoMessage):
    """The plugin has wired a pod: its policy must be in force before ADD returns."""

    pod_name: str = ""
    pod_namespace: str = ""
    mode: str = ""
    interface_count: int = 0

    FIELDS = (
        Field(1, "pod_name", TEXT),
        Field(2, "pod_namespace", TEXT),
        Field(3, "mode", TEXT),
        Field(4, "interface_count", INT32),
    )


@dataclass
class DeleteNpRequest(ProtoMessage):
    """The pod is gone."""

    pod_name: str = ""
    pod_namespace: str = ""

    FIELDS = (Field(1, "pod_name", TEXT), Field(2, "pod_namespace", TEXT))


@dataclass
class NpReply(ProtoMessage):
    """The answer to both of the agent's calls."""

    success: bool = False

    FIELDS = (Field(1, "success", BOOL),)


@dataclass
class Empty(ProtoMessage):
    """Nothing."""


@dataclass
class NetworkPolicyAgentConfigReply(ProtoMessage):
    """What the node agent asks for at its start."""

    mode: str = ""
    multi_nic: bool = False
    node_ipv4: str = ""
    node_ipv6: str = ""
    instance_id: str = ""
    region: str = ""

    FIELDS = (
        Field(1, "mode", TEXT),
        Field(2, "multi_nic", BOOL),
        Field(3, "node_ipv4", TEXT),
        Field(4, "node_ipv6", TEXT),
        Field(5, "instance_id", TEXT),
        Field(6, "region", TEXT),
    )


@dataclass
class HealthCheckRequest(ProtoMessage):
    """`service` empty: the whole server."""

    service: str = ""

    FIELDS = (Field(1, "service", TEXT),)


@dataclass
class HealthCheckResponse(ProtoMessage):
    """`status`: `SERVING` or `NOT_SERVING`."""

    status: int = 0

    FIELDS = (Field(1, "status", INT32),)


ADD_NETWORK: Final = "/rpc.CNIBackend/AddNetwork"
DEL_NETWORK: Final = "/rpc.CNIBackend/DelNetwork"
POLICY_CONFIG: Final = "/rpc.ConfigServerBackend/GetNetworkPolicyConfigs"
ENFORCE: Final = "/rpc.NPBackend/EnforceNpToPod"
DELETE: Final = "/rpc.NPBackend/DeletePodNp"
HEALTH: Final = "/grpc.health.v1.Health/Check"

REQUESTS: Final[dict[str, type[ProtoMessage]]] = {
    ADD_NETWORK: AddNetworkRequest,
    DEL_NETWORK: DelNetworkRequest,
    POLICY_CONFIG: Empty,
    ENFORCE: EnforceNpRequest,
    DELETE: DeleteNpRequest,
    HEALTH: HealthCheckRequest,
}

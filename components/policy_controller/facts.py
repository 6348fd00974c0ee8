"""Pods, namespaces, services and endpoint slices: what of them is read, and what is kept."""

from __future__ import annotations

from ipaddress import ip_address
from typing import Final

import msgspec

from vpccni.components.policy_controller.model import (
    TCP,
    Address,
    ContainerPort,
    Labels,
    Pod,
    Service,
    ServicePort,
    Slice,
)
from vpccni.shared.kube import Wire

POD_IPS: Final = "vpc.amazonaws.com/pod-ips"  # spec policy.md 3.6
OVER: Final = frozenset({"Succeeded", "Failed"})
SERVICE_NAME: Final = "kubernetes.io/service-name"
HEADLESS: Final = "None"
FQDN: Final = "FQDN"


class _Port(msgspec.Struct, frozen=True, rename="camel"):
    name: str = ""
    protocol: str = TCP
    container_port: int = 0


class _Container(msgspec.Struct, frozen=True):
    ports: list[_Port] = []


class _PodSpec(msgspec.Struct, frozen=True, rename="camel"):
    containers: list[_Container] = []
    host_network: bool = False


class _PodStatus(msgspec.Struct, frozen=True):
    podIP: str = ""
    hostIP: str = ""
    phase: str = ""


class PodWire(Wire, frozen=True):
    """A Pod."""

    spec: _PodSpec = _PodSpec()
    status: _PodStatus = _PodStatus()


class _ServicePort(msgspec.Struct, frozen=True):
    port: int | None = 0
    name: str | None = ""
    protocol: str | None = TCP


class _ServiceSpec(msgspec.Struct, frozen=True):
    clusterIP: str = ""
    clusterIPs: list[str] = []
    ports: list[_ServicePort] = []


class ServiceWire(Wire, frozen=True):
    """A Service."""

    spec: _ServiceSpec = _ServiceSpec()


class _Conditions(msgspec.Struct, frozen=True):
    ready: bool | None = None
    serving: bool | None = None
    terminating: bool | None = None


class _Endpoint(msgspec.Struct, frozen=True):
    addresses: list[str] = []
    conditions: _Conditions = _Conditions()


class SliceWire(Wire, frozen=True):
    """An EndpointSlice."""

    addressType: str = ""
    endpoints: list[_Endpoint] | None = None
    ports: list[_ServicePort] | None = None


def pod_of(wire: PodWire) -> Pod | None:
    """Return a pod that can be a peer or a subject; None for one without an address or that has ended."""
    status, meta = wire.status, wire.metadata
    address = status.podIP or meta.annotations.get(POD_IPS, "").split(",")[0].strip()
    if not address or status.phase in OVER:
        return None
    ports = (port for container in wire.spec.containers for port in container.ports if port.name)
    return Pod(
        namespace=meta.namespace,
        name=meta.name,
        labels=meta.labels,
        address=ip_address(address),
        host_ip=status.hostIP,
        host_network=wire.spec.host_network,
        ports=tuple(ContainerPort(port.name, port.protocol, port.container_port) for port in ports),
    )


def namespace_of(wire: Wire) -> Labels:
    """Return a namespace's labels."""
    return wire.metadata.labels


def service_of(wire: ServiceWire) -> Service | None:
    """Return a service with virtual addresses; None for headless ones and mere names (ExternalName)."""
    spec = wire.spec
    texts = spec.clusterIPs or [spec.clusterIP]
    addresses = tuple(ip_address(text) for text in texts if text and text != HEADLESS)
    ports = tuple(ServicePort(port.name or "", port.protocol or TCP, port.port or 0) for port in spec.ports)
    return Service(wire.metadata.namespace, wire.metadata.name, addresses, ports) if addresses else None


def slice_of(wire: SliceWire) -> Slice | None:
    """Return the slice of a service; None where it belongs to none, or names no addresses."""
    meta = wire.metadata
    if SERVICE_NAME not in meta.labels or wire.addressType == FQDN:
        return None
    ready: set[Address] = set()
    serving: set[Address] = set()
    for endpoint in wire.endpoints or ():
        is_ready = endpoint.conditions.ready is not False
        into = ready if is_ready else serving if endpoint.conditions.serving else None
        if into is not None:
            into.update(ip_address(text) for text in endpoint.addresses)
    return Slice(
        meta.namespace,
        meta.labels[SERVICE_NAME],
        ports=tuple(ServicePort(port.name or "", port.protocol or TCP, port.port or 0) for port in wire.ports or ()),
        ready=frozenset(ready),
        serving=frozenset(serving),
    )

"""The copies of what the API shows, for this node: endpoint objects, its own pods, namespaces. Nothing is decided here.

Kept by watches; `changed` is called when all first lists are in, and then with every change. While the API is away the copies
stay as they are.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

import msgspec

from vpccni.components.policy_agent.endpoints import Endpoint, EndpointWire, endpoint
from vpccni.components.policy_agent.enforcement import Copies
from vpccni.components.policy_agent.selection import PodFacts
from vpccni.shared.errors import VpccniError
from vpccni.shared.kube import NAMESPACES, PODS, Change, Kube, Resource, Watch, Wire
from vpccni.shared.kube.objects import Key
from vpccni.shared.kube.resources import CLUSTER_POLICY_ENDPOINTS, POLICY_ENDPOINTS

POD_WITHIN_S: Final = 1.0
"""How long an ADD waits for the API to tell a pod that the watch has not shown yet."""


class PodSpecWire(msgspec.Struct, frozen=True, rename="camel"):
    node_name: str = ""
    host_network: bool = False


class AddressWire(msgspec.Struct, frozen=True):
    ip: str = ""


class PodStatusWire(msgspec.Struct, frozen=True, rename={"addresses": "podIPs"}):
    addresses: list[AddressWire] = []


class LocalPodWire(Wire, frozen=True):
    spec: PodSpecWire = PodSpecWire()
    status: PodStatusWire = PodStatusWire()


def pod_facts(wire: LocalPodWire) -> PodFacts:
    """Return what of a pod matters here."""
    addresses = tuple(one.ip for one in wire.status.addresses if one.ip)
    return PodFacts(wire.metadata.uid, wire.metadata.labels, wire.spec.host_network, addresses)


class Knowledge:
    """See the module. `hosts` are the node's addresses as text: only pods listed with one of them are kept of an object."""

    def __init__(
        self, kube: Kube, node: str, *, hosts: frozenset[str], changed: Callable[[Sequence[Change[Endpoint]]], None]
    ) -> None:
        self.hosts = hosts
        self._kube, self._changed = kube, changed
        self._endpoints = self._follow(POLICY_ENDPOINTS)
        self._cluster_endpoints = self._follow(CLUSTER_POLICY_ENDPOINTS)
        self._pods = kube.watch(
            PODS, wire=LocalPodWire, project=pod_facts, changed=self._on_other, fields=f"spec.nodeName={node}"
        )
        self._namespaces = kube.watch(
            NAMESPACES, wire=Wire, project=lambda wire: wire.metadata.labels, changed=self._on_other
        )

    def _follow(self, resource: Resource) -> Watch[Endpoint]:
        return self._kube.watch(
            resource, wire=EndpointWire, project=lambda wire: endpoint(wire, self.hosts), changed=self._on_endpoints
        )

    @property
    def synced(self) -> bool:
        """Return whether the first lists of all kinds are in."""
        return all(watch.synced for watch in self._watches)

    @property
    def away(self) -> str:
        """Return why the API gives no first list, empty when it is not known to refuse."""
        return next((watch.error for watch in self._watches if not watch.synced and watch.error), "")

    @property
    def _watches(self) -> tuple[Watch[Endpoint], Watch[Endpoint], Watch[PodFacts], Watch[dict[str, str]]]:
        return self._endpoints, self._cluster_endpoints, self._pods, self._namespaces

    @property
    def copies(self) -> Copies:
        """Return the copies of now."""
        return Copies(
            self._endpoints.objects,
            self._cluster_endpoints.objects,
            self._pods.objects,
            {key.name: labels for key, labels in self._namespaces.objects.items()},
        )

    async def pod(self, namespace: str, name: str) -> PodFacts | None:
        """Return a pod as last seen, else as the API tells it now; None where there is none or nobody tells."""
        seen = self._pods.objects.get(Key(namespace, name))
        if seen is not None or not name:
            return seen
        try:
            wire = await self._kube.get(PODS, LocalPodWire, namespace=namespace, name=name, timeout_s=POD_WITHIN_S)
        except VpccniError:
            return None  # the watch tells why the API is away; the pod is then judged by what lists it
        return None if wire is None else pod_facts(wire)

    def _on_endpoints(self, changes: Sequence[Change[Endpoint]]) -> None:
        if self.synced:
            self._changed(changes)

    def _on_other(self, changes: Sequence[Change[PodFacts]] | Sequence[Change[dict[str, str]]]) -> None:
        if self.synced:
            self._changed(())

"""All that is known of the cluster, with the look-ups that resolving needs. Kept by `put_*`, one object at a time; no I/O."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from vpccni.components.policy_controller.model import Address, Labels, Pod, PodPeer, Service, Slice
from vpccni.components.policy_controller.selectors import EVERYTHING, Anchor, Selector
from vpccni.shared.kube.objects import Key

_PAIR: Final = 2
"""Length of an anchor that is a label's key and value: by these pods are filed."""


@dataclass(frozen=True, slots=True)
class VipPort:
    """One port of a virtual address, and every (address, port) that its traffic may go to."""

    protocol: str
    number: int
    backends: tuple[tuple[Address, int], ...]


@dataclass(frozen=True, slots=True)
class Vip:
    """A virtual address of a service."""

    service: Key
    address: Address
    ports: tuple[VipPort, ...]


class Cluster:
    """See the module."""

    def __init__(self) -> None:
        self.namespaces: dict[str, Labels] = {}
        self.pods: dict[Key, Pod] = {}
        self._in_namespace: dict[str, dict[str, Pod]] = {}
        self._labelled: dict[tuple[str, Anchor], dict[str, Pod]] = {}
        self._services: dict[Key, Service] = {}
        self._slices: dict[Key, Slice] = {}
        self._slices_of: dict[Key, dict[Key, Slice]] = {}
        self._behind: dict[Address, set[Key]] = {}
        self._vips: dict[Key, tuple[Vip, ...]] = {}

    # -- pods and namespaces

    def put_pod(self, key: Key, pod: Pod | None) -> None:
        """Set or forget (None) a pod."""
        if (before := self.pods.pop(key, None)) is not None:
            self._unfile(before)
        if pod is None:
            return
        self.pods[key] = pod
        self._in_namespace.setdefault(pod.namespace, {})[pod.name] = pod
        for pair in pod.labels.items():
            self._labelled.setdefault((pod.namespace, pair), {})[pod.name] = pod

    def put_namespace(self, name: str, labels: Labels | None) -> None:
        """Set or forget (None) a namespace's labels."""
        if labels is None:
            self.namespaces.pop(name, None)
        else:
            self.namespaces[name] = labels

    def select(self, peer: PodPeer) -> Iterator[Pod]:
        """Yield the pods that a peer or subject means."""
        for namespace in self._namespaces_of(peer):
            for pod in self._candidates(namespace, peer.pods):
                if peer.pods.matches(pod.labels):
                    yield pod

    def is_selected(self, peer: PodPeer, pod: Pod) -> bool:
        """Tell whether `select` would yield the pod."""
        return self._is_of(peer, pod.namespace) and peer.pods.matches(pod.labels)

    def _namespaces_of(self, peer: PodPeer) -> Iterable[str]:
        if peer.namespaces is None:
            return (peer.namespace,)
        return (namespace for namespace in self._in_namespace if self._is_of(peer, namespace))

    def _is_of(self, peer: PodPeer, namespace: str) -> bool:
        if peer.namespaces is None:
            return namespace == peer.namespace
        return selects_namespace(peer.namespaces, self.namespaces.get(namespace))

    def _candidates(self, namespace: str, selector: Selector) -> Iterable[Pod]:
        """Return pods among which all that the selector matches are."""
        anchors = selector.anchors()
        if all(len(anchor) == _PAIR for anchor in anchors):
            filed = (self._labelled.get((namespace, anchor), {}) for anchor in anchors)
            return (pod for pods in filed for pod in pods.values())
        return self._in_namespace.get(namespace, {}).values()

    def _unfile(self, pod: Pod) -> None:
        in_namespace = self._in_namespace[pod.namespace]
        del in_namespace[pod.name]
        if not in_namespace:
            del self._in_namespace[pod.namespace]
        for pair in pod.labels.items():
            labelled = self._labelled[(pod.namespace, pair)]
            del labelled[pod.name]
            if not labelled:
                del self._labelled[(pod.namespace, pair)]

    # -- services

    def put_service(self, key: Key, service: Service | None) -> None:
        """Set or forget (None) a service."""
        if service is None:
            self._services.pop(key, None)
        else:
            self._services[key] = service
        self._vips.pop(key, None)

    def put_slice(self, key: Key, value: Slice | None) -> None:
        """Set or forget (None) an endpoint slice."""
        before = self._slices.pop(key, None)
        touched = {Key(one.namespace, one.service) for one in (before, value) if one is not None}
        for service in touched:
            self._unfile_service(service)
            self._slices_of.setdefault(service, {}).pop(key, None)
        if value is not None:
            self._slices[key] = value
            self._slices_of[Key(value.namespace, value.service)][key] = value
        for service in touched:
            self._file_service(service)

    def vips_of(self, service: Key) -> tuple[Vip, ...]:
        """Return the virtual addresses of a service with what is behind each port."""
        if service not in self._vips:
            known = self._services.get(service)
            self._vips[service] = (
                () if known is None else tuple(self._vip(service, known, one) for one in known.addresses)
            )
        return self._vips[service]

    def all_vips(self) -> Iterator[Vip]:
        """Yield the virtual addresses of all services."""
        for service in self._services:
            yield from self.vips_of(service)

    def vips_before(self, addresses: Iterable[Address]) -> Iterator[Vip]:
        """Yield the virtual addresses behind which one of the addresses is, each once."""
        services = {service for address in addresses for service in self._behind.get(address, ())}
        for service in sorted(services):
            yield from self.vips_of(service)

    def backends_of(self, service: Key) -> frozenset[Address]:
        """Return all addresses that traffic to a service may go to."""
        slices = self._slices_of.get(service, {}).values()
        ready = frozenset(address for one in slices for address in one.ready)
        return ready or frozenset(address for one in slices for address in one.serving)

    def _vip(self, key: Key, service: Service, address: Address) -> Vip:
        used = {one for one in self.backends_of(key) if one.version == address.version}
        ports = []
        for port in service.ports:
            found = {
                (backend, there.number)
                for one in self._slices_of.get(key, {}).values()
                for there in one.ports
                if (there.name, there.protocol) == (port.name, port.protocol)
                for backend in one.ready | one.serving
                if backend in used
            }
            ports.append(VipPort(port.protocol, port.number, tuple(sorted(found, key=_order))))
        return Vip(key, address, tuple(ports))

    def _unfile_service(self, service: Key) -> None:
        for address in self.backends_of(service):
            services = self._behind[address]
            services.discard(service)
            if not services:
                del self._behind[address]
        self._vips.pop(service, None)

    def _file_service(self, service: Key) -> None:
        for address in self.backends_of(service):
            self._behind.setdefault(address, set()).add(service)
        if not self._slices_of.get(service):
            self._slices_of.pop(service, None)


def selects_namespace(selector: Selector, labels: Labels | None) -> bool:
    """Tell whether a namespace is selected; one that is not known yet (None) only by a selector that asks nothing."""
    return selector == EVERYTHING if labels is None else selector.matches(labels)


def _order(backend: tuple[Address, int]) -> tuple[int, int, int]:
    address, port = backend
    return address.version, int(address), port

"""Which policies a change touches: an inverted index from labels, namespaces and addresses to policies.

A pod touches a policy when it begins or ceases to be selected by one of the policy's selectors, or is selected and something of it that
resolving uses changes. A service touches the policies whose egress leads to one of its backends, or to a block with its virtual address.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from vpccni.components.policy_controller.cluster import Cluster, selects_namespace
from vpccni.components.policy_controller.model import Address, Labels, Network, Pod, PodPeer, Policy, PolicyId
from vpccni.components.policy_controller.resolve import Resolution, interests
from vpccni.components.policy_controller.selectors import SelectorIndex


@dataclass(frozen=True, slots=True)
class _Interest:
    policy: PolicyId
    peer: PodPeer


@dataclass(slots=True)
class _Filed:
    interests: tuple[_Interest, ...] = ()
    addresses: frozenset[Address] = frozenset()
    networks: frozenset[Network] = field(default_factory=frozenset)


class PolicyIndex:
    """See the module."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._filed: dict[PolicyId, _Filed] = {}
        self._by_pod: SelectorIndex[_Interest] = SelectorIndex()
        self._by_namespace: SelectorIndex[_Interest] = SelectorIndex()
        self._by_address: dict[Address, set[PolicyId]] = {}
        self._with_networks: dict[PolicyId, frozenset[Network]] = {}

    def put(self, policy_id: PolicyId, policy: Policy | None) -> None:
        """File a policy by its selectors, or forget it (None)."""
        filed = self._filed.pop(policy_id, _Filed())
        for interest in filed.interests:
            self._by_pod.remove(interest.peer.namespace, interest.peer.pods, interest)
            if interest.peer.namespaces is not None:
                self._by_namespace.remove("", interest.peer.namespaces, interest)
        if policy is None:
            self._set_reach(policy_id, filed, frozenset(), frozenset())
            return
        filed.interests = tuple(_Interest(policy_id, peer) for peer in interests(policy))
        for interest in filed.interests:
            self._by_pod.add(interest.peer.namespace, interest.peer.pods, interest)
            if interest.peer.namespaces is not None:
                self._by_namespace.add("", interest.peer.namespaces, interest)
        self._filed[policy_id] = filed

    def resolved(self, policy_id: PolicyId, resolution: Resolution) -> None:
        """File a policy by where its egress leads."""
        filed = self._filed.get(policy_id)
        if filed is not None:
            self._set_reach(policy_id, filed, resolution.addresses, resolution.networks)

    def touched_by_pod(self, before: Pod | None, after: Pod | None) -> set[PolicyId]:
        """Return the policies to which the change of a pod matters."""
        touched: set[PolicyId] = set()
        is_same = before is not None and after is not None and _used(before) == _used(after)
        for pod in (before, after):
            if pod is None:
                continue
            for interest in self._by_pod.candidates(pod.namespace, pod.labels):
                if interest.policy not in touched:
                    was, now = self._is_selected(interest, before), self._is_selected(interest, after)
                    if was != now or (now and not is_same):
                        touched.add(interest.policy)
        return touched

    def touched_by_namespace(self, before: Labels | None, after: Labels | None) -> set[PolicyId]:
        """Return the policies that begin or cease to select a namespace."""
        return {
            interest.policy
            for labels in (before or {}, after or {})
            for interest in self._by_namespace.candidates("", labels)
            if interest.peer.namespaces is not None
            and selects_namespace(interest.peer.namespaces, before)
            != selects_namespace(interest.peer.namespaces, after)
        }

    def touched_by_addresses(self, addresses: Iterable[Address]) -> set[PolicyId]:
        """Return the policies whose egress leads to one of these backends or virtual addresses."""
        looked_at = set(addresses)
        touched = {policy for address in looked_at for policy in self._by_address.get(address, ())}
        for policy, networks in self._with_networks.items():
            if policy not in touched and any(address in network for network in networks for address in looked_at):
                touched.add(policy)
        return touched

    def _is_selected(self, interest: _Interest, pod: Pod | None) -> bool:
        return pod is not None and self._cluster.is_selected(interest.peer, pod)

    def _set_reach(
        self, policy_id: PolicyId, filed: _Filed, addresses: frozenset[Address], networks: frozenset[Network]
    ) -> None:
        for address in filed.addresses - addresses:
            policies = self._by_address[address]
            policies.discard(policy_id)
            if not policies:
                del self._by_address[address]
        for address in addresses - filed.addresses:
            self._by_address.setdefault(address, set()).add(policy_id)
        if networks:
            self._with_networks[policy_id] = networks
        else:
            self._with_networks.pop(policy_id, None)
        filed.addresses, filed.networks = addresses, networks


def _used(pod: Pod) -> tuple[object, ...]:
    """Return what resolving uses of a pod beside its labels."""
    return pod.address, pod.host_ip, pod.host_network, pod.ports

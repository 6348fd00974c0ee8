"""Which policies a change touches: an inverted index from labels, namespaces and addresses to policies.

A pod touches a policy when it begins or ceases to be selected by one of the policy's selectors, or is selected and something of it that
resolving uses changes. A service touches the policies to whose egress it makes a difference: those that lead to one of its backends, or have
blocks, are asked.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from vpccni.components.policy_controller.allowed import Allowed
from vpccni.components.policy_controller.cluster import Cluster, Vip, selects_namespace
from vpccni.components.policy_controller.model import Address, Labels, Pod, PodPeer, Policy, PolicyId
from vpccni.components.policy_controller.resolve import Resolution, interests
from vpccni.components.policy_controller.selectors import SelectorIndex
from vpccni.components.policy_controller.services import matters


@dataclass(frozen=True, slots=True)
class _Interest:
    policy: PolicyId
    peer: PodPeer


@dataclass(slots=True)
class _Filed:
    interests: tuple[_Interest, ...] = ()
    reach: tuple[Allowed, ...] = ()
    addresses: frozenset[Address] = frozenset()


class PolicyIndex:
    """See the module."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._filed: dict[PolicyId, _Filed] = {}
        self._by_pod: SelectorIndex[_Interest] = SelectorIndex()
        self._by_namespace: SelectorIndex[_Interest] = SelectorIndex()
        self._by_address: dict[Address, set[PolicyId]] = {}
        self._with_blocks: set[PolicyId] = set()

    def put(self, policy_id: PolicyId, policy: Policy | None) -> None:
        """File a policy by its selectors, or forget it (None)."""
        filed = self._filed.pop(policy_id, _Filed())
        for interest in filed.interests:
            self._by_pod.remove(interest.peer.namespace, interest.peer.pods, interest)
            if interest.peer.namespaces is not None:
                self._by_namespace.remove("", interest.peer.namespaces, interest)
        if policy is None:
            self._set_reach(policy_id, filed, ())
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
            self._set_reach(policy_id, filed, resolution.reach)

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

    def touched_by_service(self, before: Sequence[Vip], after: Sequence[Vip]) -> set[PolicyId]:
        """Return the policies whose egress is another when a service was the one and is the other."""
        vips = (*before, *after)
        backends = {address for vip in vips for port in vip.ports for address, _ in port.backends}
        near = {policy for address in backends for policy in self._by_address.get(address, ())} | self._with_blocks
        return {policy for policy in near if matters(self._filed[policy].reach, before, after)}

    def _is_selected(self, interest: _Interest, pod: Pod | None) -> bool:
        return pod is not None and self._cluster.is_selected(interest.peer, pod)

    def _set_reach(self, policy_id: PolicyId, filed: _Filed, reach: tuple[Allowed, ...]) -> None:
        addresses = frozenset(address for part in reach for address in part.exact)
        for address in filed.addresses - addresses:
            policies = self._by_address[address]
            policies.discard(policy_id)
            if not policies:
                del self._by_address[address]
        for address in addresses - filed.addresses:
            self._by_address.setdefault(address, set()).add(policy_id)
        if any(part.blocks for part in reach):
            self._with_blocks.add(policy_id)
        else:
            self._with_blocks.discard(policy_id)
        filed.reach, filed.addresses = reach, addresses


def _used(pod: Pod) -> tuple[object, ...]:
    """Return what resolving uses of a pod beside its labels."""
    return pod.address, pod.host_ip, pod.host_network, pod.ports

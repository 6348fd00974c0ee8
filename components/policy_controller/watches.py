"""What is watched, and how each change reaches the core (spec policy.md 3.4)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

from vpccni.components.policy_controller.documents import POLICIES, EndpointWire, stored_of
from vpccni.components.policy_controller.endpoints import Endpoints
from vpccni.components.policy_controller.facts import (
    PodWire,
    ServiceWire,
    SliceWire,
    namespace_of,
    pod_of,
    service_of,
    slice_of,
)
from vpccni.components.policy_controller.knowledge import Knowledge
from vpccni.components.policy_controller.model import Held, Kind, Labels, Pod, PolicyId, Service, Slice, Stored
from vpccni.components.policy_controller.policies import held_of
from vpccni.components.policy_controller.policy_wires import PolicyWire
from vpccni.shared.kube import NAMESPACES, PODS, Change, Kube, Watch, Wire
from vpccni.shared.kube.resources import CLUSTER_POLICY_ENDPOINTS, ENDPOINT_SLICES, POLICY_ENDPOINTS, SERVICES, Resource


class Watches:
    """Keeps knowledge and endpoint objects up to date. `touched(policies)`: others changed; `meant(policy)`: it changed itself."""

    def __init__(
        self,
        kube: Kube,
        knowledge: Knowledge,
        endpoints: Mapping[bool, Endpoints],
        by_uid: dict[str, PolicyId],
        *,
        namespace: str,
        touched: Callable[[Iterable[PolicyId]], None],
        meant: Callable[[PolicyId], None],
        heard: Callable[[], None],
    ) -> None:
        self._knowledge = knowledge
        self._endpoints, self._by_uid = endpoints, by_uid
        self._touched, self._meant, self._heard = touched, meant, heard
        self._all: list[Watch[Any]] = []

        def follow(resource: Resource, wire: type[Any], project: Callable[[Any], Any], changed: Any, *, namespaced: bool = True) -> None:  # fmt: skip
            within = namespace if namespaced else ""
            self._all.append(kube.watch(resource, wire=wire, project=project, changed=partial(self._take, changed), namespace=within))  # fmt: skip

        follow(NAMESPACES, Wire, namespace_of, self._on_namespaces, namespaced=False)
        follow(PODS, PodWire, pod_of, self._on_pods)
        follow(SERVICES, ServiceWire, service_of, self._on_services)
        follow(ENDPOINT_SLICES, SliceWire, slice_of, self._on_slices)
        for kind, resource in POLICIES.items():
            follow(resource, PolicyWire, partial(held_of, kind), partial(self._on_policies, kind), namespaced=kind is not Kind.CLUSTER)  # fmt: skip
        follow(POLICY_ENDPOINTS, EndpointWire, stored_of, partial(self._on_endpoints, False))
        follow(CLUSTER_POLICY_ENDPOINTS, EndpointWire, stored_of, partial(self._on_endpoints, True), namespaced=False)

    @property
    def synced(self) -> bool:
        """Tell whether the first list of every kind is in: before, nothing may be concluded."""
        return all(watch.synced for watch in self._all)

    def _take(self, changed: Callable[[Sequence[Change[Any]]], set[PolicyId] | None], changes: Sequence[Change[Any]]) -> None:  # fmt: skip
        if touched := changed(changes):
            self._touched(touched)
        self._heard()

    def _on_namespaces(self, changes: Sequence[Change[Labels]]) -> set[PolicyId]:
        put = self._knowledge.put_namespace
        return {one for change in changes for one in put(change.key.name, change.before, change.after)}

    def _on_pods(self, changes: Sequence[Change[Pod]]) -> set[PolicyId]:
        put = self._knowledge.put_pod
        return {one for change in changes for one in put(change.key, change.before, change.after)}

    def _on_services(self, changes: Sequence[Change[Service]]) -> set[PolicyId]:
        return {one for change in changes for one in self._knowledge.put_service(change.key, change.after)}

    def _on_slices(self, changes: Sequence[Change[Slice]]) -> set[PolicyId]:
        put = self._knowledge.put_slice
        return {one for change in changes for one in put(change.key, change.before, change.after)}

    def _on_policies(self, kind: Kind, changes: Sequence[Change[Held]]) -> None:
        for change in changes:
            policy_id = PolicyId(kind, change.key.namespace, change.key.name)
            if change.before is not None:
                self._by_uid.pop(change.before.policy.uid, None)
            if change.after is not None:
                self._by_uid[change.after.policy.uid] = policy_id
            if self._knowledge.put_policy(policy_id, change.after):
                self._meant(policy_id)

    def _on_endpoints(self, is_cluster: bool, changes: Sequence[Change[Stored]]) -> set[PolicyId]:
        owners = (self._endpoints[is_cluster].shown(change.key, change.after) for change in changes)
        return {self._by_uid[uid] for uid in owners if uid in self._by_uid}

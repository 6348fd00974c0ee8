"""The cluster, the policies and the index together: each change is taken in and answered with the policies it touches."""

from __future__ import annotations

from vpccni.components.policy_controller.cluster import Cluster
from vpccni.components.policy_controller.index import PolicyIndex
from vpccni.components.policy_controller.model import Held, Labels, Pod, PolicyId, Service, Slice
from vpccni.components.policy_controller.resolve import Resolution, resolve
from vpccni.shared.kube.objects import Key


class Knowledge:
    """See the module. A policy that is being deleted is not resolved any more, but stays in `policies`."""

    def __init__(self) -> None:
        self.cluster = Cluster()
        self.policies: dict[PolicyId, Held] = {}
        self._index = PolicyIndex(self.cluster)

    def put_policy(self, policy_id: PolicyId, held: Held | None) -> bool:
        """Take in a policy (None: gone); tell whether what it means changed, or whether it is to live on."""
        before = self.policies.pop(policy_id, None)
        if held is not None:
            self.policies[policy_id] = held
        means_the_same = (
            before is not None
            and held is not None
            and (before.policy, before.is_deleting) == (held.policy, held.is_deleting)
        )
        if not means_the_same:
            self._index.put(policy_id, held.policy if held is not None and not held.is_deleting else None)
        return not means_the_same

    def put_pod(self, key: Key, before: Pod | None, after: Pod | None) -> set[PolicyId]:
        self.cluster.put_pod(key, after)
        return self._index.touched_by_pod(before, after)

    def put_namespace(self, name: str, before: Labels | None, after: Labels | None) -> set[PolicyId]:
        self.cluster.put_namespace(name, after)
        return self._index.touched_by_namespace(before, after)

    def put_service(self, key: Key, service: Service | None) -> set[PolicyId]:
        before = self.cluster.vips_of(key)
        self.cluster.put_service(key, service)
        return self._index.touched_by_service(before, self.cluster.vips_of(key))

    def put_slice(self, key: Key, before: Slice | None, after: Slice | None) -> set[PolicyId]:
        services = sorted({Key(one.namespace, one.service) for one in (before, after) if one is not None})
        was = [vip for service in services for vip in self.cluster.vips_of(service)]
        self.cluster.put_slice(key, after)
        return self._index.touched_by_service(
            was, [vip for service in services for vip in self.cluster.vips_of(service)]
        )

    def resolve(self, policy_id: PolicyId) -> Resolution:
        """Return what a policy comes to now, and remember where it leads."""
        resolution = resolve(self.policies[policy_id].policy, self.cluster)
        self._index.resolved(policy_id, resolution)
        return resolution

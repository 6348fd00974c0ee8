"""The kinds we read or write, and their paths."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Resource:
    """One kind: its group ("" is core), version and plural name."""

    group: str
    version: str
    plural: str

    def path(self, *, namespace: str = "", name: str = "", subresource: str = "") -> str:
        """Return the path of the collection, or of one object. No namespace: cluster-wide."""
        root = f"/apis/{self.group}/{self.version}" if self.group else f"/api/{self.version}"
        parts = [root, f"namespaces/{namespace}" if namespace else "", self.plural, name, subresource]
        return "/".join(part for part in parts if part)


NODES: Final = Resource("", "v1", "nodes")
PODS: Final = Resource("", "v1", "pods")
NAMESPACES: Final = Resource("", "v1", "namespaces")
EVENTS: Final = Resource("events.k8s.io", "v1", "events")
ENI_CONFIGS: Final = Resource("crd.k8s.amazonaws.com", "v1alpha1", "eniconfigs")
CONFIG_MAPS: Final = Resource("", "v1", "configmaps")
SERVICES: Final = Resource("", "v1", "services")
ENDPOINT_SLICES: Final = Resource("discovery.k8s.io", "v1", "endpointslices")
LEASES: Final = Resource("coordination.k8s.io", "v1", "leases")
CRDS: Final = Resource("apiextensions.k8s.io", "v1", "customresourcedefinitions")
NETWORK_POLICIES: Final = Resource("networking.k8s.io", "v1", "networkpolicies")
APPLICATION_NETWORK_POLICIES: Final = Resource("networking.k8s.aws", "v1alpha1", "applicationnetworkpolicies")
CLUSTER_NETWORK_POLICIES: Final = Resource("networking.k8s.aws", "v1alpha1", "clusternetworkpolicies")
POLICY_ENDPOINTS: Final = Resource("networking.k8s.aws", "v1alpha1", "policyendpoints")
CLUSTER_POLICY_ENDPOINTS: Final = Resource("networking.k8s.aws", "v1alpha1", "clusterpolicyendpoints")

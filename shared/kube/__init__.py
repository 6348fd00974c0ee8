"""The Kubernetes API for the processes: list and watch of our own, and calls with a deadline; the loop never waits for either.

kube = Kube.of(process)
pods = kube.watch(PODS, wire=PodWire, project=pod_of, changed=self._on_pods, fields=f"spec.nodeName={node}")
node = await kube.get(NODES, NodeWire, name=node_name)

    resources   which kinds there are and where they live
    objects     what of an object is read: msgspec structs, decoded straight from the text
    access      where the API is and who we are (service account or KUBECONFIG)
    transport   adapter: the only module with the `kubernetes` package
    follow      list, watch, bookmarks, 410: one connection after the other, as steps; blocking
    watch       a thread for `follow`, and the copy in the loop that its steps keep
    api         `Kube`: the watches of a process, and get, create, patch
    election    who of several replicas leads: pure
    leader      and its adapter, over a Lease
"""

from vpccni.shared.kube.api import Kube
from vpccni.shared.kube.errors import KubeRefused
from vpccni.shared.kube.follow import Pace
from vpccni.shared.kube.objects import Metadata, Wire
from vpccni.shared.kube.resources import ENI_CONFIGS, EVENTS, NAMESPACES, NODES, PODS, Resource
from vpccni.shared.kube.watch import Change, Watch

__all__ = [
    "ENI_CONFIGS",
    "EVENTS",
    "NAMESPACES",
    "NODES",
    "PODS",
    "Change",
    "Kube",
    "KubeRefused",
    "Metadata",
    "Pace",
    "Resource",
    "Watch",
    "Wire",
]

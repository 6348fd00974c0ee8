"""What Kubernetes says of this node and its pods: read by watches, projected, published; and the rules that need nothing but these facts.

Nothing here is waited for at start (spec ipam.md W36): until the API has answered, the limits table stands in for the kubelet's number of
pods; when the API goes away, what was last seen stays in force.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import msgspec

from vpccni.components.eni_manager.annotations import POD_IPS
from vpccni.shared.kube import ENI_CONFIGS, NODES, PODS, Change, Kube, Metadata, Watch, Wire
from vpccni.shared.kube.objects import Key
from vpccni.shared.loop import Timer
from vpccni.shared.messages.inventory import NodeFacts, PodFact, PodFacts
from vpccni.shared.process import Process

EXTERNAL_LABEL: Final = "vpc.amazonaws.com/externalEniConfig"  # spec ipam.md 16
ENI_CONFIG_KEY: Final = "k8s.amazonaws.com/eniConfig"  # spec env.md 2
ENI_CONFIG_DEFAULT: Final = "default"
POD_ENI: Final = "vpc.amazonaws.com/pod-eni"  # spec ipam.md 19
MIRROR: Final = "kubernetes.io/config.mirror"
"""On the API's image of a static pod: the uid that the kubelet gives the runtime."""
UNSCHEDULABLE: Final = "node.kubernetes.io/unschedulable"  # spec ipam.md 21
NOT_KNOWN_YET: Final = "Node and ENIConfigs are not known yet: the Kubernetes API has not answered"
OVER: Final = frozenset({"Succeeded", "Failed"})
TOGETHER_S: Final = 0.1
"""Pods that change within this time are published in one message: a burst of 250 pods changes each of them three times."""


# -- what is read of the objects


class _Taint(msgspec.Struct, frozen=True):
    key: str = ""
    effect: str = ""


class _NodeSpec(msgspec.Struct, frozen=True):
    taints: list[_Taint] = []


class _NodeStatus(msgspec.Struct, frozen=True):
    capacity: dict[str, str] = {}


class NodeWire(Wire, frozen=True):
    """A Node."""

    spec: _NodeSpec = _NodeSpec()
    status: _NodeStatus = _NodeStatus()


class _PodStatus(msgspec.Struct, frozen=True):
    podIP: str = ""
    phase: str = ""


class PodWire(Wire, frozen=True):
    """A Pod."""

    status: _PodStatus = _PodStatus()


class _EniConfigSpec(msgspec.Struct, frozen=True, rename="camel"):
    subnet: str = ""
    security_groups: list[str] = []


class EniConfigWire(Wire, frozen=True):
    """An ENIConfig."""

    spec: _EniConfigSpec = _EniConfigSpec()


# -- what is kept


@dataclass(frozen=True, slots=True)
class Node:
    """This node. `max_pods`: 0 when its capacity names none."""

    name: str
    uid: str
    labels: Mapping[str, str]
    annotations: Mapping[str, str]
    unschedulable: bool
    max_pods: int


@dataclass(frozen=True, slots=True)
class EniConfig:
    """Where the ENIs of a node come from. No groups: the primary ENI's."""

    name: str
    subnet_id: str
    groups: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class EniConfigKeys:
    """The operator's own names for the annotation and the label (ENI_CONFIG_ANNOTATION_DEF, ENI_CONFIG_LABEL_DEF)."""

    annotation: str = ENI_CONFIG_KEY
    label: str = ENI_CONFIG_KEY

    @classmethod
    def of(cls, raw: Mapping[str, str]) -> EniConfigKeys:
        """Return the names of an environment; empty means the default (spec env.md 2)."""
        return cls(
            raw.get("ENI_CONFIG_ANNOTATION_DEF") or ENI_CONFIG_KEY, raw.get("ENI_CONFIG_LABEL_DEF") or ENI_CONFIG_KEY
        )


def node_of(wire: NodeWire) -> Node:
    """Return what matters of a Node."""
    capacity = wire.status.capacity.get("pods", "")
    return Node(
        name=wire.metadata.name,
        uid=wire.metadata.uid,
        labels=wire.metadata.labels,
        annotations=wire.metadata.annotations,
        unschedulable=any(taint.key == UNSCHEDULABLE and taint.effect == "NoSchedule" for taint in wire.spec.taints),
        max_pods=int(capacity) if capacity.isascii() and capacity.isdigit() else 0,
    )


def pod_of(wire: PodWire) -> PodFact:
    """Return what matters of a Pod. One that has ended holds no address any more."""
    meta: Metadata = wire.metadata
    over = wire.status.phase in OVER
    return PodFact(
        uid=meta.uid,
        namespace=meta.namespace,
        name=meta.name,
        pod_eni=meta.annotations.get(POD_ENI, ""),
        pod_ips=meta.annotations.get(POD_IPS, ""),
        static_uid=meta.annotations.get(MIRROR, ""),
        address="" if over else wire.status.podIP,
        terminating=over or bool(meta.deletion_timestamp),
    )


def eni_config_from(wire: EniConfigWire) -> EniConfig:
    """Return what matters of an ENIConfig."""
    return EniConfig(wire.metadata.name, wire.spec.subnet, tuple(wire.spec.security_groups))


def eni_config_name(node: Node | None, keys: EniConfigKeys) -> str:
    """Return the name of the node's ENIConfig (spec ipam.md 16); a node that cannot be read counts as one without labels."""
    if node is None:
        return ENI_CONFIG_DEFAULT
    found = (
        node.labels.get(EXTERNAL_LABEL),
        node.annotations.get(keys.annotation),
        node.labels.get(keys.label),
    )
    return next((name for name in found if name is not None), ENI_CONFIG_DEFAULT)


def eni_config_of(node: Node | None, configs: Mapping[str, EniConfig], keys: EniConfigKeys) -> EniConfig | str:
    """Return the ENIConfig that applies to the node, or a sentence that says why there is none."""
    name = eni_config_name(node, keys)
    config = configs.get(name)
    if config is None:
        known = ", ".join(sorted(configs)) or "none"
        return f"No ENIConfig {name!r} for this node (there are: {known}). Create it, or correct the node's label or annotation"
    if not config.subnet_id:
        return f"ENIConfig {name!r} names no subnet. Set spec.subnet"
    return config


# -- the watches


class KubeFacts:
    """See the module. `changed()` is called after each change of this node's object and of ENIConfigs, and after pods changed."""

    def __init__(self, process: Process, kube: Kube, *, changed: Callable[[], None]) -> None:
        self._process, self._changed = process, changed
        self._name = process.settings.node_name
        self._keys = EniConfigKeys.of(process.raw)
        self._custom = process.settings.custom_networking
        self._published: NodeFacts | None = None
        self._soon: Timer | None = None
        self.nodes: Watch[Node] | None = None
        self.pods: Watch[PodFact] | None = None
        self.configs: Watch[EniConfig] | None = None
        if not self._name:
            process.degraded("node name", "MY_NODE_NAME is not set: nothing is known of this node and its pods")
            return
        self.nodes = kube.watch(
            NODES, wire=NodeWire, project=node_of, changed=self._node_changed, fields=f"metadata.name={self._name}"
        )
        self.pods = kube.watch(
            PODS, wire=PodWire, project=pod_of, changed=self._pods_changed, fields=f"spec.nodeName={self._name}"
        )
        if self._custom:
            self.configs = kube.watch(
                ENI_CONFIGS, wire=EniConfigWire, project=eni_config_from, changed=self._configs_changed
            )

    @property
    def node(self) -> Node | None:
        """This node's object as last seen."""
        return self.nodes.objects.get(Key("", self._name)) if self.nodes is not None else None

    def pod(self, namespace: str, name: str) -> PodFact | None:
        """A pod of this node as last seen."""
        return self.pods.objects.get(Key(namespace, name)) if self.pods is not None else None

    def eni_config(self) -> EniConfig | str:
        """Return the ENIConfig that applies to this node, or why there is none; with custom networking only."""
        if self.configs is None or not self.configs.synced or self.nodes is None or not self.nodes.synced:
            return NOT_KNOWN_YET
        if not self.configs.installed:
            return "The kind ENIConfig is not installed in this cluster. Install the chart's CRDs"
        return eni_config_of(self.node, {config.name: config for config in self.configs.objects.values()}, self._keys)

    def _node_changed(self, changes: Sequence[Change[Node]]) -> None:
        self._publish_node()
        self._changed()

    def _configs_changed(self, changes: Sequence[Change[EniConfig]]) -> None:
        self._publish_node()
        self._changed()

    def _publish_node(self) -> None:
        if self.nodes is None or not self.nodes.synced:
            return
        node = self.node
        config = self.eni_config() if self._custom else ""
        facts = NodeFacts(
            node_name=self._name,
            exists=node is not None,
            max_pods=node.max_pods if node is not None else 0,
            unschedulable=node is not None and node.unschedulable,
            eni_config=eni_config_name(node, self._keys),
            eni_config_subnet="" if isinstance(config, str) else config.subnet_id,
            eni_config_groups=[] if isinstance(config, str) else list(config.groups),
            eni_config_problem=config if isinstance(config, str) else "",
        )
        if facts != self._published:
            self._published = facts
            self._process.publish(facts)

    def _pods_changed(self, changes: Sequence[Change[PodFact]]) -> None:
        if self._soon is None:
            self._soon = self._process.loop.call_later(TOGETHER_S, self._publish_pods)

    def _publish_pods(self) -> None:
        self._soon = None
        if self.pods is not None:
            pods = sorted(self.pods.objects.values(), key=lambda pod: (pod.namespace, pod.name))
            self._process.publish(PodFacts(pods=pods))
            self._changed()

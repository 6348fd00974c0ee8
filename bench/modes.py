"""The kinds of pod networks beside the usual one: what an ADD and a DEL cost there. Policy is on in all of them.

Each is measured with the plugins that are ours, `egress-cni` among them where the node's conflist has it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

from vpccni.lab.api import Lab, Node
from vpccni.lab.runtime import CniError

LAB: Final = "bench-mode"
EVERY_CARD: Final = {"k8s.amazonaws.com/nicConfig": "multi-nic-attachment"}
TWO_CARDS: Final = "hpc7a.48xlarge"
READY_WITHIN_S: Final = 60.0
READY_POLL_S: Final = 0.5
SETTLE_S: Final = 3.0
PODS_HELD_AT_MOST: Final = 45
"""Together with the warming up they fit on one ENI of a card."""
WARM_UP: Final = 3


@dataclass(frozen=True)
class Mode:
    """A kind of pod network. `annotations`: what its pods carry; `most`: how many of them there may be at once."""

    what: str
    env: Mapping[str, str | None]
    instance_type: str = "m5.24xlarge"
    ipv6: bool = False
    annotations: Mapping[str, str] = field(default_factory=dict)
    most: int = 250


MODES: Final[Sequence[Mode]] = (
    Mode("prefixes", {"ENABLE_PREFIX_DELEGATION": "true", "WARM_PREFIX_TARGET": "20"}),
    Mode("IPv6", {"ENABLE_V4_EGRESS": "false"}, ipv6=True),
    Mode("IPv6 with IPv4 egress", {}, ipv6=True),
    Mode(
        "IPv4 with IPv6 egress",
        {"ENABLE_IPv4": "true", "ENABLE_IPv6": "false", "ENABLE_PREFIX_DELEGATION": "false", "ENABLE_V6_EGRESS": "true",
         "WARM_IP_TARGET": "1", "MINIMUM_IP_TARGET": "300"},
        ipv6=True,
    ),
    Mode("two network cards", {"ENABLE_MULTI_NIC": "true"}, TWO_CARDS, annotations=EVERY_CARD, most=PODS_HELD_AT_MOST),
)  # fmt: skip


class Driving(Protocol):
    """What is needed of the bench."""

    def drive(self, node: Node, *arguments: str) -> dict[str, Any]: ...


Told = Callable[[str, Mapping[str, Sequence[float]]], None]
"""Takes what was measured: its name, and the seconds of ADD, DEL and /bin/true."""


def measure(mode: Mode, bench: Driving, *, pods: int, at_once: int, told: Told) -> None:
    """Bring a node of this kind up and measure pods one at a time, and then many at once."""
    with _up(mode) as lab:
        node = lab.nodes[0]
        _wait_for_pods(lab, mode)
        for what, count, more in (
            (f"one at a time, {mode.what}", min(pods, mode.most), ()),
            (f"{at_once} at once, {mode.what}", min(250, mode.most), ("--together", "--at-once", str(at_once))),
        ):
            prefix = f"m{count}"
            for number in range(count + WARM_UP if mode.annotations else 0):
                _tell_api(lab, f"{prefix}-{number}", mode.annotations)
            arguments = ["pods", "--ours", "--prefix", prefix, "--count", str(count), *more]
            told(what, bench.drive(node, *arguments))


def _up(mode: Mode) -> AbstractContextManager[Lab]:
    env = {**mode.env, "IP_COOLDOWN_PERIOD": "1"}
    return Lab.up(LAB, nodes=1, instance_type=mode.instance_type, env=env, ipv6=mode.ipv6)


def _wait_for_pods(lab: Lab, mode: Mode) -> None:
    """Wait until a pod of this kind can be added, and the pool rests. Raises CniError with the last refusal."""
    deadline = time.monotonic() + READY_WITHIN_S
    while True:
        try:
            lab.add_pod(lab.nodes[0].name, "probe", annotations=mode.annotations)
        except CniError:
            if time.monotonic() > deadline:
                raise
            time.sleep(READY_POLL_S)
        else:
            lab.delete_pod("probe")
            time.sleep(SETTLE_S)
            return


def _tell_api(lab: Lab, name: str, annotations: Mapping[str, str]) -> None:
    metadata = {"name": name, "namespace": "bench", "annotations": dict(annotations)}
    spec = {"nodeName": lab.nodes[0].name, "containers": []}
    lab.kube("POST", "/api/v1/namespaces/bench/pods", {"metadata": metadata, "spec": spec}, expect=(201, 409))

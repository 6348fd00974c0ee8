"""Pods that run already and have no entry: of another layout, of the reference's agent, or of before policy was switched on. Pure.

A host veth is recognised by its name, which says whose it is (spec policy.md 5.3): `eni` or `vlan`, or what the operator chose, and
the hash of namespace and name.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from vpccni.components.policy_agent.selection import PodFacts
from vpccni.shared.kube.objects import Key

HASH_LETTERS: Final = 11
INTERFACES_AT_MOST: Final = 4
"""Network cards of the largest instance types with several (spec ipam.md 4)."""


@dataclass(frozen=True, slots=True)
class Found:
    """A link that is a pod's and has no entry."""

    ifindex: int
    link: str
    pod: Key
    facts: PodFacts


def unattached(pods: Mapping[Key, PodFacts], links: Mapping[str, int], attached: Collection[int]) -> Iterator[Found]:
    """Yield the links (index by name) of running pods that nothing is attached to by this agent."""
    by_hash = {name[-HASH_LETTERS:]: name for name in links if len(name) > HASH_LETTERS}
    for pod, facts in pods.items():
        if facts.host_network or not facts.addresses:
            continue
        for number in range(INTERFACES_AT_MOST):
            link = by_hash.get(hash_of(pod, number))
            if link is None:
                break
            if links[link] not in attached:
                yield Found(links[link], link, pod, facts)


def hash_of(pod: Key, number: int = 0) -> str:
    """Return what a pod's host veth ends with; `number` counts its interfaces."""
    name = f"{pod.name}.{number}" if number else pod.name
    return hashlib.sha1(f"{pod.namespace}.{name}".encode(), usedforsecurity=False).hexdigest()[:HASH_LETTERS]

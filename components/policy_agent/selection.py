"""Which policies select the pod behind an interface. Pure; worked out anew from the copies each time, so nothing can go stale.

A pod is selected by being listed in one of a policy's objects. One that is new, and not listed anywhere yet, is taken for selected
by its labels: the controller needs its address first, and the pod must not be open meanwhile (spec policy.md W-22). Where it could be
any of several policies of one owner, each for the pods that name a port alike, it is shut until one of them lists it. That lasts
`PROVISIONAL_S`, because the selector in an object of another controller may be of the day it was created (2.2).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

import msgspec

from vpccni.components.policy_agent.endpoints import Endpoint, ListedPod, Subject, united
from vpccni.components.policy_agent.policy import Policy, PolicyKey
from vpccni.components.policy_agent.selectors import selects
from vpccni.shared.kube.objects import Key
from vpccni.shared.messages.base import PodRef

PROVISIONAL_S: Final = 60.0
NOT_LISTED: Final = "pods that are not listed yet"
PARTS_WITHIN_S: Final = 10.0
"""How long a policy waits for objects that its others tell of: a controller that died, or one that tells no number, must not hold it."""


class Behind(msgspec.Struct, frozen=True):
    """Who is behind an interface. `strict`: no policy means no traffic; `attached_at`: seconds of boot time."""

    pod: PodRef
    addresses: tuple[str, ...]
    strict: bool
    attached_at: float


@dataclass(frozen=True, slots=True)
class PodFacts:
    """What the API says of a pod of this node."""

    uid: str
    labels: Mapping[str, str]
    host_network: bool = False
    addresses: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class PolicyObjects:
    """A policy with everything its objects say about whom it selects.

    `closed`: the policy without what it allows. `owner`: the same for those that were made of one NetworkPolicy, each for other pods.
    """

    policy: Policy
    parts: tuple[Endpoint, ...]
    pods: frozenset[ListedPod]
    subject: Subject | None
    closed: Policy
    owner: str


@dataclass(frozen=True, slots=True)
class Gathered:
    """All policies. `waiting`: those whose objects are not all there, since when (seconds of boot time)."""

    policies: Mapping[PolicyKey, PolicyObjects]
    waiting: Mapping[PolicyKey, float]


NOTHING: Final = Gathered({}, {})


def gathered(endpoints: Mapping[Key, Endpoint], before: Gathered, *, now: float, first: bool = False) -> Gathered:
    """Return all policies; those whose objects are the very ones of `before` are the same objects too, so that nothing of them is
    compiled again.

    A policy whose objects are not all there stays as it was, for PARTS_WITHIN_S: a part of its rules would deny what the others
    allow (spec policy.md W-10). At `first` it is taken as it is: what it was is in force already, and must not be opened.
    """
    parts: dict[PolicyKey, list[tuple[Key, Endpoint]]] = {}
    for key, endpoint in endpoints.items():
        parts.setdefault(endpoint.policy, []).append((key, endpoint))
    policies: dict[PolicyKey, PolicyObjects] = {}
    waiting: dict[PolicyKey, float] = {}
    for name, found in parts.items():
        ordered = tuple(endpoint for _, endpoint in sorted(found, key=lambda one: one[0]))
        known = before.policies.get(name)
        since = before.waiting.get(name, now)
        if known is not None and len(known.parts) == len(ordered) and all(map(_is, known.parts, ordered)):
            policies[name] = known
        elif first or is_whole(ordered) or now - since >= PARTS_WITHIN_S:
            policies[name] = _objects(ordered)
        else:
            waiting[name] = since
            if known is not None:
                policies[name] = known
    return Gathered(policies, waiting)


def is_whole(parts: Sequence[Endpoint]) -> bool:
    """Return whether these are all objects of a policy: each tells their number, or none does."""
    told = [part.parts for part in parts]
    return not any(told) or all((number or 1) == len(parts) for number in told)


def _is(one: Endpoint, other: Endpoint) -> bool:
    return one is other


def _objects(parts: tuple[Endpoint, ...]) -> PolicyObjects:
    pods = frozenset().union(*(part.pods for part in parts))
    policy = united(parts)
    key = policy.key._replace(name=f"{policy.key.name} ({NOT_LISTED})")
    closed = replace(policy, key=key, rules=((), ()))
    return PolicyObjects(policy, parts, pods, parts[-1].subject, closed, parts[-1].owner or str(policy.key))


def selecting(
    policies: Iterable[PolicyObjects],
    behind: Behind,
    facts: PodFacts | None,
    namespaces: Mapping[str, Mapping[str, str]],
    *,
    now: float,
) -> list[Policy]:
    """Return those of `policies` (the pod's namespace's and the cluster's) that select the pod. `namespaces`: labels by name; `now`: seconds of boot time."""
    listed = {ListedPod(behind.pod.namespace, behind.pod.name, address) for address in behind.addresses}
    listing: list[PolicyObjects] = []
    others: list[PolicyObjects] = []
    for one in policies:
        (others if listed.isdisjoint(one.pods) else listing).append(one)
    found = [one.policy for one in listing]
    if facts is not None and now - behind.attached_at < PROVISIONAL_S:
        settled = {one.owner for one in listing}
        meant = [one for one in others if one.owner not in settled and _is_meant(one, behind, facts, namespaces)]
        owners = Counter(one.owner for one in meant)
        found += [one.policy if owners[one.owner] == 1 else one.closed for one in meant]
    return found


def by_namespace(policies: Iterable[PolicyObjects]) -> dict[str, list[PolicyObjects]]:
    """Return the policies that can select pods of a namespace; those of the cluster are under ""."""
    found: dict[str, list[PolicyObjects]] = {}
    for one in policies:
        found.setdefault(one.policy.key.namespace, []).append(one)
    return found


def _is_meant(one: PolicyObjects, behind: Behind, facts: PodFacts, namespaces: Mapping[str, Mapping[str, str]]) -> bool:
    subject = one.subject
    if subject is None or facts.host_network or not selects(subject.pods, facts.labels):
        return False
    return subject.namespaces is None or selects(subject.namespaces, namespaces.get(behind.pod.namespace, {}))

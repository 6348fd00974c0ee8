"""A policy and the cluster to the rules that hold: selectors to addresses, names to numbers, services to virtual addresses. Pure.

Named ports of ingress belong to the pod that is connected to: pods whose names stand for other numbers become groups of their own, each with
its own rules (spec policy.md T-044); everything else is the same for all pods of the policy.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import ip_network
from typing import Final

from vpccni.components.policy_controller.allowed import Allowed, Ports, unite
from vpccni.components.policy_controller.cluster import Cluster
from vpccni.components.policy_controller.model import (
    Address,
    Block,
    Entry,
    Kind,
    Pod,
    PodPeer,
    Policy,
    Port,
    PortRule,
    Problem,
    Rule,
    Target,
)
from vpccni.components.policy_controller.selectors import EVERYTHING
from vpccni.components.policy_controller.services import with_services
from vpccni.shared.kube.objects import Key

ENTRIES_AT_MOST: Final = 65_536
"""Of one direction: more do not fit into a node's table (spec policy.md 5.9, T-137)."""
NAMED_AT_MOST: Final = 5
"""Objects that one problem names."""
EVERY_POD: Final = PodPeer(EVERYTHING, EVERYTHING)
EVERYWHERE: Final = tuple(Block(ip_network(text)) for text in ("0.0.0.0/0", "::/0"))
UNRESOLVED_PORT, MIXED_BACKENDS, TOO_LARGE = "UnresolvedPort", "MixedBackends", "TooLarge"
Name = tuple[str, str]
"""A port's name and its protocol."""
Numbers = Mapping[Name, int]


@dataclass(frozen=True, slots=True)
class Group:
    """Pods of a policy for which its named ports stand for the same numbers (`numbers`, in order of the names)."""

    numbers: tuple[int, ...]
    targets: frozenset[Target]
    ingress: frozenset[Entry]


@dataclass(frozen=True, slots=True)
class Resolution:
    """What is wanted of a policy. `reach`: where its egress leads without services (see `index`)."""

    groups: tuple[Group, ...]
    egress: frozenset[Entry] = frozenset()
    problems: tuple[Problem, ...] = ()
    reach: tuple[Allowed, ...] = ()

    @property
    def is_too_large(self) -> bool:
        return any(problem.reason == TOO_LARGE for problem in self.problems)


def resolve(policy: Policy, cluster: Cluster) -> Resolution:
    """Return what a policy comes to in the cluster as it is. Never raises; what is wrong is in `problems`."""
    if policy.subject is None:
        return Resolution((Group((), frozenset(), frozenset()),), problems=policy.problems)
    pods = [pod for pod in cluster.select(policy.subject) if not pod.host_network]
    resolver = _Resolver(policy, cluster)
    groups = tuple(resolver.group(numbers, members) for numbers, members in _grouped(policy, pods).items())
    resolver.note_unresolved_ingress(pods)
    egress, reach = resolver.egress()
    largest = max([len(egress), *(len(group.ingress) for group in groups)])
    if largest > ENTRIES_AT_MOST:
        text = f"a direction comes to {largest} addresses, more than the {ENTRIES_AT_MOST} that a node can hold; what was in force stays"
        resolver.problems.append(Problem(TOO_LARGE, text))
    problems = tuple(sorted({*policy.problems, *resolver.problems}))
    return Resolution(groups, egress, problems, reach)


def interests(policy: Policy) -> tuple[PodPeer, ...]:
    """Return the pods that a policy's resolution depends on."""
    rules = (*policy.ingress, *policy.egress)
    peers = {peer for rule in rules for peer in rule.pods}
    if policy.subject is not None:
        peers.add(policy.subject)
    if any(rule.is_anywhere and _names([rule]) for rule in policy.egress):
        peers.add(EVERY_POD)
    return tuple(peers)


def _names(rules: Iterable[Rule]) -> tuple[Name, ...]:
    return tuple(sorted({(port.name, port.protocol) for rule in rules for port in rule.ports or () if port.name}))


def _grouped(policy: Policy, pods: Sequence[Pod]) -> dict[tuple[int, ...], list[Pod]]:
    """Return the pods by what the ingress rules' names stand for; one group at least."""
    names = _names(policy.ingress)
    groups: dict[tuple[int, ...], list[Pod]] = {}
    for pod in pods:
        groups.setdefault(tuple(pod.number_of(*name) for name in names), []).append(pod)
    return groups or {(0,) * len(names): []}


class _Resolver:
    """One policy's rules against the cluster; peers of ingress are looked up once for all groups."""

    def __init__(self, policy: Policy, cluster: Cluster) -> None:
        self._policy, self._cluster = policy, cluster
        self._names = _names(policy.ingress)
        self._peers = [self._places(rule) for rule in policy.ingress]
        self.problems: list[Problem] = []

    def group(self, numbers: tuple[int, ...], members: Sequence[Pod]) -> Group:
        known = dict(zip(self._names, numbers, strict=True))
        allowed: dict[str, Allowed] = {}
        for rule, (addresses, blocks) in zip(self._policy.ingress, self._peers, strict=True):
            ports = _numbered(rule.ports, known)
            if ports is not None and not ports:
                continue  # a rule whose names nobody declares allows nothing (spec policy.md 3.6)
            into = allowed.setdefault(rule.action, Allowed(rule.action))
            for address in addresses:
                unite(into.exact, address, ports)
            for block in blocks:
                unite(into.blocks, block, ports)
        targets = frozenset(Target(pod.namespace, pod.name, str(pod.address), pod.host_ip) for pod in members)
        return Group(numbers, targets, _entries(allowed))

    def egress(self) -> tuple[frozenset[Entry], tuple[Allowed, ...]]:
        allowed: dict[str, Allowed] = {}
        for number, rule in enumerate(self._policy.egress):
            self._add_egress(rule, allowed.setdefault(rule.action, Allowed(rule.action)), f"spec.egress[{number}]")
        reach = tuple(part.copy() for part in allowed.values())
        for part in allowed.values():
            self._note_mixed(with_services(part, self._cluster), part.action)
        return _entries(allowed), reach

    def note_unresolved_ingress(self, pods: Sequence[Pod]) -> None:
        """Say which names none of the selected pods declares."""
        for name, protocol in self._names:
            if pods and not any(pod.number_of(name, protocol) for pod in pods):
                self._unresolved("spec.ingress", name, protocol, "none of the pods that the policy selects declares it")

    def _places(self, rule: Rule) -> tuple[list[Address], Sequence[Block]]:
        """Return the addresses and blocks of a rule's peers."""
        return [pod.address for pod in self._pods(rule)], EVERYWHERE if rule.is_anywhere else rule.blocks

    def _pods(self, rule: Rule) -> list[Pod]:
        """Return a rule's pods, each once. Pods of the host's network are peers of namespaced policies alone (spec policy.md 3.9)."""
        without_host = self._policy.id.kind is Kind.CLUSTER
        found = {(pod.namespace, pod.name): pod for peer in rule.pods for pod in self._cluster.select(peer)}
        return [pod for pod in found.values() if not (without_host and pod.host_network)]

    def _add_egress(self, rule: Rule, into: Allowed, at: str) -> None:
        names = _names([rule])
        plain = _numbered(rule.ports, {})
        pods = self._pods(rule)
        for pod in pods:
            ports = _numbered(rule.ports, {name: pod.number_of(*name) for name in names}) if names else plain
            if ports is None or ports:
                unite(into.exact, pod.address, ports)
        if rule.is_anywhere and names:
            pods = self._add_named(rule, names, into)
        if plain is None or plain:
            for block in EVERYWHERE if rule.is_anywhere else rule.blocks:
                unite(into.blocks, block, plain)
            for domain in rule.domains:
                unite(into.domains, domain, plain)
        self._note_egress(rule, names, pods, at)

    def _add_named(self, rule: Rule, names: Sequence[Name], into: Allowed) -> list[Pod]:
        """Open a rule without peers on the pods that declare its names; return these."""
        found = []
        for pod in self._cluster.select(EVERY_POD):
            numbers = {name: number for name in names if (number := pod.number_of(*name))}
            if numbers:
                found.append(pod)
                unite(into.exact, pod.address, frozenset(Port(name[1], number) for name, number in numbers.items()))
        return found

    def _note_egress(self, rule: Rule, names: Sequence[Name], pods: Sequence[Pod], at: str) -> None:
        for name, protocol in names:
            if rule.blocks or rule.domains:
                self._unresolved(
                    at,
                    name,
                    protocol,
                    "only pods have named ports: it never applies to ipBlock, networks or domainNames",
                )
            elif pods and not any(pod.number_of(name, protocol) for pod in pods):
                self._unresolved(at, name, protocol, "none of the pods that the rule leads to declares it")

    def _unresolved(self, at: str, name: str, protocol: str, why: str) -> None:
        self.problems.append(Problem(UNRESOLVED_PORT, f"{at}: port {name!r} ({protocol}): {why}"))

    def _note_mixed(self, services: Iterable[Key], action: str) -> None:
        if action:
            return  # a cluster's rule often means a part of a service; that is no mistake
        names = sorted("/".join(service) for service in services)
        if names:
            more = f" and {len(names) - NAMED_AT_MOST} more" if len(names) > NAMED_AT_MOST else ""
            text = f"egress allows only some backends of {', '.join(names[:NAMED_AT_MOST])}{more}: their addresses stay closed"
            self.problems.append(Problem(MIXED_BACKENDS, text))


def _numbered(rules: Sequence[PortRule] | None, known: Numbers) -> Ports:
    """Return the ports as numbers; names that stand for nothing are left out."""
    if rules is None:
        return None
    found = set()
    for rule in rules:
        number = known.get((rule.name, rule.protocol), 0) if rule.name else rule.number
        if number or not rule.name:
            found.add(Port(rule.protocol, number, rule.end))
    return frozenset(found)


def _entries(allowed: Mapping[str, Allowed]) -> frozenset[Entry]:
    return frozenset(entry for part in allowed.values() for entry in part.entries())

"""What each pod's policies are becomes what the kernel does: compile, write beside, switch by one write, take away later.

Everything is worked out from the copies each time (`apply`); nothing that a change might have missed is kept. What fails is told
to the caller, who calls again with back-off: a pod whose rule set cannot be written keeps the one it has.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from vpccni.components.policy_agent.compiler import RuleClass, RuleSet, compile_rule_set
from vpccni.components.policy_agent.conntrack import OpenFlow, open_flows
from vpccni.components.policy_agent.datapath import Datapath
from vpccni.components.policy_agent.endpoints import Endpoint
from vpccni.components.policy_agent.layout import NO_RULE_SET, PodEntry
from vpccni.components.policy_agent.policy import Action, Policy, PolicyKey, prefix
from vpccni.components.policy_agent.rule_maps import Mended, RuleSetTooLarge
from vpccni.components.policy_agent.selection import (
    NOTHING,
    Behind,
    PodFacts,
    PolicyObjects,
    by_namespace,
    gathered,
    selecting,
)
from vpccni.shared.errors import VpccniError
from vpccni.shared.kube.objects import Key

DROP_AFTER_S: Final = 2.0
"""A rule set stays this long after its last pod left it: packets that are being judged by it, and policies that flap."""


@dataclass(frozen=True, slots=True)
class Copies:
    """What the API shows; each a copy that the watches keep. Pods by namespace and name, namespaces' labels by name."""

    endpoints: Mapping[Key, Endpoint]
    cluster_endpoints: Mapping[Key, Endpoint]
    pods: Mapping[Key, PodFacts]
    namespaces: Mapping[str, Mapping[str, str]]


@dataclass(slots=True)
class Applied:
    """What one pass did. `failed`: why an interface keeps what it has."""

    switched: int = 0
    failed: dict[int, VpccniError] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Compiled:
    policies: tuple[Policy, ...]
    rule_set: RuleSet


@dataclass(frozen=True, slots=True)
class Remembered:
    """Connections that were open before a first policy, by the pod's address."""

    by_address: Mapping[str, list[OpenFlow]]

    def of(self, behind: Behind) -> list[OpenFlow]:
        """Return those of a pod."""
        return [flow for address in behind.addresses for flow in self.by_address.get(address, ())]


class Enforcement:
    """See the module. `clock`: seconds of boot time; `tracked`: the open connections of addresses that are a pod's."""

    def __init__(
        self,
        datapath: Datapath,
        *,
        clock: Callable[[], float],
        tracked: Callable[[Callable[[int], bool]], list[OpenFlow]] = open_flows,
    ) -> None:
        self._datapath, self._clock, self._tracked = datapath, clock, tracked
        entries = datapath.entries()
        self.behind = {ifindex: found for ifindex in entries if (found := datapath.behind(ifindex)) is not None}
        self._current = {ifindex: entry.rule_set for ifindex, entry in entries.items()}
        self._copies: Copies | None = None
        self._gathered = NOTHING
        self._index: dict[str, list[PolicyObjects]] = {}
        self._compiled: dict[tuple[frozenset[PolicyKey], bool], _Compiled] = {}
        self._numbered: dict[int, RuleSet] = {}
        self._unused: dict[int, float] = {}

    @property
    def knows(self) -> bool:
        """Return whether the first lists of all kinds are in: before that nothing in force is changed (spec policy.md W-12)."""
        return self._copies is not None

    @property
    def policies(self) -> Mapping[PolicyKey, PolicyObjects]:
        """Return all policies, as far as their objects are all there."""
        return self._gathered.policies

    @property
    def incomplete(self) -> int:
        """Return how many policies wait for the rest of their objects."""
        return len(self._gathered.waiting)

    @property
    def rule_sets(self) -> Mapping[int, RuleSet]:
        """Return the rule sets that this process wrote or recognised, by number."""
        return self._numbered

    def know(self, copies: Copies) -> None:
        """Take over what the API shows now."""
        endpoints = {**copies.endpoints, **copies.cluster_endpoints}
        self._gathered = gathered(endpoints, self._gathered, now=self._clock(), first=not self.knows)
        self._copies = copies
        self._index = by_namespace(self.policies.values())

    def may_select(self, namespace: str) -> bool:
        """Return whether any policy could select a pod of the namespace, whatever its labels are."""
        return bool(self._index.get("") or self._index.get(namespace))

    def selecting(self, behind: Behind, facts: PodFacts | None = None) -> list[Policy]:
        """Return the policies that select who is behind an interface."""
        candidates = [*self._index.get("", ()), *self._index.get(behind.pod.namespace, ())]
        return self.selecting_of(candidates, behind, facts)

    def selecting_of(
        self, candidates: Iterable[PolicyObjects], behind: Behind, facts: PodFacts | None = None
    ) -> list[Policy]:
        """Return those of some policies that select who is behind an interface."""
        copies = self._copies
        if copies is None:
            return []
        facts = facts or copies.pods.get(Key(behind.pod.namespace, behind.pod.name))
        return selecting(candidates, behind, facts, copies.namespaces, now=self._clock())

    # -- pods

    def attach(self, ifindex: int, *, link: str, sandbox: str, behind: Behind, facts: PodFacts | None) -> bool:
        """Put a pod's policies in force on an interface; return whether a filter had to be put.

        Raises `VpccniError` with nothing in force: a pod must not start open because its rules could not be written.
        """
        entry = PodEntry.of(ifindex, link=link, sandbox=sandbox)
        if self.knows or behind.strict:
            number = self._number(self.selecting(behind, facts), strict=behind.strict)
        else:
            known = self._datapath.entry(ifindex)
            is_same = known is not None and (known.link, known.sandbox) == (entry.link, entry.sandbox)
            number = known.rule_set if known is not None and is_same else NO_RULE_SET
        put = self._datapath.attach(ifindex, PodEntry.of(ifindex, link=link, sandbox=sandbox, rule_set=number), behind)
        self.behind[ifindex], self._current[ifindex] = behind, number
        return put

    def forget(self, ifindex: int) -> None:
        """Take note that an interface is gone."""
        self.behind.pop(ifindex, None)
        self._current.pop(ifindex, None)

    # -- policies

    def apply(self) -> Applied:
        """Switch every interface to the rule set of its policies of now. Does nothing before `know`."""
        done = Applied()
        if not self.knows:
            return done
        remembered: Remembered | None = None
        for ifindex, behind in self.behind.items():
            try:
                number = self._number(self.selecting(behind), strict=behind.strict)
                if number != self._current[ifindex]:
                    if self._current[ifindex] == NO_RULE_SET:
                        remembered = remembered or self._open_flows()
                        self._datapath.remember(ifindex, remembered.of(behind))
                    self._datapath.switch(ifindex, number)
                    self._current[ifindex] = number
                    done.switched += 1
            except VpccniError as error:
                done.failed[ifindex] = error
        if any(isinstance(error, RuleSetTooLarge) for error in done.failed.values()):
            self.tidy(after_s=0.0)  # room for the next try
        return done

    def _open_flows(self) -> Remembered:
        """Return what conntrack knows of pods that no policy selected until now; asked once a pass (spec policy.md T-065)."""
        addresses = {
            prefix(address).value: address
            for ifindex, behind in self.behind.items()
            if self._current[ifindex] == NO_RULE_SET
            for address in behind.addresses
            if address
        }
        by_address: dict[str, list[OpenFlow]] = {}
        for flow in self._tracked(addresses.__contains__):
            by_address.setdefault(addresses[flow.local], []).append(flow)
        return Remembered(by_address)

    def audit_denials(self) -> dict[RuleClass, int]:
        """Return how many flows each denial that is only told (audit mode) would have ended."""
        told = {
            number: rule
            for rule_set in self._numbered.values()
            for number, rule in rule_set.rules.items()
            if rule.audit and rule.action is Action.DENY
        }
        hits = self._datapath.rule_maps.hits_of(told)
        return {rule: hits[number] for number, rule in told.items()}

    def tidy(self, *, after_s: float = DROP_AFTER_S) -> None:
        """Take away the rule sets that no interface has had for a while."""
        maps = self._datapath.rule_maps
        unused = maps.numbers - set(self._current.values())
        now = self._clock()
        self._unused = {number: self._unused.get(number, now) for number in unused}
        gone = {number for number, since in self._unused.items() if now - since >= after_s}
        maps.drop(gone)
        for number in gone:
            self._numbered.pop(number, None)
        self._compiled = {
            key: one for key, one in self._compiled.items() if maps.number_of(one.rule_set.name) is not None
        }
        if gone and self._is_complete and (maps.is_crowded or after_s == 0.0):
            maps.mend(self._numbered)  # else the next audit does it: it walks all maps

    def audit(self) -> Mended:
        """Make entries and maps what they should be; return what was wrong in the maps of rules."""
        entries = self._datapath.entries()
        wrong = 0
        for ifindex, number in self._current.items():
            entry = entries.get(ifindex)
            if entry is not None and entry.rule_set != number:
                self._datapath.switch(ifindex, number)
                wrong += 1
        mended = self._datapath.rule_maps.mend(self._numbered) if self._is_complete else Mended()
        return mended + Mended(wrong)

    @property
    def _is_complete(self) -> bool:
        """Return whether the content of every rule set in the kernel is known here: only then can one be told from garbage."""
        return self._datapath.rule_maps.numbers <= set(self._numbered)

    def _number(self, policies: Sequence[Policy], *, strict: bool) -> int:
        rule_set = self._rule_set(policies, strict=strict)
        if not rule_set.judges:
            return NO_RULE_SET
        number = self._datapath.rule_maps.put(rule_set)
        self._numbered[number] = rule_set
        return number

    def _rule_set(self, policies: Sequence[Policy], *, strict: bool) -> RuleSet:
        key = (frozenset(policy.key for policy in policies), strict)
        ordered = tuple(sorted(policies, key=lambda policy: policy.key))
        known = self._compiled.get(key)
        if known is not None and all(one is other for one, other in zip(known.policies, ordered, strict=True)):
            return known.rule_set
        rule_set = compile_rule_set(ordered, strict=strict)
        self._compiled[key] = _Compiled(ordered, rule_set)
        return rule_set

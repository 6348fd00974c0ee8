"""From the policies that select a pod to what the maps hold. Pure, and the same input always gives the same bytes.

    address ──(longest prefix)──▶ class ──(rule set, direction)──▶ decision, or a port table ──(longest prefix)──▶ decision

A *class* is a set of addresses that every rule treats alike. Each network and each except is a node of a prefix tree; a node's
rules are its parent's, plus those that begin there, minus those that except it: `except` subtracts from its own rule only
(spec policy.md W-4), and the tree is walked once (W-3). For each class all tiers are worked out here, into a function of
protocol and port, so that the programs look up and never compare; ranges become port prefixes, without a cap (W-2).

Policies in audit mode are worked out beside the others: where these allow and all together deny, the decision is to allow, and to
tell the denial.

Address and port tables are named by what they hold. Rule sets with the same peers share one address table, whatever their
ports, and a table that is there already is not written again.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final, NamedTuple

from vpccni.components.policy_agent.policy import (
    ADDRESS_BITS,
    OPEN,
    PORT_AT_MOST,
    V4_ALL,
    V6_ALL,
    Action,
    Decision,
    Direction,
    Policy,
    PolicyKey,
    Ports,
    Prefix,
    Tier,
)

ANY_PROTOCOL: Final = -1
"""In a port table: the entry for protocols that have none of their own."""


class RuleClass(NamedTuple):
    """All rules of one policy and direction with the same ports and action: what is numbered, counted and named in logs.

    `audit`: of a policy in audit mode; or, as what denies, one whose denials are only told. Such a policy's isolation, where no
    rule of it allows, is the denial of every port.
    """

    policy: PolicyKey
    tier: Tier
    priority: int
    direction: Direction
    action: Action
    ports: tuple[Ports, ...]
    audit: bool = False

    @property
    def number(self) -> int:
        """32 bits that stand for it in maps and events; never 0. They stay the same over restarts."""
        return _number(self)

    def __str__(self) -> str:
        ports = ", ".join(map(str, self.ports)) or "every port"
        mode = "audit " if self.audit else ""
        return f"{self.policy}, {mode}{self.direction.name.lower()} {self.action.name.lower()} {ports}"


class PortKey(NamedTuple):
    """An entry of a port table. Protocol ANY_PROTOCOL: all others; `length`: bits of the port that count."""

    protocol: int
    port: int
    length: int


@dataclass(frozen=True, slots=True)
class PortTable:
    """Decisions by protocol and port prefix; the longest prefix wins."""

    name: int
    entries: Mapping[PortKey, Decision]


@dataclass(frozen=True, slots=True)
class AddressTable:
    """Class by network, longest prefix wins; single addresses and networks apart, since the kernel looks them up apart."""

    name: int
    hosts: Mapping[int, int]
    networks: Mapping[Prefix, int]


@dataclass(frozen=True, slots=True)
class Side:
    """One direction. `outside`: the class of an IPv4 and of an IPv6 address that no entry names. `isolated`: what cannot be read
    is dropped, since most packets would be.
    """

    isolated: bool
    addresses: AddressTable
    outside: tuple[int, int]
    classes: tuple[Decision | PortTable, ...]


@dataclass(frozen=True, slots=True)
class RuleSet:
    """Everything that the programs need to judge the pods of one set of policies; equal sets have equal names."""

    name: int
    sides: tuple[Side, Side]
    rules: Mapping[int, RuleClass]

    @property
    def port_tables(self) -> dict[int, PortTable]:
        return {one.name: one for side in self.sides for one in side.classes if isinstance(one, PortTable)}

    @property
    def judges(self) -> bool:
        """Return whether anything could be denied: a pod that is open both ways needs no rule set."""
        return any(isinstance(one, PortTable) or one != OPEN for side in self.sides for one in side.classes)

    @property
    def entries(self) -> tuple[int, int, int, int]:
        """Return how many elements it needs in the maps hosts, networks, classes, ports."""
        hosts = {side.addresses.name: len(side.addresses.hosts) for side in self.sides}
        networks = {side.addresses.name: len(side.addresses.networks) for side in self.sides}
        ports = sum(len(table.entries) for table in self.port_tables.values())
        return sum(hosts.values()), sum(networks.values()), sum(len(side.classes) for side in self.sides), ports


@dataclass(frozen=True, slots=True)
class _Ground:
    """What holds where no rule does. `isolated`: a NetworkPolicy isolates the direction."""

    default: Decision
    isolated: bool

    @staticmethod
    def of(policies: Iterable[Policy], direction: Direction, *, strict: bool) -> _Ground:
        ordinary = [policy for policy in policies if policy.tier is Tier.NETWORK_POLICY]
        if any(direction in policy.isolates for policy in ordinary):
            return _Ground(Decision(False, Tier.NETWORK_POLICY), isolated=True)
        return _Ground(Decision(bool(ordinary) or not strict, Tier.DEFAULT), isolated=False)


@dataclass(frozen=True, slots=True)
class _Audit:
    """What would hold were the policies in audit mode enforced. `unnamed`: who denies where no rule does."""

    ground: _Ground
    unnamed: RuleClass


def compile_rule_set(policies: Iterable[Policy], *, strict: bool) -> RuleSet:
    """Return the rule set of the pods that exactly these policies select."""
    ordered = sorted(policies, key=lambda policy: policy.key)
    rules: dict[int, RuleClass] = {}
    sides = (
        _compile_side(ordered, Direction.INGRESS, rules, strict=strict),
        _compile_side(ordered, Direction.EGRESS, rules, strict=strict),
    )
    return RuleSet(_named(*(_side_bytes(side) for side in sides)), sides, rules)


def _compile_side(
    policies: Sequence[Policy], direction: Direction, rules: dict[int, RuleClass], *, strict: bool
) -> Side:
    enforced = _Ground.of([policy for policy in policies if not policy.audit], direction, strict=strict)
    audit = _audit(policies, direction, strict=strict)
    isolated = enforced.isolated or (audit is not None and audit.ground.isolated)
    tree = _Tree()
    for policy in policies:
        if policy.tier is Tier.NETWORK_POLICY and not isolated:
            continue  # it isolates the other direction alone: its rules here mean nothing (spec policy.md 7, 1)
        kinds: dict[tuple[Action, tuple[Ports, ...]], RuleClass] = {}
        for rule in policy.rules[direction]:
            kind = kinds.get((rule.action, rule.ports))
            if kind is None:
                ports = tuple(sorted(set(rule.ports)))
                kind = RuleClass(policy.key, policy.tier, policy.priority, direction, rule.action, ports, policy.audit)
                kinds[rule.action, rule.ports] = kind
            tree.add(kind, rule.network, rule.excepts)
    rules |= {kind.number: kind for kind in tree.kinds}
    if audit is not None:
        told = {audit.unnamed, *(_told(kind) for kind in tree.kinds if kind.action is Action.DENY)}
        rules |= {kind.number: kind for kind in told}
    return _numbered(tree.walk(), enforced, audit)


def _audit(policies: Sequence[Policy], direction: Direction, *, strict: bool) -> _Audit | None:
    audited = [policy for policy in policies if policy.audit]
    if not audited:
        return None
    who = next((policy for policy in audited if direction in policy.isolates), audited[0])
    unnamed = RuleClass(who.key, who.tier, who.priority, direction, Action.DENY, (), audit=True)
    return _Audit(_Ground.of(policies, direction, strict=strict), unnamed)


def _told(kind: RuleClass) -> RuleClass:
    """Return a denying rule as one whose denials are only told: it is counted apart."""
    return kind._replace(audit=True)


class _Tree:
    """The networks of one side, with the rules that begin and end at each."""

    def __init__(self) -> None:
        self.kinds: set[RuleClass] = set()
        self._members: list[RuleClass] = []
        self._plain: dict[RuleClass, int] = {}
        self._begin: dict[Prefix, set[int]] = {V4_ALL: set(), V6_ALL: set()}
        self._end: dict[Prefix, set[int]] = {}

    def add(self, kind: RuleClass, network: Prefix, excepts: tuple[Prefix, ...]) -> None:
        """Add one rule. Rules without an except are one member a kind: they only ever add, and a set holds them once."""
        if any(one.holds(network) for one in excepts):
            return
        excepts = tuple(one for one in excepts if network.holds(one))
        member = None if excepts else self._plain.get(kind)
        if member is None:
            self.kinds.add(kind)
            member = len(self._members)
            self._members.append(kind)
            if not excepts:
                self._plain[kind] = member
        self._begin.setdefault(network, set()).add(member)
        for one in excepts:
            self._begin.setdefault(one, set())
            self._end.setdefault(one, set()).add(member)

    def walk(self) -> list[tuple[Prefix, frozenset[RuleClass]]]:
        """Return every network with the rules in force there, wider ones first; what says the same as its parent is left out."""
        path: list[tuple[Prefix, frozenset[int], frozenset[RuleClass]]] = []
        found: list[tuple[Prefix, frozenset[RuleClass]]] = []
        kinds: dict[frozenset[int], frozenset[RuleClass]] = {}
        for network in sorted(self._begin, key=lambda one: (not one.is_v4, one)):
            while path and not path[-1][0].holds(network):
                path.pop()
            inherited = path[-1][1] if path else frozenset()
            members = (inherited | self._begin[network]) - self._end.get(network, set())
            there = kinds.get(members)
            if there is None:
                there = kinds[members] = frozenset(self._members[member] for member in members)
            if not path or path[-1][2] != there:
                found.append((network, there))
            path.append((network, members, there))
        return found


def _numbered(nodes: Sequence[tuple[Prefix, frozenset[RuleClass]]], enforced: _Ground, audit: _Audit | None) -> Side:
    """Number the classes as they appear, so that tables of the same shape are the same whatever their rules are."""
    numbers: dict[frozenset[RuleClass], int] = {}
    classes: list[Decision | PortTable] = []
    hosts: dict[int, int] = {}
    networks: dict[Prefix, int] = {}
    outside = [0, 0]
    for network, rules in nodes:
        number = numbers.setdefault(rules, len(numbers))
        if number == len(classes):
            classes.append(_decisions(rules, enforced, audit))
        if network in (V4_ALL, V6_ALL):
            outside[network == V6_ALL] = number
        elif network.length == ADDRESS_BITS:
            hosts[network.value] = number
        else:
            networks[network] = number
    name = _named(*_address_bytes(hosts, networks)) if hosts or networks else 0
    return Side(
        not enforced.default.allowed, AddressTable(name, hosts, networks), (outside[0], outside[1]), tuple(classes)
    )


# -- one class: protocol and port to decision


def _decisions(rules: frozenset[RuleClass], enforced: _Ground, audit: _Audit | None) -> Decision | PortTable:
    ordered = sorted(rules)
    everywhere = [rule for rule in ordered if not rule.ports]
    base = _judge(everywhere, enforced, audit)
    entries: dict[PortKey, Decision] = {PortKey(ANY_PROTOCOL, 0, 0): base}
    for protocol in sorted({ports.protocol for rule in ordered for ports in rule.ports}):
        spans = _spans(ordered, protocol, enforced, audit)
        usual = _widest(spans)
        if usual != base:
            entries[PortKey(protocol, 0, 0)] = usual
        for first, last, decision in spans:
            if decision != usual:
                entries |= {PortKey(protocol, port, length): decision for port, length in port_prefixes(first, last)}
    if len(entries) == 1:
        return base
    return PortTable(_named(*_port_bytes(entries)), entries)


def _spans(
    rules: Sequence[RuleClass], protocol: int, enforced: _Ground, audit: _Audit | None
) -> list[tuple[int, int, Decision]]:
    """Return the decisions over all ports of a protocol, neighbours that say the same united."""
    edges: dict[int, list[tuple[RuleClass, int]]] = {0: []}
    for rule in rules:
        for ports in rule.ports:
            if ports.protocol == protocol:
                edges.setdefault(ports.first, []).append((rule, 1))
                edges.setdefault(ports.last + 1, []).append((rule, -1))
    edges.pop(PORT_AT_MOST + 1, None)
    open_ranges = {rule: 0 if rule.ports else 1 for rule in rules}
    starts = sorted(edges)
    spans: list[tuple[int, int, Decision]] = []
    for first, after in zip(starts, [*starts[1:], PORT_AT_MOST + 1], strict=True):
        for rule, change in edges[first]:
            open_ranges[rule] += change
        decision = _judge([rule for rule, count in open_ranges.items() if count], enforced, audit)
        if spans and spans[-1][2] == decision:
            first = spans.pop()[0]
        spans.append((first, after - 1, decision))
    return spans


def _widest(spans: Iterable[tuple[int, int, Decision]]) -> Decision:
    widths: dict[Decision, int] = {}
    for first, last, decision in spans:
        widths[decision] = widths.get(decision, 0) + last - first + 1
    return max(widths, key=lambda decision: widths[decision])


def _judge(matching: Sequence[RuleClass], enforced: _Ground, audit: _Audit | None) -> Decision:
    """Return the decision among rules that all match."""
    if audit is None:
        return _of(_deciding(matching, isolated=enforced.isolated), enforced)
    in_force = [rule for rule in matching if not rule.audit]
    decision = _of(_deciding(in_force, isolated=enforced.isolated), enforced)
    denying = _deciding(matching, isolated=audit.ground.isolated)
    would = _of(denying, audit.ground)
    if not decision.allowed or would.allowed:
        return decision
    told = audit.unnamed if denying is None else _told(denying)
    return Decision(True, would.tier, told.number, audit=True)


def _deciding(matching: Sequence[RuleClass], *, isolated: bool) -> RuleClass | None:
    """Return the rule that decides in the order of the tiers (spec policy.md 5.10), None where none does."""
    admin = _first(matching, Tier.ADMIN)
    if admin is not None and admin.action is not Action.PASS:
        return admin
    if isolated:
        return next((rule for rule in matching if rule.tier is Tier.NETWORK_POLICY), None)
    baseline = _first(matching, Tier.BASELINE)
    return baseline if baseline is not None and baseline.action is not Action.PASS else None


def _first(matching: Iterable[RuleClass], tier: Tier) -> RuleClass | None:
    return min(
        (rule for rule in matching if rule.tier is tier),
        key=lambda rule: (rule.priority, rule.action, rule),
        default=None,
    )


def _of(rule: RuleClass | None, ground: _Ground) -> Decision:
    if rule is None:
        return ground.default
    return Decision(rule.action is Action.ACCEPT, rule.tier, rule.number)


def port_prefixes(first: int, last: int) -> list[tuple[int, int]]:
    """Return the fewest (port, prefix length) that cover a range: at most 30."""
    found = []
    while first <= last:
        span = first & -first or PORT_AT_MOST + 1
        while first + span - 1 > last:
            span >>= 1
        found.append((first, 17 - span.bit_length()))
        first += span
    return found


# -- names: 64 bits of a digest over the canonical bytes; never 0

_HOST: Final = struct.Struct(">QQI")
_NETWORK: Final = struct.Struct(">QQBI")
_PORT: Final = struct.Struct(">hHB?BI?")
_LOW: Final = (1 << 64) - 1


def _named(*parts: bytes) -> int:
    digest = hashlib.blake2b(digest_size=8)
    for part in parts:
        digest.update(len(part).to_bytes(4, "big") + part)
    return int.from_bytes(digest.digest(), "little") or 1


def _address_bytes(hosts: Mapping[int, int], networks: Mapping[Prefix, int]) -> tuple[bytes, bytes]:
    return (
        b"".join(_HOST.pack(value >> 64, value & _LOW, number) for value, number in hosts.items()),
        b"".join(
            _NETWORK.pack(network.value >> 64, network.value & _LOW, network.length, number)
            for network, number in networks.items()
        ),
    )


def _port_bytes(entries: Mapping[PortKey, Decision]) -> tuple[bytes, ...]:
    return tuple(_PORT.pack(*key, *decision) for key, decision in sorted(entries.items()))


def _side_bytes(side: Side) -> bytes:
    parts = [bytes([side.isolated]), side.addresses.name.to_bytes(8, "big"), bytes(str(side.outside), "ascii")]
    for one in side.classes:
        parts.append(one.name.to_bytes(8, "big") if isinstance(one, PortTable) else _PORT.pack(0, 0, 0, *one))
    return b"".join(parts)


@lru_cache(maxsize=4096)
def _number(rule: RuleClass) -> int:
    digest = hashlib.blake2b(repr(tuple(rule)).encode(), digest_size=4).digest()
    return int.from_bytes(digest, "little") or 1

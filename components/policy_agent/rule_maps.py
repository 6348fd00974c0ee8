"""Rule sets in the kernel: written whole under a new number before any pod has it, taken away when nobody has had it for a while.

    port tables, address tables ──▶ classes, rules ──▶ rule_sets (the commit) ──▶ a pod's entry (elsewhere)

A rule set is complete when map `rule_sets` has it, for that is written last; so is every table it names. What a death in between
leaves behind belongs to nothing complete, and `mend` takes it away. Tables are named by their content: one that is there is
not written again, and equal policies after a restart find their rule set by its name.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from vpccni.components.policy_agent import layout, libbpf
from vpccni.components.policy_agent.compiler import (
    ANY_PROTOCOL,
    AddressTable,
    PortKey,
    PortTable,
    RuleSet,
    Side,
)
from vpccni.components.policy_agent.layout import MapDefinition
from vpccni.components.policy_agent.libbpf import LoadedMap
from vpccni.components.policy_agent.policy import Decision, Direction
from vpccni.shared.errors import VpccniError

TABLE_BITS: Final = 64
"""The part of a longest-prefix key that names the table."""
PROTOCOL_BITS: Final = 16
"""Protocol and the byte beside it."""
DIRECTION_BIT: Final = 31

Element = tuple[bytes, bytes]


class RuleSetTooLarge(VpccniError):
    """The maps have no room for a rule set: nothing of it is written, what was in force stays."""

    code = "rule_set_too_large"


@dataclass(frozen=True, slots=True)
class Stored:
    """A complete rule set in the kernel, and the tables it needs."""

    number: int
    name: int
    address_tables: frozenset[int]
    port_tables: frozenset[int]


@dataclass(frozen=True, slots=True)
class Mended:
    """How many elements were missing or wrong, and how many were there for nothing."""

    wrong: int = 0
    surplus: int = 0

    def __add__(self, other: Mended) -> Mended:
        return Mended(self.wrong + other.wrong, self.surplus + other.surplus)


class RuleMaps:
    """See the module. Holds what the kernel holds, as this process wrote it or found it at its start."""

    def __init__(self, maps: Mapping[str, LoadedMap]) -> None:
        self._maps = maps
        self._stored: dict[int, Stored] = {}
        self._by_name: dict[int, int] = {}
        self._places: set[int] = set()
        self._address_tables: Counter[int] = Counter()
        self._port_tables: Counter[int] = Counter()
        self._used: Counter[str] = Counter()
        self._take_over()

    @property
    def numbers(self) -> frozenset[int]:
        """Return the rule sets that are complete."""
        return frozenset(self._stored)

    @property
    def used(self) -> dict[str, tuple[int, int]]:
        """Return elements in use and the most there can be, by map."""
        return {one.name: (self._used[one.name], one.entries_at_most) for one in _TABLES}

    @property
    def is_crowded(self) -> bool:
        """Return whether a map is more than half full: what nobody needs should go soon."""
        return any(2 * count > at_most for count, at_most in self.used.values())

    def number_of(self, name: int) -> int | None:
        """Return the number of a rule set that is there, by the name of its content."""
        return self._by_name.get(name)

    def name_of(self, number: int) -> int | None:
        """Return the name of a complete rule set's content."""
        stored = self._stored.get(number)
        return None if stored is None else stored.name

    # -- writing

    def put(self, rule_set: RuleSet) -> int:
        """Return the number under which the rule set is in the kernel, writing it if need be.

        Raises `RuleSetTooLarge` before anything is written, `KernelRefused` when the kernel does not take it; both change nothing
        for packets, and asking again is right.
        """
        known = self._by_name.get(rule_set.name)
        if known is not None:
            return known
        addresses, ports = self._new_tables(rule_set)
        self._check_room(rule_set, addresses, ports)
        number = self._next_number()
        for table in ports:
            self._write(layout.PORTS, port_elements(table))
        for one in addresses:
            self._write(layout.HOSTS, host_elements(one))
            self._write(layout.NETWORKS, network_elements(one))
        self._write(layout.CLASSES, class_elements(rule_set, number))
        self._start_rules(rule_set.rules)
        libbpf.update(self._maps[layout.RULE_SETS.name], layout.rule_set_key(number), rule_set_value(rule_set, number))
        self._keep(
            Stored(
                number,
                rule_set.name,
                frozenset(side.addresses.name for side in rule_set.sides) - {0},
                frozenset(rule_set.port_tables),
            )
        )
        return number

    def drop(self, numbers: Iterable[int]) -> None:
        """Forget rule sets that no pod has; their elements go with the next `mend`, the commit goes first."""
        for number in numbers:
            stored = self._stored.pop(number, None)
            if stored is not None:
                self._by_name.pop(stored.name, None)
                self._places.discard(number % layout.RULE_SETS_AT_MOST)
                self._address_tables.subtract(stored.address_tables)
                self._port_tables.subtract(stored.port_tables)
                nothing = bytes(layout.RULE_SET.size)
                libbpf.update(self._maps[layout.RULE_SETS.name], layout.rule_set_key(number), nothing)

    def mend(self, wanted: Mapping[int, RuleSet]) -> Mended:
        """Make the maps hold exactly the complete rule sets, whose content `wanted` gives by number; return what was done.

        Must be given every complete rule set. What a dropped one, or a death while writing, left is taken away here. Walks the
        maps: some 2 µs an element.
        """
        done = Mended()
        rules = {number for rule_set in wanted.values() for number in rule_set.rules}
        for definition, elements in _elements(wanted).items():
            done += self._mend(definition, elements)
        surplus = [key for key in libbpf.keys(self._maps[layout.RULES.name]) if _number(key) not in rules]
        libbpf.delete_many(self._maps[layout.RULES.name], surplus)
        self._start_rules(rules)
        self._used[layout.RULES.name] = len(rules)
        return done

    def hits(self) -> dict[int, int]:
        """Return how many new flows each rule decided."""
        cpus = libbpf.possible_cpus()
        return {
            int.from_bytes(key, "little"): sum(count for (count,) in layout.LONG.iter_unpack(value))
            for key, value in libbpf.elements(self._maps[layout.RULES.name], 8 * cpus)
        }

    def hits_of(self, numbers: Iterable[int]) -> dict[int, int]:
        """Return how many new flows these rules decided; one that is not in the map decided none."""
        size = layout.LONG.size * libbpf.possible_cpus()
        found = {}
        for number in numbers:
            value = libbpf.lookup(self._maps[layout.RULES.name], layout.NUMBER.pack(number), size) or b""
            found[number] = sum(count for (count,) in layout.LONG.iter_unpack(value))
        return found

    # -- inside

    def _take_over(self) -> None:
        classes: dict[int, set[int]] = {}
        for key, value in libbpf.elements(self._maps[layout.CLASSES.name], layout.DECISION.size):
            (ports, *_) = layout.DECISION.unpack(value)
            classes.setdefault(_number(key), set()).update({ports} - {0})
            self._used[layout.CLASSES.name] += 1
        for definition in (layout.HOSTS, layout.NETWORKS, layout.PORTS, layout.RULES):
            self._used[definition.name] = len(libbpf.keys(self._maps[definition.name]))
        for _, value in libbpf.elements(self._maps[layout.RULE_SETS.name], layout.RULE_SET.size):
            ingress, egress, name, number, _ = layout.RULE_SET.unpack(value)
            if not number:
                continue
            tables = {layout.SIDE.unpack(side)[0] for side in (ingress, egress)}
            self._keep(Stored(number, name, frozenset(tables - {0}), frozenset(classes.get(number, set()))))

    def _keep(self, stored: Stored) -> None:
        self._stored[stored.number] = stored
        self._by_name[stored.name] = stored.number
        self._places.add(stored.number % layout.RULE_SETS_AT_MOST)
        self._address_tables.update(stored.address_tables)
        self._port_tables.update(stored.port_tables)

    def _new_tables(self, rule_set: RuleSet) -> tuple[list[AddressTable], list[PortTable]]:
        wanted = {side.addresses.name: side.addresses for side in rule_set.sides}
        return (
            [table for name, table in wanted.items() if name and not self._address_tables[name]],
            [table for name, table in rule_set.port_tables.items() if not self._port_tables[name]],
        )

    def _check_room(self, rule_set: RuleSet, addresses: list[AddressTable], ports: list[PortTable]) -> None:
        needed = {
            layout.HOSTS: sum(len(table.hosts) for table in addresses),
            layout.NETWORKS: sum(len(table.networks) for table in addresses),
            layout.PORTS: sum(len(table.entries) for table in ports),
            layout.CLASSES: sum(len(side.classes) for side in rule_set.sides),
            layout.RULES: len(rule_set.rules),
        }
        for definition, count in needed.items():
            if self._used[definition.name] + count > definition.entries_at_most:
                raise RuleSetTooLarge(
                    "the policies of a pod are too large for the maps",
                    on=", ".join(sorted({str(rule.policy) for rule in rule_set.rules.values()})[:3]),
                    why=f"map {definition.name} has {self._used[definition.name]} of {definition.entries_at_most} elements in "
                    f"use and {count} more are needed",
                    remedy="Use fewer and wider CIDRs; what was in force before stays in force",
                )

    def _next_number(self) -> int:
        key = layout.NUMBER.pack(layout.OPTION_LAST_RULE_SET)
        options = self._maps[layout.OPTIONS.name]
        last = int.from_bytes(libbpf.lookup(options, key, 4) or b"", "little")
        if len(self._places) >= layout.RULE_SETS_AT_MOST - 1:
            raise RuleSetTooLarge(
                "there are too many sets of policies on this node", why=f"{len(self._places)} are in use"
            )
        number = last + 1
        while number % layout.RULE_SETS_AT_MOST in self._places or number % layout.RULE_SETS_AT_MOST == 0:
            number += 1
        libbpf.update(options, key, layout.NUMBER.pack(number))  # before its use: it is spent whatever comes
        return number

    def _start_rules(self, numbers: Iterable[int]) -> None:
        value = bytes(8 * libbpf.possible_cpus())
        rules = self._maps[layout.RULES.name]
        for number in numbers:
            key = layout.NUMBER.pack(number)
            if libbpf.lookup(rules, key, len(value)) is None:
                libbpf.update(rules, key, value)
                self._used[layout.RULES.name] += 1

    def _write(self, definition: MapDefinition, elements: list[Element]) -> None:
        libbpf.update_many(self._maps[definition.name], elements)
        self._used[definition.name] += len(elements)

    def _mend(self, definition: MapDefinition, wanted: Mapping[bytes, bytes]) -> Mended:
        of = self._maps[definition.name]
        seen = dict(libbpf.elements(of, definition.value_bytes))
        wrong = [(key, value) for key, value in wanted.items() if seen.get(key) != value]
        libbpf.update_many(of, wrong)
        if definition is layout.RULE_SETS:  # an array: its elements are emptied, they cannot go
            surplus = [key for key, value in seen.items() if key not in wanted and any(value)]
            libbpf.update_many(of, [(key, bytes(definition.value_bytes)) for key in surplus])
        else:
            surplus = [key for key in seen if key not in wanted]
            libbpf.delete_many(of, surplus)
        self._used[definition.name] = len(wanted)
        return Mended(len(wrong), len(surplus))


_TABLES: Final = (layout.HOSTS, layout.NETWORKS, layout.CLASSES, layout.PORTS, layout.RULES)


# -- a rule set as bytes


def _elements(wanted: Mapping[int, RuleSet]) -> dict[MapDefinition, dict[bytes, bytes]]:
    """Return everything that the maps hold for these rule sets."""
    found: dict[MapDefinition, dict[bytes, bytes]] = {
        layout.RULE_SETS: {layout.rule_set_key(number): rule_set_value(one, number) for number, one in wanted.items()},
        layout.CLASSES: {}, layout.HOSTS: {}, layout.NETWORKS: {}, layout.PORTS: {},
    }  # fmt: skip
    tables = {side.addresses.name: side.addresses for one in wanted.values() for side in one.sides}
    ports = {name: table for one in wanted.values() for name, table in one.port_tables.items()}
    for number, one in wanted.items():
        found[layout.CLASSES].update(class_elements(one, number))
    for addresses in tables.values():
        found[layout.HOSTS].update(host_elements(addresses))
        found[layout.NETWORKS].update(network_elements(addresses))
    for table in ports.values():
        found[layout.PORTS].update(port_elements(table))
    return found


def rule_set_value(rule_set: RuleSet, number: int) -> bytes:
    """Return the value of map `rule_sets`."""
    return layout.RULE_SET.pack(*(_side_value(side) for side in rule_set.sides), rule_set.name, number, 0)


def _side_value(side: Side) -> bytes:
    flags = layout.SIDE_HOSTS if side.addresses.hosts else 0
    flags |= layout.SIDE_NETWORKS if side.addresses.networks else 0
    flags |= layout.SIDE_ISOLATED if side.isolated else 0
    v4, v6 = (decision_value(side.classes[number]) for number in side.outside)
    return layout.SIDE.pack(side.addresses.name, flags, 0, v4, v6)


def decision_value(found: Decision | PortTable) -> bytes:
    """Return a decision, or the name of the port table that knows it, as the programs read it."""
    if isinstance(found, PortTable):
        return layout.DECISION.pack(found.name, 0, 0, 0, 0)
    allowed = layout.DECISION_AUDIT if found.audit else found.allowed
    return layout.DECISION.pack(0, found.rule, allowed, found.tier, 0)


def class_elements(rule_set: RuleSet, number: int) -> list[Element]:
    """Return the elements of map `classes`."""
    return [
        (layout.CLASS_KEY.pack(number, index | direction << DIRECTION_BIT), decision_value(found))
        for direction in Direction
        for index, found in enumerate(rule_set.sides[direction].classes)
    ]


def host_elements(table: AddressTable) -> list[Element]:
    """Return the elements of map `hosts`."""
    return [
        (layout.HOST_KEY.pack(table.name, layout.address(value)), layout.NUMBER.pack(index))
        for value, index in table.hosts.items()
    ]


def network_elements(table: AddressTable) -> list[Element]:
    """Return the elements of map `networks`."""
    return [
        (
            layout.NETWORK_KEY.pack(TABLE_BITS + network.length, table.name, layout.address(network.value)),
            layout.NUMBER.pack(index),
        )
        for network, index in table.networks.items()
    ]


def port_elements(table: PortTable) -> list[Element]:
    """Return the elements of map `ports`."""
    return [(_port_key(table.name, key), decision_value(decision)) for key, decision in table.entries.items()]


def _port_key(table: int, key: PortKey) -> bytes:
    if key.protocol == ANY_PROTOCOL:
        return layout.PORT_KEY.pack(TABLE_BITS, table, 0, 0, bytes(2))
    return layout.PORT_KEY.pack(
        TABLE_BITS + PROTOCOL_BITS + key.length, table, key.protocol, 0, key.port.to_bytes(2, "big")
    )


def _number(key: bytes) -> int:
    """Return the number that a key begins with: of a rule set in `classes`, of a rule in `rules`."""
    return int.from_bytes(key[:4], "little")

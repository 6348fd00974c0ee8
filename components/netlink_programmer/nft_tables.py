"""Tables of nf_tables that are ours alone: what one should hold, and the one batch of steps from what is seen to it. Pure.

The kernel carries a batch out as a whole or not at all, so that no packet meets half of it.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from vpccni.components.netlink_programmer.netlink_attributes import attribute, attributes, text_attribute
from vpccni.components.netlink_programmer.nft_expressions import NESTED, Expression, decode, encode, meaning

NEWTABLE, GETTABLE, DELTABLE = 0, 1, 2
NEWCHAIN, GETCHAIN, DELCHAIN = 3, 4, 5
NEWRULE, GETRULE, DELRULE = 6, 7, 8
CREATE: Final = 0x400
APPEND: Final = 0x800
ACCEPT: Final = 1


class Hook(NamedTuple):
    """Where a base chain stands: chains of all tables at one point of the stack run in the order of `priority`."""

    kind: str
    number: int
    priority: int


@dataclass(frozen=True)
class NftRule:
    """One rule; `text` is how `nft` shows it, without counters."""

    text: str
    expressions: tuple[Expression, ...]


@dataclass(frozen=True)
class NftChain:
    """A chain; a base chain has a hook and lets through what no rule judges. `any_order`: of all rules but the last."""

    name: str
    rules: tuple[NftRule, ...]
    hook: Hook | None = None
    any_order: bool = False


@dataclass(frozen=True)
class NftTable:
    """A table `ip NAME` or `ip6 NAME`. Chains stand before those whose rules jump to them."""

    name: str
    chains: tuple[NftChain, ...]
    ipv6: bool = False

    def __str__(self) -> str:
        return f"{'ip6' if self.ipv6 else 'ip'} {self.name}"


class NftStep(NamedTuple):
    """One message of a batch; `text` says it as `nft -f` would take it."""

    kind: int
    flags: int
    body: bytes
    text: str
    ipv6: bool = False


def plan(table: NftTable, seen: NftTable | None) -> tuple[NftStep, ...]:
    """Return the batch that makes the table right, nothing when it is. Chains in it that are not ours stay, rules in our chains do not."""
    if seen is None:
        return (_new_table(table), *_built(table))
    found = {chain.name: chain for chain in seen.chains}
    if any(one.name in found and found[one.name].hook != one.hook for one in table.chains):
        return (_without(table), _new_table(table), *_built(table))
    steps: list[NftStep] = [_new_chain(table, one) for one in table.chains if one.name not in found]
    for one in table.chains:
        if one.name not in found:
            steps += _rules_of(table, one)
        elif not _same(found[one.name], one):
            steps += [_flush(table, one), *_rules_of(table, one)]
    return tuple(steps)


def removal(name: str, *, ipv6: bool = False) -> tuple[NftStep, ...]:
    """Return the batch that takes a table away with all it holds."""
    return (_without(NftTable(name, (), ipv6)),)


def _same(seen: NftChain, meant: NftChain) -> bool:
    found, wanted = ([meaning(rule.expressions) for rule in chain.rules] for chain in (seen, meant))
    if not meant.any_order:
        return found == wanted
    return found[-1:] == wanted[-1:] and sorted(found[:-1], key=repr) == sorted(wanted[:-1], key=repr)


def _built(table: NftTable) -> Iterable[NftStep]:
    yield from (_new_chain(table, chain) for chain in table.chains)
    for chain in table.chains:
        yield from _rules_of(table, chain)


def _rules_of(table: NftTable, chain: NftChain) -> Sequence[NftStep]:
    return [_new_rule(table, chain, rule) for rule in chain.rules]


def _new_table(table: NftTable) -> NftStep:
    return NftStep(NEWTABLE, CREATE, text_attribute(1, table.name), f"add table {table}", table.ipv6)


def _without(table: NftTable) -> NftStep:
    return NftStep(DELTABLE, 0, text_attribute(1, table.name), f"delete table {table}", table.ipv6)


def _new_chain(table: NftTable, chain: NftChain) -> NftStep:
    body, text = text_attribute(1, table.name) + text_attribute(3, chain.name), f"add chain {table} {chain.name}"
    if chain.hook is not None:
        place = attribute(1, struct.pack(">I", chain.hook.number)) + attribute(
            2, struct.pack(">i", chain.hook.priority)
        )
        body += (
            attribute(4 | NESTED, place) + attribute(5, struct.pack(">I", ACCEPT)) + text_attribute(7, chain.hook.kind)
        )
        text += f" {{ type {chain.hook.kind} hook {HOOKS[chain.hook.number]} priority {chain.hook.priority}; }}"
    return NftStep(NEWCHAIN, CREATE, body, text, table.ipv6)


HOOKS: Final = {0: "prerouting", 2: "forward", 4: "postrouting"}


def _flush(table: NftTable, chain: NftChain) -> NftStep:
    body = text_attribute(1, table.name) + text_attribute(2, chain.name)
    return NftStep(DELRULE, 0, body, f"flush chain {table} {chain.name}", table.ipv6)


def _new_rule(table: NftTable, chain: NftChain, rule: NftRule) -> NftStep:
    body = (
        text_attribute(1, table.name) + text_attribute(2, chain.name) + attribute(4 | NESTED, encode(rule.expressions))
    )
    text = f"add rule {table} {chain.name} {rule.text}"
    return NftStep(NEWRULE, CREATE | APPEND, body, text, table.ipv6)


# -- what the kernel tells


def read_table(name: str, chains: Iterable[bytes], rules: Iterable[bytes]) -> NftTable:
    """Return the table from the bodies of the kernel's answers about its chains and rules."""
    by_chain: dict[str, list[NftRule]] = {}
    for body in rules:
        parts = dict(attributes(body))
        if _name(parts, 1) == name:
            by_chain.setdefault(_name(parts, 2), []).append(NftRule("", decode(parts.get(4, b""))))
    found = []
    for body in chains:
        parts = dict(attributes(body))
        if _name(parts, 1) == name:
            chain = _name(parts, 3)
            found.append(NftChain(chain, tuple(by_chain.get(chain, ())), _hook(parts)))
    return NftTable(name, tuple(found))


def _hook(parts: dict[int, bytes]) -> Hook | None:
    if 4 not in parts:
        return None
    place = dict(attributes(parts[4]))
    policy = int.from_bytes(parts.get(5, b""), "big")
    kind = _name(parts, 7) if policy == ACCEPT else f"{_name(parts, 7)} that drops"
    return Hook(kind, int.from_bytes(place.get(1, b""), "big"), int.from_bytes(place.get(2, b""), "big", signed=True))


def _name(parts: dict[int, bytes], kind: int) -> str:
    return parts.get(kind, b"").rstrip(b"\0").decode(errors="replace")

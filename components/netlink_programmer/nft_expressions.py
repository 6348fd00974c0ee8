"""Rules of nf_tables as the kernel takes and tells them: short programs of expressions over registers. Pure.

    [ct mark -> 1] [1 = 1 & 0x80 ^ 0] [1 == 0x80] [meta mark -> 1] [1 = 1 & ~0x80 ^ 0x80] [1 -> meta mark]

Each expression is a value that can be written (`encode`) and read back (`decode`). `meaning` takes away in what rules may differ that do
the same: counters, and the shorter form that `nft` gives to a comparison with a /8, /16, /24 or /32 (spec dataplane.md 17).
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple

from vpccni.components.netlink_programmer.netlink_attributes import attribute, attributes, text_attribute

NESTED: Final = 0x8000
REGISTER: Final = 1
VERDICT_REGISTER: Final = 0
EQUAL, NOT_EQUAL = 0, 1
META_MARK, META_INPUT_NAME, META_OUTPUT_NAME = 3, 6, 7
CT_STATE, CT_MARK = 0, 3
CT_STATE_NEW: Final = 8
FIB_ADDRESS_TYPE: Final = 3
FIB_OF_DESTINATION: Final = 2
FIB_OF_INPUT_LINK: Final = 8
TYPE_LOCAL: Final = 2
NAT_SOURCE: Final = 0
NAT_RANDOM, NAT_FULLY_RANDOM = 4, 16
_NAT_BY_ADDRESS: Final = 1
"""The kernel sets and tells this flag by itself."""
_NAT_HIGHEST_ADDRESS: Final = 4
UNREACHABLE: Final = 0
NETWORK_HEADER: Final = 1
SOURCE_OFFSET, DESTINATION_OFFSET = 12, 16
ADDRESS_BYTES: Final = 4
SOURCE_OFFSET_V6, DESTINATION_OFFSET_V6 = 8, 24
ADDRESS_BYTES_V6: Final = 16
FAMILY_IPV4, FAMILY_IPV6 = 2, 10
VERDICT_JUMP, VERDICT_RETURN = -3, -5
LINK_NAME_BYTES: Final = 16


class Load(NamedTuple):
    """Put something into the register: `what` is "meta" or "ct", `key` its number."""

    what: str
    key: int


class Store(NamedTuple):
    """Write the register back, likewise."""

    what: str
    key: int


class LoadHeader(NamedTuple):
    """Put bytes of a packet's header into the register."""

    base: int
    offset: int
    length: int


class AskRoutes(NamedTuple):
    """Put what the routing table says of an address into the register."""

    result: int
    flags: int


class Bits(NamedTuple):
    """Register & mask ^ xor."""

    mask: bytes
    xor: bytes


class Compare(NamedTuple):
    """Go on with the rule if the register's first bytes are so (or, with `NOT_EQUAL`, are not)."""

    relation: int
    value: bytes


class Verdict(NamedTuple):
    """End the rule: return, or jump to `chain`."""

    code: int
    chain: str = ""


class Put(NamedTuple):
    """Put a value into the register."""

    value: bytes


class InSet(NamedTuple):
    """Go on with the rule if the register's value is in a set of the table."""

    name: str


class TranslateSource(NamedTuple):
    """Give the connection the source address that is in the register; `flags`: how its port is chosen."""

    flags: int
    ipv6: bool = False


class Reject(NamedTuple):
    """Answer "unreachable" with the family's `code`, and drop."""

    code: int


class Counter(NamedTuple):
    """Count packets and bytes."""


class Other(NamedTuple):
    """One that no rule of ours has."""

    name: str
    data: bytes


Expression = (
    Load
    | Store
    | LoadHeader
    | AskRoutes
    | Bits
    | Compare
    | InSet
    | Verdict
    | Put
    | TranslateSource
    | Reject
    | Counter
    | Other
)


def number(value: int) -> bytes:
    """Return a 32-bit number as registers hold it."""
    return struct.pack("=I", value)


def encode(expressions: Iterable[Expression]) -> bytes:
    """Return the list as the kernel takes it."""
    return b"".join(attribute(1 | NESTED, _element(one)) for one in expressions)


def _element(expression: Expression) -> bytes:
    name, data = _body(expression)
    return text_attribute(1, name) + attribute(2 | NESTED, data)


def _body(one: Expression) -> tuple[str, bytes]:
    match one:
        case Load(what, key):
            return what, _big(1, REGISTER) + _big(2, key)
        case Store(what, key):
            return what, _big(2, key) + _big(_SOURCE[what], REGISTER)
        case LoadHeader(base, offset, length):
            return "payload", _big(1, REGISTER) + _big(2, base) + _big(3, offset) + _big(4, length)
        case AskRoutes(result, flags):
            return "fib", _big(1, REGISTER) + _big(2, result) + _big(3, flags)
        case Bits(mask, xor):
            head = _big(1, REGISTER) + _big(2, REGISTER) + _big(3, len(mask))
            return "bitwise", head + _value(4, mask) + _value(5, xor)
        case Compare(relation, value):
            return "cmp", _big(1, REGISTER) + _big(2, relation) + _value(3, value)
        case Verdict(code, chain):
            told = attribute(1, struct.pack(">i", code))
            told += text_attribute(2, chain) if chain else b""
            return "immediate", _big(1, VERDICT_REGISTER) + attribute(2 | NESTED, attribute(2 | NESTED, told))
        case Put(value):
            return "immediate", _big(1, REGISTER) + _value(2, value)
        case InSet(name):
            return "lookup", text_attribute(1, name) + _big(2, REGISTER)
        case TranslateSource(flags, ipv6):
            head = _big(1, NAT_SOURCE) + _big(2, FAMILY_IPV6 if ipv6 else FAMILY_IPV4) + _big(3, REGISTER)
            return "nat", head + (_big(7, flags) if flags else b"")
        case Reject(code):
            return "reject", _big(1, UNREACHABLE) + attribute(2, bytes([code]))
        case Counter():
            return "counter", b""
        case Other(name, data):
            return name, data


_SOURCE: Final = {"meta": 3, "ct": 4}


def _big(kind: int, value: int) -> bytes:
    return attribute(kind, struct.pack(">I", value))


def _value(kind: int, value: bytes) -> bytes:
    return attribute(kind | NESTED, attribute(1, value))


def decode(data: bytes) -> tuple[Expression, ...]:
    """Return the expressions of a rule the kernel told of."""
    found = []
    for _, element in attributes(data):
        parts = dict(attributes(element))
        name = parts.get(1, b"").rstrip(b"\0").decode(errors="replace")
        found.append(_read(name, parts.get(2, b"")))
    return tuple(found)


def _read(name: str, data: bytes) -> Expression:
    parts = dict(attributes(data))
    if name == "counter":
        return Counter()
    if name in _SOURCE and _is(parts, 1, REGISTER) and parts.keys() == {1, 2}:
        return Load(name, _number(parts[2]))
    if name in _SOURCE and _is(parts, _SOURCE[name], REGISTER) and parts.keys() == {2, _SOURCE[name]}:
        return Store(name, _number(parts[2]))
    if name == "payload" and _is(parts, 1, REGISTER) and parts.keys() == {1, 2, 3, 4}:
        return LoadHeader(_number(parts[2]), _number(parts[3]), _number(parts[4]))
    if name == "fib" and _is(parts, 1, REGISTER) and parts.keys() == {1, 2, 3}:
        return AskRoutes(_number(parts[2]), _number(parts[3]))
    if name == "bitwise" and _is(parts, 1, REGISTER) and _is(parts, 2, REGISTER) and {4, 5} <= parts.keys():
        return Bits(_bytes(parts[4]), _bytes(parts[5]))
    if name == "cmp" and _is(parts, 1, REGISTER) and {2, 3} <= parts.keys():
        return Compare(_number(parts[2]), _bytes(parts[3]))
    if name == "immediate" and _is(parts, 1, REGISTER) and 2 in parts:
        return Put(_bytes(parts[2]))
    if name == "lookup" and _is(parts, 2, REGISTER) and _is(parts, 5, 0, absent=True) and parts.keys() <= {1, 2, 5}:
        return InSet(parts.get(1, b"").rstrip(b"\0").decode(errors="replace"))
    if name == "nat" and _is(parts, 1, NAT_SOURCE) and _is(parts, 3, REGISTER):
        family = _number(parts.get(2, b""))
        ours = family in (FAMILY_IPV4, FAMILY_IPV6) and _is(parts, _NAT_HIGHEST_ADDRESS, REGISTER, absent=True)
        if ours and parts.keys() <= {1, 2, 3, _NAT_HIGHEST_ADDRESS, 7}:
            return TranslateSource(_number(parts.get(7, b"")) & ~_NAT_BY_ADDRESS, family == FAMILY_IPV6)
    if name == "reject" and _is(parts, 1, UNREACHABLE) and 2 in parts:
        return Reject(_number(parts[2]))
    if name == "immediate" and _is(parts, 1, VERDICT_REGISTER) and 2 in parts:
        told = dict(attributes(dict(attributes(parts[2])).get(2, b"")))
        if 1 in told:
            return Verdict(struct.unpack(">i", told[1])[0], told.get(2, b"").rstrip(b"\0").decode(errors="replace"))
    return Other(name, data)


def _is(parts: dict[int, bytes], kind: int, value: int, *, absent: bool = False) -> bool:
    return _number(parts[kind]) == value if kind in parts else absent


def _number(data: bytes) -> int:
    return int.from_bytes(data, "big")


def _bytes(data: bytes) -> bytes:
    return dict(attributes(data)).get(1, b"")


def meaning(expressions: Sequence[Expression]) -> tuple[Expression, ...]:
    """Return what the rule does, the same for rules that do the same."""
    telling = [one for one in expressions if not isinstance(one, Counter)]
    for at, one in enumerate(telling[:-1]):
        after = telling[at + 1]
        if _is_destination(one) and isinstance(after, Compare) and after.relation == EQUAL:
            whole = LoadHeader(NETWORK_HEADER, DESTINATION_OFFSET, ADDRESS_BYTES)
            mask = (b"\xff" * len(after.value)).ljust(ADDRESS_BYTES, b"\0")
            value = after.value.ljust(ADDRESS_BYTES, b"\0")
            telling[at : at + 2] = [whole, Bits(mask, bytes(ADDRESS_BYTES)), Compare(EQUAL, value)]
            break
    return tuple(telling)


def _is_destination(one: Expression) -> bool:
    return isinstance(one, LoadHeader) and (one.base, one.offset) == (NETWORK_HEADER, DESTINATION_OFFSET)

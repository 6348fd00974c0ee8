"""Netlink messages of the kernel as facts, the same for answers to a dump and for notifications. Pure."""

from __future__ import annotations

import struct
from ipaddress import IPv6Address
from typing import Final

from vpccni.components.netlink_programmer.facts import IPV4, IPV6, Address, Change, Fact, Link, Route, Rule
from vpccni.components.netlink_programmer.netlink_attributes import attributes

NEWLINK: Final = 16
DELLINK: Final = 17
NEWADDR: Final = 20
DELADDR: Final = 21
NEWROUTE: Final = 24
DELROUTE: Final = 25
NEWRULE: Final = 32
DELRULE: Final = 33
_UNICAST: Final = 1
_TO_TABLE: Final = 1  # FR_ACT_TO_TBL
_INVERT: Final = 2
_CLONED: Final = 0x200  # RTM_F_CLONED: a cached route, none of the table
_IFF_UP: Final = 1
_NO_SUPPRESSION: Final = 0xFFFFFFFF
_DEFAULT_METRIC_IPV6: Final = 1024
_SCOPE_LINK: Final = 253

_RULE: Final = struct.Struct("=BBBBBxxBI")
_ROUTE: Final = struct.Struct("=BBBBBBBBI")
_LINK: Final = struct.Struct("=BxHiII")
_ADDRESS: Final = struct.Struct("=BBBBI")
_INT: Final = struct.Struct("=I")

_FOREIGN_SELECTORS: Final = (3, 12, 17, 19, 20, 22, 23, 24)  # iif, tunnel, oif, l3mdev, uid, protocol, ports
_SUPPRESS_LENGTH: Final = 14


def change(kind: int, payload: bytes) -> Change | None:
    """Return what a notification says, None for what concerns no rule, unicast route, address or link."""
    fact = decode(kind, payload)
    return None if fact is None else Change(kind in (NEWLINK, NEWADDR, NEWROUTE, NEWRULE), fact)


def decode(kind: int, payload: bytes) -> Fact | None:
    """Return the fact in one message, None for another kind or family."""
    if kind in (NEWROUTE, DELROUTE):
        return _route(payload)
    if kind in (NEWRULE, DELRULE):
        return _rule(payload)
    if kind in (NEWLINK, DELLINK):
        return _link(payload)
    if kind in (NEWADDR, DELADDR):
        return _address(payload)
    return None


def _rule(payload: bytes) -> Rule | None:
    family, dst_len, src_len, tos, table, action, flags = _RULE.unpack_from(payload)
    if family not in (IPV4, IPV6):
        return None
    found = dict(attributes(payload, _RULE.size))
    foreign = (
        bool(tos) or action != _TO_TABLE or bool(flags & _INVERT) or any(key in found for key in _FOREIGN_SELECTORS)
    )
    foreign = foreign or _number(found, _SUPPRESS_LENGTH, _NO_SUPPRESSION) != _NO_SUPPRESSION
    return Rule(
        _number(found, 6),
        _number(found, 15, table),
        _prefix(found.get(2), src_len),
        _prefix(found.get(1), dst_len),
        _number(found, 10),
        _number(found, 16) if 10 in found else 0,
        foreign,
        family,
    )


def _route(payload: bytes) -> Route | None:
    family, dst_len, _, tos, table, protocol, scope, kind, flags = _ROUTE.unpack_from(payload)
    if family not in (IPV4, IPV6) or kind != _UNICAST or tos or flags & _CLONED:
        return None
    found = dict(attributes(payload, _ROUTE.size))
    metric = _number(found, 6)
    return Route(
        _number(found, 15, table),
        _prefix(found.get(1, bytes(16 if family == IPV6 else 4)), dst_len, always=True),
        _number(found, 4),
        _text_of(found.get(5)),
        0 if family == IPV6 and metric == _DEFAULT_METRIC_IPV6 else metric,
        scope,
        protocol,
        _text_of(found.get(7)),
    )


def _address(payload: bytes) -> Address | None:
    """An IPv6 link makes its own link-local address: nothing to plan for."""
    family, length, _, scope, ifindex = _ADDRESS.unpack_from(payload)
    if family not in (IPV4, IPV6) or (family == IPV6 and scope == _SCOPE_LINK):
        return None
    found = dict(attributes(payload, _ADDRESS.size))
    return Address(ifindex, f"{_text_of(found.get(2, found.get(1)))}/{length}")


def link_local(payload: bytes, ifindex: int) -> str:
    """Return the address in an answer about addresses if it is this link's IPv6 link-local one, else ""."""
    family, _, _, scope, index = _ADDRESS.unpack_from(payload)
    if (family, scope, index) != (IPV6, _SCOPE_LINK, ifindex):
        return ""
    return _text_of(dict(attributes(payload, _ADDRESS.size)).get(1))


def _link(payload: bytes) -> Link | None:
    family, _, ifindex, flags, _ = _LINK.unpack_from(payload)
    if family != 0:
        return None  # a bridge's port speaks of itself in a family of its own
    found = dict(attributes(payload, _LINK.size))
    kinds = dict(attributes(found.get(18, b""), 0))
    return Link(
        ifindex,
        _text(found.get(3)),
        found.get(1, b"").hex(":"),
        _number(found, 4),
        bool(flags & _IFF_UP),
        _text(kinds.get(1)),
        _text(found.get(20)),
    )


def _number(found: dict[int, bytes], key: int, missing: int = 0) -> int:
    value = found.get(key)
    return missing if value is None or len(value) != 4 else int(_INT.unpack(value)[0])


def _text_of(value: bytes | None) -> str:
    """Return an address as text, "" for none."""
    if value is not None and len(value) == 4:
        return ".".join(map(str, value))
    return str(IPv6Address(value)) if value is not None and len(value) == 16 else ""


def _prefix(value: bytes | None, length: int, *, always: bool = False) -> str:
    address = _text_of(value)
    return f"{address}/{length}" if address and (length or always) else ""


def _text(value: bytes | None) -> str:
    return (value or b"").rstrip(b"\0").decode(errors="replace")

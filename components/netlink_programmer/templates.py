"""The netlink messages of an ADD and a DEL, encoded once by pyroute2 and patched for each pod.

Of 4.7 ms that twelve pyroute2 calls take, the kernel needs 0.9; so each message is encoded once with sentinels whose number of
occurrences is asserted, and a pod's values are put in their place (docs/decisions/0002-netlink-templates.md).
"""

from __future__ import annotations

import socket
import struct
from functools import lru_cache
from typing import Any, Final, NamedTuple, cast

from vpccni.components.netlink_programmer.facts import IPV4, IPV6, Address, LinkState, Route, Rule
from vpccni.components.netlink_programmer.naming import MAIN_TABLE, pod_gateway
from vpccni.components.netlink_programmer.node_plan import (
    PRIORITY_FROM_POD,
    PRIORITY_IN_POD,
    PRIORITY_TO_POD,
    PROTOCOL_BOOT,
    SCOPE_LINK,
)

NUD_PERMANENT: Final = 0x80
PROTOCOL_KERNEL: Final = 2

_INDEX: Final = 0x7A3B5C7D
_NETNS_FD: Final = 0x7B4C6D5E
_TABLE: Final = 0x7EADBEF1


class _Family(NamedTuple):
    """What differs between the templates of the two families: `address` and `other` are sentinels."""

    number: int
    bits: int
    none: str
    address: str
    other: str

    def scope(self, scope: int) -> dict[str, int]:
        """Return the field of a route's scope, which IPv6 does not have (spec dataplane.md 17)."""
        return {} if self.number == IPV6 else {"scope": scope}


_V4: Final = _Family(IPV4, 32, "0.0.0.0", "203.0.113.77", "203.0.113.99")
_V6: Final = _Family(
    IPV6, 128, "::", "2001:db8:7ead:beef:1a2b:3c4d:5e6f:77aa", "2001:db8:7ead:beef:1a2b:3c4d:5e6f:99bb"
)
_MAC: Final = "02:f1:e2:d3:c4:b5"


def create_veth(*, ifname: str, host_veth: str, mac: str, mtu: int, host_netns: int) -> bytes:
    """Return the message, for the pod's socket, that makes the pair: pod end here, host end down in the host's namespace."""
    template = _veth_template(ifname, len(host_veth), mtu)
    template = _patch(template, b"\x01" * len(host_veth), host_veth.encode())
    template = _patch(template, _mac(_MAC), _mac(mac))
    return _patch(template, _int(_NETNS_FD), _int(host_netns))


def pod_side(*, ifindex: int, address: str, host_mac: str, index: int = 0) -> list[bytes]:
    """Return what the pod's end gets: up, address, route to the gateway, default route, the gateway's permanent neighbour.

    `index`: the interface's number in the pod; from 1 on it has a table of its own and a rule that leads there (spec dataplane.md 8.1).
    """
    family = _family(address)
    messages = []
    for message in _pod_templates(family, index):
        patched = _patch(message, _int(_INDEX), _int(ifindex), least=0)
        patched = _patch(patched, _ip(family.address), _ip(address), least=0)
        messages.append(_patch(patched, _mac(_MAC), _mac(host_mac), least=0))
    return messages


def host_side(*, ifindex: int, address: str, table: int) -> list[bytes]:
    """Return what makes the pod reachable: host end up, its route, the rule to it and, off the primary ENI, the rule from it."""
    up = _patch(_up_template(), _int(_INDEX), _int(ifindex))
    return [up, host_route(ifindex=ifindex, address=address), *rules("add", address=address, table=table)]


def host_route(*, ifindex: int, address: str) -> bytes:
    """Return the message that leads an address to a link, whatever it led to before."""
    family = _family(address)
    message = _patch(_host_route_template(family), _int(_INDEX), _int(ifindex))
    return _patch(message, _ip(family.address), _ip(address))


def rules(verb: str, *, address: str, table: int) -> list[bytes]:
    """Return the messages that add or delete ("add", "del") a pod's one or two rules."""
    family = _family(address)
    to_pod, from_pod = _rule_templates(verb, family)
    messages = [_patch(to_pod, _ip(family.address), _ip(address))]
    if table != MAIN_TABLE:
        patched = _patch(from_pod, _ip(family.address), _ip(address))
        messages.append(_patch(patched, _int(_TABLE), _int(table)))
    return messages


def delete_route(*, ifindex: int, address: str) -> bytes:
    """Return the message that deletes the host route of a pod, if it still points to this link."""
    family = _family(address)
    message = _patch(_delete_route_template(family), _int(_INDEX), _int(ifindex))
    return _patch(message, _ip(family.address), _ip(address))


def egress_pod_side(*, ifindex: int, address: str, subnet: str, gateway: str) -> list[bytes]:
    """Return what the egress interface of a pod gets: up, its address, and in IPv4 the routes through the gateway (spec dataplane.md 12).

    The connected route of the subnet, which the kernel makes with the address, is replaced: other pods are behind the gateway.
    """
    family = _family(address)
    return [
        _patch(_patch(message, _int(_INDEX), _int(ifindex), least=0), _ip(family.address), _ip(address), least=0)
        for message in _egress_templates(family, subnet, gateway)
    ]


def delete_link(ifindex: int) -> bytes:
    """Return the message that deletes a link (13 to 16 ms in the kernel: not on the way of a DEL)."""
    return _patch(_delete_link_template(), _int(_INDEX), _int(ifindex))


def rule(verb: str, one: Rule) -> bytes:
    """Return the message that adds or deletes ("add", "del") any one rule."""
    family = _V6 if one.family == IPV6 else _V4
    src, src_length = _split(one.src, family)
    dst, dst_length = _split(one.dst, family)
    message = _rule_template(verb, family, one.priority, src_length, dst_length, one.fwmark, one.fwmask)
    message = _patch(message, _int(_TABLE), _int(one.table))
    message = _patch(message, _ip(family.address), _ip(src), least=int(src_length > 0))
    return _patch(message, _ip(family.other), _ip(dst), least=int(dst_length > 0))


def replace_route(one: Route) -> bytes:
    """Return the message that puts a route in its place, whatever stood there."""
    family = _family(one.dst)
    dst, length = _split(one.dst, family)
    message = _replace_route_template(family, length, bool(one.gateway), one.scope, one.protocol)
    message = _patch(message, _int(_TABLE), _int(one.table))
    message = _patch(message, _int(_INDEX), _int(one.ifindex))
    message = _patch(message, _ip(family.address), _ip(dst), least=int(length > 0))
    return _patch(message, _ip(family.other), _ip(one.gateway or family.none), least=int(bool(one.gateway)))


def remove_route(one: Route) -> bytes:
    """Return the message that deletes exactly this route: the kernel's own wants its protocol and source (spec dataplane.md 11.3)."""
    family = _family(one.dst)
    source = {"prefsrc": one.source} if one.source else {}
    return _encode(
        "route", "del", family=family.number, dst=one.dst, oif=one.ifindex, proto=one.protocol, table=one.table,
        **source, **family.scope(one.scope),
    )  # fmt: skip


def address(verb: str, one: Address, *, scope: int = 0) -> bytes:
    """Return the message that adds or deletes an address of a link."""
    local, _, length = one.local.partition("/")
    number = _family(local).number
    return _encode("addr", verb, family=number, index=one.ifindex, address=local, prefixlen=int(length), scope=scope)


def link_state(one: LinkState) -> bytes:
    """Return the message that sets a link up and, where one is wanted, its MTU."""
    mtu = {"mtu": one.mtu} if one.mtu else {}
    return _encode("link", "set", index=one.ifindex, state="up" if one.up else "down", **mtu)


@lru_cache(64)
def _rule_template(
    verb: str, family: _Family, priority: int, src_length: int, dst_length: int, fwmark: int, fwmask: int
) -> bytes:
    selectors: dict[str, Any] = {}
    if src_length:
        selectors |= {"src": family.address, "src_len": src_length}
    if dst_length:
        selectors |= {"dst": family.other, "dst_len": dst_length}
    if fwmark:
        selectors |= {"fwmark": fwmark, "fwmask": fwmask}
    return _encode("rule", verb, priority=priority, table=_TABLE, family=family.number, **selectors)


@lru_cache(16)
def _replace_route_template(family: _Family, length: int, through_gateway: bool, scope: int, protocol: int) -> bytes:
    gateway = {"gateway": family.other} if through_gateway else {}
    dst = f"{family.address}/{length}" if length else f"{family.none}/0"
    return _encode(
        "route", "replace", family=family.number, dst=dst, oif=_INDEX, proto=protocol, table=_TABLE,
        **gateway, **family.scope(scope),
    )  # fmt: skip


def _family(address: str) -> _Family:
    return _V6 if ":" in address else _V4


def _split(prefix: str, family: _Family) -> tuple[str, int]:
    address_text, _, length = prefix.partition("/")
    return (address_text or family.none), int(length or 0)


@lru_cache(64)
def _veth_template(ifname: str, host_name_length: int, mtu: int) -> bytes:
    peer = {"ifname": "\x01" * host_name_length, "address": _MAC, "mtu": mtu, "txqlen": 0, "net_ns_fd": _NETNS_FD}
    return _encode("link", "add", ifname=ifname, kind="veth", mtu=mtu, txqlen=0, peer=peer)


@lru_cache(16)
def _pod_templates(family: _Family, index: int) -> tuple[bytes, ...]:
    gateway, table = pod_gateway(family.number, index), index or MAIN_TABLE
    common: dict[str, Any] = {"family": family.number, "oif": _INDEX, "proto": PROTOCOL_BOOT, "table": table}
    messages = [
        _encode("link", "set", index=_INDEX, state="up"),
        _encode("addr", "add", family=family.number, index=_INDEX, address=family.address, prefixlen=family.bits),
        _encode("route", "replace", dst=f"{gateway}/{family.bits}", **family.scope(SCOPE_LINK), **common),
        _encode("route", "add", dst=f"{family.none}/0", gateway=gateway, **common),
        _encode(
            "neigh", "replace", family=family.number, dst=gateway, lladdr=_MAC, ifindex=_INDEX, state=NUD_PERMANENT
        ),
    ]
    if index:
        selector = {"src": family.address, "src_len": family.bits}
        messages.append(_encode("rule", "add", priority=PRIORITY_IN_POD, table=table, family=family.number, **selector))
    return tuple(messages)


@lru_cache(4)
def _egress_templates(family: _Family, subnet: str, gateway: str) -> tuple[bytes, ...]:
    length = int(subnet.partition("/")[2])
    messages = [
        _encode("link", "set", index=_INDEX, state="up"),
        _encode("addr", "add", family=family.number, index=_INDEX, address=family.address, prefixlen=length),
    ]
    if family is _V4:
        common: dict[str, Any] = {"family": family.number, "oif": _INDEX, "table": MAIN_TABLE}
        ours: dict[str, Any] = {**common, "proto": PROTOCOL_BOOT}
        by_kernel = {**common, "proto": PROTOCOL_KERNEL, "scope": SCOPE_LINK, "prefsrc": family.address}
        messages += [
            _encode("route", "del", dst=subnet, **by_kernel),
            _encode("route", "add", dst=f"{gateway}/32", scope=SCOPE_LINK, prefsrc=family.address, **ours),
            _encode("route", "add", dst="0.0.0.0/0", gateway=gateway, **ours),
            _encode("route", "add", dst=subnet, gateway=gateway, prefsrc=family.address, **ours),
        ]
    return tuple(messages)


@lru_cache(1)
def _up_template() -> bytes:
    return _encode("link", "set", index=_INDEX, state="up")


@lru_cache(2)
def _host_route_template(family: _Family) -> bytes:
    return _encode(
        "route", "replace", family=family.number, dst=f"{family.address}/{family.bits}", oif=_INDEX,
        proto=PROTOCOL_BOOT, table=MAIN_TABLE, **family.scope(SCOPE_LINK),
    )  # fmt: skip


@lru_cache(4)
def _rule_templates(verb: str, family: _Family) -> tuple[bytes, bytes]:
    to_pod = {"dst": family.address, "dst_len": family.bits, "priority": PRIORITY_TO_POD, "table": MAIN_TABLE}
    from_pod = {"src": family.address, "src_len": family.bits, "priority": PRIORITY_FROM_POD, "table": _TABLE}
    return (
        _encode("rule", verb, family=family.number, **to_pod),
        _encode("rule", verb, family=family.number, **from_pod),
    )


@lru_cache(2)
def _delete_route_template(family: _Family) -> bytes:
    return _encode(
        "route", "del", family=family.number, dst=f"{family.address}/{family.bits}", oif=_INDEX, table=MAIN_TABLE,
        **family.scope(SCOPE_LINK),
    )  # fmt: skip


@lru_cache(1)
def _delete_link_template() -> bytes:
    return _encode("link", "del", index=_INDEX)


def _encode(subject: str, verb: str, **fields: Any) -> bytes:
    from pyroute2 import IPBatch  # the encoder; imported where a template is made

    batch = IPBatch()
    try:
        getattr(batch, subject)(verb, **fields)
        return bytes(cast(bytearray, batch.asyncore.batch))
    finally:
        batch.close()  # it holds an event loop with its descriptors


def _patch(message: bytes, sentinel: bytes, value: bytes, *, least: int = 1) -> bytes:
    found = message.count(sentinel)
    if found < least or len(sentinel) != len(value):
        raise AssertionError(f"sentinel {sentinel.hex()} stands {found} times in a netlink template")
    return message.replace(sentinel, value)


def _int(value: int) -> bytes:
    return struct.pack("=I", value)


def _ip(address: str) -> bytes:
    return socket.inet_pton(socket.AF_INET6 if ":" in address else socket.AF_INET, address)


def _mac(text: str) -> bytes:
    return bytes.fromhex(text.replace(":", ""))

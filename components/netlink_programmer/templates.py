"""The netlink messages of an ADD and a DEL, encoded once by pyroute2 and patched for each pod.

Of 4.7 ms that twelve pyroute2 calls take, the kernel needs 0.9; so each message is encoded once with sentinels whose number of
occurrences is asserted, and a pod's values are put in their place (docs/decisions/0002-netlink-templates.md).
"""

from __future__ import annotations

import ipaddress
import socket
import struct
from functools import lru_cache
from typing import Any, Final, cast

from vpccni.components.netlink_programmer.facts import DEFAULT, Address, LinkState, Route, Rule
from vpccni.components.netlink_programmer.naming import MAIN_TABLE
from vpccni.components.netlink_programmer.node_plan import (
    PRIORITY_FROM_POD,
    PRIORITY_TO_POD,
    PROTOCOL_BOOT,
    SCOPE_LINK,
)

NUD_PERMANENT: Final = 0x80
POD_GATEWAY: Final = "169.254.1.1"  # spec dataplane.md 2.3

_INDEX: Final = 0x7A3B5C7D
_NETNS_FD: Final = 0x7B4C6D5E
_TABLE: Final = 0x7EADBEF1
_ADDRESS: Final = "203.0.113.77"
_OTHER_ADDRESS: Final = "203.0.113.99"
_MAC: Final = "02:f1:e2:d3:c4:b5"


def create_veth(*, ifname: str, host_veth: str, mac: str, mtu: int, host_netns: int) -> bytes:
    """Return the message, for the pod's socket, that makes the pair: pod end here, host end down in the host's namespace."""
    template = _veth_template(ifname, len(host_veth), mtu)
    template = _patch(template, b"\x01" * len(host_veth), host_veth.encode())
    template = _patch(template, _mac(_MAC), _mac(mac))
    return _patch(template, _int(_NETNS_FD), _int(host_netns))


def pod_side(*, ifindex: int, address: str, host_mac: str) -> list[bytes]:
    """Return what the pod's end gets: up, address, route to the gateway, default route, the gateway's permanent neighbour."""
    return [
        _patch(
            _patch(_patch(message, _int(_INDEX), _int(ifindex), least=0), _ip(_ADDRESS), _ip(address), least=0),
            _mac(_MAC),
            _mac(host_mac),
            least=0,
        )
        for message in _pod_templates()
    ]


def host_side(*, ifindex: int, address: str, table: int) -> list[bytes]:
    """Return what makes the pod reachable: host end up, its route, the rule to it and, off the primary ENI, the rule from it."""
    up, route = _host_templates()
    messages = [
        _patch(up, _int(_INDEX), _int(ifindex)),
        _patch(_patch(route, _int(_INDEX), _int(ifindex)), _ip(_ADDRESS), _ip(address), least=1),
    ]
    return messages + rules("add", address=address, table=table)


def rules(verb: str, *, address: str, table: int) -> list[bytes]:
    """Return the messages that add or delete ("add", "del") a pod's one or two rules."""
    to_pod, from_pod = _rule_templates(verb)
    messages = [_patch(to_pod, _ip(_ADDRESS), _ip(address))]
    if table != MAIN_TABLE:
        patched = _patch(from_pod, _ip(_ADDRESS), _ip(address))
        messages.append(_patch(patched, _int(_TABLE), _int(table)))
    return messages


def delete_route(*, ifindex: int, address: str) -> bytes:
    """Return the message that deletes the host route of a pod, if it still points to this link."""
    return _patch(_patch(_delete_route_template(), _int(_INDEX), _int(ifindex)), _ip(_ADDRESS), _ip(address))


def delete_link(ifindex: int) -> bytes:
    """Return the message that deletes a link (13 to 16 ms in the kernel: not on the way of a DEL)."""
    return _patch(_delete_link_template(), _int(_INDEX), _int(ifindex))


def rule(verb: str, one: Rule) -> bytes:
    """Return the message that adds or deletes ("add", "del") any one rule."""
    src, src_length = _split(one.src)
    dst, dst_length = _split(one.dst)
    message = _rule_template(verb, one.priority, src_length, dst_length, one.fwmark, one.fwmask)
    message = _patch(message, _int(_TABLE), _int(one.table))
    message = _patch(message, _ip(_ADDRESS), _ip(src), least=int(src_length > 0))
    return _patch(message, _ip(_OTHER_ADDRESS), _ip(dst), least=int(dst_length > 0))


def replace_route(one: Route) -> bytes:
    """Return the message that puts a route in its place, whatever stood there."""
    dst, length = _split(one.dst)
    message = _replace_route_template(length, bool(one.gateway), one.scope, one.protocol)
    message = _patch(message, _int(_TABLE), _int(one.table))
    message = _patch(message, _int(_INDEX), _int(one.ifindex))
    message = _patch(message, _ip(_ADDRESS), _ip(dst), least=int(length > 0))
    return _patch(message, _ip(_OTHER_ADDRESS), _ip(one.gateway or "0.0.0.0"), least=int(bool(one.gateway)))


def remove_route(one: Route) -> bytes:
    """Return the message that deletes exactly this route: the kernel's own wants its protocol and source (spec dataplane.md 11.3)."""
    source = {"prefsrc": one.source} if one.source else {}
    return _encode(
        "route", "del", dst=one.dst, oif=one.ifindex, scope=one.scope, proto=one.protocol, table=one.table, **source
    )


def address(verb: str, one: Address) -> bytes:
    """Return the message that adds or deletes an address of a link."""
    local, length = _split(one.local)
    return _encode("addr", verb, index=one.ifindex, address=local, prefixlen=length)


def link_state(one: LinkState) -> bytes:
    """Return the message that sets a link up and, where one is wanted, its MTU."""
    mtu = {"mtu": one.mtu} if one.mtu else {}
    return _encode("link", "set", index=one.ifindex, state="up" if one.up else "down", **mtu)


@lru_cache(32)
def _rule_template(verb: str, priority: int, src_length: int, dst_length: int, fwmark: int, fwmask: int) -> bytes:
    selectors: dict[str, Any] = {}
    if src_length:
        selectors |= {"src": _ADDRESS, "src_len": src_length}
    if dst_length:
        selectors |= {"dst": _OTHER_ADDRESS, "dst_len": dst_length}
    if fwmark:
        selectors |= {"fwmark": fwmark, "fwmask": fwmask}
    return _encode("rule", verb, priority=priority, table=_TABLE, family=socket.AF_INET, **selectors)


@lru_cache(8)
def _replace_route_template(length: int, through_gateway: bool, scope: int, protocol: int) -> bytes:
    gateway = {"gateway": _OTHER_ADDRESS} if through_gateway else {}
    dst = f"{_ADDRESS}/{length}" if length else DEFAULT
    return _encode("route", "replace", dst=dst, oif=_INDEX, scope=scope, proto=protocol, table=_TABLE, **gateway)


def _split(prefix: str) -> tuple[str, int]:
    address_text, _, length = prefix.partition("/")
    return (address_text or "0.0.0.0"), int(length or 0)


@lru_cache(64)
def _veth_template(ifname: str, host_name_length: int, mtu: int) -> bytes:
    peer = {"ifname": "\x01" * host_name_length, "address": _MAC, "mtu": mtu, "txqlen": 0, "net_ns_fd": _NETNS_FD}
    return _encode("link", "add", ifname=ifname, kind="veth", mtu=mtu, txqlen=0, peer=peer)


@lru_cache(1)
def _pod_templates() -> tuple[bytes, ...]:
    return (
        _encode("link", "set", index=_INDEX, state="up"),
        _encode("addr", "add", index=_INDEX, address=_ADDRESS, prefixlen=32),
        _encode(
            "route",
            "replace",
            dst=f"{POD_GATEWAY}/32",
            oif=_INDEX,
            scope=SCOPE_LINK,
            proto=PROTOCOL_BOOT,
            table=MAIN_TABLE,
        ),
        _encode(
            "route", "add", dst="0.0.0.0/0", gateway=POD_GATEWAY, oif=_INDEX, proto=PROTOCOL_BOOT, table=MAIN_TABLE
        ),
        _encode("neigh", "add", dst=POD_GATEWAY, lladdr=_MAC, ifindex=_INDEX, state=NUD_PERMANENT),
    )


@lru_cache(1)
def _host_templates() -> tuple[bytes, bytes]:
    return (
        _encode("link", "set", index=_INDEX, state="up"),
        _encode(
            "route",
            "replace",
            dst=f"{_ADDRESS}/32",
            oif=_INDEX,
            scope=SCOPE_LINK,
            proto=PROTOCOL_BOOT,
            table=MAIN_TABLE,
        ),
    )


@lru_cache(2)
def _rule_templates(verb: str) -> tuple[bytes, bytes]:
    return (
        _encode("rule", verb, dst=_ADDRESS, dst_len=32, priority=PRIORITY_TO_POD, table=MAIN_TABLE),
        _encode("rule", verb, src=_ADDRESS, src_len=32, priority=PRIORITY_FROM_POD, table=_TABLE),
    )


@lru_cache(1)
def _delete_route_template() -> bytes:
    return _encode("route", "del", dst=f"{_ADDRESS}/32", oif=_INDEX, scope=SCOPE_LINK, table=MAIN_TABLE)


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
    return ipaddress.IPv4Address(address).packed


def _mac(text: str) -> bytes:
    return bytes.fromhex(text.replace(":", ""))

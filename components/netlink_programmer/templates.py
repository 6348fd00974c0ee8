"""The netlink messages of an ADD and a DEL, encoded once by pyroute2 and patched for each pod.

Of 4.7 ms that twelve pyroute2 calls take, the kernel needs 0.9; so each message is encoded once with sentinels whose number of
occurrences is asserted, and a pod's values are put in their place (docs/decisions/0002-netlink-templates.md).
"""

from __future__ import annotations

import ipaddress
import struct
from functools import lru_cache
from typing import Any, Final, cast

from vpccni.components.netlink_programmer.naming import MAIN_TABLE

PRIORITY_TO_POD: Final = 512  # spec dataplane.md 2.1
PRIORITY_FROM_POD: Final = 1536  # spec dataplane.md 2.1
SCOPE_LINK: Final = 253
PROTOCOL_BOOT: Final = 3  # as the reference's routes, spec dataplane.md 17
NUD_PERMANENT: Final = 0x80
POD_GATEWAY: Final = "169.254.1.1"  # spec dataplane.md 2.3

_INDEX: Final = 0x7A3B5C7D
_NETNS_FD: Final = 0x7B4C6D5E
_TABLE: Final = 0x7EADBEF1
_ADDRESS: Final = "203.0.113.77"
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

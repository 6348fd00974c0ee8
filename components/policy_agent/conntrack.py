"""What the kernel's conntrack knows of pods' open connections, for the moment when a first policy selects a pod.

A pod without policy has no flows in our table (it pays for none), so nobody would know who began its connections. Where conntrack
tracks them, as it does on a node with kube-proxy or SNAT rules, it is asked once; where it does not, each connection is judged by the
direction of its next packet.
"""

from __future__ import annotations

import socket
import struct
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

from vpccni.components.policy_agent.policy import V4_ALL, Direction
from vpccni.components.policy_agent.rtnetlink import NLMSG_DONE, NLMSG_ERROR, REQUEST, answers, attributes, message

ANSWER_WITHIN_S: Final = 1.0
READ_WITHIN_S: Final = 0.25
"""A table of hundreds of thousands is not read to its end: policies must not wait for it."""
RECEIVE_BYTES: Final = 1 << 17
V4_BYTES: Final = 4
_NETFILTER: Final = 12
_CT_GET: Final = 1 << 8 | 1  # NFNL_SUBSYS_CTNETLINK, IPCTNL_MSG_CT_GET
_DUMP: Final = 0x300
_NFGENMSG: Final = struct.Struct(">BBH")
_ORIGINAL, _REPLY = 1, 2
_IP, _PROTOCOL = 1, 2
_SOURCES, _DESTINATIONS = (1, 3), (2, 4)
_NUMBER, _SOURCE_PORT, _DESTINATION_PORT = 1, 2, 3


@dataclass(frozen=True, slots=True)
class OpenFlow:
    """A connection as it looks on the pod's veth. Addresses in the common space; ports in host order."""

    local: int
    local_port: int
    peer: int
    peer_port: int
    protocol: int
    origin: Direction


@dataclass(frozen=True, slots=True)
class _Tuple:
    source: int
    destination: int
    protocol: int
    source_port: int
    destination_port: int


def open_flows(is_pod: Callable[[int], bool]) -> list[OpenFlow]:
    """Return the connections of addresses that are a pod's; what could be read in time, nothing where there is no conntrack."""
    found: list[OpenFlow] = []
    try:
        with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETFILTER) as asking:
            asking.settimeout(ANSWER_WITHIN_S)
            asking.send(message(_CT_GET, REQUEST | _DUMP, 1, _NFGENMSG.pack(socket.AF_UNSPEC, 0, 0)))
            for body in _bodies(asking, until=time.monotonic() + READ_WITHIN_S):
                found += _flows(body, is_pod)
    except OSError:
        return found  # no conntrack here, or it stopped telling: the rest is judged as new
    return found


def _bodies(asking: socket.socket, *, until: float) -> Iterator[bytes]:
    while time.monotonic() < until:
        for answer in answers(asking.recv(RECEIVE_BYTES)):
            if answer.kind in (NLMSG_DONE, NLMSG_ERROR):
                return
            yield answer.body


def _flows(body: bytes, is_pod: Callable[[int], bool]) -> list[OpenFlow]:
    """Return how a connection looks to the pod that began it, and to the pod that was called: what each meets, NAT included."""
    parts = attributes(body[_NFGENMSG.size :])
    original, reply = (_tuple(parts.get(kind, b"")) for kind in (_ORIGINAL, _REPLY))
    found = []
    if original is not None and is_pod(original.source):
        found.append(_as_seen(original, Direction.EGRESS))
    if reply is not None and is_pod(reply.source):
        found.append(_as_seen(reply, Direction.INGRESS))
    return found


def _as_seen(one: _Tuple, origin: Direction) -> OpenFlow:
    return OpenFlow(one.source, one.source_port, one.destination, one.destination_port, one.protocol, origin)


def _tuple(raw: bytes) -> _Tuple | None:
    parts = attributes(raw)
    addresses, protocol = attributes(parts.get(_IP, b"")), attributes(parts.get(_PROTOCOL, b""))
    source = next((addresses[kind] for kind in _SOURCES if kind in addresses), None)
    destination = next((addresses[kind] for kind in _DESTINATIONS if kind in addresses), None)
    if source is None or destination is None or _NUMBER not in protocol:
        return None
    return _Tuple(
        _value(source),
        _value(destination),
        protocol[_NUMBER][0],
        int.from_bytes(protocol.get(_SOURCE_PORT, b"")[:2], "big"),
        int.from_bytes(protocol.get(_DESTINATION_PORT, b"")[:2], "big"),
    )


def _value(raw: bytes) -> int:
    value = int.from_bytes(raw, "big")
    return V4_ALL.value | value if len(raw) == V4_BYTES else value

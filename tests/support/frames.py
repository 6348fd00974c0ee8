"""Packets as bytes, written field by field from the RFCs."""

from __future__ import annotations

import ipaddress
import struct

from vpccni.components.policy_agent.policy import ICMP, ICMPV6, SCTP, TCP, UDP

SYN, ACK, FIN, RST = 2, 16, 1, 4
MORE_FRAGMENTS = 0x2000
_ETHERNET = bytes(12)


def layer4(protocol: int, source_port: int, port: int, *, flags: int = SYN) -> bytes:
    """A header of the protocol; echo requests carry `source_port` as their identifier."""
    if protocol == TCP:
        return struct.pack(">HHIIBBHHH", source_port, port, 1, 1, 5 << 4, flags, 1024, 0, 0)
    if protocol == UDP:
        return struct.pack(">HHHH", source_port, port, 8, 0)
    if protocol == SCTP:
        return struct.pack(">HHII", source_port, port, 0, 0)
    if protocol in (ICMP, ICMPV6):
        return echo(protocol, source_port)
    return bytes(8)


def echo(protocol: int, identifier: int, *, reply: bool = False) -> bytes:
    kind = (129 if reply else 128) if protocol == ICMPV6 else (0 if reply else 8)
    return struct.pack(">BBHHH", kind, 0, 0, identifier, 1)


def ip_packet(
    source: str, destination: str, protocol: int, payload: bytes, *, options: bytes = b"", offset: int = 0,
    identification: int = 1, extensions: bytes = b"", first_header: int | None = None,
) -> bytes:  # fmt: skip
    """An IP packet of either family. `extensions` and `first_header` are for IPv6, `options` and `offset` for IPv4."""
    if ipaddress.ip_address(source).version == 4:
        head = struct.pack(
            ">BBHHHBBH4s4s", 0x45 + len(options) // 4, 0, 20 + len(options) + len(payload), identification, offset, 64,
            protocol, 0, ipaddress.IPv4Address(source).packed, ipaddress.IPv4Address(destination).packed,
        )  # fmt: skip
        return head + options + payload
    body = extensions + payload
    head = struct.pack(
        ">IHBB16s16s", 6 << 28, len(body), protocol if first_header is None else first_header, 64,
        ipaddress.IPv6Address(source).packed, ipaddress.IPv6Address(destination).packed,
    )  # fmt: skip
    return head + body


def frame(packet: bytes, *, ethertype: int | None = None) -> bytes:
    """The packet in an Ethernet frame."""
    kind = ethertype if ethertype is not None else (0x0800 if packet[0] >> 4 == 4 else 0x86DD)
    return _ETHERNET + struct.pack(">H", kind) + packet


def icmp_error(source: str, destination: str, quoted: bytes) -> bytes:
    """Destination unreachable (fragmentation needed, or packet too big) that quotes the packet which caused it."""
    is_v4 = ipaddress.ip_address(source).version == 4
    head = struct.pack(">BBHHH", *((3, 4, 0, 0, 1400) if is_v4 else (2, 0, 0, 0, 1400)))
    return ip_packet(source, destination, ICMP if is_v4 else ICMPV6, head + quoted[:68])


def fragment_header(next_header: int, offset: int, *, more: bool, identification: int = 1) -> bytes:
    """IPv6's; `offset` in units of eight bytes."""
    return struct.pack(">BBHI", next_header, 0, offset << 3 | more, identification)

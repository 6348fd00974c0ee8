"""Looks at the kernel: one dump a kind, one a table of routes, settings on request. Run in a thread; its own socket each time."""

from __future__ import annotations

import errno
import ipaddress
import os
import struct
from collections.abc import Iterable, Sequence
from typing import Final

from vpccni.components.netlink_programmer import decode, rtnl
from vpccni.components.netlink_programmer.facts import (
    IPV4,
    Address,
    Fact,
    Link,
    Route,
    Rule,
    Seen,
    Setting,
    family_of,
    host_prefix,
)
from vpccni.components.netlink_programmer.naming import MAIN_TABLE
from vpccni.components.netlink_programmer.netlink_attributes import attribute

RTM_GETLINK: Final = 18
RTM_GETADDR: Final = 22
RTM_GETROUTE: Final = 26
RTM_GETRULE: Final = 34
IFLA_EXT_MASK: Final = 29
SKIP_STATISTICS: Final = 8
RTA_DST: Final = 1
RTA_TABLE: Final = 15
RTM_F_FIB_MATCH: Final = 0x2000
"""Asks for the entry of the table, not for the way a packet would take."""
NO_ROUTE: Final = (errno.ENETUNREACH, errno.EHOSTUNREACH, errno.EINVAL)
NO_SUCH_TABLE: Final = (errno.ENOENT,)
PROC_SYS_NET: Final = "/proc/sys/net"


def links() -> dict[int, Link]:
    """Return all links by index."""
    socket = _socket()
    try:
        return _links(socket)
    finally:
        socket.close()


def look(
    tables: Iterable[int], *, families: Sequence[int] = (IPV4,), setting_paths: Iterable[str] | None = None
) -> Seen:
    """Return links, and of `families` rules, addresses and the routes of `tables`; the settings too when paths are given.

    Raises `KernelRefused`.
    """
    socket = _socket()
    try:
        return Seen(
            rules=tuple(
                one
                for family in families
                for one in _dump(socket, RTM_GETRULE, _query(family))
                if isinstance(one, Rule)
            ),
            routes=tuple(
                one
                for table in tables
                for family in families
                for one in _dump(socket, RTM_GETROUTE, _routes_of(table, family))
                if isinstance(one, Route)
            ),
            addresses=tuple(
                one
                for family in families
                for one in _dump(socket, RTM_GETADDR, bytes([family, 0, 0, 0, 0, 0, 0, 0]))
                if isinstance(one, Address)
            ),
            links=_links(socket),
            settings=None if setting_paths is None else frozenset(_settings(setting_paths)),
        )
    finally:
        socket.close()


def led_to(socket: rtnl.RouteSocket, address: str) -> Link | None:
    """Return the link that the main table's route to this address alone leads to. Two targeted requests on the caller's socket."""
    host = ipaddress.ip_address(address).packed
    query = bytes([family_of(address), len(host) * 8]) + bytes(6) + struct.pack("=I", RTM_F_FIB_MATCH)
    payload = socket.ask(RTM_GETROUTE, query + attribute(RTA_DST, host), on=address, none_if=NO_ROUTE)
    route = None if payload is None else decode.decode(decode.NEWROUTE, payload)
    if not isinstance(route, Route) or (route.table, route.dst) != (MAIN_TABLE, host_prefix(address)):
        return None
    body = rtnl.IFINFO.pack(0, 0, route.ifindex, 0, 0)
    payload = socket.ask(RTM_GETLINK, body, on=f"link {route.ifindex}", none_if=(errno.ENODEV,))
    link = None if payload is None else decode.decode(decode.NEWLINK, payload)
    return link if isinstance(link, Link) else None


def _socket() -> rtnl.RouteSocket:
    socket = rtnl.RouteSocket()
    socket.check_strictly()
    return socket


def _links(socket: rtnl.RouteSocket) -> dict[int, Link]:
    body = rtnl.IFINFO.pack(0, 0, 0, 0, 0) + attribute(IFLA_EXT_MASK, struct.pack("=I", SKIP_STATISTICS))
    return {one.ifindex: one for one in _dump(socket, RTM_GETLINK, body) if isinstance(one, Link)}


def _query(family: int) -> bytes:
    return bytes([family]) + bytes(11)


def _routes_of(table: int, family: int) -> bytes:
    return _query(family) + attribute(RTA_TABLE, struct.pack("=I", table))


def _dump(socket: rtnl.RouteSocket, kind: int, body: bytes) -> list[Fact]:
    answers = socket.dump(kind, body, on=f"netlink dump {kind}", none_if=NO_SUCH_TABLE)
    return [fact for got, payload in answers if (fact := decode.decode(got, payload)) is not None]


def _settings(paths: Iterable[str]) -> Iterable[Setting]:
    for path in paths:
        try:
            descriptor = os.open(f"{PROC_SYS_NET}/{path}", os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            continue  # no IPv6 in this kernel, or the link has just gone: nothing to compare
        try:
            yield Setting(path, os.read(descriptor, 64).decode(errors="replace").strip())
        finally:
            os.close(descriptor)

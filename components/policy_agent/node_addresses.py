"""The node's own addresses, told by the kernel: traffic between a pod and its node is never cut (spec policy.md 7, 8).

All of them, of every ENI and both families (spec policy.md W-33); loopback and link-local ones meet no pod's filter, and those of
new host veths are most of what is notified. Another change is read anew as a whole.
"""

from __future__ import annotations

import errno
import ipaddress
import os
import socket
import struct
from typing import Final

from vpccni.components.policy_agent.rtnetlink import (
    NLMSG_DONE,
    NLMSG_ERROR,
    REQUEST,
    answers,
    attributes,
    message,
)
from vpccni.shared.errors import KernelRefused

Address = ipaddress.IPv4Address | ipaddress.IPv6Address

ANSWER_WITHIN_S: Final = 2.0
RECEIVE_BYTES: Final = 1 << 17
_RTM_NEWADDR, _RTM_DELADDR, _RTM_GETADDR = 20, 21, 22
_CHANGES: Final = (_RTM_NEWADDR, _RTM_DELADDR)
_DUMP: Final = 0x300
_IFADDRMSG: Final = struct.Struct("=BBBBI")
_IFA_ADDRESS, _IFA_LOCAL = 1, 2
_GROUPS: Final = 0x10 | 0x100  # RTMGRP_IPV4_IFADDR, RTMGRP_IPV6_IFADDR


class NodeAddresses:
    """The addresses of the network namespace of the thread that made this object."""

    def __init__(self) -> None:
        self._asking = _socket(0)
        self._hearing = _socket(_GROUPS)
        self._hearing.setblocking(False)

    def fileno(self) -> int:
        """Return what becomes readable when an address came or went."""
        return self._hearing.fileno()

    def close(self) -> None:
        """Hear no more."""
        self._asking.close()
        self._hearing.close()

    def has_news(self) -> bool:
        """Take the notifications away; return whether `read` may differ from the last time. Lost ones (ENOBUFS) may have said so."""
        news = False
        while True:
            try:
                told = answers(self._hearing.recv(RECEIVE_BYTES))
            except BlockingIOError:
                return news
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise
                news = True
            else:
                news = news or any(_is_the_nodes(_address(one.body)) for one in told if one.kind in _CHANGES)

    def read(self) -> frozenset[Address]:
        """Return all addresses of now. Raises KernelRefused."""
        request = message(_RTM_GETADDR, REQUEST | _DUMP, 1, _IFADDRMSG.pack(socket.AF_UNSPEC, 0, 0, 0, 0))
        found: set[Address] = set()
        try:
            self._asking.send(request)
            while True:
                for answer in answers(self._asking.recv(RECEIVE_BYTES)):
                    if answer.kind == NLMSG_DONE:
                        return frozenset(filter(_is_the_nodes, found))
                    if answer.kind == NLMSG_ERROR:
                        raise OSError(-int.from_bytes(answer.body[:4], "little", signed=True), "the kernel refused")
                    if answer.kind == _RTM_NEWADDR:
                        found.add(_address(answer.body))
        except OSError as error:
            why = os.strerror(error.errno) if error.errno else str(error)
            raise KernelRefused("the kernel did not tell the node's addresses", why=why) from error


def _socket(groups: int) -> socket.socket:
    one = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE)
    one.settimeout(ANSWER_WITHIN_S)
    one.bind((0, groups))
    return one


def _is_the_nodes(address: Address) -> bool:
    return not (address.is_loopback or address.is_link_local)


def _address(body: bytes) -> Address:
    found = attributes(body[_IFADDRMSG.size :])
    return ipaddress.ip_address(found.get(_IFA_LOCAL) or found[_IFA_ADDRESS])

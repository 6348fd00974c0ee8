"""Hears rtnetlink notifications of this namespace and says when one contradicts what is wanted.

A notification is read 50 ms after the first of a bunch: an ADD is never held up, and a flood of foreign routes costs 20 wake-ups a
second. Too many for the socket's buffer: the kernel says so, and that calls for a pass like a contradiction.
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Callable
from typing import Final

from vpccni.components.netlink_programmer import decode, rtnl
from vpccni.components.netlink_programmer.facts import Change
from vpccni.components.netlink_programmer.node_plan import Wanted, contradicts, latest
from vpccni.shared.loop import Loop

GROUPS: Final = 0x1 | 0x10 | 0x40 | 0x80  # RTNLGRP_LINK, IPV4_IFADDR, IPV4_ROUTE, IPV4_RULE
GROUPS_IPV6: Final = 0x100 | 0x400 | 0x40000  # IPV6_IFADDR, IPV6_ROUTE, IPV6_RULE
BUFFER_BYTES: Final = 4 << 20
SO_RCVBUFFORCE: Final = 33
READ_AFTER_S: Final = 0.05
DATAGRAMS_AT_MOST: Final = 4096
DATAGRAM_BYTES: Final = 1 << 16


class Hearing:
    """Listens until `close`, to IPv6 too with `ipv6`. `wanted()` is asked once a bunch; `on_contradiction(why)` is called at most once a bunch."""

    def __init__(
        self,
        loop: Loop,
        wanted: Callable[[], Wanted],
        on_contradiction: Callable[[str], None],
        *,
        ipv6: bool = False,
    ) -> None:
        self._loop = loop
        self._wanted = wanted
        self._on_contradiction = on_contradiction
        kind = socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK
        self._socket = socket.socket(socket.AF_NETLINK, kind, rtnl.NETLINK_ROUTE)
        self._socket.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, BUFFER_BYTES)
        self._socket.bind((0, GROUPS | GROUPS_IPV6 if ipv6 else GROUPS))
        self._closed = False
        self._listen()

    def close(self) -> None:
        """Hear no more."""
        self._closed = True
        self._loop.unwatch(self._socket.fileno())
        self._socket.close()

    def _listen(self) -> None:
        if not self._closed:
            self._loop.watch(self._socket.fileno(), self._something)

    def _something(self) -> None:
        self._loop.unwatch(self._socket.fileno())
        self._loop.call_later(READ_AFTER_S, self._read)

    def _read(self) -> None:
        if self._closed:
            return
        changes: list[Change] = []
        try:
            for _ in range(DATAGRAMS_AT_MOST):
                for _, kind, _, payload in rtnl.messages(self._socket.recv(DATAGRAM_BYTES)):
                    change = decode.change(kind, payload)
                    if change is not None:
                        changes.append(change)
        except BlockingIOError:
            self._judge(changes)
        except OSError as error:
            if error.errno != errno.ENOBUFS:
                raise
            self._on_contradiction("more changes than could be heard")
        else:
            self._judge(changes)
        finally:
            self._listen()

    def _judge(self, changes: list[Change]) -> None:
        if not changes:
            return
        want = self._wanted()
        for change in latest(changes):
            if contradicts(want, change):
                self._on_contradiction(f"{'there' if change.added else 'gone'}: {change.fact}")
                return

"""Waits until a pod's IPv6 addresses have passed duplicate address detection, told by the kernel on the pod's own socket.

Our pairs are without detection (`wiring.NO_DETECTION`), and their addresses are ready at once. Where an operator has it on for all
interfaces, the kernel begins once the host end is up, waits up to a second at random and a second for an answer. It notifies of each address
that passed or failed; so the socket listens before the host end goes up, and is asked anew after every notification, never by the clock.
The host end's own link-local address is waited for too: before, the node cannot ask where the pod is, and the pod gets no packet.
"""

from __future__ import annotations

import contextlib
import errno
import struct
from typing import Final

from vpccni.components.netlink_programmer.facts import IPV6
from vpccni.components.netlink_programmer.rtnl import RouteSocket
from vpccni.shared.errors import KernelRefused
from vpccni.shared.loop import Future, Loop

RTM_GETADDR: Final = 22
RTNLGRP_IPV6_IFADDR: Final = 9
PASSED_WITHIN_S: Final = 10.0  # spec dataplane.md 2.3
BEGUN_WITHIN_S: Final = 0.5
_FAILED: Final = 0x08  # IFA_F_DADFAILED
_TENTATIVE: Final = 0x40  # IFA_F_TENTATIVE
_ADDRESS: Final = struct.Struct("=BBBBI")


class DuplicateDetection:
    """Of one interface, whose namespace the socket is of. Make it before there is carrier, then wait for `passed`."""

    def __init__(self, loop: Loop, socket: RouteSocket, ifindex: int, *, on: str) -> None:
        self._loop, self._socket, self._ifindex, self._on = loop, socket, ifindex, on
        socket.check_strictly()
        socket.join(RTNLGRP_IPV6_IFADDR)

    async def passed(self, *, deadline: float) -> None:
        """Return when no address of the interface is tentative. Raises `KernelRefused` when one is a duplicate, or at the deadline."""
        until = min(deadline, self._loop.clock() + PASSED_WITHIN_S)
        while True:
            self._socket.drain()
            before = self._socket.heard
            flags = self._flags()
            if any(one & _FAILED for one in flags):
                raise KernelRefused("an IPv6 address is a duplicate", on=self._on, why="somebody answers for it")
            if self._socket.heard != before:
                continue  # read along with the answer: it may say more than the answer does
            if not any(one & _TENTATIVE for one in flags):
                return
            if not await self._something(until - self._loop.clock()):
                raise KernelRefused(
                    "the kernel does not end its duplicate address detection",
                    on=self._on,
                    why="the address is still tentative",
                    remedy="The runtime tries again",
                )

    async def begun(self, *, within_s: float) -> None:
        """Return when the interface has an address of IPv6, which the kernel makes some time after carrier, or when `within_s` passed."""
        until = self._loop.clock() + within_s
        while True:
            self._socket.drain()
            before = self._socket.heard
            if self._flags():
                return
            if self._socket.heard == before and not await self._something(until - self._loop.clock()):
                return

    def _flags(self) -> list[int]:
        """Return the flags of the interface's IPv6 addresses."""
        query = _ADDRESS.pack(IPV6, 0, 0, 0, self._ifindex)
        answers = self._socket.dump(RTM_GETADDR, query, on=self._on, none_if=(errno.ENODEV,))
        return [flags for _, _, flags, _, _ in (_ADDRESS.unpack_from(payload) for _, payload in answers)]

    def _something(self, within_s: float) -> Future[bool]:
        """Return True once there is something to read, False when `within_s` passed."""
        heard = Future[bool]()

        def end(*, value: bool) -> None:
            if not heard.done:
                self._loop.unwatch(self._socket.descriptor)
                timer.cancel()
                heard.set(value)

        timer = self._loop.call_later(max(0.0, within_s), lambda: end(value=False))
        self._loop.watch(self._socket.descriptor, lambda: end(value=True))
        return heard


async def host_end_passed(loop: Loop, ifindex: int, *, on: str, deadline: float) -> None:
    """Wait for the link-local address of a host end that has carrier. Where the node makes none, go on without. Raises `KernelRefused`."""
    with contextlib.closing(RouteSocket()) as socket:
        detection = DuplicateDetection(loop, socket, ifindex, on=on)
        await detection.begun(within_s=min(BEGUN_WITHIN_S, deadline - loop.clock()))
        await detection.passed(deadline=deadline)

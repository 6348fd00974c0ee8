"""Waits until the pod's end of a pair can send.

A link that was brought up without carrier has no queue. It gets one from a worker of the kernel some time after carrier is there, and that
worker waits for every other change of links on the machine; what the pod sends before is dropped without an error. From Linux 6.8
on the question itself does the worker's work; on older kernels it is asked again.
"""

from __future__ import annotations

from typing import Final

from vpccni.components.netlink_programmer.rtnl import RouteSocket
from vpccni.shared.errors import KernelRefused
from vpccni.shared.loop import Loop

IF_OPER_UP: Final = 6
"""The state in which the kernel has given the link its queue (RFC 2863)."""
SENDS_WITHIN_S: Final = 3.0
"""The worker comes at most a second late, and then waits its turn."""
ASK_AGAIN_S: Final = 0.001


async def can_send(loop: Loop, pod_socket: RouteSocket, ifname: str, *, on: str, deadline: float) -> None:
    """Return when the link sends what it is given. Raises `KernelRefused` when it is gone, or never does."""
    until = min(deadline, loop.clock() + SENDS_WITHIN_S)
    while (state := pod_socket.operational_state(ifname)) != IF_OPER_UP:
        if state is None or loop.clock() >= until:
            raise KernelRefused(
                "the pod's interface does not come up",
                on=on,
                why="it is gone" if state is None else f"its operational state is still {state}",
                remedy="The runtime tries again",
            )
        await loop.sleep(ASK_AGAIN_S)

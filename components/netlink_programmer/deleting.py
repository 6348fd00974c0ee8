"""One DEL, and all that ends a sandbox: what the kernel holds of it, its address, its policy; what cannot be done now is spooled.

    remembered ─▶ taken down, one interface after the other ─┐
    not remembered ─▶ look, what is left (`strangers`) ──────┴▶ Release ─▶ confirmed: done, else the spool

Needs no other process: a release that nobody confirms is repeated from the spool. Links are deleted in the background.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from vpccni.components.netlink_programmer import observe
from vpccni.components.netlink_programmer import request as cni
from vpccni.components.netlink_programmer.egress import Egress
from vpccni.components.netlink_programmer.facts import IPV4, IPV6
from vpccni.components.netlink_programmer.frontdoor import EGRESS_STATE, Frame
from vpccni.components.netlink_programmer.naming import MAIN_TABLE
from vpccni.components.netlink_programmer.request import CniRequest
from vpccni.components.netlink_programmer.spool import Spool, Spooled
from vpccni.components.netlink_programmer.strangers import leftover
from vpccni.components.netlink_programmer.wired_pods import WiredPods
from vpccni.components.netlink_programmer.wiring import Wired, Wirer
from vpccni.shared import names
from vpccni.shared.errors import BusError, CniFailure, KernelRefused
from vpccni.shared.messages.allocation import Release, Released
from vpccni.shared.messages.base import Message, Sandbox
from vpccni.shared.messages.policy import Detach
from vpccni.shared.process import Process

PLUGIN: Final = "VPCCNI_PLUGIN"
"""The plugin's other name, when it was called under that, in a frame's environment."""
EGRESS: Final = "egress-cni"
RELEASE_WITHIN_S: Final = 0.5
DETACH_WITHIN_S: Final = 5.0


@dataclass
class Deleting:
    """Ends sandboxes. `booked(sandbox)`: the addresses the ledger has for it; `in_flight()`: those that ADDs are wiring now."""

    process: Process
    wirer: Wirer
    wired: WiredPods
    spool: Spool
    egress: Egress
    booked: Callable[[Sandbox], Collection[str]]
    in_flight: Callable[[], Collection[str]]
    changed: Callable[[Sequence[Wired]], None]
    """Told of every sandbox that was taken down."""
    _replaying: set[str] = field(default_factory=set)

    async def delete_egress(self, request: CniRequest, frame: Frame, *, trace: str) -> None:
        """End a sandbox's egress. What fails is spooled: an error would keep the runtime from deleting the pod's own network."""
        try:
            await self.egress.delete(request, frame.descriptors.get(EGRESS_STATE, -1))
        except (KernelRefused, OSError) as error:
            self.process.log.warning("egress kept for later", trace=trace, sandbox=str(request.sandbox), why=str(error))
            self.spool.put(frame.env, frame.stdin)

    async def delete(self, request: CniRequest, env: Mapping[str, str], stdin: bytes, *, trace: str) -> None:
        """Take a sandbox down and give its address back; a release nobody confirms is kept in the spool."""
        await self.take_down(request)
        if not await self.release(request.sandbox, trace=trace):
            self.spool.put(env, stdin)

    async def take_down(self, request: CniRequest) -> None:
        """Remove what the kernel holds of a sandbox; what is gone counts as done."""
        if not self.end(request.sandbox):
            await self._take_down_stranger(request)

    def end(self, sandbox: Sandbox) -> bool:
        """Take a remembered sandbox down; False when it is not remembered."""
        interfaces = self.wired.pop(sandbox)
        for one in interfaces:
            if one.address:
                self.wirer.take_down(one)
            else:
                self.wirer.retire(one.host_veth, one.ifindex)
        if interfaces:
            self._forget_policy(sandbox, [one.ifindex for one in interfaces])
            self.changed(interfaces)
        return bool(interfaces)

    async def _take_down_stranger(self, request: CniRequest) -> None:
        look = functools.partial(observe.look, (MAIN_TABLE,), families=(IPV4, IPV6))
        seen = await self.process.loop.in_thread(look)
        held = self.wired.addresses() | set(self.in_flight())
        self.wirer.clear_away(leftover(request, seen, held=held, booked=self.booked(request.sandbox)))

    async def release(self, sandbox: Sandbox, *, trace: str) -> bool:
        """Give a sandbox's addresses back; False when the allocator did not confirm it."""
        ask = Release(sandbox=sandbox, reason="PodDeleted")
        try:
            answer = await self.process.client(names.IP_ALLOCATOR).call(ask, timeout_s=RELEASE_WITHIN_S, trace_id=trace)
        except BusError as error:
            self.process.log.warning("release kept for later", trace=trace, sandbox=str(sandbox), why=str(error))
            return False
        return isinstance(answer, Released)

    def _forget_policy(self, sandbox: Sandbox, ifindexes: list[int]) -> None:
        if self.process.settings.network_policy_mode in ("", "none"):
            return
        ask = Detach(sandbox=sandbox, ifindexes=ifindexes)
        self.process.loop.spawn(self._quietly(ask, names.POLICY_AGENT, DETACH_WITHIN_S), name="detach")

    async def _quietly(self, ask: Message, peer: str, timeout_s: float) -> None:
        """Ask without anybody waiting: the peer sweeps by itself what it was not told."""
        try:
            await self.process.client(peer).call(ask, timeout_s=timeout_s)
        except BusError as error:
            self.process.log.warning("not told", peer=peer, why=str(error))

    # -- the spool

    def replay(self) -> None:
        """Try again what waits in the spool, each request once at a time."""
        for spooled in self.spool.waiting():
            if spooled.path.name not in self._replaying:
                self._replaying.add(spooled.path.name)
                self.process.loop.spawn(self._replay_one(spooled), name="spool")

    async def _replay_one(self, spooled: Spooled) -> None:
        try:
            request = cni.parse({**spooled.env, "CNI_COMMAND": "DEL"}, spooled.stdin)
            if await self._repeat(request, spooled.env):
                self.spool.done(spooled)
                self.process.count("vpccni_spool_replayed")
        except (KernelRefused, OSError) as error:
            self.process.log.warning("spooled deletion still fails", path=str(spooled.path), why=str(error))
        except CniFailure as error:
            self.process.log.error("spooled deletion cannot be read", path=str(spooled.path), error=str(error))
            os.rename(spooled.path, spooled.path.with_suffix(".bad"))
        finally:
            self._replaying.discard(spooled.path.name)

    async def _repeat(self, request: CniRequest, env: Mapping[str, str]) -> bool:
        """Carry out a spooled deletion; False when it is not confirmed yet."""
        if env.get(PLUGIN) == EGRESS:
            await self.egress.delete(request)
            return True
        await self.take_down(request)
        return await self.release(request.sandbox, trace="spool")

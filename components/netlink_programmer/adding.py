"""One ADD from the frame to the result: address, veth pair, policy, pod's side, host's side; undone completely when a step fails."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from vpccni.components.netlink_programmer import rtnl
from vpccni.components.netlink_programmer.frontdoor import HOST_SYSCTL, NETLINK, Frame
from vpccni.components.netlink_programmer.naming import host_veth_name
from vpccni.components.netlink_programmer.request import ADD_FAILED, CODE_OWN, CODE_TRY_AGAIN, CniRequest
from vpccni.components.netlink_programmer.wiring import VethPair, Wired, Wirer
from vpccni.shared import names
from vpccni.shared.errors import BusError, CniFailure, KernelRefused
from vpccni.shared.loop import Future
from vpccni.shared.messages.allocation import Assign, Assigned, AssignedInterface, NoCapacity, Release
from vpccni.shared.messages.base import Message
from vpccni.shared.messages.inventory import Report
from vpccni.shared.messages.policy import Attach, PolicyInterface
from vpccni.shared.process import Process

MARGIN_S: Final = 0.5
"""What is kept of a deadline for undoing and answering."""
ASK_AGAIN_AT_LEAST_S: Final = 0.02
RELEASE_WITHIN_S: Final = 2.0
REPORT_WITHIN_S: Final = 2.0
REASON_NO_ADDRESS: Final = "NoPodAddress"


@dataclass
class Adding:
    """Carries out ADDs. `policy_mode` "" or "none": no agent in the path at all."""

    process: Process
    wirer: Wirer
    policy_mode: str

    async def add(self, request: CniRequest, frame: Frame, *, deadline: float, trace: str) -> Wired:
        """Return the finished wiring; raises `CniFailure`, and nothing is left of the attempt then."""
        descriptor = frame.take(NETLINK)
        if descriptor < 0:
            raise CniFailure(
                "the pod's network namespace cannot be used",
                cni_code=CODE_OWN,
                on=request.netns,
                why="the plugin could not open it",
            )
        pod_socket = rtnl.RouteSocket(descriptor)
        try:
            interface = await self._assign(request, deadline=deadline, trace=trace)
            return await self._wire(request, frame, pod_socket, interface, deadline=deadline, trace=trace)
        finally:
            pod_socket.close()

    async def _assign(self, request: CniRequest, *, deadline: float, trace: str) -> AssignedInterface:
        ask = Assign(sandbox=request.sandbox, pod=request.pod)
        last: NoCapacity | None = None
        while True:
            answer = await self._ask_allocator(ask, deadline=deadline, trace=trace)
            if isinstance(answer, Assigned) and answer.interfaces:
                return answer.interfaces[0]
            if isinstance(answer, NoCapacity):
                last = answer
            wait = max(ASK_AGAIN_AT_LEAST_S, last.retry_after_ms / 1000) if last else 0.0
            if last is None or last.retry_after_ms == 0 or self.process.loop.clock() + wait >= deadline:
                cause, detail = (
                    (last.cause, last.detail) if last else ("INTERNAL", "the allocator's answer makes no sense")
                )
                self.process.count("vpccni_add_failures", cause=cause)
                self.process.loop.spawn(self._report(request, f"{cause}: {detail}"), name="report")
                raise CniFailure(
                    ADD_FAILED,
                    cni_code=CODE_TRY_AGAIN,
                    on=str(request.pod),
                    why=f"{cause}: {detail}",
                    remedy=f"See docs/errors.md#{cause.lower()}",
                )
            await self.process.loop.sleep(wait)

    async def _report(self, request: CniRequest, note: str) -> None:
        """Let the pod's owner see why it has no address. Lost when the manager is away: the error stands in the runtime's log too."""
        report = Report(
            reason=REASON_NO_ADDRESS, note=note, pod_namespace=request.pod.namespace, pod_name=request.pod.name
        )
        try:
            await self.process.client(names.ENI_MANAGER).call(report, timeout_s=REPORT_WITHIN_S)
        except BusError as error:
            self.process.log.debug("report not taken", error=error)

    async def _ask_allocator(self, ask: Assign, *, deadline: float, trace: str) -> Message:
        left = deadline - self.process.loop.clock()
        try:
            return await self.process.client(names.IP_ALLOCATOR).call(ask, timeout_s=max(0.05, left), trace_id=trace)
        except BusError as error:
            raise CniFailure(ADD_FAILED, cni_code=CODE_TRY_AGAIN, on=str(ask.pod), why=str(error)) from error

    async def _wire(
        self,
        request: CniRequest,
        frame: Frame,
        pod_socket: rtnl.RouteSocket,
        interface: AssignedInterface,
        *,
        deadline: float,
        trace: str,
    ) -> Wired:
        host_veth = host_veth_name(request.pod, request.veth_prefix)
        pair: VethPair | None = None
        try:
            pair = self.wirer.create_pair(
                pod_socket, sandbox=request.sandbox, pod=request.pod, host_veth=host_veth, mtu=request.mtu
            )
            attached = self._attach(request, pair, interface.address, deadline=deadline, trace=trace)
            self.wirer.configure_pod(pod_socket, pair, address=interface.address)
            if attached is not None:
                await attached
            self.wirer.open_host_end(
                pair,
                address=interface.address,
                table=interface.route_table,
                host_sysctl=frame.descriptors.get(HOST_SYSCTL, -1),
            )
        except (KernelRefused, BusError) as error:
            await self._undo(request, pair, interface, trace=trace)
            code = CODE_TRY_AGAIN if isinstance(error, BusError) else CODE_OWN
            what = (
                "failed to setup network policy" if isinstance(error, BusError) else "add cmd: failed to setup network"
            )
            raise CniFailure(what, cni_code=code, on=str(request.pod), why=str(error)) from error
        return Wired(
            request.sandbox,
            request.pod,
            host_veth,
            pair.ifindex,
            pair.mac,
            interface.address,
            interface.route_table,
            interface.device_number,
        )

    def _attach(
        self, request: CniRequest, pair: VethPair, address: str, *, deadline: float, trace: str
    ) -> Future[Message] | None:
        if self.policy_mode in ("", "none"):
            return None
        ask = Attach(
            sandbox=request.sandbox,
            pod=request.pod,
            interfaces=[PolicyInterface(pair.host_veth, pair.ifindex, address)],
            mode=self.policy_mode,
        )
        left = max(0.05, deadline - self.process.loop.clock())
        return self.process.client(names.POLICY_AGENT).call(ask, timeout_s=left, trace_id=trace)

    async def _undo(
        self, request: CniRequest, pair: VethPair | None, interface: AssignedInterface, *, trace: str
    ) -> None:
        self.process.count("vpccni_add_rollbacks")
        if pair is not None:
            self.wirer.remove_address(address=interface.address, table=interface.route_table, ifindex=pair.ifindex)
            self.wirer.delete_now(pair.ifindex)
        release = Release(sandbox=request.sandbox, reason="SetupNSFailed")
        try:
            await self.process.client(names.IP_ALLOCATOR).call(release, timeout_s=RELEASE_WITHIN_S, trace_id=trace)
        except BusError as error:
            self.process.log.warning(
                "address not given back yet, the audit will", trace=trace, sandbox=str(request.sandbox), why=str(error)
            )

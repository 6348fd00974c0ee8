"""One ADD from the frame to the result: addresses, veth pairs, policy, pod's side, host's side; undone completely when a step fails."""

from __future__ import annotations

import contextlib
import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from vpccni.components.netlink_programmer import rtnl
from vpccni.components.netlink_programmer.carrier import can_send
from vpccni.components.netlink_programmer.dad import DuplicateDetection, host_end_passed
from vpccni.components.netlink_programmer.facts import IPV6, family_of
from vpccni.components.netlink_programmer.frontdoor import HOST_SYSCTL, NETLINK, POD_SYSCTL, Frame
from vpccni.components.netlink_programmer.naming import host_veth_name, pod_interface_name
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
    in_flight: set[str] = field(default_factory=set)
    """Addresses of the pods that are being wired: no deletion of another sandbox may touch what is about them."""

    async def add(self, request: CniRequest, frame: Frame, *, deadline: float, trace: str) -> tuple[Wired, ...]:
        """Return the finished wiring, one element an interface; raises `CniFailure`, and nothing is left of the attempt then."""
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
            interfaces = await self._assign(request, deadline=deadline, trace=trace)
            addresses = {one.address for one in interfaces}
            self.in_flight |= addresses
            try:
                return await self._wire(request, frame, pod_socket, interfaces, deadline=deadline, trace=trace)
            finally:
                self.in_flight -= addresses
        finally:
            pod_socket.close()

    async def wait_until_ready(self, wired: Sequence[Wired], frame: Frame, *, deadline: float) -> None:
        """Wait for what an ADD that a death cut off had not waited for: IPv6 addresses that are still tentative. Raises `CniFailure`."""
        ipv6 = [one for one in wired if family_of(one.address) == IPV6]
        descriptor = frame.take(NETLINK) if ipv6 else -1
        if descriptor < 0:
            return
        with contextlib.closing(rtnl.RouteSocket(descriptor)) as pod_socket:
            try:
                for one in ipv6:
                    await self._wait_for(one, pod_socket, deadline=deadline)
            except KernelRefused as error:
                what = "add cmd: failed to setup network"
                raise CniFailure(what, cni_code=CODE_OWN, on=str(ipv6[0].pod), why=str(error)) from error

    async def _wait_for(self, wired: Wired, pod_socket: rtnl.RouteSocket, *, deadline: float) -> None:
        link = pod_socket.link(wired.ifname)
        if link is None:
            raise KernelRefused("the pod's interface is not there", on=wired.ifname, why="somebody took it away")
        detection = DuplicateDetection(self.process.loop, pod_socket, link[0], on=f"{wired.ifname} of {wired.pod}")
        await detection.passed(deadline=deadline)
        await host_end_passed(self.process.loop, wired.ifindex, on=wired.host_veth, deadline=deadline)

    async def _assign(self, request: CniRequest, *, deadline: float, trace: str) -> Sequence[AssignedInterface]:
        ask = Assign(sandbox=request.sandbox, pod=request.pod, multi_nic=request.multi_nic)
        last: NoCapacity | None = None
        while True:
            answer = await self._ask_allocator(ask, deadline=deadline, trace=trace)
            if isinstance(answer, Assigned) and _are_usable(answer.interfaces):
                return answer.interfaces
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
        interfaces: Sequence[AssignedInterface],
        *,
        deadline: float,
        trace: str,
    ) -> tuple[Wired, ...]:
        pairs: list[VethPair] = []
        try:
            for index in range(len(interfaces)):
                pairs.append(self._create_pair(request, pod_socket, index))
            attached = self._attach(request, pairs, interfaces, deadline=deadline, trace=trace)
            detections = self._configure(request, frame, pod_socket, pairs, interfaces)
            if attached is not None:
                await attached
            for pair, one in zip(pairs, interfaces, strict=True):
                self.wirer.open_host_end(
                    pair,
                    address=one.address,
                    table=one.route_table,
                    host_sysctl=frame.descriptors.get(HOST_SYSCTL, -1),
                )
            for pair in pairs:
                ifname = pod_interface_name(request.sandbox, pair.index)
                await can_send(
                    self.process.loop, pod_socket, ifname, on=f"{ifname} of {request.pod}", deadline=deadline
                )
            for pair, detection in detections:
                await detection.passed(deadline=deadline)
                await host_end_passed(self.process.loop, pair.ifindex, on=pair.host_veth, deadline=deadline)
        except (KernelRefused, BusError, OSError) as error:
            await self._undo(request, pod_socket, pairs, interfaces, trace=trace)
            code = CODE_TRY_AGAIN if isinstance(error, BusError) else CODE_OWN
            what = (
                "failed to setup network policy" if isinstance(error, BusError) else "add cmd: failed to setup network"
            )
            raise CniFailure(what, cni_code=code, on=str(request.pod), why=str(error)) from error
        return tuple(_wired(request, pair, one) for pair, one in zip(pairs, interfaces, strict=True))

    def _create_pair(self, request: CniRequest, pod_socket: rtnl.RouteSocket, index: int) -> VethPair:
        return self.wirer.create_pair(
            pod_socket,
            sandbox=request.sandbox,
            pod=request.pod,
            host_veth=host_veth_name(request.pod, request.veth_prefix, index=index),
            mtu=request.mtu,
            index=index,
        )

    def _configure(
        self,
        request: CniRequest,
        frame: Frame,
        pod_socket: rtnl.RouteSocket,
        pairs: Sequence[VethPair],
        interfaces: Sequence[AssignedInterface],
    ) -> list[tuple[VethPair, DuplicateDetection]]:
        """Configure the pod's ends; return what is to be waited for once the host ends are up."""
        detections = []
        for pair, one in zip(pairs, interfaces, strict=True):
            if family_of(one.address) == IPV6:
                ifname = pod_interface_name(request.sandbox, pair.index)
                folder = frame.descriptors.get(POD_SYSCTL, -1)
                self.wirer.enable_ipv6(folder, ifname=ifname, host_veth=pair.host_veth)
                on = f"{ifname} of {request.pod}"
                detection = DuplicateDetection(self.process.loop, pod_socket, pair.pod_ifindex, on=on)
                detections.append((pair, detection))
            self.wirer.configure_pod(pod_socket, pair, address=one.address)
        return detections

    def _attach(
        self,
        request: CniRequest,
        pairs: Sequence[VethPair],
        interfaces: Sequence[AssignedInterface],
        *,
        deadline: float,
        trace: str,
    ) -> Future[Message] | None:
        if self.policy_mode in ("", "none"):
            return None
        ask = Attach(
            sandbox=request.sandbox,
            pod=request.pod,
            interfaces=[
                PolicyInterface(pair.host_veth, pair.ifindex, one.address)
                for pair, one in zip(pairs, interfaces, strict=True)
            ],
            mode=self.policy_mode,
        )
        left = max(0.05, deadline - self.process.loop.clock())
        return self.process.client(names.POLICY_AGENT).call(ask, timeout_s=left, trace_id=trace)

    async def _undo(
        self,
        request: CniRequest,
        pod_socket: rtnl.RouteSocket,
        pairs: Sequence[VethPair],
        interfaces: Sequence[AssignedInterface],
        *,
        trace: str,
    ) -> None:
        """Undo what was done; `pairs` may be fewer than `interfaces`. What the kernel refuses to give up does not keep the rest."""
        self.process.count("vpccni_add_rollbacks")
        for pair, one in zip(pairs, interfaces, strict=False):
            try:
                self.wirer.remove_address(address=one.address, table=one.route_table, ifindex=pair.ifindex)
                self.wirer.delete_now(pair.ifindex)
                self.wirer.forget_in_pod(pod_socket, address=one.address, index=pair.index)
            except (KernelRefused, OSError) as error:
                self.process.log.error("not undone", trace=trace, sandbox=str(request.sandbox), error=error)
        await self._release(request, trace=trace)

    async def _release(self, request: CniRequest, *, trace: str) -> None:
        release = Release(sandbox=request.sandbox, reason="SetupNSFailed")
        try:
            await self.process.client(names.IP_ALLOCATOR).call(release, timeout_s=RELEASE_WITHIN_S, trace_id=trace)
        except BusError as error:
            self.process.log.warning(
                "address not given back yet, the audit will", trace=trace, sandbox=str(request.sandbox), why=str(error)
            )


def _are_usable(interfaces: Sequence[AssignedInterface]) -> bool:
    """Tell whether an answer names at least one address, and nothing else than addresses (spec dataplane.md 18.39)."""
    try:
        return bool([ipaddress.ip_address(one.address) for one in interfaces])
    except ValueError:
        return False


def _wired(request: CniRequest, pair: VethPair, one: AssignedInterface) -> Wired:
    return Wired(
        request.sandbox,
        request.pod,
        pair.host_veth,
        pair.ifindex,
        pair.mac,
        one.address,
        one.route_table,
        one.device_number,
        pair.index,
    )

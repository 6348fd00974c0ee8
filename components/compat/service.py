"""Each call of a neighbour as one or a few of our own messages.

AddNetwork ─▶ Assign, again until the deadline      DelNetwork ─▶ Release
EnforceNpToPod ─▶ Attach, DeletePodNp ─▶ Detach     Check ─▶ GetStatus
"""

from __future__ import annotations

import errno
import os
import socket
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Final

from vpccni.components.compat import http2, messages, translate
from vpccni.components.compat.http2 import GrpcError, GrpcServer
from vpccni.components.compat.messages import (
    AddNetworkReply,
    AddNetworkRequest,
    DeleteNpRequest,
    DelNetworkRequest,
    Empty,
    EnforceNpRequest,
    HealthCheckRequest,
    HealthCheckResponse,
    NpReply,
)
from vpccni.components.compat.wire import Malformed, ProtoMessage, decode, encode
from vpccni.shared import names
from vpccni.shared.errors import BusError
from vpccni.shared.messages.allocation import Assign, Assigned, LedgerState, NoCapacity, Release, Released
from vpccni.shared.messages.base import Message, PodRef, Sandbox
from vpccni.shared.messages.common import GetStatus, Status
from vpccni.shared.messages.inventory import Inventory
from vpccni.shared.messages.policy import Attach, Attached, Detach, PolicyInterface
from vpccni.shared.messages.wiring import Disown
from vpccni.shared.process import Process

TCP_ADDRESS: Final = ("127.0.0.1", 50051)  # spec rpc.md 1, as the next two
DAEMON_SOCKET: Final = "ipamd.sock"
AGENT_SOCKET: Final = "npa.sock"
SOCKET_MODE: Final = 0o660
BACKLOG: Final = 64
BIND_AGAIN_S: Final = 1.0
"""The original may still hold the address while it is replaced."""
HEALTH_SERVICES: Final = ("", "grpc.health.v1.aws-node", "grpc.health.v1.np-agent")
HEALTH_OF: Final = (names.NETLINK_PROGRAMMER, names.IP_ALLOCATOR)
STATUS_WITHIN_S: Final = 0.8  # the probe waits 1 s (spec operations.md 12)
MARGIN_S: Final = 0.2
ASK_AGAIN_AT_LEAST_S: Final = 0.05
DISOWNED_WITHIN_S: Final = 2.0
"""Longer than the programmer takes to start."""
LEDGER_WITHIN_S: Final = 4.0
LEDGER_LOOK_S: Final = 0.1
REMEMBERED: Final = 1024

Handler = Callable[[Any, float], Awaitable[ProtoMessage]]


class CompatService:
    """`start` opens the addresses of the original's daemon and agent."""

    def __init__(self, process: Process, *, tcp: tuple[str, int] = TCP_ADDRESS) -> None:
        self._process, self._tcp = process, tcp
        self._inventory: Inventory | None = None
        self._held: dict[tuple[str, str], tuple[Sandbox, PodRef, list[str]]] = {}
        self._lately: OrderedDict[tuple[str, str], tuple[Sandbox, PodRef, list[str]]] = OrderedDict()
        self._handlers: dict[str, Handler] = {
            messages.ADD_NETWORK: self._add,
            messages.DEL_NETWORK: self._delete,
            messages.POLICY_CONFIG: self._policy_config,
            messages.ENFORCE: self._enforce,
            messages.DELETE: self._forget_policy,
            messages.HEALTH: self._health,
        }

    def start(self) -> None:
        """Serve; an address that is taken is tried again until it is free."""
        process = self._process
        process.subscribe(names.ENI_MANAGER, {Inventory: self._on_inventory})
        process.subscribe(names.IP_ALLOCATOR, {LedgerState: self._on_ledger})
        self._open("tcp", lambda: _listen_tcp(self._tcp))
        for name in (DAEMON_SOCKET, AGENT_SOCKET):
            self._open(name, lambda name=name: _listen_unix(process.run_dir / name))  # type: ignore[misc]
        process.serving()

    def _open(self, key: str, listen: Callable[[], socket.socket]) -> None:
        process = self._process
        try:
            listener = listen()
        except OSError as error:
            process.degraded(key, f"the original's address {key} cannot be served: {error.strerror}")
            process.loop.call_later(BIND_AGAIN_S, lambda: self._open(key, listen))
            return
        process.healthy(key)
        process.on_stop(GrpcServer(process.loop, listener, self._on_call, count=process.count).close)

    async def _on_call(self, path: str, data: bytes, deadline_s: float) -> bytes:
        handler = self._handlers.get(path)
        if handler is None:
            raise GrpcError(http2.UNIMPLEMENTED, f"unknown method {path[:100]}")
        self._process.count("vpccni_compat_calls", method=path.rpartition("/")[2])
        try:
            request = decode(messages.REQUESTS[path], data)
        except Malformed as error:
            raise GrpcError(http2.INVALID_ARGUMENT, f"{path}: {error}") from error
        return encode(await handler(request, self._process.loop.clock() + deadline_s - MARGIN_S))

    # -- the daemon's calls

    async def _add(self, request: AddNetworkRequest, deadline: float) -> ProtoMessage:
        settings, sandbox = self._process.settings, translate.sandbox_of(request)
        if sandbox is None or (request.multi_nic and not settings.multi_nic):
            return AddNetworkReply()
        pod = translate.pod_of(request)
        answer = await self._assign(Assign(sandbox=sandbox, pod=pod, multi_nic=request.multi_nic), deadline)
        if not isinstance(answer, Assigned) or not answer.interfaces:
            why = f"{answer.cause}: {answer.detail}" if isinstance(answer, NoCapacity) else "no address in the answer"
            self._process.log.warning("no address for the original's plugin", sandbox=str(sandbox), why=why)
            return AddNetworkReply()
        self._lately[pod.namespace, pod.name] = (sandbox, pod, [one.address for one in answer.interfaces])
        while len(self._lately) > REMEMBERED:
            self._lately.popitem(last=False)
        return translate.added(answer.interfaces, self._known_inventory(), settings)

    async def _assign(self, ask: Assign, deadline: float) -> Message:
        loop = self._process.loop
        while True:
            answer = await self._ask(names.IP_ALLOCATOR, ask, deadline)
            if not isinstance(answer, NoCapacity) or answer.retry_after_ms == 0:
                return answer
            wait_s = max(ASK_AGAIN_AT_LEAST_S, answer.retry_after_ms / 1000)
            if loop.clock() + wait_s >= deadline:
                return answer
            await loop.sleep(wait_s)

    async def _delete(self, request: DelNetworkRequest, deadline: float) -> ProtoMessage:
        sandbox = translate.sandbox_of(request)
        if sandbox is None:
            raise GrpcError(http2.UNKNOWN, translate.UNKNOWN_POD)
        await self._disown(sandbox, deadline)
        ask = Release(sandbox=sandbox, reason=request.reason or "PodDeleted")
        answer = await self._ask(names.IP_ALLOCATOR, ask, deadline)
        if not isinstance(answer, Released) or not answer.interfaces:
            raise GrpcError(http2.UNKNOWN, translate.UNKNOWN_POD)
        return translate.released(answer.interfaces, self._process.settings)

    async def _disown(self, sandbox: Sandbox, deadline: float) -> None:
        """Before the plugin takes rules and route away: the programmer would put them back. While it is away nobody does."""
        try:
            until = min(deadline, self._process.loop.clock() + DISOWNED_WITHIN_S)
            await self._ask(names.NETLINK_PROGRAMMER, Disown(sandbox=sandbox), until)
        except GrpcError as error:
            self._process.log.warning(
                "a pod of the original's plugin is deleted unseen", sandbox=str(sandbox), error=str(error)
            )

    async def _policy_config(self, request: Empty, deadline: float) -> ProtoMessage:
        return translate.policy_config(self._known_inventory(), self._process.settings)

    # -- the agent's calls

    async def _enforce(self, request: EnforceNpRequest, deadline: float) -> ProtoMessage:
        known = await self._holder(request.pod_namespace, request.pod_name, deadline)
        links = self._links(request.pod_namespace, request.pod_name, max(1, request.interface_count))
        if known is None or not links:
            self._process.log.warning(
                "policy for a pod that is not there", pod=f"{request.pod_namespace}/{request.pod_name}"
            )
            return NpReply()
        sandbox, pod, addresses = known
        interfaces = [
            PolicyInterface(name, ifindex, address) for (name, ifindex), address in zip(links, addresses, strict=False)
        ]
        ask = Attach(sandbox=sandbox, pod=pod, interfaces=interfaces, mode=request.mode.lower())
        answer = await self._ask(names.POLICY_AGENT, ask, deadline)
        return NpReply(success=isinstance(answer, Attached))

    async def _forget_policy(self, request: DeleteNpRequest, deadline: float) -> ProtoMessage:
        key = (request.pod_namespace, request.pod_name)
        known = self._lately.pop(key, None) or self._held.get(key)
        if known is not None:
            links = self._links(*key, len(known[2]))
            ask = Detach(sandbox=known[0], ifindexes=[ifindex for _, ifindex in links])
            await self._ask(names.POLICY_AGENT, ask, deadline)
        return NpReply(success=True)

    async def _holder(self, namespace: str, name: str, deadline: float) -> tuple[Sandbox, PodRef, list[str]] | None:
        """Return who holds the pod's addresses. One that came by our own plugin is told by the ledger, up to 2 s later."""
        loop, key = self._process.loop, (namespace, name)
        until = min(deadline, loop.clock() + LEDGER_WITHIN_S)
        while (known := self._lately.get(key) or self._held.get(key)) is None and loop.clock() < until:
            await loop.sleep(LEDGER_LOOK_S)
        return known

    def _links(self, namespace: str, name: str, count: int) -> list[tuple[str, int]]:
        found = []
        for index in range(count):
            host_veth = translate.host_veth(namespace, name, self._process.settings.veth_prefix, index)
            try:
                found.append((host_veth, socket.if_nametoindex(host_veth)))
            except OSError:
                return found
        return found

    # -- health

    async def _health(self, request: HealthCheckRequest, deadline: float) -> ProtoMessage:
        if request.service not in HEALTH_SERVICES:
            raise GrpcError(http2.NOT_FOUND, f"unknown service {request.service[:100]}")
        within = min(deadline, self._process.loop.clock() + STATUS_WITHIN_S)
        for peer in HEALTH_OF:
            try:
                answer = await self._ask(peer, GetStatus(), within)
            except GrpcError:
                return HealthCheckResponse(status=messages.NOT_SERVING)
            if not isinstance(answer, Status) or answer.state == "starting":
                return HealthCheckResponse(status=messages.NOT_SERVING)
        return HealthCheckResponse(status=messages.SERVING)

    # -- what is known

    async def _ask(self, peer: str, ask: Message, deadline: float) -> Message:
        left = max(0.05, deadline - self._process.loop.clock())
        try:
            return await self._process.client(peer).call(ask, timeout_s=left)
        except BusError as error:
            raise GrpcError(http2.UNAVAILABLE, f"{peer}: {error.why}") from error

    def _known_inventory(self) -> Inventory:
        if self._inventory is None:
            raise GrpcError(http2.UNAVAILABLE, "the node's ENIs are not known yet")
        return self._inventory

    def _on_inventory(self, inventory: Inventory) -> None:
        self._inventory = inventory

    def _on_ledger(self, ledger: LedgerState) -> None:
        self._held = {}
        for entry in ledger.entries:
            if not entry.released_at_ns:
                key = (entry.pod.namespace, entry.pod.name)
                before = self._held.get(key)
                same = before is not None and before[0] == entry.sandbox
                addresses = [*before[2], entry.address] if same and before else [entry.address]
                self._held[key] = (entry.sandbox, entry.pod, addresses)


def _listen_tcp(address: tuple[str, int]) -> socket.socket:
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(BACKLOG)
    except OSError:
        listener.close()
        raise
    return listener


def _listen_unix(path: Path) -> socket.socket:
    """Return a listening socket; raises OSError when somebody else serves the path: the original's daemon or agent."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        if _answers(path):
            raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))
        path.unlink(missing_ok=True)
        listener.bind(str(path))
        os.chmod(path, SOCKET_MODE)
        listener.listen(BACKLOG)
    except OSError:
        listener.close()
        raise
    return listener


def _answers(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as other:
        return other.connect_ex(str(path)) in (0, errno.EAGAIN, errno.EINPROGRESS)

"""What `egress-cni` asks for: an address of the family that the node's pods do not have, translated to the node's own on the way out.

ADD     reservation ─▶ veth pair ─┬▶ pod's side, host's side (IPv6: addresses checked) ─┬▶ result, two entries appended
                                  └▶ the SNAT chain, by a process of its own meanwhile ─┘
DEL     chain ─▶ route, link ─▶ the reservation last: it tells that something is left

DEL needs neither namespace nor the plugin's being switched on, and never fails: what cannot be done now is spooled, so that the chain
of plugins goes on to `aws-cni` (spec dataplane.md 12, 18.20-18.22). State is host-local's folder alone, nothing is remembered here.
"""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Collection
from dataclasses import replace
from typing import Final

from vpccni.components.netlink_programmer import decode, observe, rtnl, templates
from vpccni.components.netlink_programmer import request as cni
from vpccni.components.netlink_programmer.carrier import can_send
from vpccni.components.netlink_programmer.dad import DuplicateDetection, host_end_passed
from vpccni.components.netlink_programmer.egress_chains import ChainKeeper
from vpccni.components.netlink_programmer.egress_request import (
    V6_IFNAME,
    EgressConfig,
    EgressPair,
    chain_of,
    check_config,
    holder_of,
    read_config,
    with_egress,
)
from vpccni.components.netlink_programmer.facts import (
    DEFAULT_IPV6,
    IPV6,
    Address,
    Link,
    Route,
    Seen,
    family_of,
    host_of,
    host_prefix,
)
from vpccni.components.netlink_programmer.frontdoor import EGRESS_STATE, HOST_SYSCTL, NETLINK, POD_SYSCTL, Frame
from vpccni.components.netlink_programmer.naming import MAIN_TABLE, egress_alias, egress_owner
from vpccni.components.netlink_programmer.node_plan import PROTOCOL_BOOT, SCOPE_LINK
from vpccni.components.netlink_programmer.request import CODE_OWN, CODE_TRY_AGAIN, CniRequest
from vpccni.components.netlink_programmer.reservations import Holder, Reservations
from vpccni.components.netlink_programmer.wiring import (
    GONE,
    NO_DETECTION,
    THERE,
    VethPair,
    Wirer,
    check_folder,
    write_sysctl,
)
from vpccni.shared.effects import effect
from vpccni.shared.errors import CniFailure, KernelRefused
from vpccni.shared.messages.base import Sandbox
from vpccni.shared.process import Process

FOLDER_OUT_OF_USE_S: Final = 60.0
"""Longer than a call that still uses a folder may take."""
RTM_GETROUTE: Final = 26
NAME_TRIES: Final = 10  # spec dataplane.md 3


class Egress:
    """Carries out the calls of `egress-cni`."""

    def __init__(self, process: Process, wirer: Wirer, chains: ChainKeeper) -> None:
        self._process, self._wirer, self._chains = process, wirer, chains
        self._folders: dict[str, int] = {}

    # -- ADD

    async def add(self, request: CniRequest, frame: Frame, *, deadline: float) -> str:
        """Return the result with the egress interface appended. Raises `CniFailure`, and nothing is left of the attempt then."""
        before = cni.pass_on(request)
        config = read_config(request)
        if not config.enabled:
            return before
        mtu = check_config(config)
        reservations = self._reservations(request, config, frame)
        descriptor = frame.take(NETLINK)
        if reservations is None or descriptor < 0:
            raise CniFailure(
                "egress is not possible",
                cni_code=CODE_OWN,
                on=config.data_dir if reservations is None else request.netns,
                why="the plugin could not open it",
            )
        pod_socket = rtnl.RouteSocket(descriptor)
        try:
            pair = await self._add(request, frame, config, reservations, pod_socket, mtu, deadline=deadline)
        except (KernelRefused, OSError) as error:
            code = CODE_TRY_AGAIN if isinstance(error, OSError) else CODE_OWN
            raise CniFailure("egress is not possible", cni_code=code, on=str(request.pod), why=str(error)) from error
        finally:
            pod_socket.close()
        return with_egress(request, config, pair)

    async def _add(
        self,
        request: CniRequest,
        frame: Frame,
        config: EgressConfig,
        reservations: Reservations,
        pod_socket: rtnl.RouteSocket,
        mtu: int,
        *,
        deadline: float,
    ) -> EgressPair:
        holder = holder_of(request)
        address, is_new = await self._process.loop.in_thread(reservations.reserve, holder, config.subnet)
        if not is_new:
            if (existing := await self._existing(request, config, pod_socket, address)) is not None:
                return existing  # asked for again: a live interface is left alone
            await self._undo(request, config, address)  # an ADD that was cut off: what it made goes, the address stays
            _drop_in_pod(pod_socket, config.ifname)
        pairs: list[VethPair] = []
        try:
            pairs.append(self._make_pair(request, config, pod_socket, mtu))
            chain = self._chains.add(chain_of(request, config, address))
            try:
                await self._connect(frame, config, pod_socket, pairs[0], address, request, deadline=deadline)
            finally:
                await chain
        except (KernelRefused, OSError):
            for pair in pairs:
                self._wirer.delete_now(pair.ifindex)
            await self._undo(request, config, address)
            await self._process.loop.in_thread(reservations.give_back, address, holder)
            raise
        return EgressPair(pairs[0].host_veth, pairs[0].mac, _mac_of(pod_socket, config.ifname))

    async def _existing(
        self, request: CniRequest, config: EgressConfig, pod_socket: rtnl.RouteSocket, address: str
    ) -> EgressPair | None:
        """Return the sandbox's interface if nothing is missing of it: in IPv6 the default route is what an ADD makes last."""
        mac = _mac_of(pod_socket, config.ifname)
        if config.is_ipv6 and not _leads_everywhere(pod_socket, config.ifname):
            return None
        link = self._wirer.led_to(address)
        if link is None or egress_owner(link.alias) != request.sandbox:
            return None
        if mac and link.up and await self._chains.is_whole(chain_of(request, config, address)):
            return EgressPair(link.name, link.mac, mac)
        return None

    def _make_pair(self, request: CniRequest, config: EgressConfig, pod_socket: rtnl.RouteSocket, mtu: int) -> VethPair:
        alias = egress_alias(request.sandbox)
        names = [f"veth{secrets.token_hex(4)}" for _ in range(NAME_TRIES)]
        name = next((one for one in names if self._wirer.find(one) is None), names[0])  # taken: the kernel says so
        ifname = config.ifname
        return self._wirer.make_pair(
            pod_socket, ifname=ifname, host_veth=name, alias=alias, mtu=mtu, on=f"{ifname} of {request.pod}"
        )

    async def _connect(
        self,
        frame: Frame,
        config: EgressConfig,
        pod_socket: rtnl.RouteSocket,
        pair: VethPair,
        address: str,
        request: CniRequest,
        *,
        deadline: float,
    ) -> None:
        """Configure both ends; in IPv6 wait for the addresses, and lead the pod's default route to the host end's own."""
        on = f"{config.ifname} of {request.pod}"
        detection = None
        if config.is_ipv6:
            self._set_pod(frame.descriptors.get(POD_SYSCTL, -1), request, pair)
            detection = DuplicateDetection(self._process.loop, pod_socket, pair.pod_ifindex, on=on)
        side = templates.egress_pod_side(
            ifindex=pair.pod_ifindex, address=address, subnet=config.subnet, gateway=config.gateway
        )
        pod_socket.send(side, on=on)
        self._open_host_end(frame.descriptors.get(HOST_SYSCTL, -1), config, pair, address)
        await can_send(self._process.loop, pod_socket, config.ifname, on=on, deadline=deadline)
        if detection is not None:
            await detection.passed(deadline=deadline)
            await host_end_passed(self._process.loop, pair.ifindex, on=pair.host_veth, deadline=deadline)
            default = Route(MAIN_TABLE, DEFAULT_IPV6, pair.pod_ifindex, self._link_local(pair), protocol=PROTOCOL_BOOT)
            pod_socket.send([templates.replace_route(default)], on=on)

    def _set_pod(self, folder: int, request: CniRequest, pair: VethPair) -> None:
        if folder < 0:
            return  # a kernel without IPv6: what follows is refused and says so
        ifname = V6_IFNAME
        check_folder(folder, ifname=ifname, host_veth=pair.host_veth)
        write_sysctl(folder, f"{request.sandbox.ifname}/disable_ipv6", "1")
        for name in ("lo", ifname):
            write_sysctl(folder, f"{name}/disable_ipv6", "0")
        write_sysctl(folder, f"{ifname}/keep_addr_on_down", "1")
        write_sysctl(folder, f"{ifname}/{NO_DETECTION[0]}", NO_DETECTION[1])

    def _open_host_end(self, host_sysctl: int, config: EgressConfig, pair: VethPair, address: str) -> None:
        self._wirer.set_host_end(host_sysctl, pair.host_veth, "accept_ra", "0")
        messages = [rtnl.set_link(pair.ifindex, up=True)]
        if config.is_ipv6:
            self._wirer.set_host_end(host_sysctl, pair.host_veth, *NO_DETECTION)
        else:
            self._wirer.write_host_setting(host_sysctl, "ipv4/ip_forward", "1")
            own = Address(pair.ifindex, host_prefix(config.gateway))
            messages.append(templates.address("add", own, scope=SCOPE_LINK))
        messages.append(templates.host_route(ifindex=pair.ifindex, address=address))
        self._wirer.tell_host(messages, on=pair.host_veth, fine=THERE)

    def _link_local(self, pair: VethPair) -> str:
        found = self._wirer.host_addresses(pair.ifindex)
        if not found:
            raise KernelRefused(
                "the host end has no link-local address",
                on=pair.host_veth,
                why="pods reach the node under it",
                remedy="See net.ipv6.conf.default.disable_ipv6 and addr_gen_mode of the node",
            )
        return found[0]

    # -- DEL

    async def delete(self, request: CniRequest, state: int = -1) -> None:
        """Remove what is left of a sandbox's egress; nothing there is success. Raises `KernelRefused` or OSError: try again later.

        `state`: the opened folder of reservations, -1: the one an earlier call brought, or the path as this process sees it.
        """
        config = read_config(request)
        reservations = self._reservations_at(request, config, state)
        if reservations is None:
            return
        holder = holder_of(request)
        for address in await self._process.loop.in_thread(reservations.of, holder):
            await self._end(request, config, address)
            await self._process.loop.in_thread(reservations.give_back, address, holder)

    async def _end(self, request: CniRequest, config: EgressConfig, address: str) -> None:
        await self._undo(request, config, address)
        self._process.count("vpccni_egress_removed")

    async def _undo(self, request: CniRequest, config: EgressConfig, address: str) -> None:
        """Remove chain, route and link of an address; a link of somebody else that the address leads to stays."""
        await self._chains.remove(chain_of(request, config, address))
        if (link := self._wirer.led_to(address)) is not None and egress_owner(link.alias) == request.sandbox:
            self._remove(address, link)
        else:
            await self._remove_what_is_there(request, address)

    def _remove(self, address: str, link: Link) -> None:
        self._wirer.tell_host([templates.delete_route(ifindex=link.ifindex, address=address)], on=address, fine=GONE)
        self._wirer.retire(link.name, link.ifindex)

    async def _remove_what_is_there(self, request: CniRequest, address: str) -> None:
        """What an ADD that was cut off left, or the reference: the whole node is looked through."""
        seen = await self._look(address)
        indexes = {link.ifindex for link in seen.links.values() if egress_owner(link.alias) == request.sandbox}
        for route in seen.routes:
            link = seen.links.get(route.ifindex)
            is_of_the_reference = link is not None and link.kind == "veth" and not link.alias
            if host_of(route.dst) == address and (route.ifindex in indexes or is_of_the_reference):
                self._wirer.tell_host([templates.remove_route(route)], on=address, fine=GONE)
        for ifindex in indexes:
            self._wirer.retire(seen.links[ifindex].name, ifindex)

    async def _look(self, address: str) -> Seen:
        families = (family_of(address),)
        return await self._process.loop.in_thread(lambda: observe.look((MAIN_TABLE,), families=families))

    # -- CHECK and GC

    async def check(self, request: CniRequest, frame: Frame) -> None:
        """Raise `CniFailure` naming what is missing of a sandbox's egress (spec dataplane.md 15)."""
        config = read_config(request)
        if not config.enabled:
            return
        if trouble := await self._trouble(request, config, frame):
            raise CniFailure(
                "check: the pod's egress is not as it was set up",
                cni_code=CODE_OWN,
                on=str(request.pod),
                why="; ".join(trouble),
                remedy="Delete the pod; it is created anew",
            )

    async def _trouble(self, request: CniRequest, config: EgressConfig, frame: Frame) -> list[str]:
        reservations = self._reservations(request, config, frame)
        held = [] if reservations is None else await self._process.loop.in_thread(reservations.of, holder_of(request))
        if not held:
            return ["no address is reserved"]
        trouble, chain = [], chain_of(request, config, held[0])
        if self._wirer.led_to(held[0]) is None:
            trouble.append(f"no route to {held[0]}")
        if not await self._chains.is_whole(chain):
            trouble.append(f"chain {chain.name} is not in force")
        descriptor = frame.take(NETLINK)
        if descriptor >= 0:
            with contextlib.closing(rtnl.RouteSocket(descriptor)) as pod_socket:
                if not _mac_of(pod_socket, config.ifname):
                    trouble.append(f"{config.ifname} is missing in the pod")
        return trouble

    async def collect(self, request: CniRequest, frame: Frame, valid: Collection[tuple[str, str]]) -> None:
        """End the egress of every sandbox that is not listed as valid (GC)."""
        config = read_config(request)
        reservations = self._reservations(request, config, frame)
        if reservations is None:
            return
        held = await self._process.loop.in_thread(reservations.held)
        for address, holder in held.items():
            if not any(holder in (Holder(one, ifname), Holder(one, "")) for one, ifname in valid):
                ended = Sandbox(holder.container_id, holder.ifname, request.sandbox.network)
                await self._end(replace(request, sandbox=ended), config, address)
                await self._process.loop.in_thread(reservations.give_back, address, holder)

    # -- the folder

    def _reservations(self, request: CniRequest, config: EgressConfig, frame: Frame) -> Reservations | None:
        return self._reservations_at(request, config, frame.descriptors.get(EGRESS_STATE, -1))

    def _reservations_at(self, request: CniRequest, config: EgressConfig, state: int) -> Reservations | None:
        """Return the reservations of a request's network: below the folder its plugin opened, else below the one an earlier plugin did."""
        if state < 0:
            if config.data_dir not in self._folders:
                with contextlib.suppress(
                    OSError
                ):  # seen where the node's file system is: in the lab, or by choice of the chart
                    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
                    self._folders[config.data_dir] = os.open(config.data_dir, flags)
            state = self._folders.get(config.data_dir, -1)
            return None if state < 0 else Reservations(state, request.sandbox.network)
        self._remember(config.data_dir, state)
        return Reservations(state, request.sandbox.network)

    def _remember(self, data_dir: str, state: int) -> None:
        """Keep a folder for spooled deletions, which bring none. One that was made anew takes the old one's place."""
        old = self._folders.get(data_dir, -1)
        if old >= 0 and os.path.sameopenfile(old, state):
            return
        self._folders[data_dir] = os.dup(state)
        if old >= 0:
            self._process.loop.call_later(FOLDER_OUT_OF_USE_S, lambda: os.close(old))


def _mac_of(pod_socket: rtnl.RouteSocket, ifname: str) -> str:
    """Return the MAC of a pod's interface, "" when it is not there."""
    link = pod_socket.link(ifname)
    return "" if link is None else link[1]


def _drop_in_pod(pod_socket: rtnl.RouteSocket, ifname: str) -> None:
    """Delete a pair by its end in the pod: the host end may not say yet whose it is, and its deletion would come too late."""
    link = pod_socket.link(ifname)
    if link is not None:
        with effect("netlink.delete_link"):
            pod_socket.send([templates.delete_link(link[0])], on=ifname, fine=GONE)


def _leads_everywhere(pod_socket: rtnl.RouteSocket, ifname: str) -> bool:
    """Tell whether a pod's IPv6 default route goes through an interface."""
    link = pod_socket.link(ifname)
    query = bytes([IPV6]) + bytes(11)
    routes = (decode.decode(*one) for one in pod_socket.dump(RTM_GETROUTE, query, on=f"routes of {ifname}"))
    default = (one for one in routes if isinstance(one, Route) and one.dst == DEFAULT_IPV6)
    return link is not None and any(one.ifindex == link[0] and one.gateway for one in default)

"""The steps of an ADD and a DEL in the kernel, in the one order that works (design 5), each undone when a later one fails.

ADD     pod: veth pair, host end down ─▶ host: alias ─▶ (agent attaches meanwhile) pod: up, address, routes, neighbour
        ─▶ host: sysctls, up, route, rules       (a pod on several network cards: each step for all its interfaces)
DEL     host: rules, route ─▶ end down, renamed out of the way ─▶ answer; the link itself is deleted in the background

No carrier until the last step: the pod's first packet meets the right verdict. Deleting by address or name compares the alias first.
"""

from __future__ import annotations

import contextlib
import errno
import os
import struct
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Final

from vpccni.components.netlink_programmer import decode, observe, rtnl, templates
from vpccni.components.netlink_programmer.facts import IPV6, Link, Rule, family_of, host_prefix
from vpccni.components.netlink_programmer.naming import (
    alias_index,
    alias_of,
    is_of_pod,
    new_mac,
    parse_alias,
    parting_name,
    pod_interface_name,
)
from vpccni.components.netlink_programmer.node_plan import HOST_VETH_SETTINGS, PRIORITY_IN_POD
from vpccni.components.netlink_programmer.strangers import Leftover
from vpccni.shared.effects import effect
from vpccni.shared.errors import KernelRefused
from vpccni.shared.messages.base import PodRef, Sandbox

GONE: Final = (errno.ENOENT, errno.ESRCH, errno.ENODEV, errno.ENXIO)
THERE: Final = (errno.EEXIST,)
RTM_GETADDR: Final = 22
LEAVING_GROUP: Final = 0x76706363
"""Links of this group are about to be deleted; a number that nobody takes by chance."""
NO_DETECTION: Final = ("accept_dad", "0")
"""Both ends of a pair are ours and nobody else is on it: duplicate address detection would cost an ADD 1 to 2 s (decision 0010)."""


@dataclass(frozen=True)
class Wired:
    """One interface of a wired sandbox as this process remembers it. `table` 254: the address is on the primary ENI.

    `index`: its number in the pod, 0 for the one the runtime asked for.
    """

    sandbox: Sandbox
    pod: PodRef
    host_veth: str
    ifindex: int
    mac: str
    address: str
    table: int
    device_number: int = 0
    index: int = 0

    @property
    def ifname(self) -> str:
        """Its name in the pod."""
        return pod_interface_name(self.sandbox, self.index)


@dataclass(frozen=True)
class VethPair:
    """A pair that exists with its host end down."""

    host_veth: str
    ifindex: int
    mac: str
    pod_ifindex: int
    index: int = 0


class Wirer:
    """Wires in the namespace of the thread that makes it. `bury(ifindex)` deletes a link later, in the background."""

    def __init__(self, host: rtnl.RouteSocket, *, bury: Callable[[int], None]) -> None:
        self._host = host
        self._host.check_strictly()
        self._bury = bury
        self._host_netns = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        self._own_sysctl = os.open("/proc/sys/net", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self._interface_settings = -1

    def close(self) -> None:
        """Give back the socket and the descriptors."""
        self._host.close()
        if self._interface_settings >= 0:
            os.close(self._interface_settings)
        os.close(self._host_netns)
        os.close(self._own_sysctl)

    def create_pair(
        self, pod_socket: rtnl.RouteSocket, *, sandbox: Sandbox, pod: PodRef, host_veth: str, mtu: int, index: int = 0
    ) -> VethPair:
        """Make the pair and write whose it is. A host end of that name that another sandbox left is moved out of the way."""
        mac, ifname = new_mac(), pod_interface_name(sandbox, index)
        message = templates.create_veth(
            ifname=ifname, host_veth=host_veth, mac=mac, mtu=mtu, host_netns=self._host_netns
        )
        try:
            with effect("netlink.create_veth"):
                pod_socket.send([message], on=f"{host_veth} for {sandbox}")
        except KernelRefused as error:
            if getattr(error, "errno", 0) != errno.EEXIST or not self._clear(host_veth, sandbox, pod, index):
                raise
            with effect("netlink.create_veth"):
                pod_socket.send([message], on=f"{host_veth} for {sandbox}")
        alias = alias_of(sandbox, pod, index=index)
        return self._finished_pair(pod_socket, ifname=ifname, host_veth=host_veth, alias=alias, index=index)

    def _finished_pair(
        self, pod_socket: rtnl.RouteSocket, *, ifname: str, host_veth: str, alias: str, index: int
    ) -> VethPair:
        try:
            ifindex, host_mac, _ = self._must_find(self._host, host_veth)
            with effect("netlink.set_alias"):
                self._host.send([rtnl.set_link(ifindex, alias=alias)], on=host_veth)
            pod_ifindex, _, _ = self._must_find(pod_socket, ifname)
        except KernelRefused:
            self._discard(host_veth)
            raise
        return VethPair(host_veth, ifindex, host_mac, pod_ifindex, index)

    def _discard(self, host_veth: str) -> None:
        """Delete a pair that was just made and could not be finished."""
        if (found := self._host.link(host_veth)) is not None:
            self.delete_now(found[0])

    def configure_pod(self, pod_socket: rtnl.RouteSocket, pair: VethPair, *, address: str) -> None:
        """Configure the pod's end; the host end is still down, so the pod has no carrier."""
        with effect("netlink.configure_pod"):
            pod_socket.send(
                templates.pod_side(ifindex=pair.pod_ifindex, address=address, host_mac=pair.mac, index=pair.index),
                on=f"pod end of {pair.host_veth}",
            )

    def forget_in_pod(self, pod_socket: rtnl.RouteSocket, *, address: str, index: int) -> None:
        """Remove what does not go with the pod's end of a deleted pair: the rule that leads a later interface to its table."""
        if index:
            rule = Rule(PRIORITY_IN_POD, index, src=host_prefix(address), family=family_of(address))
            pod_socket.send([templates.rule("del", rule)], on=f"rule of {address} in the pod", fine=GONE)

    def enable_ipv6(self, pod_sysctl: int, *, ifname: str, host_veth: str) -> None:
        """Switch IPv6 on for an interface and the loopback of a pod, through its opened folder of interface settings (-1: not there)."""
        if pod_sysctl < 0:
            return  # a kernel without IPv6 has no such folder: what follows is refused and says so
        check_folder(pod_sysctl, ifname=ifname, host_veth=host_veth)
        with effect("sysctl.pod"):
            write_sysctl(pod_sysctl, f"{ifname}/{NO_DETECTION[0]}", NO_DETECTION[1])
            for name in (ifname, "lo"):
                write_sysctl(pod_sysctl, f"{name}/disable_ipv6", "0")

    def open_host_end(self, pair: VethPair, *, address: str, table: int, host_sysctl: int) -> None:
        """Bring the host end up and make the pod reachable: from here on its packets flow."""
        with effect("sysctl.host_veth"):
            settings = (*HOST_VETH_SETTINGS, NO_DETECTION) if family_of(address) == IPV6 else HOST_VETH_SETTINGS
            for name, value in settings:
                self.set_host_end(host_sysctl, pair.host_veth, name, value)
        with effect("netlink.open_host_end"):
            self._host.send(
                templates.host_side(ifindex=pair.ifindex, address=address, table=table), on=pair.host_veth, fine=THERE
            )

    def write_host_setting(self, host_sysctl: int, path: str, value: str) -> None:
        """Write one of the node's settings through the plugin's descriptor of them, or our own (-1)."""
        write_sysctl(host_sysctl if host_sysctl >= 0 else self._own_sysctl, path, value)

    def set_host_end(self, host_sysctl: int, host_veth: str, name: str, value: str) -> None:
        """Write an IPv6 setting of a host end. The folder stays open: every pod's namespace has one of its name, and the kernel walks them all."""
        if self._interface_settings < 0:
            with contextlib.suppress(FileNotFoundError):  # a kernel without IPv6 (spec dataplane.md 2.4)
                folder = host_sysctl if host_sysctl >= 0 else self._own_sysctl
                flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
                self._interface_settings = os.open("ipv6/conf", flags, dir_fd=folder)
        if self._interface_settings >= 0:
            write_sysctl(self._interface_settings, f"{host_veth}/{name}", value)

    def make_pair(
        self, pod_socket: rtnl.RouteSocket, *, ifname: str, host_veth: str, alias: str, mtu: int, on: str
    ) -> VethPair:
        """Make a pair whose name on the host is free; its alias tells whose it is."""
        message = templates.create_veth(
            ifname=ifname, host_veth=host_veth, mac=new_mac(), mtu=mtu, host_netns=self._host_netns
        )
        with effect("netlink.create_veth"):
            pod_socket.send([message], on=on)
        return self._finished_pair(pod_socket, ifname=ifname, host_veth=host_veth, alias=alias, index=0)

    def tell_host(self, messages: Sequence[bytes], *, on: str, fine: Collection[int] = ()) -> None:
        """Send ready messages in the node's namespace."""
        with effect("netlink.tell_host"):
            self._host.send(messages, on=on, fine=fine)

    def led_to(self, address: str) -> Link | None:
        """Return the link of the node that an address alone is routed to."""
        return observe.led_to(self._host, address)

    def host_addresses(self, ifindex: int) -> list[str]:
        """Return the link-local IPv6 addresses of one link of the node."""
        query = struct.pack("=BBBBI", IPV6, 0, 0, 0, ifindex)
        found = self._host.dump(RTM_GETADDR, query, on=f"link {ifindex}", none_if=(errno.ENODEV,))
        return [text for _, payload in found if (text := decode.link_local(payload, ifindex))]

    def take_down(self, wired: Wired) -> None:
        """Undo a wiring: rules, route, link out of the way. What is already gone counts as done."""
        self.remove_address(address=wired.address, table=wired.table, ifindex=wired.ifindex)
        self.retire(wired.host_veth, wired.ifindex)

    def remove_address(self, *, address: str, table: int, ifindex: int) -> None:
        """Remove the rules and, where it still points to `ifindex` (0: nowhere), the route of a pod's address."""
        with effect("netlink.remove_rules"):
            self._host.send(templates.rules("del", address=address, table=table), on=address, fine=GONE)
        if ifindex:
            with effect("netlink.remove_route"):
                self._host.send([templates.delete_route(ifindex=ifindex, address=address)], on=address, fine=GONE)

    def retire(self, host_veth: str, ifindex: int) -> None:
        """Set a link down, rename it out of the way and have it deleted in the background."""
        with effect("netlink.retire"):
            self._host.send(
                [rtnl.set_link(ifindex, up=False), rtnl.set_link(ifindex, name=parting_name(ifindex))],
                on=host_veth,
                fine=(*GONE, errno.EEXIST),
            )
        self._bury(ifindex)

    def claim(self, wired: Wired) -> None:
        """Write whose a veth is on one that another release made."""
        with effect("netlink.set_alias"):
            self._host.send(
                [rtnl.set_link(wired.ifindex, alias=alias_of(wired.sandbox, wired.pod, index=wired.index))],
                on=wired.host_veth,
            )

    def disclaim(self, wired: Wired) -> None:
        """Take the alias off a veth that another plugin is about to delete; one that is gone already is fine."""
        with effect("netlink.set_alias"):
            self._host.send([rtnl.set_link(wired.ifindex, alias="")], on=wired.host_veth, fine=GONE)

    def clear_away(self, left: Leftover) -> None:
        """Remove what is left of a sandbox that this process never wired."""
        messages = [templates.rule("del", rule) for rule in left.rules]
        messages += [templates.remove_route(route) for route in left.routes]
        if messages:
            with effect("netlink.remove_rules"):
                self._host.send(messages, on="what is left of a pod", fine=GONE)
        for link in left.links:
            self.retire(link.name, link.ifindex)

    def delete_now(self, ifindex: int) -> None:
        """Delete a link and wait for it; what is gone counts as done."""
        with effect("netlink.delete_link"):
            self._host.send([templates.delete_link(ifindex)], on=f"link {ifindex}", fine=GONE)

    def find(self, host_veth: str) -> tuple[int, str, str] | None:
        """Return (ifindex, MAC, alias) of a host link."""
        return self._host.link(host_veth)

    def _clear(self, host_veth: str, sandbox: Sandbox, pod: PodRef, index: int) -> bool:
        """Make room for a host veth of that name; False when what is in the way is not on the host. Raises for another pod's veth.

        Names are hashes, and interface 1 of pod `web` has the same one as interface 0 of a pod `web.1` (spec dataplane.md 18.5).
        """
        found = self._host.link(host_veth)
        if found is None:
            return False
        ifindex, _, alias = found
        owner = parse_alias(alias)
        if owner is None or owner[0] == sandbox:
            self.delete_now(ifindex)  # half-made by an ADD that died, or a pair whose pod is being wired again
        elif not is_of_pod(owner[1], pod) or alias_index(alias) != index:
            raise KernelRefused(
                "another pod's interface has the name this one must have",
                on=host_veth,
                why=f"it belongs to {owner[1]}",
                remedy=f"Rename one of the two pods, or move {pod} to another node",
            )
        else:
            self.retire(host_veth, ifindex)  # another sandbox of the same pod name: its own DEL finds it gone
        return True

    def _must_find(self, where: rtnl.RouteSocket, name: str) -> tuple[int, str, str]:
        found = where.link(name)
        if found is None:
            raise KernelRefused(
                "a link that was just made is gone", on=name, why="somebody deleted it", remedy="Add the pod again"
            )
        return found


def check_folder(pod_sysctl: int, *, ifname: str, host_veth: str) -> None:
    """Raise `KernelRefused` unless a folder of interface settings is the pod's: a descriptor of one level higher would be the host's."""
    links = os.listdir(pod_sysctl)
    if ifname not in links or host_veth in links:
        raise KernelRefused(
            "the settings folder the plugin sent is not the pod's",
            on=host_veth,
            why=f"{ifname} is {'' if ifname in links else 'not '}in it, {host_veth} is {'' if host_veth in links else 'not '}",
            remedy="See that the plugin on the node is of this release",
        )


def write_sysctl(folder: int, path: str, value: str) -> None:
    """Write a setting below a folder's descriptor; one that does not exist is left out. Raises `KernelRefused`."""
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC, dir_fd=folder)
    except FileNotFoundError:
        return  # a kernel without IPv6 (spec dataplane.md 2.4: missing file ignored)
    try:
        os.write(descriptor, value.encode())
    except OSError as error:
        raise KernelRefused("a sysctl cannot be written", on=f"net/{path}", why=str(error)) from error
    finally:
        os.close(descriptor)


def delete_links(ifindexes: list[int]) -> None:
    """Delete links over a socket of its own, for a thread: the kernel takes 15 ms, for one as for a hundred at once.

    One that is busy stays: the next start's survey finds it by its parting name. Raises `KernelRefused` when all were refused.
    """
    socket = rtnl.RouteSocket()
    marks = [rtnl.set_link(ifindex, group=LEAVING_GROUP) for ifindex in ifindexes]
    try:
        with effect("netlink.delete_links"):
            socket.send([*marks, rtnl.delete_group(LEAVING_GROUP)], on="links of deleted pods", fine=GONE)
    finally:
        socket.close()

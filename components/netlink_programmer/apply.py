"""Carries out the steps of a plan, one message each. What is there already, or gone already, counts as done."""

from __future__ import annotations

import errno
import os
from typing import Final, assert_never

from vpccni.components.netlink_programmer import templates
from vpccni.components.netlink_programmer.facts import Address, LinkState, Route, Rule, Setting
from vpccni.components.netlink_programmer.node_plan import Step
from vpccni.components.netlink_programmer.rtnl import RouteSocket
from vpccni.shared.effects import effect
from vpccni.shared.errors import KernelRefused

GONE: Final = (errno.ENOENT, errno.ESRCH, errno.EADDRNOTAVAIL, errno.ENODEV)
THERE: Final = (errno.EEXIST,)
KIND: Final = {Rule: "rule", Route: "route", Address: "address", LinkState: "link", Setting: "setting"}


class Applier:
    """Sends over one socket. `sysctl`: a descriptor of this namespace's /proc/sys/net."""

    def __init__(self, socket: RouteSocket, sysctl: int) -> None:
        self._socket = socket
        self._sysctl = sysctl

    def close(self) -> None:
        """Give back the socket and the descriptor."""
        self._socket.close()
        os.close(self._sysctl)

    def carry_out(self, step: Step) -> None:
        """Do one step. Raises `KernelRefused` naming what was refused."""
        with effect(f"netlink.repair_{KIND[type(step.what)]}"):
            if isinstance(step.what, Setting):
                self._write(step.what)
            else:
                fine = GONE if step.verb == "remove" else THERE
                self._socket.send([_message(step.verb, step.what)], on=f"{step.owner}: {step.what}", fine=fine)

    def _write(self, setting: Setting) -> None:
        try:
            descriptor = os.open(setting.path, os.O_WRONLY | os.O_CLOEXEC, dir_fd=self._sysctl)
            try:
                os.write(descriptor, setting.value.encode())
            finally:
                os.close(descriptor)
        except FileNotFoundError:
            return  # the link has just gone
        except OSError as error:
            raise KernelRefused(
                "a setting cannot be written back",
                on=f"net/{setting.path}",
                why=str(error),
                remedy="Give the container a writable /proc/sys, or write it by hand",
            ) from error


def _message(verb: str, what: Rule | Route | Address | LinkState) -> bytes:
    if isinstance(what, Rule):
        return templates.rule("del" if verb == "remove" else "add", what)
    if isinstance(what, Route):
        return templates.remove_route(what) if verb == "remove" else templates.replace_route(what)
    if isinstance(what, Address):
        return templates.address("del" if verb == "remove" else "add", what)
    if isinstance(what, LinkState):
        return templates.link_state(what)
    assert_never(what)

"""A netlink socket for messages that are ready: number them, ask for an acknowledgement of each, send, read the answers.

Synchronous: the kernel answers before `send` returns control to us, in well under a millisecond for all but deleting a link.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Collection, Sequence
from typing import Final

from vpccni.components.netlink_programmer.netlink_attributes import attribute, attributes, text_attribute
from vpccni.shared.errors import KernelRefused

NETLINK_ROUTE: Final = 0
NLMSG_ERROR: Final = 2
NLM_F_REQUEST: Final = 1
NLM_F_ACK: Final = 4
NLMSG_DONE: Final = 3
NLM_F_DUMP_INTR: Final = 0x10
NLM_F_DUMP: Final = 0x300
SOL_NETLINK: Final = 270
NETLINK_ADD_MEMBERSHIP: Final = 1
NETLINK_GET_STRICT_CHK: Final = 12
DUMP_TRIES: Final = 5  # spec dataplane.md 2.3
RTM_DELLINK: Final = 17
RTM_GETLINK: Final = 18
RTM_SETLINK: Final = 19
IFLA_ADDRESS: Final = 1
IFLA_IFNAME: Final = 3
IFLA_OPERSTATE: Final = 16
IFLA_IFALIAS: Final = 20
IFLA_GROUP: Final = 27
HEADER: Final = struct.Struct("=IHHII")
IFINFO: Final = struct.Struct("=BxHiII")
ANSWER_WITHIN_S: Final = 5.0
RECEIVE_BYTES: Final = 1 << 17


class RouteSocket:
    """One NETLINK_ROUTE socket, of this namespace or passed in by a plugin from a pod's."""

    def __init__(self, descriptor: int = -1) -> None:
        if descriptor >= 0:
            self._socket = socket.socket(fileno=descriptor)
        else:
            self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC, NETLINK_ROUTE)
            self._socket.bind((0, 0))
        self._socket.settimeout(ANSWER_WITHIN_S)
        self._sequence = 1
        self.heard = 0
        """How many notifications came in between answers: who listens asks anew when it grew."""

    @property
    def descriptor(self) -> int:
        """The socket's, to wait for something to read."""
        return self._socket.fileno()

    def join(self, group: int) -> None:
        """Hear a group's notifications (RTNLGRP_*) from now on."""
        self._socket.setsockopt(SOL_NETLINK, NETLINK_ADD_MEMBERSHIP, group)

    def close(self) -> None:
        self._socket.close()

    def send(self, messages: Sequence[bytes], *, on: str, fine: Collection[int] = ()) -> None:
        """Send all messages and read an acknowledgement of each; errors in `fine` count as done.

        Raises `KernelRefused` naming `on` for the first other error; the messages after it were processed all the same.
        """
        first = self._sequence
        self._sequence += len(messages)
        self._socket.send(b"".join(_numbered(message, first + at) for at, message in enumerate(messages)))
        missing = set(range(first, self._sequence))
        worst: tuple[int, int] | None = None
        while missing:
            for kind, sequence, payload in self._receive():
                if kind != NLMSG_ERROR or sequence not in missing:
                    continue
                missing.discard(sequence)
                code = -struct.unpack_from("=i", payload)[0]
                if code and code not in fine and worst is None:
                    worst = (sequence - first, code)
        if worst is not None:
            raise refused(worst[1], f"netlink message {worst[0] + 1} of {len(messages)} was refused", on)

    def link(self, name: str) -> tuple[int, str, str] | None:
        """Return (ifindex, MAC, alias) of one link by name, None when there is none."""
        payload = self._link_named(name)
        return None if payload is None else _link(payload)

    def operational_state(self, name: str) -> int | None:
        """Return the operational state of one link by name (RFC 2863), None when there is none."""
        payload = self._link_named(name)
        return None if payload is None else dict(attributes(payload, IFINFO.size))[IFLA_OPERSTATE][0]

    def _link_named(self, name: str) -> bytes | None:
        body = IFINFO.pack(0, 0, 0, 0, 0) + text_attribute(IFLA_IFNAME, name)
        return self.ask(RTM_GETLINK, body, on=name, none_if=(errno.ENODEV,))

    def ask(self, kind: int, body: bytes, *, on: str, none_if: Collection[int]) -> bytes | None:
        """Return the payload of the one answer to a targeted request, which is no dump; None for an error in `none_if`."""
        sequence = self._sequence
        self._sequence += 1
        self._socket.send(HEADER.pack(HEADER.size + len(body), kind, NLM_F_REQUEST, sequence, 0) + body)
        while True:
            for got, answered, payload in self._receive():
                if answered != sequence:
                    continue
                if got != NLMSG_ERROR:
                    return payload
                code = -struct.unpack_from("=i", payload)[0]
                if code in none_if:
                    return None
                raise refused(code, "it cannot be read", on)

    def check_strictly(self) -> None:
        """Have the kernel honour the filters of dumps, such as one table's routes."""
        self._socket.setsockopt(SOL_NETLINK, NETLINK_GET_STRICT_CHK, 1)

    def dump(self, kind: int, body: bytes, *, on: str, none_if: Collection[int] = ()) -> list[tuple[int, bytes]]:
        """Return (kind, payload) of all objects of a kind; nothing for an error in `none_if`. One interrupted by a change is taken anew."""
        found: list[tuple[int, bytes]] = []
        for _ in range(DUMP_TRIES):
            found, whole = self._dump_once(kind, body, on=on, none_if=none_if)
            if whole:
                break
        return found  # changing all the time: what was seen may lack something, and the next look mends it

    def _dump_once(
        self, kind: int, body: bytes, *, on: str, none_if: Collection[int]
    ) -> tuple[list[tuple[int, bytes]], bool]:
        sequence = self._sequence
        self._sequence += 1
        header = HEADER.pack(HEADER.size + len(body), kind, NLM_F_REQUEST | NLM_F_DUMP, sequence, 0)
        self._socket.send(header + body)
        found: list[tuple[int, bytes]] = []
        whole = True
        while True:
            for flags, got, answered, payload in self._receive_with_flags():
                if answered != sequence:
                    continue
                whole = whole and not flags & NLM_F_DUMP_INTR
                if got == NLMSG_DONE:
                    return found, whole
                if got == NLMSG_ERROR:
                    code = -struct.unpack_from("=i", payload)[0]
                    if code in none_if:
                        return [], True
                    raise refused(code, "a dump was refused", on)
                found.append((got, payload))

    def drain(self) -> None:
        """Read what waits and forget it: notifications that only said that something changed."""
        self._socket.setblocking(False)
        try:
            while self._socket.recv(RECEIVE_BYTES):
                continue
        except BlockingIOError:
            return
        finally:
            self._socket.settimeout(ANSWER_WITHIN_S)

    def _receive(self) -> list[tuple[int, int, bytes]]:
        return [(kind, sequence, payload) for _, kind, sequence, payload in self._receive_with_flags()]

    def _receive_with_flags(self) -> list[tuple[int, int, int, bytes]]:
        try:
            data = self._socket.recv(RECEIVE_BYTES)
        except TimeoutError as error:
            raise KernelRefused(
                "the kernel did not answer a netlink request", why=f"within {ANSWER_WITHIN_S} s"
            ) from error
        found = messages(data)
        self.heard += sum(1 for _, _, sequence, _ in found if not sequence)
        return found


def messages(data: bytes) -> list[tuple[int, int, int, bytes]]:
    """Return (flags, kind, sequence, payload) of each message in one datagram."""
    found, at = [], 0
    while at + HEADER.size <= len(data):
        length, kind, flags, sequence, _pid = HEADER.unpack_from(data, at)
        found.append((flags, kind, sequence, data[at + HEADER.size : at + length]))
        at += max(HEADER.size, (length + 3) & ~3)
    return found


def set_link(ifindex: int, *, alias: str | None = None, name: str | None = None, up: bool | None = None,
             group: int | None = None) -> bytes:  # fmt: skip
    """Return a message that changes a link: alias, name (possible while it is down), state or group."""
    flags, change = (0, 0) if up is None else (int(up), 1)
    body = IFINFO.pack(0, 0, ifindex, flags, change)
    if alias is not None:
        body += text_attribute(IFLA_IFALIAS, alias)
    if name is not None:
        body += text_attribute(IFLA_IFNAME, name)
    if group is not None:
        body += attribute(IFLA_GROUP, struct.pack("=I", group))
    return HEADER.pack(HEADER.size + len(body), RTM_SETLINK, NLM_F_REQUEST, 0, 0) + body


def delete_group(group: int) -> bytes:
    """Return a message that deletes all links of a group at once."""
    body = IFINFO.pack(0, 0, 0, 0, 0) + attribute(IFLA_GROUP, struct.pack("=I", group))
    return HEADER.pack(HEADER.size + len(body), RTM_DELLINK, NLM_F_REQUEST, 0, 0) + body


def refused(code: int, what: str, on: str) -> KernelRefused:
    """Return the error for an errno; its name is in `why`."""
    error = KernelRefused(what, on=on, why=f"{errno.errorcode.get(code, code)}: {os.strerror(code)}")
    error.errno = code  # type: ignore[attr-defined]  # read by callers that know an errno they can mend
    return error


def _numbered(message: bytes, sequence: int) -> bytes:
    length, kind, flags, _, _ = HEADER.unpack_from(message)
    return HEADER.pack(length, kind, flags | NLM_F_ACK | NLM_F_REQUEST, sequence, 0) + message[HEADER.size :]


def _link(payload: bytes) -> tuple[int, str, str]:
    _, _, ifindex, _, _ = IFINFO.unpack_from(payload)
    found = dict(attributes(payload, IFINFO.size))
    alias = found.get(IFLA_IFALIAS, b"").rstrip(b"\0").decode(errors="replace")
    return ifindex, found.get(IFLA_ADDRESS, b"").hex(":"), alias

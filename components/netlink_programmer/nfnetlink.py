"""nf_tables over netlink: tables and chains that are there, what one table holds, and one batch carried out as a whole.

A socket of its own each time: it is of the namespace of the calling thread, costs some 10 us, and no state of one talk reaches the next.
No program is run and no library loaded: a look takes well under a millisecond, which is why it can be had every few seconds.
"""

from __future__ import annotations

import errno
import socket
import struct
from collections.abc import Collection, Iterable, Sequence
from typing import Final

from vpccni.components.netlink_programmer import rtnl
from vpccni.components.netlink_programmer.netlink_attributes import attributes, text_attribute
from vpccni.components.netlink_programmer.nft_tables import (
    GETCHAIN,
    GETRULE,
    GETTABLE,
    NEWCHAIN,
    NftStep,
    NftTable,
    read_table,
)
from vpccni.shared.effects import effect
from vpccni.shared.errors import KernelRefused

NETLINK_NETFILTER: Final = 12
SUBSYSTEM: Final = 10  # NFNL_SUBSYS_NFTABLES
BATCH_BEGIN: Final = 0x10
BATCH_END: Final = 0x11
FAMILY_IPV4: Final = 2
FAMILY_IPV6: Final = 10
GENERIC: Final = struct.Struct(">BBH")
NOT_THERE: Final = (errno.ENOENT,)
NO_NF_TABLES: Final = (errno.EPROTONOSUPPORT, errno.EINVAL, errno.EOPNOTSUPP)
"""What a kernel without nf_tables answers: to the socket, or to the first message."""


def table_names(*, ipv6: bool = False) -> frozenset[str]:
    """Return the names of the family's tables; none on a kernel without nf_tables. Raises `KernelRefused`."""
    with _Talk() as talk:
        bodies = talk.dump(GETTABLE, _family(ipv6=ipv6), b"", none_if=NO_NF_TABLES)
    return frozenset(dict(attributes(body)).get(1, b"").rstrip(b"\0").decode(errors="replace") for body in bodies)


def has_chain(table: str, chain: str, *, ipv6: bool = False) -> bool:
    """Tell whether a chain is there, by one question about it alone. Raises `KernelRefused`."""
    with _Talk() as talk:
        return talk.chain(_family(ipv6=ipv6), table, chain) is not None


def table(name: str, chains: Iterable[str], *, ipv6: bool = False) -> NftTable | None:
    """Return what these chains of a table hold, None where there is no such table. Raises `KernelRefused`.

    Asked for one by one: a list of all chains of the node has thousands of kube-proxy's.
    """
    if name not in table_names(ipv6=ipv6):
        return None
    family = _family(ipv6=ipv6)
    with _Talk() as talk:
        found = [body for chain in chains if (body := talk.chain(family, name, chain)) is not None]
        rules = talk.dump(GETRULE, family, text_attribute(1, name), none_if=NOT_THERE)
    return read_table(name, found, rules)


def has(question: NftStep) -> bool:
    """Tell whether what a get message names is there. Raises `KernelRefused`."""
    with _Talk() as talk:
        return talk.is_there(question)


def carry_out(steps: Sequence[NftStep]) -> None:
    """Carry out one batch: all of it, or nothing. Raises `KernelRefused` naming the step that was refused."""
    if not steps:
        return
    with effect("nft.batch"), _Talk() as talk:
        talk.batch(steps)


def _family(*, ipv6: bool) -> int:
    return FAMILY_IPV6 if ipv6 else FAMILY_IPV4


class _Talk:
    """One socket, closed at the end."""

    def __init__(self) -> None:
        try:
            kind = socket.SOCK_RAW | socket.SOCK_CLOEXEC
            self._socket = socket.socket(socket.AF_NETLINK, kind, NETLINK_NETFILTER)
        except OSError as error:
            raise rtnl.refused(error.errno or 0, "the kernel has no netfilter netlink", "nf_tables") from error
        self._socket.settimeout(rtnl.ANSWER_WITHIN_S)
        self._asked = 0

    def __enter__(self) -> _Talk:
        self._socket.bind((0, 0))
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def dump(self, kind: int, family: int, body: bytes, *, none_if: Collection[int]) -> list[bytes]:
        """Return the bodies of all objects of a kind; one interrupted by a change is taken anew."""
        found: list[bytes] = []
        for _ in range(rtnl.DUMP_TRIES):
            self._asked += 1
            message = _message(kind, rtnl.NLM_F_DUMP, self._asked, family, body)
            found, whole = self._dump_once(message, self._asked, none_if)
            if whole:
                break
        return found

    def _dump_once(self, message: bytes, sequence: int, none_if: Collection[int]) -> tuple[list[bytes], bool]:
        self._socket.send(message)
        found: list[bytes] = []
        whole = True
        while True:
            for flags, kind, answered, payload in self._receive():
                if answered != sequence:
                    continue
                whole = whole and not flags & rtnl.NLM_F_DUMP_INTR
                if kind == rtnl.NLMSG_DONE:
                    return found, whole
                if kind == rtnl.NLMSG_ERROR:
                    code = _code(payload)
                    if code in none_if:
                        return [], True
                    raise rtnl.refused(code, "nf_tables cannot be listed", "netlink dump")
                found.append(payload[GENERIC.size :])

    def chain(self, family: int, table: str, chain: str) -> bytes | None:
        """Return what the kernel tells of one chain, None if it is not there."""
        self._asked += 1
        self._socket.send(
            _message(GETCHAIN, 0, self._asked, family, text_attribute(1, table) + text_attribute(3, chain))
        )
        while True:
            for _, got, answered, payload in self._receive():
                if answered != self._asked:
                    continue
                if got == SUBSYSTEM << 8 | NEWCHAIN:
                    return payload[GENERIC.size :]
                code = _code(payload)
                if code in NOT_THERE or code in NO_NF_TABLES:
                    return None
                raise rtnl.refused(code, "nf_tables cannot be asked", f"chain {chain}")

    def is_there(self, question: NftStep) -> bool:
        """Tell whether the kernel answers with the object, and not that there is none."""
        self._asked += 1
        family = _family(ipv6=question.ipv6)
        self._socket.send(_message(question.kind, rtnl.NLM_F_ACK, self._asked, family, question.body))
        while True:
            for _, got, answered, payload in self._receive():
                if answered != self._asked or got != rtnl.NLMSG_ERROR:
                    continue
                code = _code(payload)
                if code and code not in NOT_THERE and code not in NO_NF_TABLES:
                    raise rtnl.refused(code, "nf_tables cannot be asked", question.text)
                return not code

    def batch(self, steps: Sequence[NftStep]) -> None:
        """Send the steps between a begin and an end; the last one asks for an acknowledgement."""
        last = len(steps)
        parts = [_message(BATCH_BEGIN, 0, 0, 0, b"", subsystem=0, resource=SUBSYSTEM)]
        for at, step in enumerate(steps, 1):
            flags = step.flags | (rtnl.NLM_F_ACK if at == last else 0)
            parts.append(_message(step.kind, flags, at, _family(ipv6=step.ipv6), step.body))
        parts.append(_message(BATCH_END, 0, last + 1, 0, b"", subsystem=0, resource=SUBSYSTEM))
        self._socket.send(b"".join(parts))
        while True:
            for _, kind, answered, payload in self._receive():
                if kind != rtnl.NLMSG_ERROR:
                    continue
                if code := _code(payload):  # errors come in the order of the steps: the first one tells
                    step_text = steps[answered - 1].text if 1 <= answered <= last else "the batch"
                    raise rtnl.refused(code, "a change of nf_tables was refused", step_text)
                if answered == last:
                    return

    def _receive(self) -> list[tuple[int, int, int, bytes]]:
        try:
            return rtnl.messages(self._socket.recv(rtnl.RECEIVE_BYTES))
        except TimeoutError as error:
            raise KernelRefused("the kernel did not answer", on="nf_tables", why=f"{rtnl.ANSWER_WITHIN_S} s") from error


def _message(kind: int, flags: int, sequence: int, family: int, body: bytes, *, subsystem: int = SUBSYSTEM,
             resource: int = 0) -> bytes:  # fmt: skip
    payload = GENERIC.pack(family, 0, resource) + body
    size = rtnl.HEADER.size + len(payload)
    return rtnl.HEADER.pack(size, subsystem << 8 | kind, flags | rtnl.NLM_F_REQUEST, sequence, 0) + payload


def _code(payload: bytes) -> int:
    code: int = struct.unpack_from("=i", payload)[0]
    return -code

"""The tc side: a clsact qdisc and one direct-action filter per hook, at the slot the reference uses (spec policy.md 5.5).

Messages are packed here and sent over one route netlink socket: a pod costs one look and one send (some 0.3 ms), where a
general netlink library takes longer to encode them than the kernel to carry them out. A filter is swapped by one replace, so
there is no packet without a verdict.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Mapping
from typing import Final

from vpccni.components.policy_agent.layout import EGRESS_PROGRAM, INGRESS_PROGRAM
from vpccni.components.policy_agent.libbpf import LoadedProgram
from vpccni.components.policy_agent.rtnetlink import (
    NLMSG_ERROR,
    REQUEST,
    Answer,
    answers,
    attribute,
    attributes,
    message,
)
from vpccni.shared.effects import effect
from vpccni.shared.errors import KernelRefused

ANSWER_WITHIN_S: Final = 2.0
RECEIVE_BYTES: Final = 1 << 16
FILTER_HANDLE: Final = 1  # spec policy.md 5.5
FILTER_PRIORITY: Final = 1  # spec policy.md 5.5

_TC: Final = struct.Struct("=BxxxiIII")
_ERROR: Final = struct.Struct("=i")
_RTM_NEWQDISC, _RTM_NEWTFILTER, _RTM_GETTFILTER = 36, 44, 46
_ACK, _EXCL, _CREATE = 0x4, 0x200, 0x400
_CLSACT_HANDLE, _CLSACT_PARENT = 0xFFFF0000, 0xFFFFFFF1
_HOOK_FROM_POD, _HOOK_TO_POD = 0xFFFFFFF2, 0xFFFFFFF3
_ETH_P_ALL_BIG_ENDIAN: Final = socket.htons(3)
_TCA_KIND, _TCA_OPTIONS = 1, 2
_TCA_BPF_FD, _TCA_BPF_NAME, _TCA_BPF_FLAGS, _TCA_BPF_ID = 6, 7, 8, 11
_DIRECT_ACTION: Final = 1
_ABSENT: Final = frozenset({errno.ENOENT, errno.EINVAL, errno.EOPNOTSUPP})
"""What the kernel says when the hook has no such filter, no qdisc at all, or another kind of filter there."""

HOOKS: Final[Mapping[str, int]] = {INGRESS_PROGRAM: _HOOK_TO_POD, EGRESS_PROGRAM: _HOOK_FROM_POD}


class Filters:
    """The filters of links in the network namespace of the thread that made this object."""

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE)
        self._socket.settimeout(ANSWER_WITHIN_S)
        self._socket.bind((0, 0))
        self._sequence = 0

    def close(self) -> None:
        self._socket.close()

    def seen(self, ifindex: int) -> dict[str, int]:
        """Return program id by the program's hook for what is in our slots of this link; nothing for a link that is gone."""
        found: dict[str, int] = {}
        for program, hook in HOOKS.items():
            body = self._ask_filter(ifindex, hook)
            if body is not None:
                found[program] = _program_id(body)
        return found

    def put(self, ifindex: int, programs: Mapping[str, LoadedProgram]) -> None:
        """Put the programs in force on both hooks, replacing what is in our slots; foreign slots stay as they are."""
        with effect("tc.put"):
            errors = self._send(
                [_qdisc(ifindex), *(_filter(ifindex, hook, name, programs[name]) for name, hook in HOOKS.items())]
            )
        if errors[0] == errno.EEXIST:
            errors[0] = 0  # the qdisc was there
            if not any(errors) and self.seen(ifindex) != {name: one.id for name, one in programs.items()}:
                errors[0] = (
                    errno.EEXIST
                )  # an `ingress` qdisc, which takes the filters of both hooks for packets from the pod
        for error, step in zip(errors, ("qdisc", *HOOKS), strict=True):
            if error:
                raise KernelRefused(
                    "the kernel did not take the policy filter",
                    on=f"interface {ifindex}, {step}",
                    why=os.strerror(error),
                    remedy="See `tc filter show` for it: a qdisc of another kind at ffff: must go first",
                )

    def _ask_filter(self, ifindex: int, hook: int) -> bytes | None:
        self._sequence += 1
        self._socket.send(message(_RTM_GETTFILTER, REQUEST, self._sequence, _filter_head(ifindex, hook)))
        answer = self._receive()[0]
        if answer.kind != NLMSG_ERROR:
            return answer.body
        error = -_ERROR.unpack_from(answer.body)[0]
        if error in _ABSENT or error == errno.ENODEV:
            return None
        raise KernelRefused("the kernel did not show a filter", on=f"interface {ifindex}", why=os.strerror(error))

    def _send(self, requests: list[tuple[int, int, bytes]]) -> list[int]:
        first = self._sequence + 1
        packed = b""
        for kind, flags, body in requests:
            self._sequence += 1
            packed += message(kind, flags | REQUEST | _ACK, self._sequence, body)
        self._socket.send(packed)
        errors: dict[int, int] = {}
        while len(errors) < len(requests):
            for answer in self._receive(first):
                if answer.kind == NLMSG_ERROR:
                    errors[answer.sequence] = -_ERROR.unpack_from(answer.body)[0]
        return [errors[number] for number in sorted(errors)]

    def _receive(self, first: int | None = None) -> list[Answer]:
        """Return the answers of one datagram to requests from `first` on (default: the last); older ones are late, and dropped."""
        wanted = self._sequence if first is None else first
        while True:
            try:
                raw = self._socket.recv(RECEIVE_BYTES)
            except TimeoutError as error:
                raise KernelRefused(
                    "the kernel did not answer a tc request", why=f"nothing within {ANSWER_WITHIN_S} s"
                ) from error
            found = [answer for answer in answers(raw) if answer.sequence >= wanted]
            if found:
                return found


def _qdisc(ifindex: int) -> tuple[int, int, bytes]:
    head = _TC.pack(socket.AF_UNSPEC, ifindex, _CLSACT_HANDLE, _CLSACT_PARENT, 0)
    return _RTM_NEWQDISC, _CREATE | _EXCL, head + attribute(_TCA_KIND, b"clsact\0")


def _filter_head(ifindex: int, hook: int) -> bytes:
    return _TC.pack(socket.AF_UNSPEC, ifindex, FILTER_HANDLE, hook, FILTER_PRIORITY << 16 | _ETH_P_ALL_BIG_ENDIAN)


def _filter(ifindex: int, hook: int, name: str, program: LoadedProgram) -> tuple[int, int, bytes]:
    options = (
        attribute(_TCA_BPF_FD, struct.pack("=I", program.descriptor))
        + attribute(_TCA_BPF_NAME, name.encode() + b"\0")
        + attribute(_TCA_BPF_FLAGS, struct.pack("=I", _DIRECT_ACTION))
    )
    body = attribute(_TCA_KIND, b"bpf\0") + attribute(_TCA_OPTIONS, options)
    return _RTM_NEWTFILTER, _CREATE, _filter_head(ifindex, hook) + body


def _program_id(body: bytes) -> int:
    """Return the program id in a filter message, 0 when the slot holds a filter of another kind."""
    options = attributes(attributes(body[_TC.size :]).get(_TCA_OPTIONS, b""))
    return int.from_bytes(options.get(_TCA_BPF_ID, b""), "little")

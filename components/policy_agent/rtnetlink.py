"""The bytes of route netlink: messages and attributes, no more than the agent needs. Pure."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final

NLMSG_ERROR: Final = 2
NLMSG_DONE: Final = 3
REQUEST: Final = 0x1
HEADER: Final = struct.Struct("=IHHII")
_ATTRIBUTE: Final = struct.Struct("=HH")


@dataclass(frozen=True, slots=True)
class Answer:
    """One message of the kernel."""

    sequence: int
    kind: int
    body: bytes


def message(kind: int, flags: int, sequence: int, body: bytes) -> bytes:
    """Return a request."""
    return HEADER.pack(HEADER.size + len(body), kind, flags, sequence, 0) + body


def attribute(kind: int, value: bytes) -> bytes:
    """Return one attribute, padded."""
    padding = -len(value) % 4
    return _ATTRIBUTE.pack(_ATTRIBUTE.size + len(value), kind) + value + bytes(padding)


def answers(raw: bytes) -> list[Answer]:
    """Return the messages of a datagram."""
    found = []
    at = 0
    while at + HEADER.size <= len(raw):
        length, kind, _, sequence, _ = HEADER.unpack_from(raw, at)
        found.append(Answer(sequence, kind, raw[at + HEADER.size : at + length]))
        at += (length + 3) & ~3
    return found


def attributes(raw: bytes) -> dict[int, bytes]:
    """Return attributes by kind; what cannot be read ends them."""
    found = {}
    at = 0
    while at + _ATTRIBUTE.size <= len(raw):
        length, kind = _ATTRIBUTE.unpack_from(raw, at)
        if length < _ATTRIBUTE.size:
            break
        found[kind & 0x3FFF] = raw[at + _ATTRIBUTE.size : at + length]
        at += (length + 3) & ~3
    return found

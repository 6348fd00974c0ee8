"""Netlink attributes: length, kind, value, padding. Pure."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Final

HEAD: Final = struct.Struct("=HH")
KIND_MASK: Final = 0x3FFF  # without the marks "nested" and "network byte order"


def attribute(kind: int, value: bytes) -> bytes:
    """Return one attribute, padded."""
    return HEAD.pack(len(value) + HEAD.size, kind) + value + b"\0" * (-len(value) % 4)


def text_attribute(kind: int, value: str) -> bytes:
    """Return one attribute that holds a C string."""
    return attribute(kind, value.encode() + b"\0")


def attributes(data: bytes, at: int = 0) -> Iterator[tuple[int, bytes]]:
    """Yield (kind, value) of each attribute from a place on; a cut one ends it."""
    while at + HEAD.size <= len(data):
        length, kind = HEAD.unpack_from(data, at)
        if length < HEAD.size:
            return
        yield kind & KIND_MASK, data[at + HEAD.size : at + length]
        at += (length + 3) & ~3

"""Blocks: what EC2 gives and takes as one, an address, a /28 or (IPv6) a /80 prefix (spec ipam.md 2, 8).

A /80 has 2^48 addresses, so a block never lists them: it counts, tells its n-th address, and whether an address lies in it.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

ADDRESSES_REMEMBERED: Final = 1 << 14
BITS: Final = {4: 32, 6: 128}


@dataclass(frozen=True, slots=True)
class Block:
    """`item`: as EC2 names it. `first`: its first address as a number; `size`: how many. `in_force`: of the kind that new pods use."""

    item: str
    version: int
    first: int
    size: int
    in_force: bool

    def address(self, position: int) -> str:
        """Return the address at a position; all are used, the first and the last too (spec ipam.md 2)."""
        return self.item if self.size == 1 else text_of(self.version, self.first + position)

    def position(self, address: str) -> int:
        """Return where an address of the block stands in it."""
        return number_of(address)[1] - self.first


def block_of(item: str, *, in_force: bool) -> Block:
    """Return the block of an address or prefix; raises ValueError for anything else."""
    network = ipaddress.ip_network(item)
    return Block(item, network.version, int(network.network_address), network.num_addresses, in_force)


@lru_cache(ADDRESSES_REMEMBERED)
def number_of(address: str) -> tuple[int, int]:
    """Return version and number of an address."""
    parsed = ipaddress.ip_address(address)
    return parsed.version, int(parsed)


@lru_cache(ADDRESSES_REMEMBERED)
def text_of(version: int, number: int) -> str:
    """Return the address of a number."""
    return str(ipaddress.IPv4Address(number) if version == 4 else ipaddress.IPv6Address(number))


class Finder:
    """Which block an address lies in: one look-up a prefix length that occurs."""

    def __init__(self, blocks: Iterable[Block]) -> None:
        self._by_range: dict[tuple[int, int, int], Block] = {}
        for block in blocks:
            shift = block.size.bit_length() - 1
            self._by_range[block.version, shift, block.first >> shift] = block
        self._shifts = sorted({(version, shift) for version, shift, _ in self._by_range})

    def find(self, address: str) -> Block | None:
        """Return the block, or None for an address of nobody."""
        version, number = number_of(address)
        for kind, shift in self._shifts:
            if kind == version and (found := self._by_range.get((version, shift, number >> shift))) is not None:
                return found
        return None


def covers(items: Iterable[str], address: str) -> bool:
    """Return whether the address, or a prefix it lies in, is one of `items`."""
    return any(item == address or ("/" in item and _lies_in(item, address)) for item in items)


def _lies_in(prefix: str, address: str) -> bool:
    block = block_of(prefix, in_force=True)
    version, number = number_of(address)
    return version == block.version and block.first <= number < block.first + block.size

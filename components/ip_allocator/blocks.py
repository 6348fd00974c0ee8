"""Blocks: what EC2 gives and takes as one, an address or a /28 prefix (spec ipam.md 2, 8)."""

from __future__ import annotations

import ipaddress
from collections.abc import Collection
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

PREFIX_SIZE: Final = 16
PREFIXES_REMEMBERED: Final = 4096


@dataclass(frozen=True, slots=True)
class Block:
    """`item` is an address or a /28, as EC2 names it. `in_force`: of the kind that new pods use."""

    item: str
    addresses: tuple[str, ...]
    in_force: bool


@lru_cache(PREFIXES_REMEMBERED)
def addresses_of(prefix: str) -> tuple[str, ...]:
    """Return the addresses of a /28, the first and the last too (spec ipam.md 2)."""
    return tuple(str(address) for address in ipaddress.IPv4Network(prefix))


def covers(items: Collection[str], address: str) -> bool:
    """Return whether the address, or the prefix it lies in, is one of `items`."""
    return address in items or any("/" in item and address in addresses_of(item) for item in items)

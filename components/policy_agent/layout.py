"""What the programs and this process share: constants, map definitions, struct layouts, and the C header made of them.

The one source of truth: `header()` is what bpf/pod.c is compiled with. `LAYOUT` names the folder of the pins; it changes when
a map changes, so that an agent never reads another layout's bytes as its own (design 6).
"""

from __future__ import annotations

import hashlib
import struct
from dataclasses import dataclass
from typing import Final

PODS_AT_MOST: Final = 2048
"""Interfaces with a filter: the largest instance has 737 pods (spec ipam.md 4), times some interfaces."""
COUNTERS_AT_MOST: Final = 2 * PODS_AT_MOST

VERDICT_PASS: Final = 0  # TC_ACT_OK, spec policy.md 5.5
VERDICT_DROP: Final = 2  # TC_ACT_SHOT, spec policy.md 5.5
DIRECTION_INGRESS: Final = 0
DIRECTION_EGRESS: Final = 1
FLAG_DENY_INGRESS: Final = 1
FLAG_DENY_EGRESS: Final = 2
NO_RULE_SET: Final = 0

INGRESS_PROGRAM: Final = "handle_ingress"
EGRESS_PROGRAM: Final = "handle_egress"
PROGRAMS: Final = (INGRESS_PROGRAM, EGRESS_PROGRAM)

_KEY = struct.Struct("=I")
_COUNTER_KEY = struct.Struct("=II")
_ENTRY = struct.Struct("=IIIIQQ")
_COUNTER = struct.Struct("=QQ")

_STRUCTS: Final = """
struct pod_entry {
	u32 rule_set;   /* 0: no policy */
	u32 flags;      /* FLAG_* */
	u32 generation; /* of the rule set, for flows */
	u32 reserved;
	u64 link;       /* which link this index meant: another link may get the index later */
	u64 sandbox;    /* whose it is: only that sandbox's Detach removes it */
};
struct counter_key {
	u32 ifindex;
	u32 direction;
};
struct counter_value {
	u64 packets;
	u64 bytes;
};
"""
_CONSTANTS: Final = (
    "PODS_AT_MOST",
    "COUNTERS_AT_MOST",
    "VERDICT_PASS",
    "VERDICT_DROP",
    "DIRECTION_INGRESS",
    "DIRECTION_EGRESS",
    "FLAG_DENY_INGRESS",
    "FLAG_DENY_EGRESS",
)


@dataclass(frozen=True, slots=True)
class MapDefinition:
    """A map as the kernel knows it. `kind`: bpf_map_type of linux/bpf.h."""

    name: str
    kind: int
    key_bytes: int
    value_bytes: int
    entries_at_most: int


PODS: Final = MapDefinition("pods", 1, _KEY.size, _ENTRY.size, PODS_AT_MOST)  # BPF_MAP_TYPE_HASH
COUNTERS: Final = MapDefinition("counters", 5, _COUNTER_KEY.size, _COUNTER.size, COUNTERS_AT_MOST)  # ..._PERCPU_HASH
MAPS: Final = (PODS, COUNTERS)


@dataclass(frozen=True, slots=True)
class PodEntry:
    """The value of map `pods`."""

    flags: int
    link: int
    sandbox: int
    rule_set: int = NO_RULE_SET
    generation: int = 0

    @staticmethod
    def of(*, flags: int, link: str, sandbox: str = "") -> PodEntry:
        """Return the entry of a link by its name; an empty sandbox (carried over from another layout) is anybody's."""
        return PodEntry(flags, fingerprint(link), fingerprint(sandbox) if sandbox else 0)

    def is_held_by(self, sandbox: str) -> bool:
        """Return whether this sandbox may end the entry: its own, or one that no sandbox is known for."""
        return self.sandbox in (0, fingerprint(sandbox))

    def packed(self) -> bytes:
        return _ENTRY.pack(self.rule_set, self.flags, self.generation, 0, self.link, self.sandbox)

    @staticmethod
    def unpacked(value: bytes) -> PodEntry:
        rule_set, flags, generation, _, link, sandbox = _ENTRY.unpack(value)
        return PodEntry(flags, link, sandbox, rule_set, generation)


@dataclass(frozen=True, slots=True)
class Count:
    """Packets and bytes of one interface in one direction."""

    packets: int
    bytes: int


def pod_key(ifindex: int) -> bytes:
    """Return the key of map `pods`."""
    return _KEY.pack(ifindex)


def ifindex_of(key: bytes) -> int:
    """Return the interface index that a key of map `pods` means."""
    (ifindex,) = _KEY.unpack(key)
    assert isinstance(ifindex, int)
    return ifindex


def counter_key(ifindex: int, direction: int) -> bytes:
    """Return the key of map `counters`."""
    return _COUNTER_KEY.pack(ifindex, direction)


def summed(per_cpu: bytes) -> Count:
    """Return the sum over the CPUs of one value of map `counters`."""
    pairs = list(_COUNTER.iter_unpack(per_cpu))
    return Count(sum(packets for packets, _ in pairs), sum(octets for _, octets in pairs))


def fingerprint(text: str) -> int:
    """Return 64 bits that stand for a name in a map's value."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")


def header() -> str:
    """Return the C header of the programs: constants and structs."""
    values = globals()
    return "".join(f"#define {name} {values[name]}\n" for name in _CONSTANTS) + _STRUCTS


def _layout() -> str:
    described = repr(MAPS) + _STRUCTS
    return hashlib.blake2b(described.encode(), digest_size=6).hexdigest()


LAYOUT: Final = _layout()

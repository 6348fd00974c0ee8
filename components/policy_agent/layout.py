"""What the programs and this process share: constants, map definitions, struct layouts, and the C header made of them.

The one source of truth: `header()` is what bpf/pod.c is compiled with. `LAYOUT` names the folder of the pins; it changes when
a map changes, so that an agent never reads another layout's bytes as its own (design 6).
"""

from __future__ import annotations

import hashlib
import struct
from dataclasses import dataclass
from typing import Final

from vpccni.components.policy_agent.policy import V4_BITS

PODS_AT_MOST: Final = 2048
"""Interfaces with a filter: the largest instance has 737 pods (spec ipam.md 4), times some interfaces."""
COUNTERS_AT_MOST: Final = 2 * PODS_AT_MOST
RULE_SETS_AT_MOST: Final = 8192
"""A power of two: the low bits of a number are its place."""
HOSTS_AT_MOST: Final = 262_144
NETWORKS_AT_MOST: Final = 131_072
CLASSES_AT_MOST: Final = 65_536
PORTS_AT_MOST: Final = 262_144
RULES_AT_MOST: Final = 65_536
EXEMPT_AT_MOST: Final = 1024
FLOWS_AT_MOST: Final = 524_288  # spec policy.md Appendix A
SPARE_FLOWS_AT_MOST: Final = 32_768
FLOWS_A_POD: Final = 65_536
"""A pod with more flows keeps the rest in the spare table, whose oldest go first: no pod takes another's place (W-24)."""
FRAGMENTS_AT_MOST: Final = 4096
EVENT_BYTES: Final = 524_288  # spec policy.md 5.9
EVENT_PAGES: Final = EVENT_BYTES // 4096
EVENTS_A_WINDOW: Final = 500
"""Verdicts that one CPU reports in a window; the others are counted as lost."""
EVENT_WINDOW_NS: Final = 100_000_000

VERDICT_PASS: Final = 0  # TC_ACT_OK, spec policy.md 5.5
VERDICT_DROP: Final = 2  # TC_ACT_SHOT, spec policy.md 5.5
DECISION_ALLOW: Final = 1
DECISION_AUDIT: Final = 2
"""Allowed, and told as what policies in audit mode would deny; 0 is denied."""
DIRECTION_INGRESS: Final = 0
DIRECTION_EGRESS: Final = 1
NO_RULE_SET: Final = 0
EXTENSION_HEADERS_AT_MOST: Final = 6
TIER_ERROR: Final = 0
TIER_DEFAULT: Final = 4
OPTION_EVENTS: Final = 1
OPTIONS_HELD: Final = 2
OPTION_FLAGS: Final = 0
OPTION_LAST_RULE_SET: Final = 1
"""Index of the last rule set's number: one is never given twice, for flows remember who judged them."""
SIDE_ISOLATED: Final = 1
SIDE_HOSTS: Final = 2
SIDE_NETWORKS: Final = 4

FLOW_ANSWERED: Final = 1
FLOW_FIN_FROM_ORIGIN: Final = 2
FLOW_FIN_FROM_OTHER: Final = 4
FLOW_RESET: Final = 8
FLOW_REVOKED: Final = 16

TIMEOUT_TCP_NEW_S: Final = 60
TIMEOUT_TCP_S: Final = 86_400
TIMEOUT_TCP_CLOSING_S: Final = 120
TIMEOUT_TCP_CLOSED_S: Final = 10
TIMEOUT_UDP_NEW_S: Final = 30
TIMEOUT_UDP_S: Final = 180
TIMEOUT_OTHER_S: Final = 600
REFRESH_NS: Final = 1_000_000_000
"""A flow's time is written again only when it is this old: a busy flow must not dirty a cache line with every packet."""

INGRESS_PROGRAM: Final = "handle_ingress"
EGRESS_PROGRAM: Final = "handle_egress"
PROGRAMS: Final = (INGRESS_PROGRAM, EGRESS_PROGRAM)

_STRUCTS: Final = """
struct address {
	u64 high, low; /* as on the wire; IPv4 as ::ffff:a.b.c.d */
};
struct pod_entry {
	u32 rule_set; /* 0: no policy selects the pod */
	u32 ifindex;  /* again: read together with rule_set in one load, it tells an element that was given away meanwhile */
	u64 link;     /* which link this index meant: another link may get the index later */
	u64 sandbox;  /* whose it is: only that sandbox's Detach removes it */
	u32 slot;     /* its place in the arrays */
	u32 reserved;
};
struct counter_value {
	u64 packets;
	u64 bytes;
	u64 dropped_packets;
	u64 dropped_bytes;
};
struct decision {
	u64 ports; /* a port table that knows more, 0: the rest of this struct is the decision */
	u32 rule;
	u8 allowed;
	u8 tier;
	u16 reserved;
};
struct side {
	u64 addresses; /* an address table */
	u32 flags;     /* SIDE_* */
	u32 reserved;
	struct decision outside[2]; /* of IPv4 and IPv6 addresses that the table does not name */
};
struct rule_set {
	struct side side[2]; /* by direction */
	u64 name;
	u32 number; /* whole; its low bits are the place here. 0: nobody's place */
	u32 reserved;
};
struct host_key {
	u64 table;
	struct address address;
};
struct network_key {
	u32 bits;
	u32 table_low, table_high; /* two halves: a u64 here would leave a hole in the key */
	u32 address[4];
};
struct class_key {
	u32 rule_set;
	u32 number; /* direction in the highest bit */
};
struct port_key {
	u32 bits;
	u32 table_low, table_high;
	u8 protocol;
	u8 reserved;
	u16 port; /* as on the wire */
};
struct flow_key {
	struct address local; /* the pod's side */
	struct address peer;
	u32 ifindex;
	u16 local_port; /* as on the wire; of ICMP echo: the identifier */
	u16 peer_port;
	u8 protocol;
	u8 reserved[7];
};
struct flow {
	u64 seen_ns;
	u32 rule_set; /* that judged it: another one now means that it is judged again */
	u32 rule;
	u8 origin; /* direction of its first packet */
	u8 state;  /* FLOW_* */
	u8 reserved[6];
};
struct usage {
	u64 made;   /* flows that the programs put into the table */
	u64 spared; /* flows beyond the pod's share, in the spare table */
};
struct fragment_key {
	struct address source;
	struct address destination;
	u32 identification;
	u32 ifindex;
	u32 protocol;
	u32 reserved;
};
struct fragment {
	u16 source_port;
	u16 destination_port;
};
struct event {
	struct address source;
	struct address destination;
	u32 ifindex;
	u32 rule;
	u32 bytes;
	u16 source_port; /* as on the wire */
	u16 destination_port;
	u8 protocol;
	u8 allowed;
	u8 tier;
	u8 direction;
	u32 reserved;
};
struct event_limit {
	u64 window_ns;
	u64 reported;
	u64 lost;
};
"""
_CONSTANTS: Final = tuple(
    """PODS_AT_MOST COUNTERS_AT_MOST RULE_SETS_AT_MOST HOSTS_AT_MOST NETWORKS_AT_MOST CLASSES_AT_MOST PORTS_AT_MOST RULES_AT_MOST
    EXEMPT_AT_MOST FLOWS_AT_MOST SPARE_FLOWS_AT_MOST FLOWS_A_POD FRAGMENTS_AT_MOST EVENT_PAGES EVENTS_A_WINDOW EVENT_WINDOW_NS
    VERDICT_PASS VERDICT_DROP DECISION_ALLOW DECISION_AUDIT DIRECTION_INGRESS DIRECTION_EGRESS EXTENSION_HEADERS_AT_MOST TIER_ERROR TIER_DEFAULT OPTION_EVENTS OPTIONS_HELD
    SIDE_ISOLATED SIDE_HOSTS SIDE_NETWORKS FLOW_ANSWERED FLOW_FIN_FROM_ORIGIN FLOW_FIN_FROM_OTHER FLOW_RESET FLOW_REVOKED
    TIMEOUT_TCP_NEW_S TIMEOUT_TCP_S TIMEOUT_TCP_CLOSING_S TIMEOUT_TCP_CLOSED_S TIMEOUT_UDP_NEW_S TIMEOUT_UDP_S TIMEOUT_OTHER_S
    REFRESH_NS""".split()
)

_HASH, _ARRAY, _PERCPU_HASH, _PERCPU_ARRAY, _LRU_HASH, _LPM_TRIE, _RINGBUF = 1, 2, 5, 6, 9, 11, 27  # linux/bpf.h
NO_PREALLOC: Final = 1  # BPF_F_NO_PREALLOC: memory as it is used, not as it could be


@dataclass(frozen=True, slots=True)
class MapDefinition:
    """A map as the kernel knows it. `kind`: bpf_map_type of linux/bpf.h."""

    name: str
    kind: int
    key_bytes: int
    value_bytes: int
    entries_at_most: int
    flags: int = 0


ADDRESS: Final = struct.Struct(">QQ")
POD_KEY: Final = struct.Struct("=I")
POD: Final = struct.Struct("=IIQQII")
COUNTER: Final = struct.Struct("=QQQQ")
DECISION: Final = struct.Struct("=QIBBH")
SIDE: Final = struct.Struct("=QII16s16s")
RULE_SET: Final = struct.Struct("=48s48sQII")
NUMBER: Final = struct.Struct("=I")
LONG: Final = struct.Struct("=Q")
HOST_KEY: Final = struct.Struct("=Q16s")
NETWORK_KEY: Final = struct.Struct("=IQ16s")
CLASS_KEY: Final = struct.Struct("=II")
PORT_KEY: Final = struct.Struct("=IQBB2s")
FLOW_KEY: Final = struct.Struct("=16s16sI2s2sB7x")
FLOW: Final = struct.Struct("=QIIBB6x")
USAGE: Final = struct.Struct("=QQ")
FRAGMENT_KEY: Final = struct.Struct("=16s16sIIII")
EVENT: Final = struct.Struct("=16s16sIII2s2sBBBBI")
EVENT_LIMIT: Final = struct.Struct("=QQQ")
NAME_BYTES: Final = 768
"""Room for a pod's names, sandbox and addresses: 63 + 253 + 36 + 64 characters and some addresses."""

PODS: Final = MapDefinition("pods", _HASH, 4, POD.size, PODS_AT_MOST)
COUNTERS: Final = MapDefinition("counters", _PERCPU_ARRAY, 4, COUNTER.size, COUNTERS_AT_MOST)
RULE_SETS: Final = MapDefinition("rule_sets", _ARRAY, 4, RULE_SET.size, RULE_SETS_AT_MOST)
HOSTS: Final = MapDefinition("hosts", _HASH, HOST_KEY.size, 4, HOSTS_AT_MOST, NO_PREALLOC)
NETWORKS: Final = MapDefinition("networks", _LPM_TRIE, NETWORK_KEY.size, 4, NETWORKS_AT_MOST, NO_PREALLOC)
CLASSES: Final = MapDefinition("classes", _HASH, 8, DECISION.size, CLASSES_AT_MOST, NO_PREALLOC)
PORTS: Final = MapDefinition("ports", _LPM_TRIE, PORT_KEY.size, DECISION.size, PORTS_AT_MOST, NO_PREALLOC)
RULES: Final = MapDefinition("rules", _PERCPU_HASH, 4, 8, RULES_AT_MOST, NO_PREALLOC)
EXEMPT: Final = MapDefinition("exempt", _HASH, 16, 4, EXEMPT_AT_MOST, NO_PREALLOC)
FLOWS: Final = MapDefinition("flows", _HASH, FLOW_KEY.size, FLOW.size, FLOWS_AT_MOST, NO_PREALLOC)
SPARE_FLOWS: Final = MapDefinition("spare_flows", _LRU_HASH, FLOW_KEY.size, FLOW.size, SPARE_FLOWS_AT_MOST)
USAGE_MAP: Final = MapDefinition("usage", _ARRAY, 4, USAGE.size, PODS_AT_MOST)
SWEPT: Final = MapDefinition("swept", _ARRAY, 4, 8, PODS_AT_MOST)
FRAGMENTS: Final = MapDefinition("fragments", _LRU_HASH, FRAGMENT_KEY.size, 4, FRAGMENTS_AT_MOST)
EVENTS: Final = MapDefinition("events", _RINGBUF, 0, 0, EVENT_BYTES)
EVENT_LIMITS: Final = MapDefinition("event_limits", _PERCPU_ARRAY, 4, EVENT_LIMIT.size, 1)
OPTIONS: Final = MapDefinition("options", _ARRAY, 4, 4, OPTIONS_HELD)
PROGRAM_MAPS: Final = (
    PODS, COUNTERS, RULE_SETS, HOSTS, NETWORKS, CLASSES, PORTS, RULES, EXEMPT, FLOWS, SPARE_FLOWS, USAGE_MAP, SWEPT,
    FRAGMENTS, EVENTS, EVENT_LIMITS, OPTIONS,
)  # fmt: skip
NAMES: Final = MapDefinition("names", _HASH, 4, NAME_BYTES, PODS_AT_MOST, NO_PREALLOC)
"""Read by the agent alone: who is behind an interface, for as long as its entry lives."""
MAPS: Final = (*PROGRAM_MAPS, NAMES)


@dataclass(frozen=True, slots=True)
class PodEntry:
    """The value of map `pods`."""

    ifindex: int
    link: int
    sandbox: int
    rule_set: int = NO_RULE_SET
    slot: int = 0

    @staticmethod
    def of(ifindex: int, *, link: str, sandbox: str = "", rule_set: int = NO_RULE_SET, slot: int = 0) -> PodEntry:
        """Return the entry of a link by its name; an empty sandbox (carried over from another layout) is anybody's."""
        return PodEntry(ifindex, fingerprint(link), fingerprint(sandbox) if sandbox else 0, rule_set, slot)

    def is_held_by(self, sandbox: str) -> bool:
        """Return whether this sandbox may end the entry: its own, or one that no sandbox is known for."""
        return self.sandbox in (0, fingerprint(sandbox))

    def packed(self) -> bytes:
        return POD.pack(self.rule_set, self.ifindex, self.link, self.sandbox, self.slot, 0)

    @staticmethod
    def unpacked(value: bytes) -> PodEntry:
        rule_set, ifindex, link, sandbox, slot, _ = POD.unpack(value)
        return PodEntry(ifindex, link, sandbox, rule_set, slot)


@dataclass(frozen=True, slots=True)
class Count:
    """Packets and bytes of one interface in one direction, and how many of them were dropped."""

    packets: int
    bytes: int
    dropped_packets: int = 0
    dropped_bytes: int = 0


def pod_key(ifindex: int) -> bytes:
    """Return the key of map `pods`, and of every other map by interface."""
    return POD_KEY.pack(ifindex)


def ifindex_of(key: bytes) -> int:
    """Return the interface index that a key of map `pods` means."""
    (ifindex,) = POD_KEY.unpack(key)
    assert isinstance(ifindex, int)
    return ifindex


def counter_key(slot: int, direction: int) -> bytes:
    """Return the key of map `counters`."""
    return NUMBER.pack(slot * 2 + direction)


def rule_set_key(number: int) -> bytes:
    """Return the key of map `rule_sets`: a rule set's place."""
    return NUMBER.pack(number % RULE_SETS_AT_MOST)


def summed(per_cpu: bytes) -> Count:
    """Return the sum over the CPUs of one value of map `counters`."""
    return Count(*(sum(column) for column in zip(*COUNTER.iter_unpack(per_cpu), strict=True)))


def address(value: int) -> bytes:
    """Return an address of the common space as the programs hold it."""
    return value.to_bytes(16, "big")


def address_value(raw: bytes) -> int:
    """Return the value in the common space."""
    return int.from_bytes(raw, "big")


def timeout_s(protocol: int, state: int) -> int:
    """Return after how many quiet seconds a flow is no more; the programs know the same (`timeout_s` in pod.c)."""
    if protocol == 6:
        if state & FLOW_RESET:
            return TIMEOUT_TCP_CLOSED_S
        if state & (FLOW_FIN_FROM_ORIGIN | FLOW_FIN_FROM_OTHER):
            return TIMEOUT_TCP_CLOSING_S
        return TIMEOUT_TCP_S if state & FLOW_ANSWERED else TIMEOUT_TCP_NEW_S
    if protocol == 17:
        return TIMEOUT_UDP_S if state & FLOW_ANSWERED else TIMEOUT_UDP_NEW_S
    return TIMEOUT_OTHER_S


def fingerprint(text: str) -> int:
    """Return 64 bits that stand for a name in a map's value."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")


def header() -> str:
    """Return the C header of the programs: constants and structs."""
    values = globals()
    return "".join(f"#define {name} {values[name]}\n" for name in _CONSTANTS) + _STRUCTS


def _layout() -> str:
    described = repr(MAPS) + _STRUCTS + str(V4_BITS)
    return hashlib.blake2b(described.encode(), digest_size=6).hexdigest()


LAYOUT: Final = _layout()

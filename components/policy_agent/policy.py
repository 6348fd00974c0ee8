"""What a policy is to the agent: networks, ports, rules, and which pods it selects. Plain data; no rule is applied here.

Addresses of both families are prefixes of one space of 128 bits, IPv4 as ::ffff:a.b.c.d, as the programs see them. A network
of one family never holds an address of the other, although ::/0 would as a number.
"""

from __future__ import annotations

import enum
import ipaddress
from dataclasses import dataclass
from typing import Final, NamedTuple

TCP, UDP, SCTP, ICMP, ICMPV6 = 6, 17, 132, 1, 58
PORT_AT_MOST: Final = 65535
ADDRESS_BITS: Final = 128
V4_BITS: Final = 96
"""Length of the prefix that all IPv4 addresses share in the common space."""
_V4_MARK: Final = 0xFFFF << 32


class Direction(enum.IntEnum):
    """As seen from the pod; the numbers are those of the programs."""

    INGRESS = 0
    EGRESS = 1


class Action(enum.IntEnum):
    """In the order in which equal priorities are settled (spec policy.md 5.10)."""

    DENY = 0
    ACCEPT = 1
    PASS = 2


class Tier(enum.IntEnum):
    """Who decided; the numbers go into the flow log (spec policy.md 5.14)."""

    ERROR = 0
    ADMIN = 1
    NETWORK_POLICY = 2
    BASELINE = 3
    DEFAULT = 4


class Prefix(NamedTuple):
    """A network in the common space; `value` has no bits below `length`."""

    value: int
    length: int

    @property
    def is_v4(self) -> bool:
        return self.length >= V4_BITS and self.value >> 32 == 0xFFFF

    def holds(self, other: Prefix) -> bool:
        """Return whether `other` lies in this network and is of its family."""
        if other.length < self.length or self.is_v4 != other.is_v4:
            return False
        shift = ADDRESS_BITS - self.length
        return self.value >> shift == other.value >> shift

    def __str__(self) -> str:
        if self.is_v4:
            return f"{ipaddress.IPv4Address(self.value & 0xFFFFFFFF)}/{self.length - V4_BITS}"
        return f"{ipaddress.IPv6Address(self.value)}/{self.length}"


V4_ALL: Final = Prefix(_V4_MARK, V4_BITS)
V6_ALL: Final = Prefix(0, 0)


def prefix(text: str) -> Prefix:
    """Return a bare address or CIDR as a prefix; bits below its length are masked off. Raises ValueError."""
    network = ipaddress.ip_network(text, strict=False)
    value = int(network.network_address)
    if network.version == 4:
        return Prefix(_V4_MARK | value, V4_BITS + network.prefixlen)
    if value >> 32 == 0xFFFF and network.prefixlen >= V4_BITS:
        raise ValueError(f"{text} is an IPv4 address written as IPv6")
    return Prefix(value, network.prefixlen)


class Ports(NamedTuple):
    """A protocol with a range of ports; all ports is 0 to 65535."""

    protocol: int
    first: int = 0
    last: int = PORT_AT_MOST

    def has(self, protocol: int, port: int) -> bool:
        return protocol == self.protocol and self.first <= port <= self.last

    def __str__(self) -> str:
        name = {TCP: "TCP", UDP: "UDP", SCTP: "SCTP"}.get(self.protocol, str(self.protocol))
        if (self.first, self.last) == (0, PORT_AT_MOST):
            return name
        return f"{name} {self.first}" + (f"-{self.last}" if self.last != self.first else "")


@dataclass(frozen=True, slots=True)
class Rule:
    """One entry of an endpoint object. No `ports`: every protocol and port. `excepts` subtract from this rule alone."""

    network: Prefix
    excepts: tuple[Prefix, ...] = ()
    ports: tuple[Ports, ...] = ()
    action: Action = Action.ACCEPT


class PolicyKey(NamedTuple):
    """Which policy: the owner's kind tells a NetworkPolicy from an ApplicationNetworkPolicy of the same name (spec policy.md W-14)."""

    kind: str
    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.kind} {self.namespace}/{self.name}" if self.namespace else f"{self.kind} {self.name}"


@dataclass(frozen=True, slots=True)
class Policy:
    """All endpoint objects of one policy together. `priority` counts in the cluster tiers alone, lower first.

    `audit`: it changes no verdict; what it would deny is told.
    """

    key: PolicyKey
    tier: Tier
    rules: tuple[tuple[Rule, ...], tuple[Rule, ...]] = ((), ())
    isolates: frozenset[Direction] = frozenset()
    priority: int = 0
    audit: bool = False


class Decision(NamedTuple):
    """What becomes of a new flow. `rule`: the number of the rule class that decided, 0 where none did. `audit`: allowed, but denied
    once the policies in audit mode are enforced; tier and rule are then those of the denial.
    """

    allowed: bool
    tier: Tier
    rule: int = 0
    audit: bool = False


OPEN: Final = Decision(True, Tier.DEFAULT)
CLOSED: Final = Decision(False, Tier.DEFAULT)

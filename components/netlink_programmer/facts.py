"""What the kernel holds, as plain values: rules, routes, links, addresses, settings. The same values are wanted, seen and heard of.

Prefixes are texts with their length ("10.0.0.5/32", a default route is "0.0.0.0/0"), links are told by their index.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final, NamedTuple

IPV4: Final = 2  # AF_INET, AF_INET6: the numbers netlink knows the families by
IPV6: Final = 10
DEFAULT: Final = "0.0.0.0/0"
DEFAULT_IPV6: Final = "::/0"


def family_of(address: str) -> int:
    """Return the family of an address or prefix."""
    return IPV6 if ":" in address else IPV4


def host_prefix(address: str) -> str:
    """Return the prefix that holds this one address."""
    return f"{address}/{128 if ':' in address else 32}"


def host_of(prefix: str) -> str:
    """Return the one address a prefix holds, "" when it holds more."""
    address, _, length = prefix.partition("/")
    return address if length == ("128" if ":" in address else "32") else ""


class Rule(NamedTuple):
    """One policy rule. `foreign`: it has a selector or an action that no rule of ours has. `family`: a rule may name no address."""

    priority: int
    table: int
    src: str = ""
    dst: str = ""
    fwmark: int = 0
    fwmask: int = 0
    foreign: bool = False
    family: int = IPV4

    def __str__(self) -> str:
        words = [f"rule {self.priority}:"]
        words += [f"from {self.src}"] * bool(self.src) + [f"to {self.dst}"] * bool(self.dst)
        words += [f"fwmark {self.fwmark:#x}/{self.fwmask:#x}"] * bool(self.fwmark)
        words += ["and more"] * self.foreign
        words += ["of IPv6"] * (self.family == IPV6 and not self.src and not self.dst)
        return " ".join([*words, f"lookup {self.table}"])


class Route(NamedTuple):
    """One unicast route. `ifindex` 0: several next hops; `metric` 0: the family's default. `protocol`, `scope` and `source` are needed to delete one, not to compare it."""

    table: int
    dst: str
    ifindex: int
    gateway: str = ""
    metric: int = 0
    scope: int = 0
    protocol: int = 0
    source: str = ""

    def __str__(self) -> str:
        words = [f"route {self.dst}"] + [f"via {self.gateway}"] * bool(self.gateway) + [f"dev {self.ifindex}"]
        return " ".join([*words, *[f"metric {self.metric}"] * bool(self.metric), f"table {self.table}"])


class Address(NamedTuple):
    """One address of a link, with its length."""

    ifindex: int
    local: str

    def __str__(self) -> str:
        return f"address {self.local} dev {self.ifindex}"


class Link(NamedTuple):
    """One link. `kind` is empty for a device of hardware, `alias` where nobody wrote one."""

    ifindex: int
    name: str
    mac: str
    mtu: int
    up: bool
    kind: str = ""
    alias: str = ""


class LinkState(NamedTuple):
    """What a link of ours should be; `mtu` 0: as it is."""

    ifindex: int
    mtu: int
    up: bool = True

    def __str__(self) -> str:
        return f"link {self.ifindex} {'up' if self.up else 'down'}" + (f" mtu {self.mtu}" if self.mtu else "")


class Setting(NamedTuple):
    """One file under /proc/sys/net and its value."""

    path: str
    value: str

    def __str__(self) -> str:
        return f"net/{self.path} = {self.value}"


Fact = Rule | Route | Address | Link


@dataclass(frozen=True)
class Seen:
    """One look at the kernel. A rule that is there twice stands twice. `settings` is None when they were not looked at."""

    rules: tuple[Rule, ...] = ()
    routes: tuple[Route, ...] = ()
    addresses: tuple[Address, ...] = ()
    links: dict[int, Link] = field(default_factory=dict)
    settings: frozenset[Setting] | None = None


@dataclass(frozen=True)
class Change:
    """One notification: the fact is there now (`added`, also for one that changed) or gone."""

    added: bool
    fact: Fact

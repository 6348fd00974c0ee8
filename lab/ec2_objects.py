"""What EC2 keeps and what it is asked for, as data; `Refused` is its no."""

from __future__ import annotations

from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import Final

from vpccni.lab.instance_types import TypeLimits

RESERVED_FIRST: Final = 4  # network, router, DNS, future use; the last (broadcast) is reserved as well


class Refused(Exception):
    """EC2 says no: `code` is AWS's error code."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(f"{code}: {message}")
        self.code, self.message = code, message


@dataclass(frozen=True, kw_only=True)
class Subnet:
    """A subnet of the VPC in one zone."""

    id: str
    cidr: IPv4Network
    cidr_v6: IPv6Network
    zone: str
    tags: dict[str, str]

    @property
    def router(self) -> IPv4Address:
        """The VPC router's address: base + 1."""
        return self.cidr.network_address + 1

    def is_usable(self, address: IPv4Address) -> bool:
        """Tell whether EC2 may hand this address out."""
        offset = int(address) - int(self.cidr.network_address)
        return address in self.cidr and RESERVED_FIRST <= offset < self.cidr.num_addresses - 1


@dataclass(frozen=True, kw_only=True)
class Reservation:
    """A block of a subnet kept for prefixes (`prefix`) or for addresses asked by name (`explicit`)."""

    id: str
    block: IPv4Network
    kind: str


@dataclass(kw_only=True)
class Attachment:
    """An ENI on an instance; `until` is when "attaching" or "detaching" ends."""

    id: str
    instance_id: str
    device_index: int
    card_index: int
    status: str
    until: float
    attached_at: float
    delete_on_termination: bool = False


@dataclass(kw_only=True)
class Eni:
    """A network interface as EC2 keeps it."""

    id: str
    mac: str
    subnet_id: str
    description: str
    groups: list[str]
    primary: IPv4Address
    interface_type: str = "interface"
    secondaries: list[IPv4Address] = field(default_factory=list)
    prefixes: list[IPv4Network] = field(default_factory=list)
    addresses_v6: list[IPv6Address] = field(default_factory=list)
    prefixes_v6: list[IPv6Network] = field(default_factory=list)
    tags: dict[str, str] = field(default_factory=dict)
    attachment: Attachment | None = None
    source_dest_check: bool = True

    @property
    def status(self) -> str:
        """EC2's word: available, or in-use from attach to the end of detach."""
        return "available" if self.attachment is None else "in-use"

    def slots_used(self) -> int:
        """Count what the instance type's IPv4 limit counts: the primary, each secondary, each prefix."""
        return 1 + len(self.secondaries) + len(self.prefixes)

    def slots_used_v6(self) -> int:
        """Count what the instance type's IPv6 limit counts: each address, each prefix."""
        return len(self.addresses_v6) + len(self.prefixes_v6)


@dataclass(frozen=True, kw_only=True)
class Instance:
    """A running instance: a node of the lab."""

    id: str
    node: str
    limits: TypeLimits
    subnet_id: str
    zone: str
    launched_at: float


@dataclass(frozen=True, kw_only=True)
class NewEni:
    """What a CreateNetworkInterface asks for."""

    subnet_id: str
    description: str = ""
    groups: tuple[str, ...] = ()
    primary: IPv4Address | None = None
    secondary_count: int = 0
    prefix_count: int = 0
    ipv6_count: int = 0
    ipv6_prefix_count: int = 0
    interface_type: str = "interface"
    tags: tuple[tuple[str, str], ...] = ()

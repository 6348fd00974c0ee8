"""Messages that `netlink_programmer` publishes: which ENIs the kernel is ready for, and which pods are wired."""

from __future__ import annotations

import msgspec

from vpccni.shared.messages.base import Message, PodRef, Sandbox


class UsableEni(msgspec.Struct, frozen=True):
    """An ENI whose link, table, routes and rule are in place."""

    eni_id: str
    route_table: int
    ifindex: int


class UsableEnis(Message, frozen=True, kw_only=True, tag="wiring.usable_enis"):
    """All ENIs that pods' addresses may be given out from; never published before the first complete pass."""

    enis: list[UsableEni]


class Wiring(msgspec.Struct, frozen=True):
    """One host veth of ours, as its alias and the kernel tell. `addresses` come from the host routes that point to it."""

    sandbox: Sandbox
    pod: PodRef
    host_veth: str
    ifindex: int
    addresses: list[str]


class Wirings(Message, frozen=True, kw_only=True, tag="wiring.wirings"):
    """Every wired sandbox, and the sandboxes of ADDs in flight (they may hold an address and have no veth yet).

    `unclaimed`: addresses that a rule sends to a pod although no veth of ours says whose they are (another version wired them, or
    an alias was lost). Somebody may be using them.
    """

    wirings: list[Wiring]
    in_flight: list[Sandbox]
    unclaimed: list[str] = []

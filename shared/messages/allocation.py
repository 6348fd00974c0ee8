"""Messages that `ip_allocator` answers or publishes: which sandbox holds which address."""

from __future__ import annotations

import msgspec

from vpccni.shared.messages.base import Message, PodRef, Sandbox


class Assign(Message, frozen=True, kw_only=True, tag="allocation.assign"):
    """A sandbox wants its addresses. Answer: `Assigned` or `NoCapacity`.

    Asking again for a sandbox gives the same addresses: the ledger keeps one entry a sandbox.
    `multi_nic`: one address on every managed network card, all of them or none (spec ipam.md 18); otherwise one in all.
    """

    sandbox: Sandbox
    pod: PodRef
    multi_nic: bool = False


class AssignedInterface(msgspec.Struct, frozen=True):
    """One address for one interface: a plain address (IPv6 on an IPv6 node), its ENI and where the ENI's routes are.

    `route_table` is 254 (main) for the primary ENI (spec dataplane.md 2.2).
    """

    address: str
    eni_id: str
    card: int
    device_number: int
    route_table: int


class Assigned(Message, frozen=True, kw_only=True, tag="allocation.assigned"):
    """The addresses of the sandbox, one element an interface in card order. In the checkpoint before it is sent."""

    sandbox: Sandbox
    interfaces: list[AssignedInterface]


class NoCapacity(Message, frozen=True, kw_only=True, tag="allocation.no_capacity"):
    """Nothing to give now. `cause` is a word of docs/errors.md, `detail` has the numbers.

    `retry_after_ms`: when more is expected; 0: asking again within this ADD is pointless.
    """

    sandbox: Sandbox
    cause: str
    detail: str
    retry_after_ms: int


class Release(Message, frozen=True, kw_only=True, tag="allocation.release"):
    """The sandbox is gone. Answer: `Released`; asking twice, or for what never was, is a success with nothing in it.

    `reason`: `PodDeleted` or `SetupNSFailed` (label values of a public metric, spec rpc.md 10).
    """

    sandbox: Sandbox
    reason: str


class Released(Message, frozen=True, kw_only=True, tag="allocation.released"):
    """What the sandbox had held; empty when the ledger did not know it."""

    sandbox: Sandbox
    interfaces: list[AssignedInterface]


class PoolState(Message, frozen=True, kw_only=True, tag="allocation.pool_state"):
    """Published when it changes (at most every 100 ms) and with each heartbeat. Counts of addresses on all cards.

    `ready`: an ADD could be served now or soon, or pods hold all there is: the runtime reports a network that is not ready as a
    broken node, and the node would lose its pods. `cause` and `detail` say why no address is free.
    """

    ready: bool
    total: int
    assigned: int
    assignable: int
    cooling: int
    fenced: int
    unconfirmed: int
    max_pods: int
    cause: str = ""
    detail: str = ""


class LedgerEntry(msgspec.Struct, frozen=True):
    """One address the ledger knows a sandbox for. Times are wall clock nanoseconds, 0: never."""

    address: str
    eni_id: str
    sandbox: Sandbox
    pod: PodRef
    assigned_at_ns: int
    released_at_ns: int = 0


class LedgerState(Message, frozen=True, kw_only=True, tag="allocation.ledger_state"):
    """All addresses in use; published at the start and at most 2 s after a change (0.1 s with ANNOTATE_POD_IP).

    A message has its limit (`shared.codec`), the ledger has none: of some 2,000 addresses the latest assigned are in `entries`,
    oldest first. `omitted`: how many others there are; then an address that is not listed may still be in use.
    `cooling`: (address, CLOCK_BOOTTIME seconds of its release), the latest 1,000; `fenced_enis`: whole ENIs being given back.
    """

    entries: list[LedgerEntry]
    fenced: list[str]
    omitted: int = 0
    cooling: list[tuple[str, float]] = []
    fenced_enis: list[str] = []

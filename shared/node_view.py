"""What an operator sees of a node, put together from what its processes publish: for the page and for `vpccni top`. Pure.

Each process tells of what it owns; here the copies are laid over each other: an address of the inventory with the pod that the ledger
has for it, that pod with its veth and what the policy programs counted there. What no copy tells is left out, never guessed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from ipaddress import ip_address, ip_network
from typing import Final

from vpccni.shared.messages.allocation import LedgerEntry, LedgerState, PoolState
from vpccni.shared.messages.base import Sandbox
from vpccni.shared.messages.common import Counter, Gauge, Status
from vpccni.shared.messages.inventory import Eni, Inventory, NodeFacts
from vpccni.shared.messages.policy import PolicyCounters, PolicyState
from vpccni.shared.messages.wiring import UsableEnis, Wirings

FREE, HELD, COOLING, FENCED, WAITING = "free", "held", "cooling", "fenced", "waiting"
STATES: Final[Mapping[str, str]] = {
    HELD: "a pod has it",
    FREE: "can be given out",
    COOLING: "released lately, rests",
    FENCED: "being given back to EC2",
    WAITING: "its ENI is not usable yet, or not confirmed",
}
"""What an address of the pool can be; in this order in legends."""
SILENT: Final = "silent"
MAIN_TABLE: Final = 254  # spec dataplane.md 2.2
CELLS_AT_MOST: Final = 256
"""A block with more addresses (an IPv6 node's /80) is shown by those in use alone."""
NANOSECONDS: Final = 1_000_000_000
EC2_CALLS, EC2_ERRORS, TOKENS, DENIED = (
    "awscni_ec2api_req_count",
    "awscni_ec2api_error_count",
    "vpccni_ec2_tokens_left",
    "vpccni_ec2_denied",
)
LATENCY: Final = "awscni_aws_api_latency_ms"
TIMED_SUFFIX: Final = "WithContext"
"""What one action's latency label has behind its name (spec operations.md 2.4)."""


@dataclass(slots=True)
class Copies:
    """The latest message of each kind; None before the first."""

    inventory: Inventory | None = None
    pool: PoolState | None = None
    ledger: LedgerState | None = None
    usable: UsableEnis | None = None
    node: NodeFacts | None = None
    wirings: Wirings | None = None
    policy: PolicyState | None = None


@dataclass(frozen=True, slots=True)
class Heard:
    """A process as last heard: `status` None when never, or not now; `age_s` since then; `restarts` seen, -1: nobody counts them."""

    status: Status | None
    age_s: float = 0.0
    restarts: int = -1
    is_stale: bool = False


@dataclass(frozen=True, slots=True)
class ProcessRow:
    """One process; `state` is its own word, or `silent`."""

    name: str
    state: str
    reasons: tuple[str, ...] = ()
    log_level: str = ""
    pid: int = 0
    up_s: float = 0.0
    age_s: float = 0.0
    restarts: int = -1


@dataclass(frozen=True, slots=True)
class Cell:
    """One address of a block: `who` is the pod that has it."""

    address: str
    state: str
    who: str = ""


@dataclass(frozen=True, slots=True)
class BlockMap:
    """A secondary address or a prefix; `total` addresses, of which the cells show all, or those in use."""

    item: str
    total: int
    cells: tuple[Cell, ...]
    state: str
    """Of all its addresses where these are alike, else empty."""


@dataclass(frozen=True, slots=True)
class EniMap:
    """One ENI. `marks`: what is special about it; `table`: 0 while it is not usable."""

    eni_id: str
    card: int
    device: int
    subnet: str
    primary_address: str
    table: int
    marks: tuple[str, ...]
    blocks: tuple[BlockMap, ...]
    counts: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class PodRow:
    """One interface of a pod that holds an address. Packets are -1 where no policy program counts."""

    pod: str
    address: str
    eni_id: str
    host_veth: str
    held_s: float
    ingress_packets: int = -1
    ingress_bytes: int = -1
    egress_packets: int = -1
    egress_bytes: int = -1
    denied_packets: int = -1


@dataclass(frozen=True, slots=True)
class CallRow:
    """One EC2 action: calls and errors since the first start that was seen, mean milliseconds, tokens left (-1: not known)."""

    api: str
    calls: int
    errors: int
    mean_ms: float
    tokens: float
    denied: bool


@dataclass(frozen=True, slots=True)
class NodeView:
    """Everything the page shows. `identity`: (what, value) pairs; `pool`: the allocator's own counts, None before they are known."""

    name: str
    identity: tuple[tuple[str, str], ...]
    processes: tuple[ProcessRow, ...]
    pool: PoolState | None
    growth: str
    enis: tuple[EniMap, ...]
    pods: tuple[PodRow, ...]
    calls: tuple[CallRow, ...]
    policy: str
    programs: tuple[int, ...] = ()
    omitted: int = 0
    """Addresses in use that the ledger's copy here leaves out."""


def view(
    copies: Copies,
    heard: Mapping[str, Heard],
    *,
    wall_ns: int,
    boot_s: float,
    cooldown_s: float,
    totals: Mapping[tuple[str, tuple[tuple[str, str], ...]], float] | None = None,
) -> NodeView:
    """Return the view. `totals`: the manager's counters over all its lives where somebody added them up, else those of its present one."""
    entries = [] if copies.ledger is None else copies.ledger.entries
    manager = next((one.status for name, one in heard.items() if name == "eni_manager"), None)
    tables = {} if copies.usable is None else {one.eni_id: one.route_table for one in copies.usable.enis}
    by_eni = _by_eni(entries)
    cools = frozenset[str]()
    fenced = frozenset[str]()
    if copies.ledger is not None:
        fenced = frozenset((*copies.ledger.fenced, *copies.ledger.fenced_enis))
        cools = frozenset(address for address, at in copies.ledger.cooling if boot_s - at <= cooldown_s)
    inventory = copies.inventory
    enis = [] if inventory is None else inventory.enis
    return NodeView(
        name="" if copies.node is None else copies.node.node_name,
        identity=_identity(copies),
        processes=tuple(_process_row(name, one) for name, one in heard.items()),
        pool=copies.pool,
        growth="" if inventory is None else f"{inventory.growth.cause} {inventory.growth.detail}".strip(),
        enis=tuple(_eni_map(eni, by_eni.get(eni.eni_id, {}), fenced, cools, tables) for eni in enis),
        pods=tuple(_pod_rows(entries, copies, wall_ns)),
        calls=() if manager is None else call_rows(totals or _series(manager.counters), _series(manager.gauges)),
        policy="" if copies.policy is None else copies.policy.layout,
        programs=() if copies.policy is None else tuple(copies.policy.program_ids),
        omitted=0 if copies.ledger is None else copies.ledger.omitted,
    )


def _age_s(wall_ns: int, at_ns: int) -> float:
    return max(0.0, (wall_ns - at_ns) / NANOSECONDS) if at_ns else 0.0


def _process_row(name: str, heard: Heard) -> ProcessRow:
    status = heard.status
    if status is None:
        return ProcessRow(name, SILENT, restarts=heard.restarts)
    return ProcessRow(
        name=name,
        state=SILENT if heard.is_stale else status.state,
        reasons=tuple(status.reasons),
        log_level=status.log_level,
        pid=status.pid,
        up_s=status.now - status.started_at,
        age_s=heard.age_s,
        restarts=heard.restarts,
    )


def _identity(copies: Copies) -> tuple[tuple[str, str], ...]:
    inventory, node = copies.inventory, copies.node
    rows: list[tuple[str, str]] = []
    if inventory is not None:
        rows += [
            ("instance", inventory.instance_id),
            ("type", inventory.instance_type),
            ("zone", inventory.availability_zone),
            ("address", inventory.primary_address),
            ("mode", "IPv6" if inventory.ipv6 else "IPv4 prefixes" if inventory.by_prefix else "IPv4 addresses"),
            ("max pods", str(inventory.max_pods or "not known")),
        ]
    if node is not None and node.unschedulable:
        rows.append(("scheduling", "cordoned"))
    if node is not None and node.eni_config_problem:
        rows.append(("ENIConfig", node.eni_config_problem))
    return tuple(rows)


def _by_eni(entries: Iterable[LedgerEntry]) -> dict[str, dict[str, LedgerEntry]]:
    found: dict[str, dict[str, LedgerEntry]] = {}
    for entry in entries:
        found.setdefault(entry.eni_id, {})[entry.address] = entry
    return found


def _eni_map(
    eni: Eni,
    entries: Mapping[str, LedgerEntry],
    fenced: frozenset[str],
    cools: frozenset[str],
    tables: Mapping[str, int],
) -> EniMap:
    table = tables.get(eni.eni_id, 0)
    serves = bool(table) and eni.confirmed and not eni.excluded
    idle = FENCED if eni.eni_id in fenced else FREE if serves else WAITING
    items = (*eni.addresses, *eni.prefixes) if eni.managed else ()
    blocks = tuple(_block(item, entries, FENCED if item in fenced else idle, cools) for item in items)
    counts = dict.fromkeys(STATES, 0)
    for block in blocks:
        for cell in block.cells:
            counts[cell.state] += 1
        counts[block.state or idle] += block.total - len(block.cells)
    return EniMap(
        eni_id=eni.eni_id,
        card=eni.card,
        device=eni.device_number,
        subnet=f"{eni.subnet_id} {eni.subnet_cidr}".strip(),
        primary_address=eni.primary_address,
        table=table,
        marks=_marks(eni, usable=bool(table)),
        blocks=blocks,
        counts=counts,
    )


def _marks(eni: Eni, *, usable: bool) -> tuple[str, ...]:
    marks = (
        (eni.is_primary, "primary"),
        (eni.is_trunk, "trunk"),
        (eni.is_efa, "EFA"),
        (not eni.managed, "not ours to use"),
        (eni.excluded, "its subnet is excluded"),
        (not eni.confirmed, "not confirmed by EC2 or metadata"),
        (eni.managed and not usable, "not usable in the kernel yet"),
    )
    return tuple(text for is_so, text in marks if is_so)


def _block(item: str, entries: Mapping[str, LedgerEntry], idle: str, cools: frozenset[str]) -> BlockMap:
    if "/" not in item:
        cell = _cell(item, entries.get(item), idle, cools)
        return BlockMap(item, 1, (cell,), cell.state)
    network = ip_network(item)
    total = network.num_addresses
    if total > CELLS_AT_MOST:
        inside = [address for address in (*entries, *cools) if ip_address(address) in network]
        return BlockMap(item, total, tuple(_cell(one, entries.get(one), idle, cools) for one in inside), "")
    cells = tuple(_cell(str(address), entries.get(str(address)), idle, cools) for address in network)
    states = {cell.state for cell in cells}
    return BlockMap(item, total, cells, states.pop() if len(states) == 1 else "")


def _cell(address: str, entry: LedgerEntry | None, idle: str, cools: frozenset[str]) -> Cell:
    if entry is not None and entry.released_at_ns == 0:
        return Cell(address, HELD, str(entry.pod))
    return Cell(address, COOLING if idle == FREE and address in cools else idle)


def _pod_rows(entries: Sequence[LedgerEntry], copies: Copies, wall_ns: int) -> Iterable[PodRow]:
    veths: dict[tuple[Sandbox, str], str] = {}
    for wiring in [] if copies.wirings is None else copies.wirings.wirings:
        veths.update({(wiring.sandbox, address.partition("/")[0]): wiring.host_veth for address in wiring.addresses})
    counted = {} if copies.policy is None else {one.host_veth: one for one in copies.policy.attached}
    held = (entry for entry in entries if entry.released_at_ns == 0)
    for entry in sorted(held, key=lambda one: (one.pod, ip_address(one.address).packed)):
        veth = veths.get((entry.sandbox, entry.address), "")
        yield _pod_row(entry, veth, counted.get(veth), _age_s(wall_ns, entry.assigned_at_ns))


def _pod_row(entry: LedgerEntry, veth: str, counted: PolicyCounters | None, held_s: float) -> PodRow:
    row = PodRow(str(entry.pod), entry.address, entry.eni_id, veth, held_s)
    if counted is None:
        return row
    return replace(
        row,
        ingress_packets=counted.ingress_packets,
        ingress_bytes=counted.ingress_bytes,
        egress_packets=counted.egress_packets,
        egress_bytes=counted.egress_bytes,
        denied_packets=counted.ingress_dropped_packets + counted.egress_dropped_packets,
    )


_Series = Mapping[tuple[str, tuple[tuple[str, str], ...]], float]


def _series(values: Iterable[Counter | Gauge]) -> _Series:
    return {(one.name, tuple(sorted(one.labels.items()))): one.value for one in values}


@dataclass(slots=True)
class _Calls:
    calls: float = 0
    errors: float = 0
    took_ms: float = 0
    timed: float = 0
    tokens: float = -1
    denied: bool = False


def call_rows(counters: _Series, gauges: _Series) -> tuple[CallRow, ...]:
    """Return a row an EC2 action, by name."""
    rows: dict[str, _Calls] = {}
    for (name, labels), value in (*counters.items(), *gauges.items()):
        told = dict(labels)
        if name in (EC2_CALLS, EC2_ERRORS):
            row = rows.setdefault(told.get("fn", ""), _Calls())
            row.calls += value if name == EC2_CALLS else 0
            row.errors += value if name == EC2_ERRORS else 0
        elif name in (TOKENS, DENIED):
            row = rows.setdefault(told.get("api", ""), _Calls())
            if name == TOKENS:
                row.tokens = value
            else:
                row.denied = bool(value)
        elif name in (f"{LATENCY}_sum", f"{LATENCY}_count") and told.get("api") != "GetMetadata":
            row = rows.setdefault(told.get("api", "").removesuffix(TIMED_SUFFIX), _Calls())
            row.took_ms += value if name.endswith("_sum") else 0
            row.timed += value if name.endswith("_count") else 0
    return tuple(
        CallRow(
            api, int(row.calls), int(row.errors), row.took_ms / row.timed if row.timed else 0.0, row.tokens, row.denied
        )
        for api, row in sorted(rows.items())
    )

"""A whole node's copies, for tests of what shows a node: two processes well, one degraded, one silent; addresses in every state."""

from __future__ import annotations

from ipaddress import ip_network

from support.facts import an_eni, an_inventory

from vpccni.shared.messages.allocation import LedgerEntry, LedgerState, PoolState
from vpccni.shared.messages.base import PodRef, Sandbox
from vpccni.shared.messages.common import Counter, Gauge, Status
from vpccni.shared.messages.inventory import Growth, NodeFacts
from vpccni.shared.messages.policy import PolicyCounters, PolicyState
from vpccni.shared.messages.wiring import UsableEni, UsableEnis, Wiring, Wirings
from vpccni.shared.node_view import Copies, Heard

NOW_NS = 1_700_000_000_000_000_000
NOW_S = 50_000.0
SECOND_NS = 1_000_000_000
CALLS = [
    Counter("awscni_ec2api_req_count", 7, {"fn": "AssignPrivateIpAddresses"}),
    Counter("awscni_ec2api_error_count", 2, {"fn": "AssignPrivateIpAddresses"}),
    Counter(
        "awscni_aws_api_latency_ms_sum", 700, {"api": "AssignPrivateIpAddresses", "error": "false", "status": "200"}
    ),
    Counter(
        "awscni_aws_api_latency_ms_count", 7, {"api": "AssignPrivateIpAddresses", "error": "false", "status": "200"}
    ),
    Counter("awscni_ec2api_req_count", 3, {"fn": "DescribeNetworkInterfaces"}),
]


def a_status(process: str, state: str = "serving", **more: object) -> Status:
    fields: dict[str, object] = {
        "process": process, "pid": 100, "epoch": "e", "started_at": 10.0, "now": 3700.0, "state": state, **more,
    }  # fmt: skip
    return Status(**fields)  # type: ignore[arg-type]  # a test's fields


def some_heard() -> dict[str, Heard]:
    gauges = [
        Gauge("vpccni_ec2_tokens_left", 12.5, {"api": "AssignPrivateIpAddresses"}),
        Gauge("vpccni_ec2_denied", 1, {"api": "DeleteNetworkInterface"}),
    ]
    return {
        "eni_manager": Heard(
            a_status(
                "eni_manager", "degraded", reasons=["EC2 throttles <this> account"], counters=CALLS, gauges=gauges
            ),
            2.0,
            1,
        ),
        "ip_allocator": Heard(a_status("ip_allocator", log_level="debug"), 1.0, 0),
        "netlink_programmer": Heard(a_status("netlink_programmer"), 60.0, 0, is_stale=True),
        "policy_agent": Heard(None),
        "metrics_publisher": Heard(a_status("metrics_publisher"), 0.0, 0),
    }


def some_copies(pods: int = 3) -> Copies:
    """Return the copies of a node with `pods` pods on /28 prefixes, one address that cools, a fenced prefix, an ENI not usable yet."""
    prefixes = [str(net) for net in ip_network("10.0.16.0/20").subnets(new_prefix=28)]
    mine = prefixes[: pods // 16 + 2]
    inventory = an_inventory(
        an_eni(0, ["10.0.0.5", "10.0.0.6"]),
        an_eni(1, prefixes=[*mine, prefixes[-1]]),
        an_eni(2, ["10.0.2.9"], confirmed=False),
        an_eni(3, managed=False),
        growth=Growth(cause="THROTTLED", detail="until EC2 answers"),
    )
    addresses = [str(address) for prefix in mine for address in ip_network(prefix)]
    held = [a_holding(number, address) for number, address in enumerate(addresses[:pods])]
    cooling = [(addresses[pods], NOW_S - 10), ("10.0.0.6", NOW_S - 100)]
    wirings = [
        Wiring(entry.sandbox, entry.pod, f"eni{number:011d}", 50 + number, [entry.address])
        for number, entry in enumerate(held)
        if number != 1
    ]
    counted = [PolicyCounters(one.ifindex, one.host_veth, 5, 4096, 6, 3 << 20, 2, 120, 7, 420) for one in wirings]
    return Copies(
        inventory=inventory,
        pool=PoolState(
            ready=True, total=50, assigned=pods, assignable=3, cooling=1, fenced=16, unconfirmed=1, max_pods=110,
        ),
        ledger=LedgerState(entries=held, fenced=[prefixes[-1]], cooling=cooling),
        usable=UsableEnis(enis=[UsableEni("eni-0", 254, 2), UsableEni("eni-1", 2, 3)]),
        node=NodeFacts(node_name="ip-10-0-0-4.example", exists=True),
        wirings=Wirings(wirings=wirings, in_flight=[]),
        policy=PolicyState(layout="abc123", program_ids=[7, 8], attached=counted),
    )  # fmt: skip


def a_holding(number: int, address: str) -> LedgerEntry:
    pod = PodRef(
        "default" if number % 3 else "kube-system", f"web-{number:03d}<b>" if number == 0 else f"web-{number:03d}", "u"
    )
    return LedgerEntry(address, "eni-1", Sandbox(f"c{number}", "eth0"), pod, NOW_NS - (number + 1) * 61 * SECOND_NS)

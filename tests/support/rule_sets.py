"""Random policies and packets, drawn from few addresses and ports so that they meet, and the maps' semantics in Python."""

from __future__ import annotations

from hypothesis import strategies as st

from vpccni.components.policy_agent.compiler import ANY_PROTOCOL, PortKey, PortTable, RuleSet, Side
from vpccni.components.policy_agent.evaluate import Packet
from vpccni.components.policy_agent.policy import (
    ADDRESS_BITS,
    SCTP,
    TCP,
    UDP,
    Action,
    Decision,
    Direction,
    Policy,
    PolicyKey,
    Ports,
    Prefix,
    Rule,
    Tier,
    prefix,
)

NETWORKS = [
    "0.0.0.0/0", "10.0.0.0/8", "10.0.0.0/12", "10.0.0.0/16", "10.1.0.0/16", "10.1.1.0/24", "10.1.1.0/31", "10.1.1.7",
    "10.1.1.1", "10.2.3.4", "192.0.2.0/24", "::/0", "2001:db8::/32", "2001:db8:1::/48", "2001:db8:1::7", "2001:db8::7",
]  # fmt: skip
ADDRESSES = [
    "10.1.1.7", "10.1.1.1", "10.1.1.0", "10.0.5.5", "10.2.3.4", "10.20.0.1", "192.0.2.9", "198.51.100.1",
    "2001:db8:1::7", "2001:db8::7", "2001:db8::8", "2001:db9::1",
]  # fmt: skip
PORT_NUMBERS = [0, 1, 53, 79, 80, 81, 443, 1023, 1024, 8000, 8005, 8010, 32767, 32768, 65534, 65535]
PROTOCOLS = [TCP, UDP, SCTP]

prefixes = st.sampled_from(NETWORKS).map(prefix)


@st.composite
def port_ranges(draw: st.DrawFn) -> Ports:
    protocol = draw(st.sampled_from(PROTOCOLS))
    first, last = sorted((draw(st.sampled_from(PORT_NUMBERS)), draw(st.sampled_from(PORT_NUMBERS))))
    return draw(st.sampled_from([Ports(protocol), Ports(protocol, first, first), Ports(protocol, first, last)]))


def rules(actions: st.SearchStrategy[Action]) -> st.SearchStrategy[Rule]:
    return st.builds(
        Rule,
        prefixes,
        st.lists(prefixes, max_size=2).map(tuple),
        st.lists(port_ranges(), max_size=3).map(tuple),
        actions,
    )


@st.composite
def policies(draw: st.DrawFn, number: int) -> Policy:
    tier = draw(st.sampled_from([Tier.NETWORK_POLICY, Tier.NETWORK_POLICY, Tier.ADMIN, Tier.BASELINE]))
    ordinary = tier is Tier.NETWORK_POLICY
    actions = st.just(Action.ACCEPT) if ordinary else st.sampled_from(list(Action))
    both = [tuple(draw(st.lists(rules(actions), max_size=4))) for _ in Direction]
    isolates = draw(st.frozensets(st.sampled_from(list(Direction)), min_size=1)) if ordinary else frozenset()
    key = PolicyKey("NetworkPolicy" if ordinary else "ClusterNetworkPolicy", "shop" if ordinary else "", f"p{number}")
    is_audit = draw(st.sampled_from([False, False, False, True]))
    return Policy(key, tier, (both[0], both[1]), isolates, draw(st.integers(0, 3)), is_audit)


@st.composite
def policy_sets(draw: st.DrawFn) -> list[Policy]:
    return [draw(policies(number)) for number in range(draw(st.integers(0, 4)))]


packets = st.builds(
    Packet,
    st.sampled_from(list(Direction)),
    st.sampled_from(ADDRESSES).map(prefix),
    st.sampled_from([*PROTOCOLS, 47]),
    st.sampled_from(PORT_NUMBERS),
)


def judged(rule_set: RuleSet, packet: Packet) -> Decision:
    """Return what maps with this content would decide: two longest-prefix searches, written without any cleverness."""
    side = rule_set.sides[packet.direction]
    found = side.classes[_class_of(side, packet.peer)]
    return _in_table(found, packet) if isinstance(found, PortTable) else found


def _class_of(side: Side, peer: Prefix) -> int:
    if peer.value in side.addresses.hosts:
        return side.addresses.hosts[peer.value]
    for length in range(ADDRESS_BITS, -1, -1):
        network = Prefix(peer.value >> (ADDRESS_BITS - length) << (ADDRESS_BITS - length), length)
        if network in side.addresses.networks and network.is_v4 == peer.is_v4:
            return side.addresses.networks[network]
    return side.outside[not peer.is_v4]


def _in_table(table: PortTable, packet: Packet) -> Decision:
    for length in range(16, -1, -1):
        key = PortKey(packet.protocol, packet.port >> (16 - length) << (16 - length), length)
        if key in table.entries:
            return table.entries[key]
    return table.entries[PortKey(ANY_PROTOCOL, 0, 0)]

"""SNAT, marks and blocks on a node whose image has no iptables for its back-end: tables `vpccni` of our own in nft. Pure (spec dataplane.md 18.23).

The same rules as in `firewall`, at the same places of the stack. The reference knows nothing of them: before going back to it, an image
with iptables has to run once, which takes these tables away.
"""

from __future__ import annotations

import ipaddress
from typing import Final

from vpccni.components.netlink_programmer import nft_expressions as nft
from vpccni.components.netlink_programmer.connmark import leave_alone, restore, set_mark
from vpccni.components.netlink_programmer.firewall import EGRESS_IPV4_CIDR, EGRESS_IPV6_CIDR, FirewallFacts
from vpccni.components.netlink_programmer.nft_tables import Hook, NftChain, NftRule, NftTable

TABLE: Final = "vpccni"
SNAT_CHAIN: Final = "snat"
MARK_CHAIN: Final = "primary-eni"
BLOCK_CHAIN: Final = "node-local"
PREROUTING, FORWARD, POSTROUTING = 0, 2, 4
MANGLE, FILTER, SOURCE_NAT = -150, 0, 100
BRANCH_PREFIX: Final = "vlan"
PORT_UNREACHABLE: Final = 3
PORT_UNREACHABLE_V6: Final = 4
SOURCE_PORTS: Final = {
    "prng": (nft.NAT_FULLY_RANDOM, " fully-random"),
    "hashrandom": (nft.NAT_RANDOM, " random"),
    "none": (0, ""),
}


def wanted_tables(facts: FirewallFacts) -> tuple[NftTable, ...]:
    """Return the tables of a node without iptables."""
    snat = (*map(leave_alone, facts.direct_cidrs), _snat(facts)) if facts.marks else ()
    block = (_block(EGRESS_IPV4_CIDR),) if facts.block_ipv4 else ()
    table = NftTable(
        TABLE,
        (
            NftChain(SNAT_CHAIN, snat, Hook("nat", POSTROUTING, SOURCE_NAT), any_order=True),
            NftChain(MARK_CHAIN, tuple(_marks(facts)), Hook("filter", PREROUTING, MANGLE)),
            NftChain(BLOCK_CHAIN, block, Hook("filter", FORWARD, FILTER)),
        ),
    )
    if not facts.block_ipv6:
        return (table,)
    block_v6 = NftChain(BLOCK_CHAIN, (_block(EGRESS_IPV6_CIDR),), Hook("filter", FORWARD, FILTER))
    return (table, NftTable(TABLE, (block_v6,), ipv6=True))


def _snat(facts: FirewallFacts) -> NftRule:
    flags, words = SOURCE_PORTS[facts.randomize]
    return NftRule(
        f'oifname != "{BRANCH_PREFIX}*" fib daddr type != local snat to {facts.primary_address}{words}',
        (
            nft.Load("meta", nft.META_OUTPUT_NAME),
            nft.Compare(nft.NOT_EQUAL, BRANCH_PREFIX.encode()),
            nft.AskRoutes(nft.FIB_ADDRESS_TYPE, nft.FIB_OF_DESTINATION),
            nft.Compare(nft.NOT_EQUAL, nft.number(nft.TYPE_LOCAL)),
            nft.Counter(),
            nft.Put(ipaddress.IPv4Address(facts.primary_address).packed),
            nft.TranslateSource(flags),
        ),
    )


def _marks(facts: FirewallFacts) -> list[NftRule]:
    """Return what `firewall` has in mangle PREROUTING."""
    rules = []
    if facts.ipv4_pods and facts.node_port:
        rules.append(_mark_node_ports(facts))
    prefixes = facts.veth_prefixes if facts.node_port or not facts.external_snat else ()
    for prefix in (*prefixes, BRANCH_PREFIX) if facts.node_port else prefixes:
        rules += [_from(prefix, restore(facts.connmark, to_set=to_set)) for to_set in (True, False)]
    return rules if facts.ipv4_pods else []


def _mark_node_ports(facts: FirewallFacts) -> NftRule:
    marked = set_mark(facts.connmark)
    name = facts.primary_link.encode().ljust(nft.LINK_NAME_BYTES, b"\0")
    return NftRule(
        f'iifname "{facts.primary_link}" fib daddr . iif type local {marked.text}',
        (
            nft.Load("meta", nft.META_INPUT_NAME),
            nft.Compare(nft.EQUAL, name),
            nft.AskRoutes(nft.FIB_ADDRESS_TYPE, nft.FIB_OF_DESTINATION | nft.FIB_OF_INPUT_LINK),
            nft.Compare(nft.EQUAL, nft.number(nft.TYPE_LOCAL)),
            *marked.expressions,
        ),
    )


def _from(prefix: str, rule: NftRule) -> NftRule:
    by_prefix = (nft.Load("meta", nft.META_INPUT_NAME), nft.Compare(nft.EQUAL, prefix.encode()))
    return NftRule(f'iifname "{prefix}*" {rule.text}', (*by_prefix, *rule.expressions))


def _block(cidr: str) -> NftRule:
    network = ipaddress.ip_network(cidr)
    is_v4 = network.version == 4
    offset, length = (
        (nft.DESTINATION_OFFSET, nft.ADDRESS_BYTES) if is_v4 else (nft.DESTINATION_OFFSET_V6, nft.ADDRESS_BYTES_V6)
    )
    return NftRule(
        f"{'ip' if is_v4 else 'ip6'} daddr {cidr} ct state new reject",
        (
            nft.LoadHeader(nft.NETWORK_HEADER, offset, length),
            nft.Bits(network.netmask.packed, bytes(length)),
            nft.Compare(nft.EQUAL, network.network_address.packed),
            nft.Load("ct", nft.CT_STATE),
            nft.Bits(nft.number(nft.CT_STATE_NEW), nft.number(0)),
            nft.Compare(nft.NOT_EQUAL, nft.number(0)),
            nft.Counter(),
            nft.Reject(PORT_UNREACHABLE if is_v4 else PORT_UNREACHABLE_V6),
        ),
    )

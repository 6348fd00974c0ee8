"""The connmark of a node that uses nft: the table `ip aws-cni` (spec dataplane.md 11.7). Pure.

    chain nat-prerouting (nat, prerouting, -90)              chain snat-mark
      fib daddr type local return                              ip daddr CIDR return     one a CIDR
      iifname "eni*" jump snat-mark                            ct mark set ct mark | 0x80
      ct mark & 0x80 == 0x80 meta mark set meta mark | 0x80
      ct mark & 0x80 == 0x0 meta mark set meta mark & ~0x80

The reference has one rule in place of the last two, which wipes out everybody else's bits of the packet's mark (17, 18.24); it is
replaced. Destinations are compared by four bytes and a mask, the one form that the reference knows again after a roll-back.
"""

from __future__ import annotations

import ipaddress
from typing import Final

from vpccni.components.netlink_programmer import nft_expressions as nft
from vpccni.components.netlink_programmer.firewall import FirewallFacts, Table
from vpccni.components.netlink_programmer.nft_tables import Hook, NftChain, NftRule, NftTable

TABLE: Final = "aws-cni"
BASE_CHAIN: Final = "nat-prerouting"
MARK_CHAIN: Final = "snat-mark"
AFTER_KUBE_PROXY: Final = -90  # dstnat is -100: a connection that somebody translated there is not seen here (11.8)
ALL_BITS: Final = 0xFFFFFFFF
_PREROUTING: Final = 0
_NO_CHANGE: Final = bytes(4)
_COUNTER: Final = nft.Counter()


def wanted_table(facts: FirewallFacts) -> NftTable:
    """Return the table for a node whose connections out of the VPC are marked."""
    entry = [_leave_local()]
    entry += [_jump(prefix) for prefix in facts.veth_prefixes]
    entry += [restore(facts.connmark, to_set=True), restore(facts.connmark, to_set=False)]
    marks = (*(leave_alone(cidr) for cidr in facts.direct_cidrs), set_mark(facts.connmark))
    base = NftChain(BASE_CHAIN, tuple(entry), Hook("nat", _PREROUTING, AFTER_KUBE_PROXY))
    return NftTable(TABLE, (NftChain(MARK_CHAIN, marks, any_order=True), base))


def in_words(table: NftTable) -> Table:
    """Return the table as `vpccni why` tells of rules: those of the base chain, and the chain they lead to."""
    hooks = tuple(rule.text for chain in table.chains if chain.hook is not None for rule in chain.rules)
    chains = {one.name: tuple(rule.text for rule in one.rules) for one in table.chains if one.hook is None}
    return Table(table.name, chains, hooks)


def _leave_local() -> NftRule:
    """Leave alone what is for an address of the node: an IPVS service's too (18.27)."""
    return NftRule(
        "fib daddr type local return",
        (
            nft.AskRoutes(nft.FIB_ADDRESS_TYPE, nft.FIB_OF_DESTINATION),
            nft.Compare(nft.EQUAL, nft.number(nft.TYPE_LOCAL)),
            nft.Verdict(nft.VERDICT_RETURN),
        ),
    )


def _jump(prefix: str) -> NftRule:
    return NftRule(
        f'iifname "{prefix}*" jump {MARK_CHAIN}',
        (
            nft.Load("meta", nft.META_INPUT_NAME),
            nft.Compare(nft.EQUAL, prefix.encode()),
            _COUNTER,
            nft.Verdict(nft.VERDICT_JUMP, MARK_CHAIN),
        ),
    )


def restore(mark: int, *, to_set: bool) -> NftRule:
    """Copy the connection's bit to the packet: one rule where it is set, one where it is not; other bits stay."""
    kept = ALL_BITS ^ mark
    found, bit = (mark, mark) if to_set else (0, 0)
    written = f"meta mark | {mark:#x}" if to_set else f"meta mark & {kept:#x}"
    return NftRule(
        f"ct mark & {mark:#x} == {found:#x} meta mark set {written}",
        (
            nft.Load("ct", nft.CT_MARK),
            nft.Bits(nft.number(mark), _NO_CHANGE),
            nft.Compare(nft.EQUAL, nft.number(found)),
            _COUNTER,
            nft.Load("meta", nft.META_MARK),
            nft.Bits(nft.number(kept), nft.number(bit)),
            nft.Store("meta", nft.META_MARK),
        ),
    )


def leave_alone(cidr: str) -> NftRule:
    """Return the rule that ends the chain for what goes to a CIDR."""
    network = ipaddress.IPv4Network(cidr)
    return NftRule(
        f"ip daddr {cidr} return",
        (
            _COUNTER,
            nft.LoadHeader(nft.NETWORK_HEADER, nft.DESTINATION_OFFSET, nft.ADDRESS_BYTES),
            nft.Bits(network.netmask.packed, _NO_CHANGE),
            nft.Compare(nft.EQUAL, network.network_address.packed),
            nft.Verdict(nft.VERDICT_RETURN),
        ),
    )


def set_mark(mark: int) -> NftRule:
    """Return the rule that marks a connection and leaves other bits."""
    return NftRule(
        f"ct mark set ct mark | {mark:#x}",
        (
            _COUNTER,
            nft.Load("ct", nft.CT_MARK),
            nft.Bits(nft.number(ALL_BITS ^ mark), nft.number(mark)),
            nft.Store("ct", nft.CT_MARK),
        ),
    )

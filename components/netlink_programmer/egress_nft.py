"""SNAT of egress addresses on a node whose image has no iptables: one rule a family in a table of our own, and a set of pods' addresses.

    table ip vpccni-egress { set pods { type ipv4_addr; } chain snat { ... ip saddr @pods ip daddr != 224.0.0.0/4 snat to NODE } }

A pod that comes or goes is one element. Where there is iptables a pod has a chain of the reference's shape instead (`egress_chains`).
Every call blocks: in a thread.
"""

from __future__ import annotations

import ipaddress
import struct
from typing import Final

from vpccni.components.netlink_programmer import nfnetlink, nft_tables
from vpccni.components.netlink_programmer import nft_expressions as nft
from vpccni.components.netlink_programmer.netlink_attributes import attribute, text_attribute
from vpccni.components.netlink_programmer.nft_only import POSTROUTING, SOURCE_NAT, SOURCE_PORTS
from vpccni.components.netlink_programmer.nft_tables import Hook, NftChain, NftRule, NftStep, NftTable

TABLE: Final = "vpccni-egress"
SET: Final = "pods"
CHAIN: Final = "snat"
NEWSET, NEWSETELEM, GETSETELEM, DELSETELEM = 9, 12, 13, 14
MULTICAST: Final = {4: ipaddress.ip_network("224.0.0.0/4"), 6: ipaddress.ip_network("ff00::/8")}  # spec dataplane.md 12
KEY_TYPE: Final = {4: 7, 6: 8}
"""What `nft` shows the set's addresses as; the kernel does not look at it."""

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


def add(address: str, node_address: str, randomize: str) -> None:
    """Have packets from a pod's address leave as the node's. Raises `KernelRefused`, and nothing has changed."""
    pod = ipaddress.ip_address(address)
    wanted = _table(ipaddress.ip_address(node_address), randomize)
    steps = list(nft_tables.plan(wanted, nfnetlink.table(TABLE, [CHAIN], ipv6=wanted.ipv6)))
    if steps and steps[0].kind == nft_tables.NEWTABLE:
        steps.insert(1, _new_set(pod.version))
    nfnetlink.carry_out([*steps, _element(NEWSETELEM, nft_tables.CREATE, pod)])


def remove(address: str) -> None:
    """Forget a pod's address; nothing there is success. Raises `KernelRefused`."""
    if is_there(address):
        nfnetlink.carry_out([_element(DELSETELEM, 0, ipaddress.ip_address(address))])


def is_there(address: str) -> bool:
    """Tell whether packets from a pod's address are translated. Raises `KernelRefused`."""
    pod = ipaddress.ip_address(address)
    return nfnetlink.has(_element(GETSETELEM, 0, pod))


def _table(node: Address, randomize: str) -> NftTable:
    rule = _rule(node, randomize)
    return NftTable(TABLE, (NftChain(CHAIN, (rule,), Hook("nat", POSTROUTING, SOURCE_NAT)),), ipv6=node.version == 6)


def _rule(node: Address, randomize: str) -> NftRule:
    flags, words = SOURCE_PORTS.get(randomize, SOURCE_PORTS["prng"])
    multicast, is_v6 = MULTICAST[node.version], node.version == 6
    source, destination, length = (
        (nft.SOURCE_OFFSET_V6, nft.DESTINATION_OFFSET_V6, nft.ADDRESS_BYTES_V6)
        if is_v6
        else (nft.SOURCE_OFFSET, nft.DESTINATION_OFFSET, nft.ADDRESS_BYTES)
    )
    family = "ip6" if is_v6 else "ip"
    return NftRule(
        f"{family} saddr @{SET} {family} daddr != {multicast} snat to {node}{words}",
        (
            nft.LoadHeader(nft.NETWORK_HEADER, source, length),
            nft.InSet(SET),
            nft.LoadHeader(nft.NETWORK_HEADER, destination, length),
            nft.Bits(multicast.netmask.packed, bytes(length)),
            nft.Compare(nft.NOT_EQUAL, multicast.network_address.packed),
            nft.Counter(),
            nft.Put(node.packed),
            nft.TranslateSource(flags, ipv6=is_v6),
        ),
    )


def _new_set(version: int) -> NftStep:
    size = nft.ADDRESS_BYTES_V6 if version == 6 else nft.ADDRESS_BYTES
    numbers = (
        (3, 0),
        (4, KEY_TYPE[version]),
        (5, size),
        (10, 1),
    )  # flags, type, length of a key, the set's number in the batch
    body = (
        text_attribute(1, TABLE)
        + text_attribute(2, SET)
        + b"".join(attribute(kind, struct.pack(">I", value)) for kind, value in numbers)
    )
    kind = f"ipv{version}_addr"
    return NftStep(NEWSET, nft_tables.CREATE, body, f"add set {_named(version)} {SET} {{ type {kind}; }}", version == 6)


def _element(kind: int, flags: int, pod: Address) -> NftStep:
    key = attribute(1 | nft.NESTED, attribute(1, pod.packed))
    elements = attribute(3 | nft.NESTED, attribute(1 | nft.NESTED, key))
    verb = {NEWSETELEM: "add", DELSETELEM: "delete", GETSETELEM: "get"}[kind]
    text = f"{verb} element {_named(pod.version)} {SET} {{ {pod} }}"
    return NftStep(kind, flags, text_attribute(1, TABLE) + text_attribute(2, SET) + elements, text, pod.version == 6)


def _named(version: int) -> str:
    return f"{'ip6' if version == 6 else 'ip'} {TABLE}"

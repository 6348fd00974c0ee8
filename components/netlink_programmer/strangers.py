"""What a DEL has to undo for a sandbox that this process never wired, out of the stored result and what the kernel shows. Pure.

The pod may be the reference's, of any release, or ours from before a loss of all memory. Its veths are told by alias or name, its
addresses by the routes that lead to these veths and by the result; an address that leads elsewhere is somebody else's by now
(spec dataplane.md 7.5, 18.6, 18.32). Tables come from the rules that are there, whatever the result says of them.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from vpccni.components.netlink_programmer.facts import Link, Route, Rule, Seen, host_of, host_prefix
from vpccni.components.netlink_programmer.naming import (
    HASH_DIGITS,
    INTERFACES_AT_MOST,
    MAIN_TABLE,
    host_veth_name,
    parse_alias,
)
from vpccni.components.netlink_programmer.node_plan import PRIORITY_FROM_POD, PRIORITY_TO_POD
from vpccni.components.netlink_programmer.request import CniRequest, previous_addresses, previous_host_veths


@dataclass(frozen=True)
class Leftover:
    """What is the sandbox's in the kernel: to be removed in this order."""

    rules: tuple[Rule, ...]
    routes: tuple[Route, ...]
    links: tuple[Link, ...]


def leftover(request: CniRequest, seen: Seen, *, held: Collection[str], booked: Collection[str] = ()) -> Leftover:
    """Return what is left of a sandbox. `held`: addresses of other sandboxes; `booked`: those the ledger has for this one."""
    routed = {host_of(route.dst): route for route in seen.routes if route.table == MAIN_TABLE and host_of(route.dst)}
    named = {*previous_addresses(request.previous), *booked}
    links = [link for link in seen.links.values() if _is_of(link, request, named, routed)]
    indexes = {link.ifindex for link in links}
    led = {address for address, route in routed.items() if route.ifindex in indexes}
    loose = {one for one in named if one not in routed}
    addresses = (led | loose).difference(held)
    prefixes = {host_prefix(address) for address in addresses}
    return Leftover(
        rules=tuple(dict.fromkeys(rule for rule in seen.rules if _is_about(rule, prefixes))),
        routes=tuple(routed[address] for address in sorted(addresses & led)),
        links=tuple(links),
    )


def _is_of(link: Link, request: CniRequest, named: Collection[str], routed: dict[str, Route]) -> bool:
    """Ours say it in their alias. Of others the name tells, unless the result names addresses and only others lead there."""
    owner = parse_alias(link.alias)
    if owner is not None:
        return owner[0] == request.sandbox
    if link.kind != "veth" or link.name not in _names(request):
        return False
    there = [address for address, route in routed.items() if route.ifindex == link.ifindex]
    return not there or not named or any(address in named for address in there)


def _names(request: CniRequest) -> Sequence[str]:
    if not request.pod.name:
        return previous_host_veths(request.previous)
    indexes = range(INTERFACES_AT_MOST)
    named = [host_veth_name(request.pod, request.veth_prefix, index=index) for index in indexes]
    # After a change of the prefix the result still has the old one, but a name of another pod in it means nothing.
    hashes = {host_veth_name(request.pod, "", index=index) for index in indexes}
    return named + [one for one in previous_host_veths(request.previous) if one[-HASH_DIGITS:] in hashes]


def _is_about(rule: Rule, prefixes: Collection[str]) -> bool:
    if rule.foreign or rule.fwmark:
        return False
    if rule.priority == PRIORITY_TO_POD:
        return rule.table == MAIN_TABLE and not rule.src and rule.dst in prefixes
    return rule.priority == PRIORITY_FROM_POD and rule.src in prefixes  # old releases had one a CIDR of the VPC

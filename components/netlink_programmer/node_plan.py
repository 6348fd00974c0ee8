"""What the node's rules, routes, links, addresses and settings should be, and the smallest steps from what is seen to it. Pure.

    situation + links ─▶ wanted ─┬─▶ plan(wanted, seen) ─▶ steps, in the order they can be carried out
                                 └─▶ contradicts(wanted, change): does this notification call for a pass?

Ours are: the rules and the host route of a wired pod, the link, address, table and rule of a managed ENI, the fwmark rule, the rules
of external services (spec dataplane.md 2.1, 11.1, 11.3, 11.5, 13.1, 13.2). Everything else is never in a plan.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Final, NamedTuple, TypeVar

from vpccni.components.netlink_programmer.facts import (
    DEFAULT,
    DEFAULT_IPV6,
    IPV4,
    IPV6,
    Address,
    Change,
    Link,
    LinkState,
    Route,
    Rule,
    Seen,
    Setting,
    family_of,
    host_of,
    host_prefix,
)
from vpccni.components.netlink_programmer.naming import MAIN_TABLE

_Key = TypeVar("_Key")
_Value = TypeVar("_Value")
LOCAL_TABLE: Final = 255
PRIORITY_STRICT_POD, PRIORITY_STRICT_LOCAL = 10, 20  # spec dataplane.md 2.1, of pods that this release does not make
PRIORITY_IN_POD: Final = 1  # spec dataplane.md 2.1, like the next five
PRIORITY_TO_POD: Final = 512
PRIORITY_MARK: Final = 1024
PRIORITY_EXTERNAL: Final = 1535
PRIORITY_FROM_POD: Final = 1536
PRIORITY_ENI: Final = 32765
SCOPE_LINK: Final = 253
IPV6_ROUTER: Final = "fe80:ec2::1"  # spec dataplane.md 2.3
PROTOCOL_BOOT: Final = 3  # as the reference's routes, spec dataplane.md 17
HOST_VETH_SETTINGS: Final = (
    ("accept_ra", "0"),
    ("accept_redirects", "1"),
    ("forwarding", "0"),
)  # spec dataplane.md 2.4
NODE: Final = "node"
"""The owner of what belongs to no pod and no secondary ENI."""


class PodWant(NamedTuple):
    """A wired pod."""

    owner: str
    address: str
    table: int
    ifindex: int
    host_veth: str


class EniWant(NamedTuple):
    """A secondary ENI we manage. `rule`: a trunk has none."""

    owner: str
    mac: str
    address: str
    subnet: str
    table: int
    rule: bool


@dataclass(frozen=True)
class Situation:
    """All that decides what is wanted. Before the first inventory there is no `primary_mac`, and nothing but pods is looked after.

    `gone`: primary addresses of ENIs that were ours and are detached. `orphans`: addresses that rules speak of and no pod has any more.
    `ipv6`: the addresses of pods and ENIs are of this family. `external_cidrs`: IPv4, on every node.
    """

    pods: tuple[PodWant, ...] = ()
    primary_mac: str = ""
    primary_subnet: str = ""
    enis: tuple[EniWant, ...] = ()
    gone: frozenset[str] = frozenset()
    orphans: frozenset[str] = frozenset()
    mtu: int = 9001
    connmark: int = 0x80
    mark_rule: bool = True
    ipv6: bool = False
    external_cidrs: tuple[str, ...] = ()

    @property
    def families(self) -> tuple[int, ...]:
        """Return the families that something of ours may be in."""
        with_ipv6 = self.ipv6 or any(family_of(pod.address) == IPV6 for pod in self.pods)
        return (IPV4, IPV6) if with_ipv6 else (IPV4,)


@dataclass
class Wanted:
    """What should be there, by the key that can hold one thing only; each with its owner."""

    rules: dict[Rule, str] = field(default_factory=dict)
    routes: dict[tuple[int, str], tuple[Route, str]] = field(default_factory=dict)
    links: dict[int, tuple[LinkState, str]] = field(default_factory=dict)
    addresses: dict[int, tuple[Address, str]] = field(default_factory=dict)
    connected: dict[tuple[int, str], str] = field(default_factory=dict)
    settings: dict[Setting, str] = field(default_factory=dict)
    pods: dict[str, str] = field(default_factory=dict)
    gone: frozenset[str] = frozenset()
    orphans: frozenset[str] = frozenset()
    mark: Rule | None = None
    are_external_known: bool = False
    awaited: dict[str, str] = field(default_factory=dict)
    """MACs that no link has, each with its owner."""


class Step(NamedTuple):
    """One thing to do. `verb`: "add" (also instead of what stands in its place), "remove", or "set"."""

    stage: int
    owner: str
    verb: str
    what: Rule | Route | Address | LinkState | Setting
    why: str


_LINK, _ADDRESS, _GATEWAY, _ROUTE, _RULE, _STALE, _SETTING = range(7)


def link_by_mac(links: Mapping[int, Link], mac: str) -> Link | None:
    """Return the link with a MAC; VLAN devices share their parent's."""
    return next((link for link in links.values() if mac and link.mac == mac.lower() and link.kind != "vlan"), None)


def wanted(situation: Situation, links: Mapping[int, Link]) -> Wanted:
    """Return what should be there, given the links that are."""
    want = _want_node(situation, links)
    for pod in situation.pods:
        if pod.ifindex in links:
            _want_pod(want, pod)
    return want


class Picture:
    """What is wanted, followed from one situation to the next: a pod that comes or goes costs no look at the others."""

    def __init__(self) -> None:
        self._want = Wanted()
        self._node: tuple[Situation, Mapping[int, Link]] | None = None
        self._pods: frozenset[PodWant] = frozenset()

    def of(self, situation: Situation, links: Mapping[int, Link]) -> Wanted:
        """Return what should be there, the links of all pods taken for granted. The next call may change what this one returned."""
        node, pods = (replace(situation, pods=()), links), frozenset(situation.pods)
        apart = _are_apart(situation.pods)
        if node != self._node or not apart:
            self._want = _want_node(situation, links)
            for pod in situation.pods:
                _want_pod(self._want, pod)
            self._node = node if apart else None
        else:
            for pod in self._pods - pods:
                _want_no_more(self._want, pod)
            for pod in pods - self._pods:
                _want_pod(self._want, pod)
            self._want.orphans = _orphans(situation)
        self._pods = pods
        return self._want


def _are_apart(pods: Collection[PodWant]) -> bool:
    """Whether no two pods claim one address or one link; while a deletion is under way they may."""
    return all(
        len(keys) == len(pods)
        for keys in ({pod.address for pod in pods}, {pod.ifindex for pod in pods}, {pod.host_veth for pod in pods})
    )


def _orphans(situation: Situation) -> frozenset[str]:
    return situation.orphans - {pod.address for pod in situation.pods} if situation.orphans else frozenset()


def _want_node(situation: Situation, links: Mapping[int, Link]) -> Wanted:
    want = Wanted(gone=situation.gone, orphans=_orphans(situation))
    if situation.primary_mac:
        family, mark = (IPV6 if situation.ipv6 else IPV4), situation.connmark
        want.mark = Rule(PRIORITY_MARK, MAIN_TABLE, fwmark=mark, fwmask=mark, family=family)
        want.are_external_known = True
        for cidr in situation.external_cidrs:
            want.rules[_external(cidr)] = NODE
        if situation.mark_rule:
            want.rules[want.mark] = NODE
        primary = link_by_mac(links, situation.primary_mac)
        if primary is None:
            want.awaited[situation.primary_mac.lower()] = NODE
        else:
            want.links[primary.ifindex] = LinkState(primary.ifindex, situation.mtu), NODE
    for eni in situation.enis:
        link = link_by_mac(links, eni.mac)
        if link is None:
            want.awaited[eni.mac.lower()] = eni.owner
        else:
            _want_eni(want, eni, link.ifindex, situation.mtu)
    return want


def _want_pod(want: Wanted, pod: PodWant) -> None:
    prefix = host_prefix(pod.address)
    family = family_of(pod.address)
    want.pods[prefix] = pod.owner
    want.links[pod.ifindex] = LinkState(pod.ifindex, 0), pod.owner
    route = Route(MAIN_TABLE, prefix, pod.ifindex, scope=SCOPE_LINK, protocol=PROTOCOL_BOOT)
    want.routes[MAIN_TABLE, prefix] = route, pod.owner
    want.rules[Rule(PRIORITY_TO_POD, MAIN_TABLE, dst=prefix, family=family)] = pod.owner
    if pod.table != MAIN_TABLE:
        want.rules[Rule(PRIORITY_FROM_POD, pod.table, src=prefix, family=family)] = pod.owner
    for name, value in HOST_VETH_SETTINGS:
        want.settings[Setting(f"ipv6/conf/{pod.host_veth}/{name}", value)] = pod.owner


def _want_no_more(want: Wanted, pod: PodWant) -> None:
    """Undo `_want_pod`."""
    gone = Wanted()
    _want_pod(gone, pod)
    _take_out(want.pods, gone.pods)
    _take_out(want.links, gone.links)
    _take_out(want.routes, gone.routes)
    _take_out(want.rules, gone.rules)
    _take_out(want.settings, gone.settings)


def _take_out(held: dict[_Key, _Value], gone: Iterable[_Key]) -> None:
    for key in gone:
        del held[key]


def _external(cidr: str) -> Rule:
    return Rule(PRIORITY_EXTERNAL, MAIN_TABLE, dst="" if cidr.endswith("/0") else cidr)


def _want_eni(want: Wanted, eni: EniWant, ifindex: int, mtu: int) -> None:
    family = family_of(eni.address)
    subnet = ipaddress.ip_network(eni.subnet)
    gateway = IPV6_ROUTER if family == IPV6 else str(subnet.network_address + 1)
    want.links[ifindex] = LinkState(ifindex, mtu), eni.owner
    want.addresses[ifindex] = Address(ifindex, f"{eni.address}/{subnet.prefixlen}"), eni.owner
    to_gateway = Route(eni.table, host_prefix(gateway), ifindex, scope=SCOPE_LINK, protocol=PROTOCOL_BOOT)
    everywhere = DEFAULT_IPV6 if family == IPV6 else DEFAULT
    default = Route(eni.table, everywhere, ifindex, gateway, protocol=PROTOCOL_BOOT)
    want.routes[eni.table, to_gateway.dst] = to_gateway, eni.owner
    want.routes[eni.table, everywhere] = default, eni.owner
    want.connected[ifindex, str(subnet)] = eni.owner
    if eni.rule:
        want.rules[Rule(PRIORITY_ENI, eni.table, src=host_prefix(eni.address), family=family)] = eni.owner


def plan(want: Wanted, seen: Seen) -> tuple[Step, ...]:
    """Return the steps from `seen` to what is wanted, what is added before what is removed; nothing when all is right."""
    steps = [
        *_plan_links(want, seen),
        *_plan_addresses(want, seen),
        *_plan_routes(want, seen),
        *_plan_rules(want, seen),
        *_plan_local(want, seen),
        *_plan_settings(want, seen),
    ]
    return tuple(sorted(steps, key=lambda step: (step.stage, step.owner, step.verb, str(step.what))))


def _plan_links(want: Wanted, seen: Seen) -> Iterable[Step]:
    for ifindex, (state, owner) in want.links.items():
        link = seen.links.get(ifindex)
        if link is not None and not _link_is_right(state, link):
            why = f"{link.name} is {'up' if link.up else 'down'} with MTU {link.mtu}"
            yield Step(_LINK, owner, "set", state, why)


def _link_is_right(state: LinkState, link: Link) -> bool:
    return link.up == state.up and state.mtu in (0, link.mtu)


def _plan_addresses(want: Wanted, seen: Seen) -> Iterable[Step]:
    there = set(seen.addresses)
    for ifindex, (address, owner) in want.addresses.items():
        if ifindex not in seen.links:
            continue
        if address not in there:
            yield Step(_ADDRESS, owner, "add", address, "the ENI's link lacks its address")
        family = family_of(address.local)
        others = (one for one in there if one.ifindex == ifindex and family_of(one.local) == family)
        for other in sorted(one for one in others if one != address):
            yield Step(_STALE, owner, "remove", other, "the ENI's link holds its primary address alone")


def _plan_routes(want: Wanted, seen: Seen) -> Iterable[Step]:
    there = {(route.table, route.dst): route for route in seen.routes if not route.metric}
    for key, (route, owner) in want.routes.items():
        found = there.get(key)
        if route.ifindex in seen.links and not _leads_alike(route, found):
            stage = _ROUTE if route.gateway else _GATEWAY
            yield Step(
                stage, owner, "add", route, "it is missing" if found is None else "another route is in its place"
            )
    for route in seen.routes:
        if route.table == MAIN_TABLE and (holder := want.connected.get((route.ifindex, route.dst))) is not None:
            yield Step(_STALE, holder, "remove", route, "it sends answers into the VPC out of the wrong ENI")


def _leads_alike(route: Route, found: Route | None) -> bool:
    return found is not None and (route.ifindex, route.gateway) == (found.ifindex, found.gateway)


def _plan_rules(want: Wanted, seen: Seen) -> Iterable[Step]:
    there = frozenset(seen.rules)
    for rule, owner in want.rules.items():
        if rule not in there:
            yield Step(_RULE, owner, "add", rule, "it is missing")
    for rule in sorted(there):
        if (why := _stale(want, rule)) is not None:
            yield Step(_STALE, *why[:1], "remove", rule, why[1])


def _plan_local(want: Wanted, seen: Seen) -> Iterable[Step]:
    """Put the rule of local addresses back where it was before the reference's strict mode, once its last branch pod is gone (18.15)."""
    there = frozenset(seen.rules)
    for family in (IPV4, IPV6):
        moved, usual = (Rule(priority, LOCAL_TABLE, family=family) for priority in (PRIORITY_STRICT_LOCAL, 0))
        of_pods = any(rule.priority == PRIORITY_STRICT_POD and rule.family == family for rule in there)
        if want.mark is None or moved not in there or of_pods:
            continue
        if usual not in there:
            yield Step(_RULE, NODE, "add", usual, "no pod of strict mode needs to be before it")
        yield Step(_STALE, NODE, "remove", moved, "no pod of strict mode is left")


def _stale(want: Wanted, rule: Rule) -> tuple[str, str] | None:
    """Return whose rule it is and why it must go, None when it may stay."""
    if rule.foreign or rule in want.rules:
        return None
    if rule.priority == PRIORITY_FROM_POD and rule.src in want.pods:
        return want.pods[rule.src], "an older form, or of a table the address is no longer in"
    if rule.priority == PRIORITY_TO_POD and rule.dst in want.pods and not rule.src:
        return want.pods[rule.dst], "it leads to another table than main"
    if _pod_address(rule) in want.orphans:
        return NODE, "no pod has the address any more"
    if rule.priority == PRIORITY_ENI and host_of(rule.src) in want.gone:
        return NODE, "its ENI is detached"
    if want.are_external_known and rule == _external(rule.dst):
        return NODE, "no external service has this CIDR any more"
    if rule == want.mark:
        return NODE, "neither node ports nor source NAT need it"
    return None


def _pod_address(rule: Rule) -> str:
    """Return the address of the pod that a rule of a pod's form is about, "" for any other rule."""
    if rule.foreign or rule.fwmark:
        return ""
    if rule.priority == PRIORITY_TO_POD and rule.table == MAIN_TABLE and not rule.src:
        return host_of(rule.dst)
    if rule.priority == PRIORITY_FROM_POD and not rule.dst:
        return host_of(rule.src)
    return ""


def suspects(situation: Situation, seen: Seen, claimed: frozenset[str]) -> frozenset[str]:
    """Return the addresses of our subnets that rules of a pod's form are about, with no route to a pod and nobody who claims them.

    A pod being wired or deleted may look like this for a moment; one that stays so is an orphan (spec dataplane.md 18.13).
    """
    cidrs = {situation.primary_subnet, *(eni.subnet for eni in situation.enis)} - {""}
    subnets = [ipaddress.ip_network(cidr) for cidr in cidrs]
    routed = {host_of(route.dst) for route in seen.routes if route.table == MAIN_TABLE}
    known = claimed | routed | {pod.address for pod in situation.pods}
    found = {_pod_address(rule) for rule in seen.rules} - known - {""}
    return frozenset(one for one in found if any(ipaddress.ip_address(one) in subnet for subnet in subnets))


def _plan_settings(want: Wanted, seen: Seen) -> Iterable[Step]:
    """A setting that is not there (no IPv6 in this kernel) is not wanted: `seen.settings` has all that exist."""
    if seen.settings is None:
        return
    values = dict(seen.settings)
    for setting, owner in want.settings.items():
        found = values.get(setting.path)
        if found is not None and found != setting.value:
            yield Step(_SETTING, owner, "set", setting, f"it is {found}")


def contradicts(want: Wanted, change: Change) -> bool:
    """Return whether a notification says that something of ours is no longer as wanted. Our own changes never do."""
    fact = change.fact
    if isinstance(fact, Rule):
        if change.added:
            is_moved = fact == Rule(PRIORITY_STRICT_LOCAL, LOCAL_TABLE, family=fact.family)
            return _stale(want, fact) is not None or (is_moved and want.mark is not None)
        return fact in want.rules
    if isinstance(fact, Route):
        return _route_contradicts(want, fact, added=change.added)
    if isinstance(fact, Address):
        return _address_contradicts(want, fact, added=change.added)
    return _link_contradicts(want, fact, added=change.added)


def _route_contradicts(want: Wanted, route: Route, *, added: bool) -> bool:
    wanted_route = want.routes.get((route.table, route.dst))
    if wanted_route is not None and not route.metric:
        return _leads_alike(wanted_route[0], route) is not added
    return added and route.table == MAIN_TABLE and (route.ifindex, route.dst) in want.connected


def _address_contradicts(want: Wanted, address: Address, *, added: bool) -> bool:
    wanted_address = want.addresses.get(address.ifindex)
    if wanted_address is None or family_of(wanted_address[0].local) != family_of(address.local):
        return False
    return (wanted_address[0] == address) is not added


def _link_contradicts(want: Wanted, link: Link, *, added: bool) -> bool:
    """A link that is gone cannot be mended here; one that comes may be what somebody waits for."""
    if not added:
        return False
    state = want.links.get(link.ifindex)
    return link.mac in want.awaited if state is None else not _link_is_right(state[0], link)


def latest(changes: Iterable[Change]) -> tuple[Change, ...]:
    """Return the last change of each thing: what came before it no longer tells how the kernel is."""
    last: dict[tuple[object, ...], Change] = {}
    for change in changes:
        fact = change.fact
        if isinstance(fact, Link):
            key: tuple[object, ...] = (fact.ifindex,)
        elif isinstance(fact, Route):
            key = (fact.table, fact.dst, fact.metric)
        else:
            key = tuple(fact)
        last[(type(fact), *key)] = change
    return tuple(last.values())

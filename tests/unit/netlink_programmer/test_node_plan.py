"""The plan reaches what is wanted from anywhere, leaves the foreign alone, and then plans nothing; a notification is judged alike."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vpccni.components.netlink_programmer.facts import (
    IPV6,
    Address,
    Change,
    Fact,
    Link,
    LinkState,
    Route,
    Rule,
    Seen,
    Setting,
)
from vpccni.components.netlink_programmer.naming import MAIN_TABLE
from vpccni.components.netlink_programmer.node_plan import (
    EniWant,
    Picture,
    PodWant,
    Situation,
    Step,
    Wanted,
    contradicts,
    latest,
    plan,
    suspects,
    wanted,
)

MTU = 9001
LINKS = {
    1: Link(1, "lo", "00:00:00:00:00:00", 65536, True),
    2: Link(2, "eth0", "02:00:00:00:00:01", MTU, True),
    3: Link(3, "eth1", "02:00:00:00:00:02", MTU, True),
    4: Link(4, "eth2", "02:00:00:00:00:03", MTU, True),
    10: Link(10, "enia", "02:00:00:00:01:01", MTU, True, "veth"),
    11: Link(11, "enib", "02:00:00:00:01:02", MTU, True, "veth"),
    12: Link(12, "docker0", "02:00:00:00:01:03", 1500, True, "bridge"),
}
SITUATION = Situation(
    pods=(PodWant("pod d/a", "10.0.97.30", 2, 10, "enia"), PodWant("pod d/b", "10.0.97.31", MAIN_TABLE, 11, "enib")),
    primary_mac="02:00:00:00:00:01",
    enis=(
        EniWant("eni-1", "02:00:00:00:00:02", "10.0.110.7", "10.0.96.0/19", 2, rule=True),
        EniWant("eni-2", "02:00:00:00:00:03", "10.0.110.8", "10.0.96.0/19", 3, rule=False),
    ),
    gone=frozenset({"10.0.110.99"}),
)
WANT = wanted(SITUATION, LINKS)
FOREIGN: tuple[Fact, ...] = (
    Rule(0, 255),
    Rule(32766, MAIN_TABLE),
    Rule(512, 77, dst="10.9.9.9/32"),
    Rule(1536, 77, src="10.9.9.9/32"),
    Rule(1535, 77, dst="10.50.0.0/16"),
    Rule(1535, MAIN_TABLE, dst="2001:db8:50::/48", family=IPV6),
    Rule(1024, MAIN_TABLE, fwmark=0x80, fwmask=0x80, family=IPV6),
    Rule(1024, MAIN_TABLE, fwmark=0x40, fwmask=0x40),
    Rule(1025, MAIN_TABLE, dst="10.0.97.30/32"),
    Rule(1536, 5, src="10.0.97.30/32", foreign=True),
    Rule(32765, 2, src="10.77.0.1/32"),
    Route(MAIN_TABLE, "0.0.0.0/0", 2, "10.0.96.1"),
    Route(MAIN_TABLE, "10.0.96.0/19", 2, protocol=2, scope=253),
    Route(MAIN_TABLE, "172.17.0.0/16", 12),
    Route(2, "10.60.0.0/16", 12),
    Route(MAIN_TABLE, "10.0.97.30/32", 12, metric=50),
    Address(2, "10.0.104.183/19"),
    Address(12, "172.17.0.1/16"),
)
STALE: tuple[Fact, ...] = (
    Rule(1536, 2, src="10.0.97.30/32", dst="10.0.0.0/16"),  # a release that had one rule a VPC range
    Rule(1536, 3, src="10.0.97.31/32"),
    Rule(512, 9, dst="10.0.97.30/32"),
    Rule(32765, 4, src="10.0.110.99/32"),
    Rule(1535, MAIN_TABLE, dst="10.50.0.0/16"),  # an external service that is none any more
    Route(MAIN_TABLE, "10.0.96.0/19", 3, protocol=2, scope=253, source="10.0.110.7"),
    Route(2, "0.0.0.0/0", 2, "10.0.96.1"),
    Address(3, "192.168.1.1/24"),
)


def complete(want: Wanted) -> Seen:
    """What the kernel holds when all is as wanted."""
    return Seen(
        rules=tuple(want.rules),
        routes=tuple(route for route, _ in want.routes.values()),
        addresses=tuple(address for address, _ in want.addresses.values()),
        links=dict(LINKS),
        settings=frozenset(want.settings),
    )


def carry_out(seen: Seen, steps: tuple[Step, ...]) -> Seen:
    """A kernel in a few lines."""
    rules, routes, addresses = list(seen.rules), list(seen.routes), list(seen.addresses)
    links, settings = dict(seen.links), dict(seen.settings or ())
    for step in steps:
        what = step.what
        if isinstance(what, Rule):
            if step.verb == "add":
                rules.append(what)
            else:
                rules.remove(what)
        elif isinstance(what, Route):
            if step.verb == "add":
                assert links[what.ifindex].up, "a route on a link that is down is refused"
                routes = [one for one in routes if (one.table, one.dst, one.metric) != (what.table, what.dst, 0)]
                routes.append(what)
            else:
                routes.remove(what)
        elif isinstance(what, Address):
            if step.verb == "add":
                addresses.append(what)
                routes.append(Route(MAIN_TABLE, "10.0.96.0/19", what.ifindex, protocol=2, scope=253))
            else:
                addresses.remove(what)
        elif isinstance(what, LinkState):
            links[what.ifindex] = links[what.ifindex]._replace(up=what.up, mtu=what.mtu or links[what.ifindex].mtu)
        else:
            settings[what.path] = what.value
    return Seen(
        tuple(rules), tuple(routes), tuple(addresses), links, frozenset(Setting(*one) for one in settings.items())
    )


def with_facts(seen: Seen, facts: tuple[Fact, ...]) -> Seen:
    taken = {(one.table, one.dst, one.metric) for one in facts if isinstance(one, Route)}
    return replace(
        seen,
        rules=seen.rules + tuple(one for one in facts if isinstance(one, Rule)),
        routes=tuple(one for one in seen.routes if (one.table, one.dst, one.metric) not in taken)
        + tuple(one for one in facts if isinstance(one, Route)),
        addresses=seen.addresses + tuple(one for one in facts if isinstance(one, Address)),
    )


IPV6_SITUATION = replace(
    SITUATION,
    pods=(
        PodWant("pod d/a", "2001:db8:1:abcd::3", 10101, 10, "enia"),
        PodWant("pod d/b", "2001:db8:1:abcd::4", MAIN_TABLE, 11, "enib"),
    ),
    enis=(EniWant("eni-1", "02:00:00:00:00:02", "2001:db8:2::7", "2001:db8:2::/64", 10101, rule=True),),
    gone=frozenset({"2001:db8:3::9"}),
    ipv6=True,
    external_cidrs=("10.50.0.0/16", "10.60.0.0/16"),
)


def test_an_ipv6_node_has_rules_and_routes_of_its_family_and_external_services_of_ipv4() -> None:
    want = wanted(IPV6_SITUATION, LINKS)
    assert sorted(str(rule) for rule in want.rules) == [
        "rule 1024: fwmark 0x80/0x80 of IPv6 lookup 254",
        "rule 1535: to 10.50.0.0/16 lookup 254",
        "rule 1535: to 10.60.0.0/16 lookup 254",
        "rule 1536: from 2001:db8:1:abcd::3/128 lookup 10101",
        "rule 32765: from 2001:db8:2::7/128 lookup 10101",
        "rule 512: to 2001:db8:1:abcd::3/128 lookup 254",
        "rule 512: to 2001:db8:1:abcd::4/128 lookup 254",
    ]
    assert all(rule.family == (IPV6 if ":" in f"{rule.src}{rule.dst}" or rule.fwmark else 2) for rule in want.rules)
    assert sorted(str(route) for route, _ in want.routes.values()) == [
        "route 2001:db8:1:abcd::3/128 dev 10 table 254",
        "route 2001:db8:1:abcd::4/128 dev 11 table 254",
        "route ::/0 via fe80:ec2::1 dev 3 table 10101",
        "route fe80:ec2::1/128 dev 3 table 10101",
    ]
    assert plan(want, complete(want)) == ()


def test_an_ipv6_enis_ipv4_addresses_and_another_familys_mark_rule_are_left_alone() -> None:
    want = wanted(IPV6_SITUATION, LINKS)
    others = (
        Address(3, "10.0.110.7/19"),
        Rule(1024, MAIN_TABLE, fwmark=0x80, fwmask=0x80),
        Route(MAIN_TABLE, "10.0.96.0/19", 3, protocol=2, scope=253),
    )
    assert plan(want, with_facts(complete(want), others)) == ()
    stale = (
        Address(3, "2001:db8:2::99/64"),
        Rule(32765, 10102, src="2001:db8:3::9/128", family=IPV6),
        Route(MAIN_TABLE, "2001:db8:2::/64", 3, protocol=2, metric=256),
    )
    assert {step.what for step in plan(want, with_facts(complete(want), stale))} == set(stale)


@pytest.mark.spec("dataplane.18.43")
def test_external_services_of_an_ipv6_node_come_and_go_alone() -> None:
    want = wanted(IPV6_SITUATION, LINKS)
    for _ in range(2):  # a restart looks again
        assert plan(want, complete(want)) == ()
    fewer = wanted(replace(IPV6_SITUATION, external_cidrs=("10.60.0.0/16",)), LINKS)
    (step,) = plan(fewer, complete(want))
    assert (step.verb, str(step.what)) == ("remove", "rule 1535: to 10.50.0.0/16 lookup 254")
    assert wanted(Situation(), LINKS).are_external_known is False


@st.composite
def anything(draw: st.DrawFn) -> tuple[Seen, tuple[Fact, ...]]:
    """A node in any disorder, and the foreign facts it has."""
    whole = complete(WANT)
    foreign = tuple(draw(st.sets(st.sampled_from(FOREIGN))))
    stale = tuple(draw(st.sets(st.sampled_from(STALE))))
    links = dict(LINKS)
    for ifindex in draw(st.sets(st.sampled_from([2, 3, 4, 10, 11]))):
        links[ifindex] = links[ifindex]._replace(up=draw(st.booleans()), mtu=draw(st.sampled_from([1500, MTU])))
    down = {ifindex for ifindex, link in links.items() if not link.up}
    for ifindex in draw(st.sets(st.sampled_from([10, 11]))):
        links.pop(ifindex)
        down.add(ifindex)
    seen = with_facts(
        Seen(
            rules=tuple(draw(st.sets(st.sampled_from(whole.rules)))),
            routes=tuple(draw(st.sets(st.sampled_from(whole.routes)))),
            addresses=tuple(draw(st.sets(st.sampled_from(whole.addresses)))),
            links=links,
            settings=frozenset(
                draw(st.sampled_from([one, one._replace(value="7")])) for one in sorted(whole.settings or ())
            ),
        ),
        foreign + stale,
    )
    return replace(seen, routes=tuple(one for one in seen.routes if one.ifindex not in down)), foreign


@given(anything())
@pytest.mark.spec("dataplane.11.3", "dataplane.11.5", "dataplane.18.12")
def test_from_any_disorder_the_steps_lead_to_what_is_wanted_and_leave_the_foreign(
    case: tuple[Seen, tuple[Fact, ...]],
) -> None:
    seen, foreign = case
    want = wanted(SITUATION, seen.links)
    mended = carry_out(seen, plan(want, seen))
    mended = carry_out(mended, plan(want, mended))  # the connected route that a new address brings along
    assert plan(want, mended) == ()
    assert set(want.rules) <= set(mended.rules)
    assert {route for route, _ in want.routes.values()} <= {
        one._replace(protocol=3, source="", scope=253 if not one.gateway else 0) for one in mended.routes
    }
    there = {*mended.rules, *mended.routes, *mended.addresses}
    down = {ifindex for ifindex in LINKS if ifindex not in seen.links or not seen.links[ifindex].up}
    assert {one for one in foreign if not (isinstance(one, Route) and one.ifindex in down)} <= there


@given(anything())
def test_no_step_concerns_what_is_foreign(case: tuple[Seen, tuple[Fact, ...]]) -> None:
    seen, _ = case
    assert not {step.what for step in plan(wanted(SITUATION, seen.links), seen)} & set(FOREIGN)


PODS = st.builds(
    PodWant,
    st.sampled_from(["pod d/a", "pod d/b"]),
    st.sampled_from(["10.0.97.30", "10.0.97.31", "10.0.97.32"]),
    st.sampled_from([2, MAIN_TABLE]),
    st.integers(20, 23),
    st.sampled_from(["enia", "enib", "enic"]),
)
SITUATIONS = st.builds(
    lambda situation, pods, orphans: replace(situation, pods=tuple(pods), orphans=orphans),
    st.sampled_from([SITUATION, SITUATION, SITUATION, replace(SITUATION, enis=()), Situation()]),
    st.lists(PODS, max_size=4, unique=True),
    st.sampled_from([frozenset[str](), frozenset({"10.0.97.30", "10.0.97.40"})]),
)


@given(st.lists(SITUATIONS, max_size=12))
def test_a_picture_that_is_followed_is_what_a_new_one_would_be(situations: list[Situation]) -> None:
    picture = Picture()
    for situation in situations:
        taken_for_granted = {pod.ifindex: Link(pod.ifindex, pod.host_veth, "", 0, True) for pod in situation.pods}
        assert picture.of(situation, LINKS) == wanted(situation, {**LINKS, **taken_for_granted})


def test_a_settled_node_plans_nothing() -> None:
    assert plan(WANT, complete(WANT)) == ()


def test_a_step_says_what_on_whose_behalf_and_why() -> None:
    seen = complete(WANT)
    (step,) = plan(WANT, replace(seen, rules=tuple(one for one in seen.rules if one.priority != 512)))[:1]
    assert (step.owner, step.verb, step.why) == ("pod d/a", "add", "it is missing")


@pytest.mark.parametrize("fact", [*WANT.rules, *(route for route, _ in WANT.routes.values())], ids=str)
def test_what_is_wanted_wakes_when_it_goes_and_not_when_it_comes(fact: Rule | Route) -> None:
    assert contradicts(WANT, Change(added=False, fact=fact))
    assert not contradicts(WANT, Change(added=True, fact=fact))


@pytest.mark.parametrize("fact", STALE, ids=str)
def test_what_must_go_wakes_when_it_comes_and_not_when_it_goes(fact: Fact) -> None:
    assert contradicts(WANT, Change(added=True, fact=fact))
    assert not contradicts(WANT, Change(added=False, fact=fact))


@pytest.mark.parametrize("added", [True, False])
@pytest.mark.parametrize("fact", FOREIGN, ids=str)
def test_what_is_foreign_wakes_nobody(fact: Fact, added: bool) -> None:
    assert not contradicts(WANT, Change(added, fact))


@given(anything())
def test_whatever_a_plan_would_mend_its_own_notification_would_have_told(case: tuple[Seen, tuple[Fact, ...]]) -> None:
    """Each single difference from a settled node is a contradiction, and only those."""
    seen, _ = case
    for rule in {*seen.rules} - {*WANT.rules}:
        changed = with_facts(complete(WANT), (rule,))
        assert bool(plan(WANT, changed)) is contradicts(WANT, Change(True, rule))
    for route in {*seen.routes} - {route for route, _ in WANT.routes.values()}:
        changed = with_facts(complete(WANT), (route,))
        assert bool(plan(WANT, changed)) is contradicts(WANT, Change(True, route))


@pytest.mark.parametrize(
    ("link", "wakes"),
    [
        (LINKS[3], False),
        (LINKS[3]._replace(up=False), True),
        (LINKS[3]._replace(mtu=1500), True),
        (LINKS[10]._replace(up=False), True),
        (LINKS[10]._replace(mtu=1500), False),
        (LINKS[12]._replace(up=False), False),
        (Link(20, "eth3", "02:00:00:00:00:04", 1500, False), False),
    ],
    ids=str,
)
def test_a_link_of_ours_wakes_when_it_is_not_as_wanted(link: Link, wakes: bool) -> None:
    assert contradicts(WANT, Change(True, link)) is wakes


def test_the_link_of_an_eni_that_is_waited_for_wakes() -> None:
    early = wanted(SITUATION, {index: link for index, link in LINKS.items() if index != 3})
    assert contradicts(early, Change(True, LINKS[3]._replace(up=False, mtu=1500)))


def test_of_a_bunch_of_notifications_the_last_of_each_thing_counts() -> None:
    rule, link = next(iter(WANT.rules)), LINKS[10]
    bunch = [Change(False, rule), Change(True, link._replace(up=False)), Change(True, rule), Change(True, link)]
    assert not [change for change in latest(bunch) if contradicts(WANT, change)]


def test_before_the_first_inventory_pods_alone_are_looked_after() -> None:
    want = wanted(Situation(pods=SITUATION.pods), LINKS)
    assert {rule.priority for rule in want.rules} == {512, 1536}
    assert not want.addresses


def test_the_mark_rule_goes_when_nothing_needs_it() -> None:
    want = wanted(replace(SITUATION, mark_rule=False), LINKS)
    (step,) = plan(want, complete(WANT))
    assert (step.verb, step.what) == ("remove", WANT.mark)


def test_a_setting_the_kernel_lacks_is_not_planned_and_one_changed_by_hand_is() -> None:
    seen = complete(WANT)
    first, *others = sorted(seen.settings or ())
    assert plan(WANT, replace(seen, settings=frozenset(others))) == ()
    (step,) = plan(WANT, replace(seen, settings=frozenset([first._replace(value="9"), *others])))
    assert (step.verb, step.what, step.why) == ("set", first, "it is 9")


ORPHAN = "10.0.97.99"
ORPHANED = (Rule(512, MAIN_TABLE, dst=f"{ORPHAN}/32"), Rule(1536, 2, src=f"{ORPHAN}/32"))


@pytest.mark.spec("dataplane.18.13")
def test_rules_of_an_address_nobody_has_are_suspect_and_go_once_they_count_as_orphans() -> None:
    seen = with_facts(complete(WANT), ORPHANED)
    assert suspects(SITUATION, seen, frozenset()) == {ORPHAN}
    assert plan(WANT, seen) == ()
    want = wanted(replace(SITUATION, orphans=frozenset({ORPHAN})), LINKS)
    assert {step.what for step in plan(want, seen)} == set(ORPHANED)


@pytest.mark.spec("dataplane.18.13")
def test_on_a_node_with_its_primary_eni_alone_orphans_are_suspect_too() -> None:
    alone = replace(SITUATION, enis=(), primary_subnet="10.0.96.0/19")
    assert suspects(alone, with_facts(complete(WANT), ORPHANED), frozenset()) == {ORPHAN}
    assert suspects(replace(alone, primary_subnet=""), with_facts(complete(WANT), ORPHANED), frozenset()) == frozenset()


def test_an_address_that_is_claimed_routed_wired_or_of_another_network_is_no_suspect() -> None:
    seen = with_facts(complete(WANT), ORPHANED)
    assert suspects(SITUATION, seen, frozenset({ORPHAN})) == frozenset()
    assert suspects(SITUATION, with_facts(seen, (Route(MAIN_TABLE, f"{ORPHAN}/32", 12),)), frozenset()) == frozenset()
    assert suspects(SITUATION, with_facts(complete(WANT), FOREIGN), frozenset()) == frozenset()


def test_an_orphan_that_is_wired_again_is_none() -> None:
    pods = (PodWant("pod d/c", ORPHAN, 2, 10, "enia"),)
    want = wanted(replace(SITUATION, pods=pods, orphans=frozenset({ORPHAN})), LINKS)
    assert not {step.what for step in plan(want, with_facts(complete(WANT), ORPHANED))} & set(ORPHANED)


@pytest.mark.spec("dataplane.18.15")
def test_the_local_rule_goes_back_once_no_pod_of_strict_mode_is_left_and_never_fails() -> None:
    whole = complete(WANT)
    usual, moved = Rule(0, 255), Rule(20, 255)
    of_a_pod = Rule(10, 105, foreign=True)  # by its vlan device
    without = tuple(rule for rule in whole.rules if rule != usual)
    strict = replace(whole, rules=(*without, moved))
    assert [(step.verb, step.what) for step in plan(WANT, strict)] == [("add", usual), ("remove", moved)]
    assert plan(WANT, replace(strict, rules=(*strict.rules, of_a_pod))) == ()
    assert [(step.verb, step.what) for step in plan(WANT, replace(strict, rules=(*strict.rules, usual)))] == [
        ("remove", moved)
    ]
    assert contradicts(WANT, Change(added=True, fact=moved))

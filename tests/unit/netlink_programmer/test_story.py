"""The story of a pod's network: what is there, what is missing, what is foreign, which firewall rules its packets meet."""

from __future__ import annotations

from dataclasses import replace

from vpccni.components.netlink_programmer import connmark
from vpccni.components.netlink_programmer.facts import Link, Route, Rule, Seen
from vpccni.components.netlink_programmer.firewall import Backend, FirewallFacts
from vpccni.components.netlink_programmer.firewall import wanted as wanted_tables
from vpccni.components.netlink_programmer.node_plan import Situation, plan, wanted
from vpccni.components.netlink_programmer.story import Look, pod_want, sandbox_story
from vpccni.components.netlink_programmer.wiring import Wired
from vpccni.shared.messages.allocation import LedgerEntry
from vpccni.shared.messages.base import PodRef, Sandbox
from vpccni.shared.messages.wiring import SandboxStory

POD = PodRef("default", "web")
WIRED = Wired(Sandbox("c1", "eth0"), POD, "eni01", 7, "02:00:00:00:00:07", "10.0.0.5", 2, 1)
OTHER = replace(WIRED, sandbox=Sandbox("c0", "eth0"), host_veth="eni00", ifindex=6, address="10.0.0.4")
LINKS = {one.ifindex: Link(one.ifindex, one.host_veth, one.mac, 9001, True) for one in (WIRED, OTHER)}
ENTRY = LedgerEntry("10.0.0.5", "eni-1", WIRED.sandbox, POD, 1)


def told(seen: Seen, wired: Wired = WIRED, entry: LedgerEntry | None = ENTRY) -> SandboxStory:
    want = wanted(Situation(pods=(pod_want(WIRED), pod_want(OTHER))), seen.links)
    facts = FirewallFacts(("10.0.0.0/16",), (), "10.0.0.1", "eth0", "eni", 0x80, False, True, "prng")
    tables = [*wanted_tables(facts, Backend.NFT), connmark.in_words(connmark.wanted_table(facts))]
    look = Look(seen, want, plan(want, seen), [(table, "") for table in tables])
    return sandbox_story(wired, entry, look, veth_prefix="eni")


def whole() -> Seen:
    want = wanted(Situation(pods=(pod_want(WIRED), pod_want(OTHER))), LINKS)
    return Seen(
        tuple(want.rules), tuple(route for route, _ in want.routes.values()), (), dict(LINKS), frozenset(want.settings)
    )


def test_all_that_is_right_is_listed_and_nothing_is_missing() -> None:
    story = told(whole())
    assert (story.missing, story.foreign) == ([], [])
    assert "rule 512: to 10.0.0.5/32 lookup 254" in story.present
    assert "rule 1536: from 10.0.0.5/32 lookup 2" in story.present
    assert (story.eni_id, story.ledger) == ("eni-1", "10.0.0.5 of eni-1")


def test_two_sandboxes_of_one_pod_name_have_their_own_stories() -> None:
    assert not any("10.0.0.4" in line or "eni00" in line for line in told(whole()).present)
    assert any("10.0.0.4" in line for line in told(whole(), OTHER, None).present)


def test_what_is_missing_says_what_is_there_instead() -> None:
    seen = whole()
    robbed = replace(seen, routes=(Route(254, "10.0.0.5/32", 6),))
    assert told(robbed).missing == ["route 10.0.0.5/32 dev 7 table 254: another route is in its place"]


def test_a_veth_that_is_gone_is_said_first() -> None:
    story = told(replace(whole(), links={6: LINKS[6]}))
    assert story.missing == ["link eni01: it is gone, and everything that needs it"]


def test_rules_about_the_address_that_are_not_ours_are_told_from_those_that_will_go() -> None:
    seen = whole()
    extra = (Rule(700, 254, dst="10.0.0.5/32"), Rule(1536, 9, src="10.0.0.5/32"))
    foreign = told(replace(seen, rules=seen.rules + extra)).foreign
    assert foreign[0] == "rule 700: to 10.0.0.5/32 lookup 254: not ours, left alone"
    assert "an older form" in foreign[1]


def test_the_firewall_rules_are_those_of_the_pods_veth() -> None:
    chains = told(whole()).chains
    assert any("--to-source 10.0.0.1" in line for line in chains)
    assert 'iifname "eni*" jump snat-mark' in chains
    assert "ip daddr 10.0.0.0/16 return" in chains
    assert not any(" -i eth0 " in line or " -i vlan+ " in line for line in chains)

"""What a start makes of the kernel's links, routes and rules."""

from __future__ import annotations

from vpccni.components.netlink_programmer.facts import Link, Route, Rule, Seen
from vpccni.components.netlink_programmer.naming import MAIN_TABLE, PARTING_HEAD, alias_of
from vpccni.components.netlink_programmer.survey import survey, unclaimed
from vpccni.shared.messages.base import PodRef, Sandbox

BOX, POD = Sandbox("c1", "eth0"), PodRef("default", "web", "uid-1")
LINKS = {
    2: Link(2, "eth0", "02:00:00:00:00:01", 9001, True),
    10: Link(10, "enia", "02:00:00:00:01:01", 9001, True, "veth", alias_of(BOX, POD)),
    11: Link(11, f"{PARTING_HEAD}1", "02:00:00:00:01:02", 9001, False, "veth", alias_of(BOX, POD)),
    12: Link(12, "enib", "02:00:00:00:01:03", 9001, True, "veth"),
}
ROUTES = (
    Route(MAIN_TABLE, "0.0.0.0/0", 2, "10.0.96.1"),
    Route(MAIN_TABLE, "10.0.97.30/32", 10),
    Route(MAIN_TABLE, "10.0.97.31/32", 12),
    Route(MAIN_TABLE, "10.0.97.40/32", 2),
)
RULES = (
    Rule(512, MAIN_TABLE, dst="10.0.97.30/32"),
    Rule(1536, 3, src="10.0.97.30/32"),
    Rule(512, MAIN_TABLE, dst="10.0.97.31/32"),
    Rule(512, MAIN_TABLE, dst="10.0.97.99/32"),
    Rule(1024, MAIN_TABLE, fwmark=128, fwmask=128),
)
SEEN = Seen(RULES, ROUTES, (), LINKS)


def test_a_veth_with_our_alias_is_wired_with_what_routes_and_rules_tell() -> None:
    [wired] = survey(SEEN).wired
    assert (wired.sandbox, wired.pod, wired.host_veth, wired.ifindex) == (BOX, POD, "enia", 10)
    assert (wired.address, wired.table, wired.device_number) == ("10.0.97.30", 3, 2)


def test_a_pod_on_the_primary_eni_has_no_rule_of_its_own() -> None:
    [wired] = survey(Seen(RULES[:1], ROUTES, (), LINKS)).wired
    assert (wired.address, wired.table, wired.device_number) == ("10.0.97.30", MAIN_TABLE, 0)


def test_a_veth_whose_route_is_gone_is_wired_without_an_address() -> None:
    [wired] = survey(Seen(RULES, (), (), LINKS)).wired
    assert (wired.host_veth, wired.address) == ("enia", "")


def test_a_link_on_its_way_out_is_no_wiring() -> None:
    assert survey(SEEN).parting == (11,)


def test_an_address_is_unclaimed_when_rule_and_route_lead_it_to_a_pod_without_our_alias() -> None:
    assert survey(SEEN).unclaimed == ("10.0.97.31",)
    assert unclaimed(SEEN, {"10.0.97.30", "10.0.97.31"}) == []

"""Which host veth is whose, of pods that the reference wired."""

from __future__ import annotations

from dataclasses import replace

import pytest

from vpccni.components.netlink_programmer.adoption import adopted
from vpccni.components.netlink_programmer.facts import Link, Route, Rule, Seen
from vpccni.components.netlink_programmer.naming import alias_of, host_veth_name
from vpccni.shared.messages.allocation import LedgerEntry
from vpccni.shared.messages.base import PodRef, Sandbox

POD = PodRef("default", "sample-pod")
ENTRY = LedgerEntry("10.0.97.30", "eni-1", Sandbox("c1", "eth0"), POD, 1)
VETH = Link(7, "enicc21c2d7785", "02:00:00:00:00:07", 9001, True, "veth")
SEEN = Seen(
    rules=(Rule(512, 254, dst="10.0.97.30/32"), Rule(1536, 2, src="10.0.97.30/32")),
    routes=(Route(254, "10.0.97.30/32", 7),),
    links={7: VETH},
)


def test_route_and_name_tell_the_pod_and_its_rule_the_table() -> None:
    (wired,) = adopted(SEEN, [ENTRY])
    assert (wired.sandbox, wired.host_veth, wired.ifindex, wired.mac) == (ENTRY.sandbox, VETH.name, 7, VETH.mac)
    assert (wired.address, wired.table, wired.device_number) == ("10.0.97.30", 2, 1)
    assert adopted(replace(SEEN, rules=()), [ENTRY])[0].table == 254


def test_a_veth_of_another_prefix_is_the_pods_too() -> None:
    other = VETH._replace(name=host_veth_name(POD, "abcd"))
    assert adopted(replace(SEEN, links={7: other}), [ENTRY])[0].host_veth == other.name


def test_without_its_route_the_name_tells() -> None:
    assert adopted(replace(SEEN, routes=()), [ENTRY])[0].ifindex == 7
    elsewhere = (Route(254, "10.0.97.99/32", 7),)
    assert adopted(replace(SEEN, routes=elsewhere), [ENTRY]) == [], "the veth has another pod's address by now"


def test_an_entry_without_a_pods_name_is_told_by_the_route_alone() -> None:
    nameless = LedgerEntry(ENTRY.address, "", ENTRY.sandbox, PodRef("", ""), 1)
    assert adopted(SEEN, [nameless])[0].ifindex == 7
    assert adopted(replace(SEEN, routes=()), [nameless]) == []


@pytest.mark.parametrize(
    "link",
    [
        VETH._replace(up=False),
        VETH._replace(kind="bridge"),
        VETH._replace(name="eni00000000000"),
        VETH._replace(alias=alias_of(Sandbox("c0", "eth0"), POD)),
    ],
)
def test_a_link_that_is_not_the_pods_is_left_alone(link: Link) -> None:
    assert adopted(replace(SEEN, links={7: link}), [ENTRY]) == []


def test_a_veth_goes_to_one_sandbox_only() -> None:
    older = replace_sandbox(ENTRY, "c0", "10.0.97.31")
    assert [one.sandbox for one in adopted(SEEN, [older, ENTRY])] == [ENTRY.sandbox]


def replace_sandbox(entry: LedgerEntry, container: str, address: str) -> LedgerEntry:
    return LedgerEntry(address, entry.eni_id, Sandbox(container, "eth0"), entry.pod, entry.assigned_at_ns)

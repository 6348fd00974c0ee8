"""What a DEL undoes for a pod it does not know: by any form of stored result, and never what is another pod's by now."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vpccni.components.netlink_programmer.facts import IPV6, Link, Route, Rule, Seen
from vpccni.components.netlink_programmer.naming import MAIN_TABLE, alias_of
from vpccni.components.netlink_programmer.request import CniRequest
from vpccni.components.netlink_programmer.strangers import Leftover, leftover
from vpccni.shared.messages.base import PodRef, Sandbox

POD, BOX = PodRef("default", "sample-pod", "uid-1"), Sandbox("container-1", "eth0")
VETH, SECOND_VETH = "enicc21c2d7785", "enia0b7655f3c9"
ADDRESS = "10.0.97.30"
TO, FROM = Rule(512, MAIN_TABLE, dst=f"{ADDRESS}/32"), Rule(1536, 2, src=f"{ADDRESS}/32")
ROUTE = Route(MAIN_TABLE, f"{ADDRESS}/32", 10, scope=253, protocol=3)
OTHER = (Rule(512, MAIN_TABLE, dst="10.0.97.31/32"), Rule(1536, 2, src="10.0.97.31/32"))
OTHER_ROUTE = Route(MAIN_TABLE, "10.0.97.31/32", 11, scope=253, protocol=3)


def veth(ifindex: int, name: str, alias: str = "", kind: str = "veth") -> Link:
    return Link(ifindex, name, "02:00:00:00:00:01", 9001, True, kind, alias)


def node(*links: Link, rules: tuple[Rule, ...] = (TO, FROM), routes: tuple[Route, ...] = (ROUTE,)) -> Seen:
    other = veth(11, "eni00000000000", alias_of(Sandbox("container-2", "eth0"), PodRef("default", "other")))
    return Seen(
        rules=(*rules, *OTHER), routes=(*routes, OTHER_ROUTE), links={one.ifindex: one for one in (*links, other)}
    )


def request(previous: Any = None, pod: PodRef = POD) -> CniRequest:
    return CniRequest("DEL", "0.4.0", BOX, pod, "", 9001, "eni", previous, {})


def result(mac: str | None = "2", address: str = f"{ADDRESS}/32", veth: str = VETH) -> dict[str, Any]:
    """A stored result of the reference (spec dataplane.md 4.5). None: v1.19 and older wrote no `mac`."""
    container = {"name": "eth0", "sandbox": "/var/run/netns/cni-1", **({} if mac is None else {"mac": mac})}
    return {
        "cniVersion": "0.4.0",
        "interfaces": [{"name": veth}, container, {"name": "dummycc21c2d7785", "mac": "0", "sandbox": "1"}],
        "ips": [{"version": "4", "interface": 1, "address": address}],
        "dns": {},
    }


def left(previous: Any, seen: Seen, *, held: tuple[str, ...] = (), pod: PodRef = POD) -> Leftover:
    return leftover(request(previous, pod), seen, held=held)


@pytest.mark.spec("dataplane.4.5", "dataplane.18.32")
@pytest.mark.parametrize(
    "previous",
    [
        result(),
        result(mac="1"),  # primary ENI, v1.20.0 to v1.20.2
        result(mac="17"),  # the old formula of cards from 1 on
        result(mac=None),
        result(mac="0a:58:0a:00:61:1e"),  # a chained plugin wrote a real MAC
        {"cniVersion": "0.2.0", "ip4": {"ip": f"{ADDRESS}/32"}},
        {"cniVersion": "0.4.0", "interfaces": [{"name": VETH}], "ips": [{"address": f"{ADDRESS}/32"}]},
        None,
    ],
)
def test_every_stored_form_ends_a_pod_of_the_reference(previous: Any) -> None:
    seen = node(veth(10, VETH), rules=(TO, FROM, Rule(1536, 2, src=f"{ADDRESS}/32", dst="10.0.0.0/16")))
    found = left(previous, seen)
    assert set(found.rules) == {TO, FROM, Rule(1536, 2, src=f"{ADDRESS}/32", dst="10.0.0.0/16")}
    assert found.routes == (ROUTE,)
    assert [link.name for link in found.links] == [VETH]


def test_the_rules_of_a_pod_whose_veth_went_with_its_namespace_go_by_the_result_alone() -> None:
    found = left(result(), node(routes=()))
    assert set(found.rules) == {TO, FROM}
    assert found.links == found.routes == ()


def test_interfaces_on_other_cards_and_ipv6_are_found_too() -> None:
    address = "2001:db8:2:abcd::4"
    rules = (
        Rule(512, MAIN_TABLE, dst=f"{address}/128", family=IPV6),
        Rule(1536, 10101, src=f"{address}/128", family=IPV6),
    )
    route = Route(MAIN_TABLE, f"{address}/128", 12, protocol=3)
    found = left(None, node(veth(10, VETH), veth(12, SECOND_VETH), rules=(TO, FROM, *rules), routes=(ROUTE, route)))
    assert set(found.rules) == {TO, FROM, *rules}
    assert set(found.routes) == {ROUTE, route}
    assert [link.name for link in found.links] == [VETH, SECOND_VETH]


@pytest.mark.spec("dataplane.18.6")
def test_an_address_that_moved_to_another_pod_is_left_alone() -> None:
    new_route = ROUTE._replace(ifindex=20)
    moved = node(veth(20, "eniffffffffff0"), routes=(new_route,))
    assert left(result(), moved) == Leftover((), (), ())
    assert left(result(), node(routes=()), held=(ADDRESS,)) == Leftover((), (), ())


def test_a_new_sandbox_of_the_same_pod_name_is_left_alone() -> None:
    newer = veth(10, VETH, alias_of(Sandbox("container-9", "eth0"), POD))
    assert left(None, node(newer)) == Leftover((), (), ())
    theirs = node(veth(10, VETH), routes=(ROUTE._replace(dst="10.0.97.99/32"),), rules=())
    assert left(result(), theirs) == Leftover((), (), ()), (
        "the reference's: the result names another address than leads there"
    )


def test_a_link_of_that_name_that_is_no_veth_and_foreign_rules_are_left_alone() -> None:
    strange = Rule(1536, 9, src=f"{ADDRESS}/32", foreign=True)
    found = left(None, node(veth(10, VETH, kind="bridge"), rules=(strange,)))
    assert found == Leftover((), (), ())
    assert left(result(), node(rules=(strange,), routes=())).rules == ()


def test_without_a_pod_name_the_result_names_the_veth() -> None:
    found = left(result(), node(veth(10, VETH)), pod=PodRef())
    assert [link.name for link in found.links] == [VETH]
    assert left(None, node(veth(10, VETH)), pod=PodRef()) == Leftover((), (), ())


def test_an_old_prefix_in_the_result_is_believed_for_this_pod_alone() -> None:
    old = veth(10, f"abc{VETH[3:]}")
    assert left(result(veth=old.name), node(old)).links == (old,)
    assert left(result(veth="enib5faff8a083"), node(veth(10, "enib5faff8a083"))).links == ()


JUNK = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=20) | st.just(ADDRESS) | st.just(VETH),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(
                ["interfaces", "ips", "name", "mac", "sandbox", "address", "ip4", "ip6", "ip", "interface"]
            ),
            inner,
        )
    ),
    max_leaves=20,
)


@pytest.mark.spec("dataplane.18.31")
@given(JUNK.filter(lambda junk: isinstance(junk, dict)))
def test_whatever_a_stored_result_holds_the_other_pod_keeps_its_network(previous: dict[str, Any]) -> None:
    found = left(previous, node(veth(10, VETH)), held=("10.0.97.31",))
    assert not set(found.rules) & set(OTHER)
    assert OTHER_ROUTE not in found.routes
    assert all(link.ifindex != 11 for link in found.links)

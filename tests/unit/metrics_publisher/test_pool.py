from __future__ import annotations

import json

import msgspec
import pytest
from support.facts import an_eni, an_inventory, usable

from vpccni.components.metrics_publisher.introspection import answer
from vpccni.components.metrics_publisher.pool import Picture, card_gauges, pool_gauges
from vpccni.shared.messages.allocation import LedgerEntry, LedgerState
from vpccni.shared.messages.base import PodRef, Sandbox
from vpccni.shared.messages.inventory import CardLimit
from vpccni.shared.node_view import view
from vpccni.shared.settings import read


@pytest.mark.spec("operations.17.11")
def test_gauges_are_a_recount_and_foreign_enis_are_not_in_it(picture: Picture) -> None:
    gauges = pool_gauges(picture)
    scalars = {name: value for (name, labels), value in gauges.items() if not labels}
    assert scalars == {
        "awscni_eni_max": 3,
        "awscni_ip_max": 27,
        "awscni_eni_allocated": 2,
        "awscni_total_ip_addresses": 18,
        "awscni_assigned_ip_addresses": 1,
        "awscni_total_ipv4_prefixes": 1,
    }
    assert gauges[("awscni_assigned_ip_per_eni", (("eni", "eni-a"),))] == 1
    assert gauges[("awscni_assigned_ip_per_eni", (("eni", "eni-b"),))] == 0
    assert gauges[("awscni_assigned_ip_per_cidr", (("cidr", "10.0.0.5/32"),))] == 1
    assert gauges[("awscni_assigned_ip_per_cidr", (("cidr", "10.0.0.16/28"),))] == 0
    assert not any("eni-x" in str(series) for series in gauges)


def test_scalars_are_zero_before_any_event() -> None:
    gauges = pool_gauges(Picture())
    assert set(gauges.values()) == {0.0}
    assert len(gauges) == 6


@pytest.mark.spec("operations.17.12")
def test_a_pod_whose_eni_is_gone_still_counts_as_one_that_holds_an_address(picture: Picture) -> None:
    assert picture.inventory is not None
    left = [eni for eni in picture.inventory.enis if eni.eni_id != "eni-a"]
    gauges = pool_gauges(
        Picture(inventory=msgspec.structs.replace(picture.inventory, enis=left), ledger=picture.ledger)
    )
    assert gauges[("awscni_assigned_ip_addresses", ())] == 1
    assert gauges[("awscni_eni_allocated", ())] == 1
    assert gauges[("awscni_total_ip_addresses", ())] == 16
    assert not any("eni-a" in str(series) for series in gauges)


def test_an_ipv6_nodes_prefix_is_counted_and_shown_as_one_of_its_family(picture: Picture) -> None:
    assert picture.inventory is not None
    eni = an_eni(0, eni_id="eni-a", prefixes=["2001:db8:0:100:1::/80"])
    entry = LedgerEntry("2001:db8:0:100:1::7", "eni-a", Sandbox("c", "eth0"), PodRef("default", "web"), 1)
    node = Picture(inventory=an_inventory(eni, ipv6=True), ledger=LedgerState(entries=[entry], fenced=[]))
    gauges = pool_gauges(node)
    assert gauges[("awscni_assigned_ip_per_cidr", (("cidr", "2001:db8:0:100:1::/80"),))] == 1
    assert gauges[("awscni_total_ipv4_prefixes", ())] == 0
    assert gauges[("awscni_total_ip_addresses", ())] == 2.0**48
    shown = json.loads(answer("/v1/enis", node, read({}).settings))["0"]["ENIs"]["eni-a"]
    assert shown["AvailableIPv4Cidrs"] == {}
    cidr = shown["IPv6Cidrs"]["2001:db8:0:100:1::/80"]
    assert (cidr["IsPrefix"], cidr["AddressFamily"], list(cidr["IPAddresses"])) == (True, "6", ["2001:db8:0:100:1::7"])


@pytest.mark.spec("operations.17.13")
def test_with_two_network_cards_the_scalars_are_sums_and_each_card_has_its_own_series() -> None:
    enis = [
        an_eni(0, ["10.0.0.5", "10.0.0.6"], eni_id="eni-a"),
        an_eni(1, ["10.0.1.5"], eni_id="eni-b", card=1),
        an_eni(2, [], eni_id="eni-c", card=1),
    ]
    entries = [
        LedgerEntry(address, eni, Sandbox(f"c-{address}", "eth0"), PodRef("default", "web", "u"), 1)
        for address, eni in (("10.0.0.5", "eni-a"), ("10.0.1.5", "eni-b"))
    ]
    picture = Picture(
        inventory=an_inventory(*enis, cards=[CardLimit(0, 3), CardLimit(1, 2)]),
        ledger=LedgerState(entries=entries, fenced=[]),
        usable=usable(*enis),
    )
    gauges = pool_gauges(picture)
    told = {name: value for (name, labels), value in gauges.items() if not labels}
    assert (told["awscni_eni_max"], told["awscni_eni_allocated"]) == (5, 3)
    assert (told["awscni_total_ip_addresses"], told["awscni_assigned_ip_addresses"]) == (3, 2)
    cards = card_gauges(view(picture, {}, wall_ns=2, boot_s=0, cooldown_s=30).enis)
    assert (cards[("vpccni_enis", (("card", "0"),))], cards[("vpccni_enis", (("card", "1"),))]) == (1, 2)
    assert cards[("vpccni_addresses", (("card", "0"), ("state", "free")))] == 1
    assert cards[("vpccni_addresses", (("card", "1"), ("state", "held")))] == 1
    assert sum(value for (name, _), value in cards.items() if name == "vpccni_addresses") == 3

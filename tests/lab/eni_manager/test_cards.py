"""The manager on a type with two network cards: ENIs on each with ENABLE_MULTI_NIC, none beyond the card's own limit."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator

import pytest
from tests.lab.eni_manager.conftest import Manager, prefixes
from tests.lab_self.conftest import Ec2InVpc

from vpccni.lab.api import Lab
from vpccni.shared.messages.inventory import CapacityTarget, CardTarget, Eni, Inventory

TYPE = "hpc7a.48xlarge"
"""Two cards with two ENIs each."""
ON = {"ENABLE_MULTI_NIC": "true"}


@pytest.fixture(scope="module")
def cards_lab() -> Iterator[Lab]:
    name = f"cards-{os.getpid() % 10000}"
    with Lab.up(name, nodes=1, instance_type=TYPE, ipv6=False, start_processes=False, transition_s=0.1) as lab:
        yield lab


@pytest.fixture
def stopped(cards_lab: Lab) -> Iterator[Manager]:
    """A manager not started yet, on a node with its primary ENI alone and nothing on it."""
    manager = Manager(cards_lab)
    manager.env.update(ON)
    yield manager
    manager.stop()
    for file in ("eni_manager.enis", "eni_manager.journal"):
        (manager.run_dir / file).unlink(missing_ok=True)
    ec2 = Ec2InVpc(cards_lab)
    for eni in manager.ec2_enis():
        place = eni.get("Attachment", {})
        if (place.get("NetworkCardIndex"), place.get("DeviceIndex")) == (0, 0):
            if secondary := eni["addresses"][1:]:
                ec2.unassign_private_ip_addresses(
                    NetworkInterfaceId=eni["NetworkInterfaceId"], PrivateIpAddresses=secondary
                )
            if eni["prefixes"]:
                ec2.unassign_private_ip_addresses(
                    NetworkInterfaceId=eni["NetworkInterfaceId"], Ipv4Prefixes=eni["prefixes"]
                )
        elif place:
            ec2.detach_network_interface(AttachmentId=place["AttachmentId"], Force=True)
    deadline = time.monotonic() + 10
    while len([eni for eni in manager.ec2_enis() if eni["node"]]) > 1 and time.monotonic() < deadline:
        time.sleep(0.05)
    for eni in manager.ec2_enis():
        if not eni["node"]:
            ec2.delete_network_interface(NetworkInterfaceId=eni["NetworkInterfaceId"])


@pytest.fixture
def manager(stopped: Manager) -> Manager:
    stopped.start()
    stopped.wait(lambda one: True)
    return stopped


def wish(manager: Manager, *totals: int) -> None:
    cards = [CardTarget(card=card, total_addresses=total) for card, total in enumerate(totals)]
    manager.peer.ask(CapacityTarget(cards=cards, reason="test"))


def on_card(inventory: Inventory, card: int) -> list[Eni]:
    return [eni for eni in inventory.enis if eni.card == card and eni.managed]


def test_a_wish_for_a_card_makes_an_eni_on_it_that_metadata_shows_there(manager: Manager) -> None:
    wish(manager, 2, 1)
    inventory = manager.wait(lambda one: bool(on_card(one, 1)) and len(on_card(one, 0)[0].addresses) == 2)
    assert [(limit.card, limit.max_enis) for limit in inventory.cards] == [(0, 2), (1, 2)]
    (made,) = on_card(inventory, 1)
    assert (len(made.addresses), made.device_number) == (1, 0)
    attach = next(call for call in manager.lab.ec2_calls() if call["action"] == "AttachNetworkInterface")
    assert attach["params"]["NetworkCardIndex"] == 1
    manager.restart()
    again = manager.wait(lambda one: bool(on_card(one, 1)))
    assert [eni.eni_id for eni in on_card(again, 1)] == [made.eni_id]


def test_no_card_gets_more_enis_than_its_own_limit(manager: Manager) -> None:
    wish(manager, 0, 200)
    inventory = manager.wait(lambda one: len(on_card(one, 1)) == 2, within_s=30.0)
    assert len(on_card(inventory, 0)) == 1
    assert manager.wait(lambda one: not one.pending_addresses).growth.cause == "ENI_LIMIT"
    assert not [call for call in manager.lab.ec2_calls() if call["error"]]


def test_without_the_setting_the_second_card_is_left_alone(stopped: Manager) -> None:
    stopped.env["ENABLE_MULTI_NIC"] = "false"
    stopped.start()
    inventory = stopped.wait(lambda one: True)
    assert [limit.card for limit in inventory.cards] == [0]
    stopped.lab.ec2_forget_calls()
    wish(stopped, 0, 1)
    time.sleep(1.0)
    assert "CreateNetworkInterface" not in stopped.lab.ec2_counts()


def test_a_card_with_nothing_but_an_efa_only_eni_is_left_to_efa(stopped: Manager) -> None:
    lab, ec2 = stopped.lab, Ec2InVpc(stopped.lab)
    subnet = next(eni["SubnetId"] for eni in stopped.ec2_enis() if eni["node"])
    made = ec2.create_network_interface(SubnetId=subnet, InterfaceType="efa-only")["NetworkInterface"]
    ec2.attach_network_interface(
        NetworkInterfaceId=made["NetworkInterfaceId"],
        InstanceId=lab.nodes[0].instance_id,
        DeviceIndex=1,
        NetworkCardIndex=1,
    )
    stopped.start()
    inventory = stopped.wait(lambda one: len(one.enis) == 2)
    assert [limit.card for limit in inventory.cards] == [0]


def test_prefixes_on_a_second_card_come_in_whole_blocks(stopped: Manager) -> None:
    stopped.env.update(ENABLE_PREFIX_DELEGATION="true")
    stopped.start()
    stopped.wait(lambda one: one.by_prefix)
    wish(stopped, 16, 1)
    inventory = stopped.wait(lambda one: bool(on_card(one, 1)) and len(prefixes(one)) == 2)
    assert len(on_card(inventory, 1)[0].prefixes) == 1

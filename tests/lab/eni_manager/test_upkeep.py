"""Tags, security groups and leaked ENIs against the lab's EC2: only what differs is written, nothing of others is touched."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import boto3  # noqa: TID253  (a client from outside)
import pytest
from botocore.config import Config  # noqa: TID253
from tests.lab.eni_manager.conftest import WITHIN_S, Manager, addresses, primary

INSTANCE = "node.k8s.amazonaws.com/instance_id"
CREATED = "node.k8s.amazonaws.com/createdAt"
CLUSTER = "cluster.k8s.amazonaws.com/name"
NO_MANAGE = "node.k8s.amazonaws.com/no_manage"


def ec2(manager: Manager, action: str, **params: Any) -> Any:
    """Call EC2 as a user of the account does, from inside the VPC."""

    def ask() -> Any:
        client: Any = boto3.client(
            "ec2", endpoint_url=manager.lab.status()["endpoints"]["ec2"], region_name="us-west-2",
            aws_access_key_id="a", aws_secret_access_key="b", config=Config(retries={"total_max_attempts": 1}),
        )  # fmt: skip
        try:
            return getattr(client, action)(**params)
        finally:
            client.close()

    return manager.lab.in_vpc(ask)


def leftover(manager: Manager, instance: str, *, age_min: float = 60, cluster: str = "", stamp: str = "") -> str:
    """Make an unattached ENI as a dead process of an instance would leave it."""
    created = stamp or (datetime.now(UTC) - timedelta(minutes=age_min)).isoformat(timespec="seconds")
    tags = {INSTANCE: instance, CREATED: created, CLUSTER: cluster or manager.lab.name}
    made = ec2(
        manager, "create_network_interface", SubnetId=manager.lab.facts["subnets"][0]["id"],
        Description=f"aws-K8S-{instance}",
        TagSpecifications=[{"ResourceType": "network-interface",
                            "Tags": [{"Key": key, "Value": value} for key, value in tags.items()]}],
    )  # fmt: skip
    return str(made["NetworkInterface"]["NetworkInterfaceId"])


def rows(manager: Manager) -> dict[str, dict[str, Any]]:
    return {row["NetworkInterfaceId"]: row for row in manager.lab.ec2_picture()}


def tags_of(row: dict[str, Any]) -> dict[str, str]:
    return {tag["Key"]: tag["Value"] for tag in row["TagSet"]}


def groups_of(row: dict[str, Any]) -> list[str]:
    return sorted(group["GroupId"] for group in row["Groups"])


def wait_for(holds: Callable[[], bool], *, within_s: float = WITHIN_S) -> None:
    deadline = time.monotonic() + within_s
    while not holds():
        assert time.monotonic() < deadline, f"not within {within_s} s"
        time.sleep(0.1)


def journal(manager: Manager) -> Path:
    return manager.run_dir / "eni_manager.journal"


@pytest.fixture
def leftovers(manager: Manager) -> Iterator[Manager]:
    """A manager, and afterwards no unattached ENI."""
    yield manager
    for eni_id, row in rows(manager).items():
        if row["Status"] == "available":
            ec2(manager, "delete_network_interface", NetworkInterfaceId=eni_id)


def test_the_primary_is_tagged_once_and_a_restart_writes_nothing(manager: Manager) -> None:
    first = primary(manager.wait(lambda one: True)).eni_id
    wait_for(lambda: tags_of(rows(manager)[first]).get(INSTANCE) == manager.node.instance_id)
    assert tags_of(rows(manager)[first])[CLUSTER] == manager.lab.name
    manager.lab.ec2_forget_calls()
    manager.restart()
    manager.wait(lambda one: True)
    time.sleep(1)
    assert "CreateTags" not in manager.lab.ec2_counts()


@pytest.mark.spec("ipam.W28")
def test_tags_that_may_not_be_written_stop_nothing(manager: Manager) -> None:
    first = primary(manager.wait(lambda one: True)).eni_id
    wait_for(lambda: INSTANCE in tags_of(rows(manager)[first]))
    ec2(manager, "delete_tags", Resources=[first], Tags=[{"Key": INSTANCE}])
    manager.lab.ec2_permissions(deny=["CreateTags"])
    manager.lab.ec2_forget_calls()
    manager.restart()
    manager.wait(lambda one: True)
    wait_for(lambda: manager.lab.ec2_counts().get("CreateTags") == 1)
    manager.wish(3)
    manager.wait(lambda one: len(addresses(one)) == 3)
    assert manager.lab.ec2_counts()["CreateTags"] == 1

    def reports() -> dict[str, float]:
        counters = manager.peer.status().counters
        return {counter.labels["reason"]: counter.value for counter in counters if counter.name == "vpccni_reports"}

    wait_for(lambda: reports().get("MissingIAMPermissions") == 1)


def test_security_groups_of_new_enis_are_those_of_the_primary_and_cost_no_write(manager: Manager) -> None:
    manager.lab.ec2_forget_calls()
    manager.wish(12)
    manager.wait(lambda one: len(addresses(one)) == 12)
    time.sleep(0.5)
    assert len({tuple(groups_of(row)) for row in rows(manager).values()}) == 1
    assert manager.lab.ec2_counts()["ModifyNetworkInterfaceAttribute"] == 1  # delete on termination


def test_a_change_of_the_primarys_groups_reaches_the_others(manager: Manager) -> None:
    manager.wish(12)
    full = manager.wait(lambda one: len(addresses(one)) == 12)
    first, second = primary(full).eni_id, next(eni.eni_id for eni in full.enis if not eni.is_primary)
    before = groups_of(rows(manager)[first])
    ec2(manager, "modify_network_interface_attribute", NetworkInterfaceId=first, Groups=["sg-b", "sg-a"])
    try:
        manager.lab.ec2_forget_calls()
        wait_for(lambda: groups_of(rows(manager)[second]) == ["sg-a", "sg-b"], within_s=40)
        assert manager.lab.ec2_counts()["ModifyNetworkInterfaceAttribute"] == 1
    finally:
        ec2(manager, "modify_network_interface_attribute", NetworkInterfaceId=first, Groups=before)


@pytest.mark.spec("ipam.W13", "ipam.W25")
def test_a_lost_journal_makes_own_leftovers_go_and_leaves_those_of_others(leftovers: Manager) -> None:
    manager = leftovers
    own = leftover(manager, manager.node.instance_id, age_min=0)
    other = leftover(manager, "i-0123456789abcdef0", age_min=15)
    manager.kill()
    journal(manager).unlink(missing_ok=True)
    manager.start()
    wait_for(lambda: own not in rows(manager))
    assert other in rows(manager)
    wait_for(journal(manager).exists)


@pytest.mark.spec("ipam.W24")
def test_with_a_journal_nothing_is_swept_at_start(leftovers: Manager) -> None:
    manager = leftovers
    wait_for(journal(manager).exists)
    own = leftover(manager, manager.node.instance_id)
    manager.lab.ec2_forget_calls()
    manager.restart()
    manager.wait(lambda one: True)
    time.sleep(1)
    assert own in rows(manager)
    assert manager.lab.ec2_counts() == {"DescribeNetworkInterfaces": 1, "DescribeSubnets": 1}


@pytest.mark.full
@pytest.mark.spec("ipam.W30", "ipam.W29")
def test_an_eni_that_is_told_not_to_be_managed_is_let_go_within_two_minutes_and_taken_back(manager: Manager) -> None:
    manager.wish(12)
    full = manager.wait(lambda one: len(addresses(one)) == 12)
    second = next(eni.eni_id for eni in full.enis if not eni.is_primary)
    ec2(manager, "create_tags", Resources=[second], Tags=[{"Key": NO_MANAGE, "Value": "true"}])
    told = manager.wait(lambda one: any(not eni.managed for eni in one.enis), within_s=120)
    assert [card.max_enis for card in told.cards] == [2]
    assert addresses(told) == addresses(full)
    ec2(manager, "delete_tags", Resources=[second], Tags=[{"Key": NO_MANAGE}])
    back = manager.wait(lambda one: all(eni.managed for eni in one.enis), within_s=120)
    assert [card.max_enis for card in back.cards] == [3]


@pytest.mark.full
@pytest.mark.spec("ipam.W5")
def test_a_throttled_minute_costs_few_calls_and_is_over_soon_after(manager: Manager) -> None:
    manager.lab.ec2_fault("*", "RequestLimitExceeded")
    manager.lab.ec2_forget_calls()
    begin = time.time()
    manager.wish(20)
    time.sleep(60)
    manager.lab.ec2_clear()
    calls = [call["at"] - begin for call in manager.lab.ec2_calls() if call["error"]]
    assert len([at for at in calls if at > 30]) <= 2
    assert manager.wait(lambda one: True).growth.cause == "THROTTLED"
    manager.wait(lambda one: len(addresses(one)) > 0, within_s=15)
    manager.wait(lambda one: len(addresses(one)) == 20)

"""The EC2 adapter against the lab's EC2, from inside the VPC: pages, filters, tags, both kinds of items, instances that are gone."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from typing import TypeVar

import pytest

from vpccni.components.eni_manager import ec2 as adapter
from vpccni.components.eni_manager.ec2 import Ec2
from vpccni.components.eni_manager.facts import TAG_CLUSTER, TAG_INSTANCE, CloudEni, NewEni
from vpccni.lab.api import Lab
from vpccni.shared.errors import CloudRefused
from vpccni.shared.names import SubnetId

T = TypeVar("T")


class Asked:
    """The adapter, each call made in the VPC's namespace."""

    def __init__(self, lab: Lab) -> None:
        self.lab, self._run = lab, uuid.uuid4().hex
        self.subnet_id = SubnetId(str(lab.facts["subnets"][0]["id"]))
        self._ec2 = lab.in_vpc(
            lambda: Ec2(region="us-west-2", endpoint=lab.status()["endpoints"]["ec2"], version="test", timeout_s=10)
        )

    def __call__(self, ask: Callable[[Ec2], T]) -> T:
        return self.lab.in_vpc(lambda: ask(self._ec2))

    def make(
        self, number: int, *, by_prefix: bool = False, cluster: str = "mine", instance: str = "i-gone"
    ) -> CloudEni:
        tags = {TAG_INSTANCE: instance, TAG_CLUSTER: cluster}
        new = NewEni(
            token=f"{number}-{self._run}", subnet_id=self.subnet_id, groups=("sg-1",),
            description=f"aws-K8S-{instance}", tags=tuple(sorted(tags.items())), addresses=2, by_prefix=by_prefix,
        )  # fmt: skip
        return self(lambda ec2: ec2.create(new))


@pytest.fixture
def asked(eni_lab: Lab, monkeypatch: pytest.MonkeyPatch) -> Iterator[Asked]:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "a")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "b")
    one = Asked(eni_lab)
    yield one
    for row in eni_lab.ec2_picture():
        if row["Status"] == "available":
            eni_id = row["NetworkInterfaceId"]
            one(lambda ec2, eni_id=eni_id: ec2.delete(eni_id))


def test_unattached_enis_come_page_by_page_and_by_cluster(asked: Asked, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(adapter, "PAGE", 5)
    mine = {asked.make(number).eni_id for number in range(7)}
    theirs = asked.make(7, cluster="theirs").eni_id
    vpc_id = asked.lab.facts["vpc_id"]
    assert {eni.eni_id for eni in asked(lambda ec2: ec2.unattached(vpc_id, cluster="mine"))} == mine
    assert {eni.eni_id for eni in asked(lambda ec2: ec2.unattached(vpc_id))} == mine | {theirs}
    assert asked(lambda ec2: ec2.unattached(vpc_id, instance_id="i-other")) == []


def test_instances_that_are_gone_are_no_error(asked: Asked) -> None:
    living = asked.lab.nodes[0].instance_id
    assert asked(lambda ec2: ec2.living_instances([living, "i-0123456789abcdef0"])) == {living}
    assert asked(lambda ec2: ec2.living_instances([])) == frozenset()
    assert asked(lambda ec2: ec2.living_instances([f"i-{n:017x}" for n in range(450)])) == frozenset()


def test_the_same_token_makes_one_eni(asked: Asked) -> None:
    first = asked.make(1)
    assert asked.make(1).eni_id == first.eni_id
    with pytest.raises(CloudRefused) as refused:
        asked.make(1, cluster="other")
    assert refused.value.error_code == "IdempotentParameterMismatch"


def test_both_kinds_of_items_are_assigned_read_and_taken_away(asked: Asked) -> None:
    eni = asked.make(1, by_prefix=True)
    assert len(eni.prefixes) == 2
    addresses = asked(lambda ec2: ec2.assign(eni.eni_id, 3, by_prefix=False))
    prefixes = asked(lambda ec2: ec2.assign(eni.eni_id, 1, by_prefix=True))
    full = asked(lambda ec2: ec2.eni(eni.eni_id))
    assert full is not None
    assert set(full.addresses) == set(addresses)
    assert set(full.prefixes) == {*eni.prefixes, *prefixes}
    asked(lambda ec2: ec2.unassign(eni.eni_id, addresses))
    asked(lambda ec2: ec2.unassign(eni.eni_id, prefixes))
    left = asked(lambda ec2: ec2.eni(eni.eni_id))
    assert left is not None
    assert (left.addresses, set(left.prefixes)) == ((), set(eni.prefixes))


def test_tags_and_groups_are_written_and_read_back(asked: Asked) -> None:
    eni = asked.make(1)
    asked(lambda ec2: ec2.tag(eni.eni_id, {"a": "b", TAG_CLUSTER: "new"}))
    asked(lambda ec2: ec2.set_groups(eni.eni_id, ["sg-9", "sg-8"]))
    seen = asked(lambda ec2: ec2.eni(eni.eni_id))
    assert seen is not None
    assert seen.tags == {TAG_INSTANCE: "i-gone", TAG_CLUSTER: "new", "a": "b"}
    assert seen.groups == ("sg-8", "sg-9")


def test_subnets_are_those_of_the_zone_with_what_is_free_and_their_tags(asked: Asked) -> None:
    vpc_id = asked.lab.facts["vpc_id"]
    seen = {subnet.tags["Name"]: subnet for subnet in asked(lambda ec2: ec2.subnets(vpc_id, "us-west-2a"))}
    assert set(seen) == {"nodes-a", "pods-a", "small-a", "tiny-a"}
    assert (seen["tiny-a"].cidr, seen["tiny-a"].free) == ("10.0.192.64/28", 11)
    assert asked(lambda ec2: ec2.subnets("vpc-other", "us-west-2a")) == []


def test_what_is_gone_already_is_no_error_and_what_is_not_known_is_none(asked: Asked) -> None:
    eni = asked.make(1)
    for _ in range(2):
        asked(lambda ec2: ec2.delete(eni.eni_id))
    asked(lambda ec2: ec2.detach(eni.eni_id, "eni-attach-0123456789abcdef0"))
    assert asked(lambda ec2: ec2.eni(eni.eni_id)) is None

"""Tags and security groups: only what differs, only on what is ours, never the primary's groups."""

from __future__ import annotations

from dataclasses import replace

import pytest

from vpccni.components.eni_manager.chores import SetGroups, SetTags, chores
from vpccni.components.eni_manager.facts import CloudEni
from vpccni.components.eni_manager.inventory import HeldEni, Picture
from vpccni.shared.names import EniId, SubnetId

TAGS = {"node.k8s.amazonaws.com/instance_id": "i-1", "team": "net"}


def eni(number: int, *groups: str, kind: str = "interface", **changes: object) -> HeldEni:
    cloud = CloudEni(
        eni_id=EniId(f"eni-{number}"), mac="m", status="in-use", interface_type=kind, subnet_id=SubnetId("s"),
        primary_address="10.0.0.4", tags=dict(TAGS), groups=groups or ("sg-1",),
    )  # fmt: skip
    held = HeldEni(cloud=cloud, subnet_cidr="", is_primary=number == 0, managed=True, attached_at=0.0)
    return replace(held, **changes)  # type: ignore[arg-type]  # tests name fields


def todo(*enis: HeldEni, groups: tuple[str, ...] = ("sg-1",)) -> list[SetGroups | SetTags]:
    return chores(Picture({one.eni_id: one for one in enis}), groups, TAGS)


@pytest.mark.spec("ipam.W24")
def test_what_is_right_is_not_written() -> None:
    assert todo(eni(0), eni(1)) == []


def test_groups_follow_the_primary_on_trunk_and_efa_too_but_the_primary_is_left_alone() -> None:
    seen = (eni(0, "sg-9"), eni(1, "sg-9"), eni(2, "sg-9", kind="trunk"), eni(3, "sg-9", kind="efa"))
    assert todo(*seen) == [SetGroups(EniId(f"eni-{number}"), ("sg-1",)) for number in (1, 2, 3)]


def test_the_order_of_groups_does_not_matter_and_unknown_groups_write_nothing() -> None:
    assert todo(eni(1, "sg-2", "sg-1"), groups=("sg-1", "sg-2")) == []
    assert todo(eni(1, "sg-2"), groups=()) == []


def test_only_missing_or_different_tags_are_written_the_primary_included() -> None:
    bare = replace(eni(0), cloud=replace(eni(0).cloud, tags={"team": "other", "theirs": "x"}))
    assert todo(bare) == [SetTags(EniId("eni-0"), TAGS)]
    half = replace(eni(1), cloud=replace(eni(1).cloud, tags={"team": "net"}))
    assert todo(half) == [SetTags(EniId("eni-1"), {"node.k8s.amazonaws.com/instance_id": "i-1"})]


def test_a_trunk_is_not_tagged_and_what_is_not_ours_or_in_doubt_is_left_alone() -> None:
    trunk = eni(1, kind="trunk")
    assert todo(replace(trunk, cloud=replace(trunk.cloud, tags={}))) == []
    assert todo(eni(1, "sg-9", managed=False), eni(2, "sg-9", doubted_since=1.0)) == []

"""The picture: nothing is forgotten after one look, our own changes are believed, foreign ones appear."""

from __future__ import annotations

from dataclasses import replace
from typing import get_args

import pytest

from vpccni.components.eni_manager.facts import TAG_INSTANCE, TAG_NO_MANAGE, CloudEni, InstanceFacts, MetadataEni
from vpccni.components.eni_manager.inventory import DOUBT_S, SETTLE_S, FindingKind, Picture, Rules, differs, look
from vpccni.components.eni_manager.looking import COUNTED, REPAIRS
from vpccni.shared.names import EniId, SubnetId

SUBNET = SubnetId("subnet-1")
INSTANCE = InstanceFacts(
    instance_id="i-1", instance_type="m5.large", region="r", availability_zone="ra", primary_address="10.0.0.4",
    primary_mac="02:00:00:00:00:00", primary_eni=EniId("eni-0"), subnet_id=SUBNET, vpc_id="vpc-1",
)  # fmt: skip
RULES = Rules(INSTANCE, manage_untagged=True)


def cloud(number: int, *addresses: str, **changes: object) -> CloudEni:
    one = CloudEni(
        eni_id=EniId(f"eni-{number}"), mac=f"02:00:00:00:00:0{number}", status="in-use", interface_type="interface",
        subnet_id=SUBNET, primary_address=f"10.0.0.{number + 4}", addresses=addresses, instance_id="i-1",
        attachment_id=f"attach-{number}", attachment_status="attached", device_number=number,
    )  # fmt: skip
    return replace(one, **changes)  # type: ignore[arg-type]  # tests name fields


def metadata(number: int, *addresses: str, problem: str = "") -> MetadataEni:
    return MetadataEni(
        mac=f"02:00:00:00:00:0{number}", eni_id=EniId(f"eni-{number}"), device_number=number, subnet_id=SUBNET,
        subnet_cidr="10.0.0.0/24", addresses=(f"10.0.0.{number + 4}", *addresses), problem=problem,
    )  # fmt: skip


def first(*enis: CloudEni, now: float = 0.0) -> Picture:
    listed = [metadata(one.device_number, *one.addresses) for one in enis]
    return look(Picture(), RULES, listed, enis, now=now)[0]


@pytest.mark.spec("ipam.W3")
def test_an_eni_that_only_metadata_misses_stays_confirmed() -> None:
    before = first(cloud(0), cloud(1, "10.0.0.9"))
    assert differs(before, [metadata(0)], now=100.0)
    after, findings = look(before, RULES, [metadata(0)], [cloud(0), cloud(1, "10.0.0.9")], now=100.0)
    assert after.enis[EniId("eni-1")].message().confirmed
    assert not findings


@pytest.mark.spec("ipam.W2")
def test_an_eni_that_ec2_misses_is_doubted_for_a_period_and_then_gone() -> None:
    before = first(cloud(0), cloud(1, "10.0.0.9"))
    doubted, findings = look(before, RULES, [metadata(0)], [cloud(0)], now=100.0)
    assert not doubted.enis[EniId("eni-1")].message().confirmed
    assert [finding.kind for finding in findings] == ["eniDoubted"]
    assert differs(doubted, [metadata(0), metadata(1, "10.0.0.9")], now=100.0 + DOUBT_S)
    back, _ = look(doubted, RULES, [metadata(0)], [cloud(0), cloud(1, "10.0.0.9")], now=120.0)
    assert back.enis[EniId("eni-1")].message().confirmed
    gone, findings = look(doubted, RULES, [metadata(0)], [cloud(0)], now=100.0 + DOUBT_S)
    assert EniId("eni-1") not in gone.enis
    assert [finding.kind for finding in findings] == ["eniGone"]


def test_an_address_that_ec2_misses_makes_its_eni_doubted_and_goes_a_period_later() -> None:
    before = first(cloud(0, "10.0.0.9", "10.0.0.10"))
    doubted, _ = look(before, RULES, [metadata(0, "10.0.0.9")], [cloud(0, "10.0.0.9")], now=100.0)
    held = doubted.enis[EniId("eni-0")]
    assert not held.message().confirmed
    assert set(held.addresses) == {"10.0.0.9", "10.0.0.10"}
    gone, findings = look(doubted, RULES, [metadata(0, "10.0.0.9")], [cloud(0, "10.0.0.9")], now=100.0 + DOUBT_S)
    assert gone.enis[EniId("eni-0")].message().confirmed
    assert gone.enis[EniId("eni-0")].addresses == ("10.0.0.9",)
    assert [finding.kind for finding in findings] == ["addressGone"]


def test_an_eni_that_somebody_attached_is_found_and_one_that_is_not_ours_is_no_finding() -> None:
    before = first(cloud(0))
    listed = [metadata(0), metadata(1), metadata(2)]
    foreign = cloud(2, tags={TAG_NO_MANAGE: "true"})
    after, findings = look(before, RULES, listed, [cloud(0), cloud(1), foreign], now=100.0)
    assert after.enis.keys() == {"eni-0", "eni-1", "eni-2"}
    assert [(finding.kind, finding.on) for finding in findings] == [("eniAppeared", "eni-1")]
    assert look(after, RULES, listed, [cloud(0), cloud(1), foreign], now=200.0)[1] == []
    assert look(Picture(), RULES, listed, [cloud(0), cloud(1), foreign], now=0.0)[1] == [], "a start finds nothing new"


@pytest.mark.spec("operations.2.2", "operations.2.3")
def test_each_kind_of_finding_is_counted_under_a_name_and_label_of_the_specification() -> None:
    assert COUNTED.keys() == set(get_args(FindingKind))
    assert {fn for name, fn in COUNTED.values() if name == REPAIRS} == {
        "eniReconcileAdd", "eniReconcileDel", "eniIPPoolReconcileDel", "eniDataStorePoolReconcileAdd"
    }  # fmt: skip


def test_what_we_changed_a_moment_ago_is_believed_against_a_lagging_read() -> None:
    before = first(cloud(0, "10.0.0.9")).with_items(EniId("eni-0"), ["10.0.0.10"], now=100.0)
    before = before.without_items(EniId("eni-0"), ["10.0.0.9"], now=100.0)
    stale = [metadata(0, "10.0.0.9")]
    assert not differs(before, stale, now=101.0)
    after, findings = look(before, RULES, stale, [cloud(0, "10.0.0.9")], now=101.0)
    assert (after.enis[EniId("eni-0")].addresses, findings) == (("10.0.0.10",), [])
    assert differs(before, stale, now=100.0 + SETTLE_S)


def test_a_freed_eni_does_not_come_back_from_a_lagging_read() -> None:
    before = first(cloud(0), cloud(1)).without_eni(EniId("eni-1"), now=100.0)
    after, _ = look(before, RULES, [metadata(0), metadata(1)], [cloud(0), cloud(1)], now=101.0)
    assert set(after.enis) == {"eni-0"}


def test_a_foreign_address_appears() -> None:
    after, findings = look(first(cloud(0)), RULES, [metadata(0, "10.0.0.9")], [cloud(0, "10.0.0.9")], now=100.0)
    assert after.enis[EniId("eni-0")].addresses == ("10.0.0.9",)
    assert [finding.kind for finding in findings] == ["addressAppeared"]


@pytest.mark.spec("ipam.W27")
def test_one_odd_eni_does_not_stop_the_rest() -> None:
    listed = [metadata(0), metadata(1, problem="no answer"), metadata(2)]
    picture, findings = look(Picture(), RULES, listed, [cloud(0), cloud(1), cloud(2)], now=0.0)
    assert [one.message().confirmed for one in picture.enis.values()] == [True, False, True]
    assert [finding.on for finding in findings] == ["eni-1"]


@pytest.mark.parametrize(
    ("tags", "untagged", "managed"),
    [
        ({"node.k8s.amazonaws.com/no_manage": "true"}, True, False),
        ({"node.k8s.amazonaws.com/no_manage": "false"}, False, True),
        ({"node.k8s.amazonaws.com/instance_id": "i-1"}, False, True),
        ({"node.k8s.amazonaws.com/instance_id": "i-2"}, False, False),
        ({}, True, True),
        ({}, False, False),
    ],
)
@pytest.mark.spec("ipam.W29")
def test_the_unmanaged_rule(tags: dict[str, str], untagged: bool, managed: bool) -> None:
    rules = Rules(INSTANCE, manage_untagged=untagged)
    assert rules.is_managed(cloud(1, tags=tags)) is managed
    assert rules.is_managed(cloud(0, tags=tags))
    assert not rules.is_managed(cloud(1, tags=tags, interface_type="efa-only"))


def test_a_no_manage_tag_is_honoured_at_the_next_look() -> None:
    tagged = cloud(1, tags={"node.k8s.amazonaws.com/no_manage": "true"})
    after, _ = look(first(cloud(0), cloud(1)), RULES, [metadata(0), metadata(1)], [cloud(0), tagged], now=100.0)
    assert not after.enis[EniId("eni-1")].message().managed


def test_the_age_of_an_eni_survives_looks() -> None:
    after, _ = look(first(cloud(0), now=5.0), RULES, [metadata(0)], [cloud(0)], now=100.0)
    assert after.enis[EniId("eni-0")].message().attached_at == 5.0


@pytest.mark.parametrize(
    ("change", "managed"),
    [
        ({}, True),
        ({"interface_type": "trunk"}, True),
        ({"interface_type": "efa"}, True),
        ({"interface_type": "efa-only"}, False),
        ({"card": 1}, False),
        ({"tags": {TAG_NO_MANAGE: "true"}}, False),
        ({"tags": {TAG_NO_MANAGE: "false"}}, True),
        ({"tags": {TAG_NO_MANAGE: "true", TAG_INSTANCE: "i-1"}}, False),
    ],
)
def test_kinds_of_enis(change: dict[str, object], managed: bool) -> None:
    assert RULES.is_managed(cloud(1, **change)) == managed
    assert RULES.is_managed(cloud(0, **change))  # the primary, whatever it carries


def test_without_the_tag_and_with_manage_untagged_eni_off_an_eni_is_not_ours() -> None:
    strict = Rules(INSTANCE, manage_untagged=False)
    assert not strict.is_managed(cloud(1))
    assert not strict.is_managed(cloud(1, tags={TAG_INSTANCE: "i-other"}))
    assert strict.is_managed(cloud(1, tags={TAG_INSTANCE: "i-1"}))


def test_trunk_and_efa_are_never_freed_and_a_trunk_serves_no_pod() -> None:
    picture = first(cloud(0), cloud(1, interface_type="trunk"), cloud(2, interface_type="efa"), cloud(3))
    assert [eni.may_go for eni in picture.enis.values()] == [False, False, False, True]
    assert [eni.serves_pods for eni in picture.enis.values()] == [True, False, True, True]


def test_an_eni_of_a_vpc_that_metadata_and_ec2_tell_nothing_of_is_unusable_beside_the_others() -> None:
    strange = cloud(1, subnet_id=SubnetId("subnet-elsewhere"))
    picture, findings = look(Picture(), RULES, [metadata(0)], [cloud(0), strange], now=0.0)
    assert picture.enis[EniId("eni-1")].problem == "the CIDR of its subnet is not known"
    assert picture.enis[EniId("eni-0")].message().confirmed
    assert [finding.on for finding in findings] == ["eni-1"]
    known = {SubnetId("subnet-elsewhere"): "10.7.0.0/24"}
    picture, _ = look(Picture(), RULES, [metadata(0)], [cloud(0), strange], now=0.0, subnets=known)
    assert picture.enis[EniId("eni-1")].subnet_cidr == "10.7.0.0/24"


def test_groups_and_tags_we_wrote_are_believed_against_a_lagging_read() -> None:
    before = first(cloud(0), cloud(1, groups=("sg-old",)))
    written = before.with_groups(EniId("eni-1"), ("sg-new",), now=100.0).with_tags(
        EniId("eni-1"), {"a": "b"}, now=100.0
    )
    stale = [cloud(0), cloud(1, groups=("sg-old",))]
    after, _ = look(written, RULES, [metadata(0), metadata(1)], stale, now=101.0)
    assert (after.enis[EniId("eni-1")].cloud.groups, after.enis[EniId("eni-1")].cloud.tags) == (("sg-new",), {"a": "b"})
    late, _ = look(written, RULES, [metadata(0), metadata(1)], stale, now=100.0 + SETTLE_S)
    assert (late.enis[EniId("eni-1")].cloud.groups, late.enis[EniId("eni-1")].cloud.tags) == (("sg-old",), {})


def test_a_prefix_is_doubted_and_forgotten_like_an_address() -> None:
    before = first(cloud(0, prefixes=("10.0.1.0/28",)))
    listed = [metadata(0)]
    doubted, _ = look(before, RULES, listed, [cloud(0)], now=100.0)
    assert not doubted.enis[EniId("eni-0")].message().confirmed
    assert doubted.enis[EniId("eni-0")].cloud.prefixes == ("10.0.1.0/28",)
    gone, _ = look(doubted, RULES, listed, [cloud(0)], now=100.0 + DOUBT_S)
    assert gone.enis[EniId("eni-0")].cloud.prefixes == ()

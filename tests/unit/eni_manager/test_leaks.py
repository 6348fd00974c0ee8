"""Leaked ENIs: own ones no journal knows, those of vanished instances; never a living node's, never another cluster's."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from vpccni.components.eni_manager.facts import TAG_CLUSTER, TAG_CREATED, TAG_INSTANCE, CloudEni
from vpccni.components.eni_manager.leaks import Sweep, candidates, chance, judge
from vpccni.shared.names import EniId, SubnetId

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def eni(number: int, instance: str, *, age_min: float | None = 60, cluster: str = "mine", **changes: str) -> CloudEni:
    tags = {TAG_INSTANCE: instance, **({TAG_CLUSTER: cluster} if cluster else {})}
    if age_min is not None:
        tags[TAG_CREATED] = changes.get("stamp") or (NOW - timedelta(minutes=age_min)).isoformat(timespec="seconds")
    return CloudEni(
        eni_id=EniId(f"eni-{number}"), mac="m", status=changes.get("status", "available"), interface_type="interface",
        subnet_id=SubnetId("s"), primary_address="10.0.0.4", tags=tags,
        description=changes.get("description", f"aws-K8S-{instance}"),
    )  # fmt: skip


def judged(*enis: CloudEni, living: tuple[str, ...] = ()) -> Sweep:
    return judge(enis, own="i-own", living=frozenset(living), now=NOW)


@pytest.mark.spec("ipam.W25")
def test_a_living_nodes_eni_is_left_however_old_it_is() -> None:
    assert judged(eni(1, "i-other", age_min=15), eni(2, "i-other", age_min=999), living=("i-other",)) == Sweep((), ())


@pytest.mark.spec("ipam.W25", "ipam.W13")
def test_a_vanished_instances_eni_goes_when_it_is_old_enough() -> None:
    assert judged(eni(1, "i-gone", age_min=4.9), eni(2, "i-gone", age_min=5)) == Sweep((), (EniId("eni-2"),))


@pytest.mark.spec("ipam.W13")
def test_an_own_eni_without_intent_goes_at_once() -> None:
    assert judged(eni(1, "i-own", age_min=0.01)).delete == (EniId("eni-1"),)


@pytest.mark.spec("ipam.W25")
@pytest.mark.parametrize("stamp", ["yesterday", "2026-01-01T00:00:00", "2026-13-01T00:00:00+00:00"])
def test_an_unreadable_stamp_is_written_anew_and_never_deleted_in_that_pass(stamp: str) -> None:
    assert judged(eni(1, "i-gone", stamp=stamp), eni(2, "i-own", stamp=stamp)) == Sweep(
        (EniId("eni-1"), EniId("eni-2")), ()
    )
    assert judged(eni(1, "i-gone", age_min=None)) == Sweep((EniId("eni-1"),), ())


@pytest.mark.spec("ipam.W25")
def test_two_clusters_leave_each_other_alone() -> None:
    found = [eni(1, "i-a", cluster="mine"), eni(2, "i-b", cluster="theirs"), eni(3, "i-c", cluster="")]
    mine = candidates(found, own="i-own", cluster="mine", in_journal=frozenset())
    unnamed = candidates(found, own="i-own", cluster="", in_journal=frozenset())
    assert [one.eni_id for one in mine] == ["eni-1"]
    assert [one.eni_id for one in unnamed] == ["eni-3"]


def test_what_the_journal_knows_what_is_attached_and_what_others_made_is_no_candidate() -> None:
    found = [eni(1, "i-own"), eni(2, "i-own", status="in-use"), eni(3, "i-own", description="by hand"), eni(4, "i-own")]
    left = candidates(found, own="i-own", cluster="mine", in_journal=frozenset({EniId("eni-1")}))
    assert [one.eni_id for one in left] == ["eni-4"]


@pytest.mark.spec("ipam.W25")
def test_the_cost_of_sweeping_does_not_grow_with_the_cluster() -> None:
    for nodes in (1, 10, 1000, 100_000):
        assert nodes * chance(nodes) <= 4
    assert 0 < chance(None) < 0.1

"""What is remembered of ENIs serves only where metadata shows it too."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from tests.unit.eni_manager.test_inventory import INSTANCE, RULES, SUBNET, cloud, first, metadata

from vpccni.components.eni_manager.facts import CloudEni, MetadataEni
from vpccni.components.eni_manager.inventory import HeldEni, look
from vpccni.components.eni_manager.remembered import Remembered, from_metadata, vouched
from vpccni.shared.names import EniId, SubnetId

CIDRS = {SUBNET: "10.0.0.0/24"}


def memory(path: Path, instance_id: str = INSTANCE.instance_id) -> Remembered:
    one = Remembered(path, instance_id)
    one.load()
    return one


def held(*enis: CloudEni, listed: list[MetadataEni]) -> dict[EniId, HeldEni]:
    return vouched(RULES, enis, listed, dict(CIDRS), now=5.0)


def test_what_was_saved_is_loaded_by_the_same_instance_alone(tmp_path: Path) -> None:
    path = tmp_path / "enis"
    picture = first(cloud(0, "10.0.0.9", tags={"a": "b"}), cloud(1, groups=("sg-1",)))
    memory(path).save(picture.enis.values(), [SubnetId("subnet-x")])
    again = memory(path)
    assert again.enis == [eni.cloud for eni in picture.enis.values()]
    assert again.cidrs == CIDRS
    assert again.excluded == {SubnetId("subnet-x")}
    assert memory(path, "i-other").enis == []


@pytest.mark.parametrize("junk", [b"", b"{", b'{"version": 2}', b"\xff\xfe", b"[]"])
def test_a_file_that_cannot_be_read_is_as_good_as_none(tmp_path: Path, junk: bytes) -> None:
    path = tmp_path / "enis"
    path.write_bytes(junk)
    assert memory(path).enis == []


def test_an_unchanged_picture_is_written_once_and_doubted_enis_are_not_remembered(tmp_path: Path) -> None:
    path = tmp_path / "enis"
    one = memory(path)
    picture = first(cloud(0), cloud(1))
    doubted = replace(picture.enis[EniId("eni-1")], doubted_since=1.0)
    one.save([picture.enis[EniId("eni-0")], doubted], [])
    written = path.stat().st_ino
    one.save([picture.enis[EniId("eni-0")], doubted], [])
    assert path.stat().st_ino == written
    assert [eni.eni_id for eni in memory(path).enis] == ["eni-0"]


@pytest.mark.spec("ipam.W2")
def test_only_what_metadata_shows_completely_is_confirmed() -> None:
    enis = (cloud(0, "10.0.0.9"), cloud(1, "10.0.0.10", "10.0.0.11"), cloud(2))
    listed = [metadata(0, "10.0.0.9", "10.0.0.99"), metadata(1, "10.0.0.10")]
    found = held(*enis, listed=listed)
    confirmed = {eni_id for eni_id, eni in found.items() if eni.message().confirmed}
    assert confirmed == {"eni-0"}
    assert found[EniId("eni-0")].addresses == ("10.0.0.9",)  # what EC2 never told is not used
    assert set(found[EniId("eni-1")].addresses) == {"10.0.0.10", "10.0.0.11"}


def test_metadata_alone_makes_enis_of_known_kind_and_takes_one_without_addresses_for_efa_only() -> None:
    bare = MetadataEni(mac="m", eni_id=EniId("eni-3"), device_number=3, subnet_id=SUBNET)
    broken = metadata(4, problem="500")
    known = [cloud(1, interface_type="trunk", tags={"x": "y"})]
    found = {eni.eni_id: eni for eni in from_metadata([metadata(0), metadata(1), bare, broken], known, RULES)}
    assert set(found) == {"eni-0", "eni-1", "eni-3"}
    assert (found[EniId("eni-1")].interface_type, found[EniId("eni-1")].tags) == ("trunk", {"x": "y"})
    assert found[EniId("eni-3")].interface_type == "efa-only"
    picture, findings = look(first(cloud(0)), RULES, [metadata(0)], [found[EniId("eni-0")]], now=9.0)
    assert picture.enis[EniId("eni-0")].managed
    assert not findings

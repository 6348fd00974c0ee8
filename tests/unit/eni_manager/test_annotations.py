"""What is to be written into pods' annotations, from what the ledger and the pods say."""

from __future__ import annotations

import msgspec
import pytest

from vpccni.components.eni_manager.annotations import Annotation, due, is_among
from vpccni.shared.messages.allocation import LedgerEntry, LedgerState
from vpccni.shared.messages.base import PodRef, Sandbox
from vpccni.shared.messages.inventory import PodFact

WEB = PodFact(uid="u1", namespace="shop", name="web")
OURS = ["10.0.0.5", "10.0.0.6", "10.0.1.0/28"]


def entry(address: str, *, uid: str = "u1", name: str = "web", at: int = 1) -> LedgerEntry:
    return LedgerEntry(address, "eni-1", Sandbox(address, "eth0"), PodRef("shop", name, uid), at)


def found(
    *entries: LedgerEntry, pod: PodFact = WEB, written: dict[str, str] | None = None, omitted: int = 0
) -> list[Annotation]:
    ledger = LedgerState(entries=list(entries), fenced=[], omitted=omitted)
    return due(ledger, [pod], written or {}, is_ours=lambda text: is_among(text, OURS))


def carries(text: str) -> PodFact:
    return msgspec.structs.replace(WEB, pod_ips=text)


TO_BE_5 = [Annotation("shop", "web", "u1", "10.0.0.5")]
TO_BE_EMPTY = [Annotation("shop", "web", "u1", "")]


@pytest.mark.spec("ipam.20")
def test_a_pod_that_holds_an_address_is_annotated_with_it_once() -> None:
    assert found(entry("10.0.0.5")) == TO_BE_5
    assert found(entry("10.0.0.5"), pod=carries("10.0.0.9")) == TO_BE_5
    assert found(entry("10.0.0.5"), pod=carries("10.0.0.5")) == []
    assert found(entry("10.0.0.5"), written={"u1": "10.0.0.5"}) == []
    assert found(entry("10.0.0.5"), pod=carries("put over it"), written={"u1": "10.0.0.5"}) == []


@pytest.mark.spec("ipam.20")
def test_a_pod_whose_address_was_released_is_emptied_and_one_that_never_had_any_is_left_alone() -> None:
    assert found(written={"u1": "10.0.0.5"}) == TO_BE_EMPTY
    assert found(pod=carries("10.0.0.5"), written={"u1": "10.0.0.5"}) == TO_BE_EMPTY
    assert found(pod=carries("10.0.0.5")) == TO_BE_EMPTY  # an earlier process wrote it
    assert found(pod=carries("10.0.1.7")) == TO_BE_EMPTY
    assert found(pod=carries("10.0.0.5"), written={"u1": ""}) == []
    assert found() == []


@pytest.mark.parametrize("text", ["192.168.0.1", "10.0.2.1", "somebody's own words"])
def test_what_is_no_address_of_ours_is_not_emptied(text: str) -> None:
    assert found(pod=carries(text)) == []
    assert found(pod=carries(text), written={"u1": "10.0.0.5"}) == []


def test_only_the_latest_sandbox_of_a_pod_counts() -> None:
    assert found(entry("10.0.0.5", at=2), entry("10.0.0.6", at=1)) == TO_BE_5
    assert found(entry("10.0.0.5", at=2), written={"u1": "10.0.0.6"}) == TO_BE_5


def test_a_pod_of_the_same_name_is_another_pod_and_a_runtime_without_uids_is_believed() -> None:
    assert found(entry("10.0.0.5", uid="u0")) == []
    assert found(entry("10.0.0.5", uid="")) == TO_BE_5
    assert found(entry("10.0.0.6", uid=""), entry("10.0.0.5")) == TO_BE_5


def test_a_static_pod_is_found_by_the_uid_that_the_runtime_knows() -> None:
    assert found(entry("10.0.0.5", uid="file"), pod=msgspec.structs.replace(WEB, static_uid="file")) == TO_BE_5


def test_a_ledger_that_is_not_told_whole_empties_nothing() -> None:
    assert found(written={"u1": "10.0.0.5"}, omitted=1) == []
    assert found(entry("10.0.0.5"), omitted=1) == TO_BE_5


def test_the_patch_names_the_pods_uid() -> None:
    assert TO_BE_5[0].body() == {"metadata": {"uid": "u1", "annotations": {"vpc.amazonaws.com/pod-ips": "10.0.0.5"}}}

"""The checkpoint file: the reference's is read, a foreign or broken one is kept aside, a reboot forgets sandboxes only."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from vpccni.components.ip_allocator import ledger as books
from vpccni.components.ip_allocator.blocks import block_of
from vpccni.components.ip_allocator.checkpoint import LOG_FROM, Checkpoint
from vpccni.components.ip_allocator.ledger import Holding, Ledger
from vpccni.shared.messages.base import PodRef, Sandbox

REFERENCE = {
    "version": "vpc-cni-ipam/1",
    "allocations": [
        {
            "networkName": "aws-cni",
            "containerID": "c1",
            "ifName": "eth0",
            "ipv4": "10.0.1.23",
            "allocationTimestamp": 1764000000123456789,
            "metadata": {"k8sPodNamespace": "default", "k8sPodName": "web-0", "interfacesCount": 1},
        },
        {"networkName": "aws-cni", "containerID": "c2", "ifName": "eth0", "ipv4": "10.0.1.24", "metadata": {}},
        {"networkName": "aws-cni", "containerID": "c3", "ifName": "eth0", "ipv6": "2001:db8::1", "metadata": {}},
    ],
}


def store(folder: Path, boot_id: str = "boot-1") -> Checkpoint:
    return Checkpoint(folder / "ipam.json", boot_id=boot_id, clock=lambda: 1000.0)


def test_the_references_file_is_read(tmp_path: Path) -> None:
    (tmp_path / "ipam.json").write_text(json.dumps(REFERENCE))
    loaded = store(tmp_path).load()
    assert loaded.ledger is not None
    held = {holding.sandbox.container_id: holding for holding in loaded.ledger.holdings()}
    assert {name: holding.address for name, holding in held.items()} == {
        "c1": "10.0.1.23",
        "c2": "10.0.1.24",
        "c3": "2001:db8::1",
    }
    assert held["c1"].pod == PodRef("default", "web-0", "")


@pytest.mark.spec("ipam.W37")
@pytest.mark.parametrize(
    "content",
    [
        b"",
        b'{"version":"vpc-cni-ipam/1","alloc',
        b'{"version":"vpc-cni-ipam/2","allocations":[]}',
        b"\xff\xfe\x00",
        b"[]",
        b'{"version":"vpc-cni-ipam/1","allocations":[{"containerID":"a"}, 5]}',
        b'{"version":"vpc-cni-ipam/1","allocations":[{"networkName":"n","containerID":"a","ifName":"e","ipv4":"10.0.0.1"},'
        b'{"networkName":"n","containerID":"b","ifName":"e","ipv4":"10.0.0.1"}]}',
    ],
)
def test_what_cannot_be_read_is_kept_aside_and_told(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "ipam.json").write_bytes(content)
    loaded = store(tmp_path).load()
    assert loaded.ledger is None
    [aside] = tmp_path.glob("ipam.json.unreadable-*")
    assert aside.read_bytes() == content
    assert aside.name in loaded.trouble
    assert not (tmp_path / "ipam.json").exists()


def test_after_a_reboot_no_sandbox_is_left_and_what_was_given_up_stays_given_up(tmp_path: Path) -> None:
    ledger = Ledger([Holding(Sandbox("a", "eth0"), PodRef(), "10.0.0.5", "eni-0")])
    ledger.apply(books.fence(ledger, [block_of("10.0.0.16/28", in_force=True)], ["eni-9"]))
    store(tmp_path).save(ledger)
    again = store(tmp_path, "boot-2").load().ledger
    assert again is not None
    assert (again.held, again.fenced, again.fenced_enis) == ({}, {"10.0.0.16/28"}, {"eni-9"})


@pytest.mark.spec("ipam.W38")
def test_a_restart_keeps_cooling_what_cooled(tmp_path: Path) -> None:
    ledger = Ledger([Holding(Sandbox("a", "eth0"), PodRef(), "10.0.0.5", "eni-0")])
    ledger.apply(books.release(ledger, [Sandbox("a", "eth0")], now=990.0))
    store(tmp_path).save(ledger)
    again = store(tmp_path).load().ledger
    assert again is not None
    assert books.is_cooling(again, "10.0.0.5", now=1000.0, period_s=30.0)


def many(number: int) -> list[Holding]:
    return [
        Holding(Sandbox(f"c{one}", "eth0"), PodRef("default", f"pod-{one}"), f"10.{one >> 8}.{one & 255}.1")
        for one in range(number)
    ]


def test_a_large_ledger_appends_and_a_small_one_writes_the_public_file(tmp_path: Path) -> None:
    for number, logged in ((10, False), (LOG_FROM, True)):
        folder = tmp_path / str(number)
        folder.mkdir()
        file, ledger = store(folder), Ledger(many(number))
        file.save(ledger)
        change = books.hold(ledger, [Holding(Sandbox("late", "eth0"), PodRef(), "10.9.9.9")])
        ledger.apply(change)
        file.save(ledger, change)
        assert (folder / "ipam.json.log").exists() is logged
        again = store(folder).load().ledger
        assert again is not None
        assert again.held == ledger.held
        file.fold(ledger)
        assert not (folder / "ipam.json.log").exists()
        assert "10.9.9.9" in (folder / "ipam.json").read_text()


def test_a_log_of_another_file_is_not_replayed(tmp_path: Path) -> None:
    file, ledger = store(tmp_path), Ledger(many(LOG_FROM + 5))
    file.save(ledger)
    change = books.release(ledger, [Sandbox("c1", "eth0")], now=990.0)
    ledger.apply(change)
    file.save(ledger, change)
    stale = (tmp_path / "ipam.json.log").read_bytes()
    file.fold(ledger)
    (tmp_path / "ipam.json.log").write_bytes(stale)
    loaded = store(tmp_path).load()
    assert not loaded.trouble
    assert loaded.ledger is not None
    assert loaded.ledger.held == ledger.held

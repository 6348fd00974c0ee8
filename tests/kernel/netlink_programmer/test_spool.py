"""Deletions on disk: they outlive a process, in their order, and junk stops none of them."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from vpccni.components.netlink_programmer.frontdoor import ENV_BYTES, STDIN_BYTES
from vpccni.components.netlink_programmer.spool import Spool

ENV = {"CNI_COMMAND": "DEL", "CNI_CONTAINERID": "c1", "CNI_ARGS": "K8S_POD_NAME=a=b;X=ü"}


def test_what_is_kept_is_found_by_the_next_process_oldest_first(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "spool")
    for number in range(3):
        spool.put({**ENV, "CNI_IFNAME": f"eth{number}"}, b"\0{}" * number)
        time.sleep(0.001)
    found = Spool(tmp_path / "spool").waiting()
    assert [(one.env, one.stdin) for one in found] == [
        ({**ENV, "CNI_IFNAME": f"eth{number}"}, b"\0{}" * number) for number in range(3)
    ]
    assert spool.folder.stat().st_mode & 0o777 == 0o700
    assert {path.stat().st_mode & 0o777 for path in spool.folder.iterdir()} == {0o600}


def test_the_largest_request_is_kept_whole(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    spool.put({"A": "x" * (ENV_BYTES - 3)}, b"y" * STDIN_BYTES)
    (found,) = spool.waiting()
    assert (len(found.env["A"]), len(found.stdin)) == (ENV_BYTES - 3, STDIN_BYTES)


def test_done_twice_is_done(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    kept = spool.put(ENV, b"")
    spool.done(kept)
    spool.done(kept)
    assert spool.waiting() == []
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("junk", [b"", b"VCNI", b"\xff" * 100, b"VCNI\x01\0\x01\0" + b"\xff" * 16])
def test_junk_is_put_aside_and_the_rest_is_found(tmp_path: Path, junk: bytes) -> None:
    spool = Spool(tmp_path)
    (tmp_path / "0-1.req").write_bytes(junk)
    (tmp_path / "0-2.tmp").write_bytes(b"half written")
    kept = spool.put(ENV, b"{}")
    assert [one.path for one in spool.waiting()] == [kept.path]
    assert (tmp_path / "0-1.bad").read_bytes() == junk
    assert [one.path for one in spool.waiting()] == [kept.path]

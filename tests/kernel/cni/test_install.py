"""Files that are replaced while a runtime executes them, and on a full disk."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from vpccni.cni.install import write_atomically
from vpccni.lab.namespaces import CLONE_NEWNS, MS_PRIVATE, MS_REC, Place, call_in, mount, unshare

INSTALLS = 300
RUNNER = """
import pathlib, subprocess, sys
target, stop, runs = sys.argv[1], pathlib.Path(sys.argv[2]), 0
while not stop.exists():
    subprocess.run([target], check=True)
    runs += 1
print(runs)
"""
"""A process of its own: a fork of the installer would hold the file's descriptor for a moment."""


@pytest.mark.spec("dataplane.18.35")
def test_a_target_that_is_executed_all_the_time_is_always_whole(tmp_path: Path) -> None:
    target, stop = tmp_path / "aws-cni", tmp_path / "stop"
    small = Path("/bin/true").read_bytes()
    programs = [small, small + b"\0" * 200_000]  # bytes after the last section of a program mean nothing
    write_atomically(target, programs[0], 0o755)
    runner = subprocess.Popen(
        [sys.executable, "-c", RUNNER, str(target), str(stop)], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    try:
        for number in range(INSTALLS):
            write_atomically(target, programs[number % 2], 0o755)
            time.sleep(0.001)
    finally:
        stop.touch()
        out, err = runner.communicate(timeout=30)
    assert runner.returncode == 0, err.decode()
    assert int(out) > 50
    assert sorted(path.name for path in tmp_path.iterdir()) == ["aws-cni", "stop"]


def test_the_mode_is_the_asked_one_whatever_the_umask(tmp_path: Path) -> None:
    old = os.umask(0o077)
    try:
        write_atomically(tmp_path / "file", b"x", 0o755)
    finally:
        os.umask(old)
    assert (tmp_path / "file").stat().st_mode & 0o777 == 0o755


def test_a_full_disk_keeps_the_old_file_and_leaves_nothing_beside_it(tmp_path: Path) -> None:
    def on_a_small_disk() -> tuple[int | None, bytes, list[str]]:
        unshare(CLONE_NEWNS)  # of this thread, which ends afterwards
        mount("none", "/", flags=MS_REC | MS_PRIVATE)
        mount("tmpfs", str(tmp_path), kind="tmpfs", options="size=64k")
        target = tmp_path / "aws-cni"
        write_atomically(target, b"old", 0o755)
        with pytest.raises(OSError) as caught:
            write_atomically(target, b"n" * 1_000_000, 0o755)
        return caught.value.errno, target.read_bytes(), sorted(os.listdir(tmp_path))

    assert call_in(Place(), on_a_small_disk) == (errno.ENOSPC, b"old", ["aws-cni"])
    assert list(tmp_path.iterdir()) == []

"""The first process of a container: what it keeps running, what it passes on, and how it ends."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from support.waiting import until

SOURCE = Path(__file__).parents[3] / "cni" / "keep.c"
SANITIZED = "-std=c11 -Wall -Wextra -Werror -O1 -g -fsanitize=address,undefined -fno-sanitize-recover=all".split()
WITHIN_S = 10.0
NOTED = """
import os, signal, sys, time
def on_signal(number, frame):
    open(sys.argv[1], "a").write(f"signal {number}\\n")
    if number == signal.SIGTERM:
        sys.exit(7)
signal.signal(signal.SIGTERM, on_signal)
signal.signal(signal.SIGUSR1, on_signal)
open(sys.argv[1], "a").write(f"start {os.getpid()}\\n")
while True:
    time.sleep(10)
"""


@pytest.fixture(scope="module")
def keep() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="vpc-keep-"))
    try:
        subprocess.run(["gcc", *SANITIZED, "-o", str(folder / "keep"), str(SOURCE)], check=True)
        yield folder / "keep"
    finally:
        shutil.rmtree(folder)


@contextmanager
def kept(keep: Path, *command: str) -> Iterator[subprocess.Popen[bytes]]:
    environment = {**os.environ, "ASAN_OPTIONS": "detect_leaks=0:exitcode=99"}
    process = subprocess.Popen([keep, *command], env=environment, stderr=subprocess.PIPE)
    try:
        yield process
    finally:
        process.kill()  # the child goes with it: PR_SET_PDEATHSIG
        process.communicate()


def starts(notes: Path) -> list[int]:
    lines = notes.read_text().splitlines() if notes.exists() else []
    return [int(line.split()[1]) for line in lines if line.startswith("start ")]


def test_what_is_killed_is_started_again_at_once(keep: Path, tmp_path: Path) -> None:
    notes = tmp_path / "notes"
    with kept(keep, sys.executable, "-c", NOTED, str(notes)):
        for number in range(1, 4):
            until(lambda number=number: len(starts(notes)) == number, "a start", within_s=WITHIN_S, every_s=0.005)
            time.sleep(0.15)  # who ends sooner has not begun
            began = time.monotonic()
            os.kill(starts(notes)[-1], signal.SIGKILL)
        until(lambda: len(starts(notes)) == 4, "the last start", within_s=WITHIN_S, every_s=0.005)
        assert time.monotonic() - began < 1.0


def test_the_end_is_passed_on_and_the_childs_code_is_the_containers(keep: Path, tmp_path: Path) -> None:
    notes = tmp_path / "notes"
    with kept(keep, sys.executable, "-c", NOTED, str(notes)) as process:
        until(lambda: starts(notes), "a start", within_s=WITHIN_S)
        process.send_signal(signal.SIGUSR1)
        until(lambda: "signal 10" in notes.read_text(), "the signal", within_s=WITHIN_S)
        process.send_signal(signal.SIGTERM)
        assert process.wait(WITHIN_S) == 7
    assert len(starts(notes)) == 1


def test_an_end_at_any_moment_ends_it(keep: Path) -> None:
    """Signals fall between fork and exec, into the pause after a brief child, and everywhere else."""
    for milliseconds in range(0, 120, 3):
        with kept(keep, "/bin/true") as process:
            time.sleep(milliseconds / 1000)
            process.send_signal(signal.SIGTERM)
            code = process.wait(WITHIN_S)
        assert code in (0, -signal.SIGTERM, 128 + signal.SIGTERM)


def test_a_program_that_cannot_begin_is_tried_ever_more_rarely(keep: Path) -> None:
    with kept(keep, "/no/such/program") as process:
        time.sleep(1.6)
        process.send_signal(signal.SIGTERM)
        assert process.wait(WITHIN_S) == 127
        assert process.stderr is not None
        lines = process.stderr.read().decode().splitlines()
    assert lines[0] == "vpccni-keep: /no/such/program: No such file or directory"
    assert 3 <= sum("started again" in line for line in lines) <= 5  # after 0, 100, 300, 700, 1500 ms


def test_without_a_command_it_says_how_it_is_called(keep: Path) -> None:
    done = subprocess.run([keep], capture_output=True, timeout=WITHIN_S, check=False)
    assert (done.returncode, done.stderr) == (1, b"vpccni-keep COMMAND [ARGUMENT...]\n")

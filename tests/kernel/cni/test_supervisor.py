"""The five programs under the real supervisord and its configuration; a stand-in interpreter takes their places."""

from __future__ import annotations

import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

CONF = Path(__file__).parents[3] / "supervisord.conf"
PROGRAMS = {"eni_manager", "ip_allocator", "netlink_programmer", "policy_agent", "metrics_publisher"}
STAND_IN = """#!/bin/sh
echo $$ > "$VPCCNI_RUN_DIR/.${2##*.}.$$" && mv "$VPCCNI_RUN_DIR/.${2##*.}.$$" "$VPCCNI_RUN_DIR/${2##*.}.pid"
exec sleep 1000
"""
KILLS = 30
RESTARTED_WITHIN_S = 0.5  # some 0.05 on a quiet machine; supervisord alone takes a second and more
LATEST_WITHIN_S = 0.9
COMES_WITHIN_S = 20.0


class Supervised:
    """A run folder in which each stand-in notes its process id."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        interpreter = folder / "python"
        interpreter.write_text(STAND_IN)
        interpreter.chmod(0o755)
        env = {
            **os.environ,
            "VPCCNI_PYTHON": str(interpreter),
            "VPCCNI_COMPAT": "false",
            "VPCCNI_RUN_DIR": str(folder),
            "VPCCNI_LOG_DIR": str(folder),
        }
        argv = [sys.executable, "-m", "supervisor.supervisord", "-n", "-c", str(CONF)]
        self.process = subprocess.Popen(argv, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def pid(self, program: str) -> int:
        try:
            return int((self.folder / f"{program}.pid").read_text())
        except FileNotFoundError:
            return 0

    def next_pid(self, program: str, before: int) -> float:
        """Wait for another process of the program; return the seconds it took."""
        begin = time.monotonic()
        while self.pid(program) == before:
            assert time.monotonic() - begin < COMES_WITHIN_S, f"{program} did not come"
            time.sleep(0.001)
        return time.monotonic() - begin

    def end(self) -> None:
        self.process.terminate()
        self.process.wait(30)


@pytest.fixture
def supervised() -> Iterator[Supervised]:
    with tempfile.TemporaryDirectory(prefix="vpc-sup-") as folder:  # pytest's own paths are too long for a socket
        one = Supervised(Path(folder))
        try:
            for program in PROGRAMS:
                one.next_pid(program, 0)
            yield one
        finally:
            one.end()


def test_a_killed_program_is_back_long_before_supervisord_would_look_however_often(supervised: Supervised) -> None:
    took = []
    for _ in range(KILLS):
        before = supervised.pid("ip_allocator")
        os.kill(before, signal.SIGKILL)
        took.append(supervised.next_pid("ip_allocator", before))
    assert statistics.median(took) < RESTARTED_WITHIN_S, took
    assert max(took) < LATEST_WITHIN_S, took  # supervisord's own poll is 1 s: not one restart may wait for it


def test_a_death_leaves_the_other_programs_alone(supervised: Supervised) -> None:
    before = {program: supervised.pid(program) for program in PROGRAMS}
    os.kill(before["policy_agent"], signal.SIGKILL)
    supervised.next_pid("policy_agent", before["policy_agent"])
    after = {program: supervised.pid(program) for program in PROGRAMS}
    assert {program for program in PROGRAMS if before[program] != after[program]} == {"policy_agent"}


def test_its_socket_is_for_its_own_user_and_its_end_ends_all_programs(supervised: Supervised) -> None:
    assert (supervised.folder / "supervisor.sock").stat().st_mode & 0o777 == 0o700
    pids = [supervised.pid(program) for program in PROGRAMS]
    supervised.end()
    assert supervised.process.returncode == 0
    assert [pid for pid in pids if Path(f"/proc/{pid}").exists()] == []

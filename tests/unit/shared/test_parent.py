"""A supervised process ends with its supervisor, one started by hand does not care who started it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

CHILD = """
import os, sys, time
from vpccni.shared.parent import end_with_parent
end_with_parent(os.environ)
with open(sys.argv[1] + ".new", "w") as file:
    file.write(str(os.getpid()))
os.rename(sys.argv[1] + ".new", sys.argv[1])
time.sleep(60)
"""
PARENT = f"""
import subprocess, sys, time
subprocess.Popen([sys.executable, "-c", {CHILD!r}, sys.argv[2]])
time.sleep(60)
"""
SUPERVISED = {**os.environ, "SUPERVISOR_ENABLED": "1"}
ENDS_WITHIN_S = 5.0


def _child_of_a_killed_parent(name: str, note: Path, env: dict[str, str]) -> int:
    """Start a process called `name`, which starts a child; kill it when the child is up; return the child's pid."""
    with subprocess.Popen([sys.executable, "-c", PARENT, name, str(note)], env=env) as parent:
        deadline = time.monotonic() + ENDS_WITHIN_S
        while not note.exists():
            assert time.monotonic() < deadline, "the child did not start"
            time.sleep(0.01)
        parent.kill()
    return int(note.read_text())


def _ends(pid: int) -> bool:
    deadline = time.monotonic() + ENDS_WITHIN_S
    while time.monotonic() < deadline:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
        except (FileNotFoundError, ProcessLookupError):
            return True
        if state == "Z":
            return True
        time.sleep(0.01)
    return False


def test_a_supervised_process_ends_when_its_supervisor_is_killed(tmp_path: Path) -> None:
    assert _ends(_child_of_a_killed_parent("supervisord", tmp_path / "pid", SUPERVISED))


def test_a_process_started_by_hand_outlives_who_started_it(tmp_path: Path) -> None:
    child = _child_of_a_killed_parent("shell", tmp_path / "pid", dict(os.environ))
    time.sleep(0.3)
    os.kill(child, signal.SIGKILL)


def test_a_process_whose_supervisor_is_gone_already_does_not_start(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", CHILD, str(tmp_path / "pid")],
        env=SUPERVISED,
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )
    assert (done.returncode, done.stderr.strip()) == (1, "the supervisor has died")

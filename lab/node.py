"""One node of a lab: a network and a mount namespace, and the supervised processes in it."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from vpccni.lab import cleanup
from vpccni.lab.namespaces import Place, let_go, popen_in
from vpccni.lab.runtime import Runtime

REPOSITORY: Final = Path(__file__).resolve().parent.parent
SUPERVISOR_CONF: Final = REPOSITORY / "supervisord.conf"
RUN_FOLDER: Final = "/var/run/aws-node"
NODE_START: Final = (sys.executable, "-m", "vpccni", "node-start")
"""One shot before the supervisor: installs plugin and conflist, writes the settings."""
CONFLIST: Final = "etc/cni/net.d/10-aws.conflist"
READY_WITHIN_S: Final = 60.0
STOP_WITHIN_S: Final = 10.0
POLL_S: Final = 0.02


class LabError(Exception):
    """The lab cannot do what was asked; the text says what, where, why and what to do."""


class Executor:
    """Something that programs can be run in: `place` and `env` say where and with what."""

    place: Place
    env: dict[str, str]
    name: str

    def popen(self, argv: Sequence[str], *, env: Mapping[str, str] | None = None, stdin: int | None = None, stdout: int | None = None,
              stderr: int | None = None, text: bool = True) -> subprocess.Popen[str]:  # fmt: skip
        """Start a program there; `env` adds to the environment of the place."""
        full = {**self.env, **(env or {})}
        return popen_in(self.place, argv, env=full, stdin=stdin, stdout=stdout, stderr=stderr, text=text)

    def exec(self, argv: Sequence[str], *, input: str | None = None, timeout: float = 30, check: bool = True,
             env: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:  # fmt: skip
        """Run a program there to its end; with `check` a failure raises CalledProcessError."""
        stdin = subprocess.DEVNULL if input is None else subprocess.PIPE
        program = self.popen(argv, env=env, stdin=stdin, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        try:
            out, err = program.communicate(input, timeout=timeout)
        except subprocess.TimeoutExpired:
            program.kill()
            program.communicate()
            raise
        if check and program.returncode != 0:
            raise subprocess.CalledProcessError(program.returncode, list(argv), out, err)
        return subprocess.CompletedProcess(list(argv), program.returncode, out, err)


@dataclass
class Node(Executor):
    """A node. `root` is its run folder as the machine sees it, `filesystem` its whole file system."""

    name: str
    netns: str
    holder: int
    state: Path
    env: dict[str, str]
    facts: dict[str, Any] = field(default_factory=dict)

    @property
    def netns_path(self) -> str:
        return f"/run/netns/{self.netns}"

    @property
    def mntns_path(self) -> str:
        return f"/proc/{self.holder}/ns/mnt"

    @property
    def place(self) -> Place:  # type: ignore[override]
        return Place(net=self.netns_path, mnt=self.mntns_path)

    @property
    def run_dir(self) -> str:
        return RUN_FOLDER

    @property
    def filesystem(self) -> Path:
        return Path(f"/proc/{self.holder}/root")

    @property
    def root(self) -> Path:
        return self.filesystem / "run/aws-node"

    @property
    def folder(self) -> Path:
        """The node's folder in the lab's state: logs, the supervisor's id."""
        return self.state / "nodes" / self.name

    @property
    def instance_id(self) -> str:
        return str(self.facts["instance_id"])

    @property
    def instance_type(self) -> str:
        return str(self.facts["instance_type"])

    @property
    def primary_address(self) -> str:
        return str(self.facts["primary_address"])

    @property
    def primary_ipv6(self) -> str:
        """The primary ENI's IPv6 address, empty in a lab without IPv6."""
        return str(self.facts["primary_ipv6"])

    def runtime(self) -> Runtime:
        """Return a container runtime's CNI half on this node."""
        return Runtime(self.filesystem, self._start_plugin, {"PATH": self.env["PATH"], "HOME": "/root"})

    def _start_plugin(self, argv: Sequence[str], **more: Any) -> subprocess.Popen[str]:
        return popen_in(self.place, argv, **more)

    # ------------------------------------------------------------------ processes

    def supervisor_pid(self) -> int | None:
        """Return the supervisor's process id, None if it does not run."""
        with contextlib.suppress(OSError, ValueError):
            pid = int((self.folder / "supervisord.pid").read_text())
            # Empty for a moment, while the kernel still loads the program.
            arguments = Path(f"/proc/{pid}/cmdline").read_bytes()
            if cleanup.is_alive(pid) and (not arguments or b"supervisor" in arguments):
                return pid
        return None

    def pids(self) -> dict[str, int]:
        """Return the running supervised processes by name."""
        supervisor = self.supervisor_pid()
        if supervisor is None:
            return {}
        found = {}
        for pid in _children(supervisor):
            with contextlib.suppress(OSError):
                rows = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
                name = next(
                    (r.partition(b"=")[2].decode() for r in rows if r.startswith(b"SUPERVISOR_PROCESS_NAME=")), None
                )
                if name and cleanup.is_alive(pid):
                    found[name] = pid
        return found

    def kill(self, process: str, sig: int = signal.SIGKILL) -> int:
        """Send a signal to a supervised process; return the process id it had."""
        pids = self.pids()
        if process not in pids:
            known = ", ".join(sorted(pids)) or "none"
            raise LabError(f"cannot kill {process} on {self.name}: it does not run. Running: {known}")
        os.kill(pids[process], sig)
        return pids[process]

    def start_processes(
        self, names: Sequence[str] | None = None, *, progress: Callable[[str], None] | None = None
    ) -> None:
        """Run node-start and the supervisor, or tell a running supervisor to start these programs; wait until the node is ready."""
        if not SUPERVISOR_CONF.exists():
            raise LabError(
                f"cannot start processes on {self.name}: {SUPERVISOR_CONF.name} is missing from the checkout"
            )
        if self.supervisor_pid() is None:
            begin = time.monotonic()
            done = self.exec(NODE_START, check=False, timeout=READY_WITHIN_S)
            (self.folder / "node-start.log").write_text(done.stdout + done.stderr)
            if done.returncode != 0:
                raise LabError(
                    f"node-start failed on {self.name} ({done.returncode}): {(done.stdout + done.stderr).strip()[-2000:]}"
                )
            self._start_supervisor()
            if progress:
                progress(f"{self.name}: processes started ({time.monotonic() - begin:.1f} s)")
        if names is not None:
            control = [sys.executable, "-m", "supervisor.supervisorctl", "-c", str(SUPERVISOR_CONF)]
            self.exec([*control, "start", *names], check=False)
            return
        self.wait_ready(progress=progress)

    def restart_processes(self, env: Mapping[str, str]) -> None:
        """End the processes and start them with other settings, as a roll of the DaemonSet does. Pods stay."""
        self.stop_processes()
        self.env = {**self.env, **env}
        self.start_processes()

    def _start_supervisor(self) -> None:
        argv = [sys.executable, "-m", "supervisor.supervisord", "-n", "-c", str(SUPERVISOR_CONF)]
        with open(self.folder / "supervisord.log", "ab") as log:
            program = popen_in(
                self.place,
                argv,
                env=self.env,
                stdin=subprocess.DEVNULL,
                stdout=log.fileno(),
                stderr=log.fileno(),
                new_session=True,
            )
        (self.folder / "supervisord.pid").write_text(str(program.pid))
        let_go(program)

    def wait_ready(self, *, timeout: float = READY_WITHIN_S, progress: Callable[[str], None] | None = None) -> None:
        """Wait until the conflist is there: the node has an address to give."""
        begin = said = time.monotonic()
        while not (self.filesystem / CONFLIST).exists():
            if self.supervisor_pid() is None:
                raise LabError(f"{self.name}: the supervisor ended; see {self.folder / 'supervisord.log'}")
            now = time.monotonic()
            if now - begin > timeout:
                raise LabError(
                    f"{self.name} is not ready after {timeout:.0f} s: no /{CONFLIST}; logs in {self.folder} and /var/log/aws-routed-eni"
                )
            if progress and now - said > 5:
                progress(f"{self.name}: still waiting for a free address ({now - begin:.0f} s)")
                said = now
            time.sleep(POLL_S)

    def stop_processes(self) -> None:
        """End the supervisor and its processes in order; by force after a deadline."""
        pid = self.supervisor_pid()
        if pid is None:
            return
        children = list(self.pids().values())
        os.kill(pid, signal.SIGTERM)
        deadline = time.monotonic() + STOP_WITHIN_S
        while cleanup.is_alive(pid) and time.monotonic() < deadline:
            cleanup.reap([pid])
            time.sleep(POLL_S)
        cleanup.end_processes([p for p in (pid, *children) if cleanup.is_alive(p)])
        (self.folder / "supervisord.pid").unlink(missing_ok=True)


def _children(pid: int) -> list[int]:
    text = ""
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):
            text += task.read_text()
    return [int(word) for word in text.split()]

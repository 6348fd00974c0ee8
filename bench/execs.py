"""Timing programs from exec to exit: `posix_spawn` until the process's descriptor says that its last thread is gone.

Standard input and output are files, so that nothing of ours runs inside the timed span. One thread, one poller: 32 programs at
once do not wait for a lock of ours. A job is a generator that yields the next program to run and is given how it ended.
"""

from __future__ import annotations

import os
import select
import signal
import time
from collections import deque
from collections.abc import Generator, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

ANSWER_WITHIN_S: Final = 60.0


@dataclass(frozen=True)
class Program:
    """What to run. `output` is overwritten with what it writes."""

    path: str
    env: Mapping[str, str]
    input: Path
    output: Path


@dataclass(frozen=True)
class Ended:
    """How long a program took and its exit status (negative: the signal that ended it)."""

    seconds: float
    status: int


Job = Generator[Program, Ended, None]


@dataclass(frozen=True)
class _Running:
    pid: int
    begin: float
    job: Job


def run_all(jobs: Iterable[Job], *, at_once: int) -> float:
    """Run the jobs, at most `at_once` together; return the seconds from the first start to the last end.

    A program that runs longer than `ANSWER_WITHIN_S` after the last sign of any is killed: its job sees the signal.
    """
    waiting, poller = deque(jobs), select.epoll()
    running: dict[int, _Running] = {}
    first = time.perf_counter()
    while waiting or running:
        while waiting and len(running) < at_once:
            _step(waiting.popleft(), None, running, poller)
        ready = poller.poll(ANSWER_WITHIN_S)
        now = time.perf_counter()
        if not ready:
            for pidfd in running:
                signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        for pidfd, _ in ready:
            one = running.pop(pidfd)
            poller.unregister(pidfd)
            os.close(pidfd)
            status = os.waitstatus_to_exitcode(os.waitpid(one.pid, 0)[1])
            _step(one.job, Ended(now - one.begin, status), running, poller)
    poller.close()
    return time.perf_counter() - first


def _step(job: Job, ended: Ended | None, running: dict[int, _Running], poller: select.epoll) -> None:
    try:
        program = next(job) if ended is None else job.send(ended)
    except StopIteration:
        return
    actions = [
        (os.POSIX_SPAWN_OPEN, 0, str(program.input), os.O_RDONLY, 0),
        (os.POSIX_SPAWN_OPEN, 1, str(program.output), os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600),
    ]
    begin = time.perf_counter()
    pid = os.posix_spawn(program.path, [program.path], dict(program.env), file_actions=actions)
    pidfd = os.pidfd_open(pid)
    running[pidfd] = _Running(pid, begin, job)
    poller.register(pidfd, select.EPOLLIN)

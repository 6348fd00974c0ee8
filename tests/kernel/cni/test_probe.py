"""The health probe as kubelet runs it: starting, serving, degraded and dead told apart by exit code and one line, in time."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from support.waiting import until

from vpccni.components.netlink_programmer.frontdoor import KIND_HEALTH, REPLY_HEAD, Frame, Reply
from vpccni.shared import names

if TYPE_CHECKING:
    from tests.kernel.cni.conftest import OpenDoor, Plugin

SOURCE = Path(__file__).parents[3] / "cni" / "probe.c"
ENDS_WITHIN_S = 10.0
SANITIZED = "-std=c11 -Wall -Wextra -Werror -O1 -g -fsanitize=address,undefined -fno-sanitize-recover=all".split()
SERVING, BAD_ARGUMENTS, NO_CONNECTION, NO_ANSWER, NOT_SERVING = range(5)
PROCESS = """
import sys
from vpccni.shared.process import Process
process = Process.start(sys.argv[1], [])
if sys.argv[2] != "starting":
    process.serving()
if sys.argv[2] == "degraded":
    process.degraded("test", "a reason")
raise SystemExit(process.run())
"""
"""A process with everything all of ours have in common, and no work of its own."""


@dataclass(frozen=True)
class Said:
    """How a probe ended: its exit code, and what its one line says."""

    code: int
    status: str
    text: str
    seconds: float


@dataclass(frozen=True)
class Probe:
    """The executable, asking in one run folder."""

    path: Path
    run_dir: Path

    def ask(self, *flags: str, addr: str = ":50051") -> Said:
        return self.run(f"-addr={addr}", *flags)

    def run(self, *flags: str, **environment: str) -> Said:
        began = time.monotonic()
        done = subprocess.run(
            [self.path, *flags],
            env={"VPCCNI_RUN_DIR": str(self.run_dir), "ASAN_OPTIONS": "detect_leaks=0:exitcode=99", **environment},
            capture_output=True,
            timeout=ENDS_WITHIN_S,
            check=False,
        )
        assert done.stdout == b""
        (line,) = done.stderr.splitlines()
        said = json.loads(line)
        return Said(done.returncode, said["status"], said["msg"], time.monotonic() - began)


@pytest.fixture(scope="module")
def program() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="vpc-probe-"))
    try:
        subprocess.run(["gcc", *SANITIZED, "-o", str(folder / "probe"), str(SOURCE)], check=True)
        yield folder / "probe"
    finally:
        shutil.rmtree(folder)


@pytest.fixture
def probe(program: Path, plugin: Plugin) -> Probe:
    """The probe beside the doors of `open_door`."""
    return Probe(program, plugin.folder)


@pytest.fixture
def door(probe: Probe) -> str:
    """The address of the doors of `open_door`, in the form that names a path."""
    return f"unix://{probe.run_dir}/door.sock"


def telling(text: str, code: int = 0) -> Callable[[Frame, Reply], None]:
    def answer(frame: Frame, reply: Reply) -> None:
        assert (frame.kind, frame.env, frame.stdin) == (KIND_HEALTH, {}, b"")
        reply(code, text)

    return answer


@pytest.mark.parametrize(
    ("answer", "service", "code", "text"),
    [
        ("serving\n", "", SERVING, "serving"),
        ("serving\n", "liveness", SERVING, "serving"),
        ("serving\n", "grpc.health.v1.aws-node", SERVING, "serving"),
        ('degraded\nEC2 refuses\nno "link"\n', "readiness", SERVING, 'degraded: EC2 refuses;no "link"'),
        ("degraded\nEC2 refuses\n", "liveness", SERVING, "degraded: EC2 refuses"),
        ("starting\n", "", NOT_SERVING, "starting"),
        ("starting\n", "readiness", NOT_SERVING, "starting"),
        ("starting\nwaits for metadata\n", "liveness", SERVING, "starting: waits for metadata"),
        ("servingly\n", "", NOT_SERVING, "servingly"),
        ("", "", NOT_SERVING, ""),
    ],
)
def test_states_are_told_apart(
    probe: Probe, door: str, open_door: OpenDoor, answer: str, service: str, code: int, text: str
) -> None:
    open_door(telling(answer))
    said = probe.ask(f"-service={service}", addr=door)
    assert (said.code, said.text) == (code, text)
    assert said.status == ("SERVING" if code == SERVING else "NOT_SERVING")


def test_a_door_that_answers_with_a_failure_is_not_serving(probe: Probe, door: str, open_door: OpenDoor) -> None:
    open_door(telling("serving\n", code=1))
    assert probe.ask(addr=door).code == NOT_SERVING


@pytest.mark.parametrize(
    "flags",
    [
        ["-addr", "{}", "-connect-timeout", "5s", "-rpc-timeout", "5s"],
        ["--addr={}", "--connect-timeout=1m30s", "--rpc-timeout=1.5s"],
        ["-addr={}", "-user-agent=kubelet", "-v=false", "-service", ""],
    ],
)
def test_flags_are_taken_in_all_forms_of_the_reference(
    probe: Probe, door: str, open_door: OpenDoor, flags: list[str]
) -> None:
    open_door(telling("serving\n"))
    assert probe.run(*(flag.format(door) for flag in flags)).code == SERVING


@pytest.mark.parametrize(
    "addr",
    [":50051", "127.0.0.1:50051", "localhost:50051", "unix:///var/run/aws-node/ipamd.sock", "unix:/x/ipamd.sock"],
)
def test_the_references_addresses_mean_the_front_door_of_the_run_folder(
    program: Path, tmp_path: Path, addr: str
) -> None:
    said = Probe(program, tmp_path).ask("-connect-timeout=10ms", addr=addr)
    assert (said.code, said.status) == (NO_CONNECTION, "UNREACHABLE")
    assert f"{tmp_path}/front-door.sock" in said.text


@pytest.mark.parametrize(
    "flags",
    [
        [],
        ["-addr"],
        ["-addr=:8080"],
        ["-addr=example.com:50051"],
        ["-addr=" + "x" * 5000],
        ["-addr=unix://" + "x" * 5000],
        ["-addr=:50051", "-connect-timeout=5"],
        ["-addr=:50051", "-connect-timeout=-5s"],
        ["-addr=:50051", "-rpc-timeout=1e9h"],
        ["-addr=:50051", "-rpc-timeout="],
        ["-addr=:50051", "-tls"],
        ["-addr=:50051", "stray"],
        ["-addr=:50051", "-service=../x"],
        ["-addr=:50051", "-service=" + "x" * 5000],
    ],
)
def test_bad_arguments_have_the_references_code(probe: Probe, flags: list[str]) -> None:
    said = probe.run(*flags)
    assert (said.code, said.status) == (BAD_ARGUMENTS, "UNKNOWN")


def test_nobody_listening_is_no_connection_once_the_time_is_over(probe: Probe, door: str) -> None:
    said = probe.ask("-connect-timeout=500ms", addr=door)
    assert said.code == NO_CONNECTION
    assert 0.4 < said.seconds < 2


def test_a_process_that_comes_back_in_time_is_met(probe: Probe, door: str, open_door: OpenDoor) -> None:
    late = threading.Timer(0.5, open_door, [telling("serving\n")])
    late.start()
    said = probe.ask("-connect-timeout=5s", addr=door)
    late.join()
    assert said.code == SERVING
    assert said.seconds > 0.4


@contextmanager
def listener(path: Path, answer: bytes, *, hold_s: float = 0.0) -> Iterator[None]:
    """Something that is no front door: says `answer` to whoever connects, then closes after a while."""
    server = socket.socket(socket.AF_UNIX)
    server.bind(str(path))
    server.listen(1)

    def serve() -> None:
        connection, _ = server.accept()
        with connection:
            connection.sendall(answer)
            time.sleep(hold_s)

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield
    finally:
        thread.join()
        server.close()
        path.unlink()


def test_silence_ends_at_the_deadline(probe: Probe, door: str) -> None:
    with listener(probe.run_dir / "door.sock", b"", hold_s=1.5):
        said = probe.ask("-rpc-timeout=500ms", addr=door)
    assert (said.code, said.status) == (NO_ANSWER, "UNANSWERED")


def test_a_half_answer_ends_at_the_deadline(probe: Probe, door: str) -> None:
    half = REPLY_HEAD.pack(b"VCNR", 1, 0, 0, 100) + b"serv"
    with listener(probe.run_dir / "door.sock", half, hold_s=1.5):
        said = probe.ask("-rpc-timeout=500ms", addr=door)
    assert said.code == NO_ANSWER
    assert said.seconds < 1.4


def test_junk_is_never_serving(probe: Probe, door: str) -> None:
    dice = random.Random(12)
    answers = [dice.randbytes(dice.randrange(200)) for _ in range(30)]
    answers += [REPLY_HEAD.pack(b"VCNR", 1, 0, 0, 1 << 30), REPLY_HEAD.pack(b"VCNR", 2, 0, 0, 8) + b"serving\n"]
    for answer in answers:
        with listener(probe.run_dir / "door.sock", answer):
            assert probe.ask(addr=door).code == NO_ANSWER, answer


def test_a_full_backlog_does_not_hold_the_probe(probe: Probe, door: str) -> None:
    path = probe.run_dir / "door.sock"
    with socket.socket(socket.AF_UNIX) as server, socket.socket(socket.AF_UNIX) as first:
        server.bind(str(path))
        server.listen(0)
        first.connect(str(path))
        said = probe.ask("-connect-timeout=500ms", addr=door)
    path.unlink()
    assert said.code == NO_CONNECTION
    assert said.seconds < 2


# -- processes by name


@contextmanager
def process(run_dir: Path, name: str, state: str) -> Iterator[subprocess.Popen[bytes]]:
    environment = {**os.environ, "VPCCNI_RUN_DIR": str(run_dir), "PYTHONSAFEPATH": "1"}
    running = subprocess.Popen([sys.executable, "-c", PROCESS, name, state], env=environment, stderr=subprocess.DEVNULL)
    try:
        until((run_dir / "bus" / f"{name}.rpc").exists, f"the socket of {name}", within_s=20)
        yield running
    finally:
        running.kill()
        running.wait()


@pytest.fixture
def short() -> Iterator[Path]:
    """A run folder whose sockets' paths are short enough."""
    folder = Path(tempfile.mkdtemp(prefix="vpc-probe-"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


@pytest.mark.parametrize("state", ["starting", "serving", "degraded"])
def test_a_process_that_answers_lives_whatever_its_state(program: Path, short: Path, state: str) -> None:
    with process(short, names.IP_ALLOCATOR, state):
        said = Probe(program, short).ask(f"-service={names.IP_ALLOCATOR}", "-rpc-timeout=5s")
        assert (said.code, said.text) == (SERVING, "alive: ip_allocator")


def test_a_frozen_process_among_living_ones_is_found_in_time(program: Path, short: Path) -> None:
    asked = Probe(program, short)
    both = f"-service={names.ENI_MANAGER},{names.IP_ALLOCATOR}"
    with process(short, names.ENI_MANAGER, "serving"), process(short, names.IP_ALLOCATOR, "serving") as allocator:
        assert asked.ask(both, "-rpc-timeout=5s").code == SERVING
        allocator.send_signal(signal.SIGSTOP)
        said = asked.ask(both, "-rpc-timeout=500ms")
        assert (said.code, said.status) == (NO_ANSWER, "UNANSWERED")
        assert "ip_allocator" in said.text
        assert said.seconds < 3
        allocator.send_signal(signal.SIGCONT)
        assert asked.ask(both, "-rpc-timeout=5s").code == SERVING


def test_liveness_asks_the_processes_of_the_container(program: Path, short: Path) -> None:
    asked = Probe(program, short)
    with process(short, names.IP_ALLOCATOR, "starting"):
        said = asked.run("-addr=:50051", "-service=liveness", "-rpc-timeout=5s", VPCCNI_PROCESSES=names.IP_ALLOCATOR)
        assert (said.code, said.text) == (SERVING, "alive: ip_allocator")
        both = f"{names.IP_ALLOCATOR},{names.ENI_MANAGER}"
        assert asked.run("-addr=:50051", "-service=liveness", VPCCNI_PROCESSES=both).code == NO_CONNECTION


def test_a_process_that_is_gone_is_no_connection(program: Path, short: Path) -> None:
    with process(short, names.IP_ALLOCATOR, "serving"):
        pass
    said = Probe(program, short).ask(f"-service={names.IP_ALLOCATOR}", "-connect-timeout=100ms")
    assert said.code == NO_CONNECTION


def test_junk_on_a_bus_socket_is_no_life(program: Path, short: Path) -> None:
    (short / "bus").mkdir()
    dice = random.Random(19)
    greeting = b"\xff" + bytes(8) + b"\x7f\x03\x00NULL" + bytes(48)
    answers = [
        dice.randbytes(300),
        greeting + dice.randbytes(64),
        greeting + b"\x02" + b"\xff" * 8,
        greeting + b"\x04\x00",
    ]
    answers += [greeting + b"\x00\x06\xa5state", greeting + b"\x00\x07\xa5state\xbf"]
    for answer in answers:
        with listener(short / "bus" / "ip_allocator.rpc", answer):
            assert Probe(program, short).ask("-service=ip_allocator").code == NO_ANSWER, answer

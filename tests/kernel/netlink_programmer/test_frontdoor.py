"""Frames that no plugin would send end their own connection, and nothing else."""

from __future__ import annotations

import array
import os
import resource
import shutil
import socket
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from vpccni.components.netlink_programmer import frontdoor
from vpccni.components.netlink_programmer.frontdoor import (
    DESCRIPTORS,
    ENV_BYTES,
    HEAD,
    KIND_CNI,
    MAGIC_REPLY,
    MAGIC_REQUEST,
    REPLY_HEAD,
    STDIN_BYTES,
    VERSION,
    Frame,
    FrontDoor,
    Reply,
)
from vpccni.shared.loop import Loop

SILENCE_S = 3.0


class Door:
    """A front door that answers each frame with its length, in a thread."""

    def __init__(self, path: Path) -> None:
        self.path, self.loop, self.counted = path, Loop(), list[str]()
        self.late: list[tuple[Frame, Reply]] = []
        self.has_frame = threading.Event()
        self._door = FrontDoor(self.loop, path, self._answer, count=self.counted.append)
        self._thread = threading.Thread(target=self.loop.run, name="front door")
        self._thread.start()

    def _answer(self, frame: Frame, reply: Reply) -> None:
        if frame.env.get("WAIT"):
            self.late.append((frame, reply))
            self.has_frame.set()
        else:
            reply(3, f"{len(frame.stdin)} bytes, {sorted(frame.descriptors)}")

    def answer_late(self) -> None:
        done = threading.Event()

        def answer() -> None:
            for _, reply in self.late:
                reply(0, "late")
            done.set()

        self.loop.call_from_thread(answer)
        assert done.wait(SILENCE_S)

    def close(self) -> None:
        self.loop.call_from_thread(self.loop.stop)
        self._thread.join()
        self._door.close()
        self.loop.close()

    def dial(self) -> socket.socket:
        connection = socket.socket(socket.AF_UNIX)
        connection.settimeout(SILENCE_S)
        connection.connect(str(self.path))
        return connection


@pytest.fixture
def door() -> Iterator[Door]:
    folder = Path(tempfile.mkdtemp(prefix="vpc-door-"))  # pytest's own paths are too long for a socket
    one = Door(folder / "door.sock")
    try:
        yield one
    finally:
        one.close()
        shutil.rmtree(folder)


def head(*, magic: bytes = MAGIC_REQUEST, version: int = VERSION, mask: int = 0, env: int = 0, stdin: int = 0) -> bytes:
    return HEAD.pack(magic, version, KIND_CNI, mask, 1000, env, stdin)


def answered(connection: socket.socket) -> str | None:
    """Return the reply's text, None when the door closed the connection."""
    try:
        data = connection.recv(REPLY_HEAD.size, socket.MSG_WAITALL)
        if not data:
            return None
        magic, version, code, _, size = REPLY_HEAD.unpack(data)
        assert (magic, version, code) == (MAGIC_REPLY, VERSION, 3)
        return connection.recv(size, socket.MSG_WAITALL).decode()
    except ConnectionResetError:
        return None


def send_with(connection: socket.socket, data: bytes, descriptors: Sequence[int]) -> None:
    rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))
    connection.sendmsg([data], [rights])


def serves(door: Door) -> bool:
    with door.dial() as connection:
        connection.sendall(head(stdin=4) + b"true")
        return answered(connection) == "4 bytes, []"


def open_descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def wait_for_descriptors(count: int) -> None:
    """Return once this process has no more descriptors than that; the door's thread closes its own a moment later."""
    deadline = time.monotonic() + SILENCE_S
    while open_descriptors() > count:
        assert time.monotonic() < deadline, f"{open_descriptors()} descriptors, not {count}"
        time.sleep(0.005)


@pytest.mark.parametrize(
    "frame",
    [
        head(magic=b"GET "),
        head(version=VERSION + 1),
        head(env=ENV_BYTES + 1),
        head(stdin=STDIN_BYTES + 1),
        head(env=2**32 - 1, stdin=2**32 - 1),
        b"\xff" * HEAD.size,
    ],
)
def test_a_bad_frame_closes_only_its_own_connection(door: Door, frame: bytes) -> None:
    with door.dial() as neighbour, door.dial() as bad:
        neighbour.sendall(head(stdin=8)[:10])
        bad.sendall(frame)
        assert answered(bad) is None
        neighbour.sendall(head(stdin=8)[10:] + b"one half")
        assert answered(neighbour) == "8 bytes, []"
    assert door.counted == ["vpccni_frontdoor_bad_frames"]


def test_a_frame_may_come_byte_by_byte(door: Door) -> None:
    with door.dial() as connection:
        for byte in head(env=4, stdin=2) + b"A=b\0{}":
            connection.sendall(bytes([byte]))
        assert answered(connection) == "2 bytes, []"


def test_the_largest_frame_passes(door: Door) -> None:
    with door.dial() as connection:
        connection.sendall(head(env=ENV_BYTES, stdin=STDIN_BYTES) + b"\0" * (ENV_BYTES + STDIN_BYTES))
        assert answered(connection) == f"{STDIN_BYTES} bytes, []"


@pytest.mark.parametrize("count", [DESCRIPTORS + 1, DESCRIPTORS + 2, 100])
def test_too_many_descriptors_close_the_connection_and_are_closed(door: Door, count: int) -> None:
    assert serves(door)
    before = open_descriptors()
    with open(os.devnull, "rb") as file, door.dial() as connection:
        send_with(connection, head(stdin=1), [file.fileno()] * count)
        assert answered(connection) is None
    assert serves(door)
    wait_for_descriptors(before)
    assert door.counted == ["vpccni_frontdoor_bad_frames"]


def test_descriptors_piece_by_piece_are_bounded_too(door: Door) -> None:
    with open(os.devnull, "rb") as file, door.dial() as connection:
        send_with(connection, head(env=ENV_BYTES, stdin=0), [file.fileno()] * DESCRIPTORS)
        send_with(connection, b"x", [file.fileno()])
        assert answered(connection) is None
    assert serves(door)


def test_bytes_after_a_frame_end_the_connection_and_not_the_work(door: Door) -> None:
    with door.dial() as connection:
        connection.sendall(head(env=7) + b"WAIT=1\0")
        assert door.has_frame.wait(SILENCE_S)
        connection.sendall(b"more")
        assert answered(connection) is None
    door.answer_late()
    assert serves(door)


def test_a_plugin_that_goes_away_gives_back_what_it_sent(door: Door) -> None:
    assert serves(door)
    before = open_descriptors()
    with open(os.devnull, "rb") as file:
        for _ in range(20):
            with door.dial() as connection:
                send_with(connection, head(mask=0b11, stdin=99), [file.fileno()] * 2)
    assert serves(door)
    wait_for_descriptors(before)


def test_more_callers_than_places_wait_without_keeping_the_door_busy(
    door: Door, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(frontdoor, "CONNECTIONS", 3)
    assert serves(door)
    slow = [door.dial() for _ in range(3)]
    for connection in slow:
        connection.sendall(head(stdin=1))
    with door.dial() as waiting:
        waiting.sendall(head(stdin=4) + b"true")
        begin = time.process_time()
        waiting.settimeout(0.3)
        with pytest.raises(TimeoutError):
            waiting.recv(1, socket.MSG_PEEK)
        assert time.process_time() - begin < 0.15, "an idle door uses no processor time"
        waiting.settimeout(SILENCE_S)
        slow[0].close()
        assert answered(waiting) == "4 bytes, []"
    for connection in slow[1:]:
        connection.sendall(b"x")
        assert answered(connection) == "1 bytes, []"
        connection.close()


def test_a_process_without_descriptors_left_serves_when_it_has_some_again(door: Door) -> None:
    assert serves(door)
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    with socket.socket(socket.AF_UNIX) as caller:
        caller.settimeout(SILENCE_S)
        lowest_free = os.dup(caller.fileno())
        os.close(lowest_free)
        resource.setrlimit(resource.RLIMIT_NOFILE, (lowest_free, limits[1]))
        try:
            caller.connect(str(door.path))
            caller.sendall(head(stdin=4) + b"true")
            deadline = time.monotonic() + SILENCE_S
            while "vpccni_frontdoor_no_descriptors" not in door.counted:
                assert time.monotonic() < deadline
                time.sleep(0.005)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        assert answered(caller) == "4 bytes, []"
    assert len(door.counted) < 10, "it looks again after a pause, not at once"

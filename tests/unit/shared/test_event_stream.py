from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from vpccni.shared import event_stream
from vpccni.shared.event_stream import CLIENTS_AT_MOST, EventStream
from vpccni.shared.loop import Loop


class Clock:
    """Time that passes when told: the loop's timers become due at once."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


class Stage:
    """A loop, a stream with a text that tests change, and its clients."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.loop = Loop(clock=self.clock)
        self.asked = 0
        self.text = "one"
        self.stream = EventStream(self.loop, self._text)
        self.sockets: list[socket.socket] = []

    def _text(self) -> str:
        self.asked += 1
        return self.text

    def client(self) -> socket.socket:
        ours, theirs = socket.socketpair()
        theirs.settimeout(2)
        self.sockets += [ours, theirs]
        self.stream.take(ours)
        return theirs

    def pass_time(self, seconds: float = event_stream.LOOK_EVERY_S) -> None:
        self.clock.now += seconds
        self.loop.call_soon(lambda: None)
        self.loop._turn()

    def close(self) -> None:
        for one in self.sockets:
            one.close()
        self.loop.close()


@pytest.fixture
def stage() -> Iterator[Stage]:
    one = Stage()
    yield one
    one.close()


def test_a_client_gets_the_text_at_once_and_again_when_it_changed(stage: Stage) -> None:
    client = stage.client()
    first = client.recv(4096)
    assert b"text/event-stream" in first
    assert first.endswith(b"data: one\n\n")
    stage.pass_time()
    stage.text = "two\nlines"
    stage.pass_time()
    assert client.recv(4096) == b"data: two\ndata: lines\n\n", "nothing was sent while nothing changed"


def test_nobody_asks_for_the_text_when_nobody_listens(stage: Stage) -> None:
    client = stage.client()
    client.close()
    stage.text = "two"
    stage.pass_time()  # the sending fails
    stage.pass_time()
    asked = stage.asked
    for _ in range(5):
        stage.pass_time()
    assert stage.asked == asked


def test_a_client_that_does_not_read_is_let_go_and_the_others_are_served(stage: Stage) -> None:
    deaf, other = stage.client(), stage.client()
    other.setblocking(False)
    for text in (*(f"{number} " * 30_000 for number in range(8)), "last"):
        stage.text, heard = text, b""
        for _ in range(5):  # an event may be larger than what a socket takes at once
            stage.pass_time()
            heard += drained(other)
        assert heard.endswith(f"data: {text}\n\n".encode())
    assert len(stage.stream._clients) == 1
    deaf.close()


def drained(connection: socket.socket) -> bytes:
    """Return what has arrived."""
    parts = []
    try:
        while part := connection.recv(1 << 20):
            parts.append(part)
    except BlockingIOError:
        return b"".join(parts)
    raise AssertionError("the stream ended")


def test_one_client_too_many_is_told_to_come_later(stage: Stage) -> None:
    for _ in range(CLIENTS_AT_MOST):
        stage.client()
    assert b"503" in stage.client().recv(4096)


def test_an_idle_stream_shows_that_it_is_alive(stage: Stage) -> None:
    client = stage.client()
    client.recv(4096)
    stage.pass_time(event_stream.ALIVE_EVERY_S + 1)
    assert client.recv(4096) == b":\n\n"

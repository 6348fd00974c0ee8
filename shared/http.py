"""A small HTTP server on the loop: reading and writing in the loop's bounded threads, answers made in the loop's own.

The standard library's server would start a thread for every connection and cost 3 MB of imports. One request a connection; both
directions have 5 s (spec operations.md 2.1). More than `CONNECTIONS_AT_MOST` at once are closed unheard.
"""

from __future__ import annotations

import os
import random
import socket
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from vpccni.shared.clock import boottime
from vpccni.shared.effects import effect
from vpccni.shared.loop import Loop

LIMIT_S: Final = 5.0  # spec operations.md 2.1
HEAD_BYTES_AT_MOST: Final = 8192
CONNECTIONS_AT_MOST: Final = 64
BACKLOG: Final = 64
BIND_FIRST_WAIT_S: Final = 1.0  # spec operations.md 2.1
BIND_WAIT_AT_MOST_S: Final = 60.0
BIND_JITTER: Final = 0.2
UNIX_PREFIX: Final = "unix:"
REASONS: Final = {200: "OK", 400: "Bad Request", 404: "Not Found", 500: "Internal Server Error"}


@dataclass(frozen=True, slots=True)
class Reply:
    """What to answer."""

    body: str
    status: int = 200
    content_type: str = "text/plain; charset=utf-8"

    def packed(self) -> bytes:
        body = self.body.encode()
        head = f"HTTP/1.1 {self.status} {REASONS[self.status]}\r\nContent-Type: {self.content_type}\r\n"
        return f"{head}Content-Length: {len(body)}\r\nConnection: close\r\n\r\n".encode() + body


@dataclass(frozen=True, slots=True)
class HandOver:
    """The answer is not one text: `take` has the connection from now on, and closes it."""

    take: Callable[[socket.socket], None]


Answer = Callable[[str], Reply | HandOver]

NOT_FOUND: Final = Reply("404 page not found\n", 404)
BAD_REQUEST: Final = Reply("400 Bad Request\n", 400)
FAILED: Final = Reply("500 Internal Server Error\n", 500)


class HttpServer:
    """Serves `answer(path)` at an address. `trouble` hears why binding does not work, and an empty text when it does."""

    def __init__(self, loop: Loop, address: str, answer: Answer, trouble: Callable[[str], None]) -> None:
        self._loop, self._address, self._answer, self._trouble = loop, address, answer, trouble
        self._socket: socket.socket | None = None
        self._open = 0
        self.port = 0

    def start(self, wait: float = BIND_FIRST_WAIT_S) -> None:
        """Bind and serve; try again for ever, each time after up to 60 s and a random fifth more."""
        try:
            with effect("http.listen"):
                self._socket = listener(self._address)
        except (OSError, ValueError) as error:
            self._trouble(
                f"cannot listen at {self._address}: {error}. Free the address or give another; it is tried again"
            )
            after = wait * (1 + random.random() * BIND_JITTER)
            self._loop.call_later(after, lambda: self.start(min(wait * 2, BIND_WAIT_AT_MOST_S)))
            return
        name = self._socket.getsockname()
        self.port = name[1] if isinstance(name, tuple) else 0
        self._trouble("")
        self._loop.watch(self._socket.fileno(), self._accept)

    def close(self) -> None:
        if self._socket is not None:
            self._loop.unwatch(self._socket.fileno())
            self._socket.close()
            self._socket = None

    def _accept(self) -> None:
        assert self._socket is not None
        try:
            connection, _ = self._socket.accept()
        except (BlockingIOError, ConnectionAbortedError):
            return
        if self._open >= CONNECTIONS_AT_MOST:
            connection.close()
            return
        self._open += 1
        self._loop.spawn(self._serve(connection), name="http")

    async def _serve(self, connection: socket.socket) -> None:
        handed_over = False
        try:
            path = await self._loop.in_thread(read_path, connection)
            reply = self._reply(path)
            if isinstance(reply, HandOver):
                handed_over = True
                reply.take(connection)
                return
            await self._loop.in_thread(_send, connection, reply.packed())
            await self._loop.in_thread(_end, connection)
        except OSError:
            return  # the client went or is too slow: there is nobody to tell
        finally:
            self._open -= 1
            if not handed_over:
                connection.close()

    def _reply(self, path: str) -> Reply | HandOver:
        if not path:
            return BAD_REQUEST
        try:
            return self._answer(path)
        except Exception as error:  # noqa: BLE001  the server's edge: counted and logged by the loop's owner
            self._loop.on_error(f"http {path:.60}", error)
            return FAILED


def listener(address: str) -> socket.socket:
    """Return a listening socket for `HOST:PORT` (no host: every address of both families) or `unix:PATH`."""
    if address.startswith(UNIX_PREFIX):
        return _unix_listener(Path(address.removeprefix(UNIX_PREFIX)))
    host, _, port = address.rpartition(":")
    family = socket.AF_INET6 if (not host and _has_ipv6()) or ":" in host else socket.AF_INET
    bound = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            bound.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        bound.bind((host.strip("[]"), int(port)))
        bound.listen(BACKLOG)
    except (OSError, ValueError, OverflowError):
        bound.close()
        raise
    bound.setblocking(False)
    return bound


def _unix_listener(path: Path) -> socket.socket:
    bound = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        if path.is_socket():
            path.unlink()  # left by the process before: the lock of this process's name says that it is gone
        bound.bind(os.fspath(path))
        bound.listen(BACKLOG)
    except OSError:
        bound.close()
        raise
    bound.setblocking(False)
    return bound


def _has_ipv6() -> bool:
    return Path("/proc/net/if_inet6").exists()


def read_path(connection: socket.socket) -> str:
    """Return the path of a request without its query, empty when it is no HTTP request. Blocking, 5 s at most."""
    deadline = boottime() + LIMIT_S
    head = b""
    while b"\r\n\r\n" not in head and b"\n\n" not in head:
        connection.settimeout(max(0.01, deadline - boottime()))
        part = connection.recv(HEAD_BYTES_AT_MOST)
        head += part
        if not part or len(head) > HEAD_BYTES_AT_MOST or boottime() > deadline:
            return ""
    connection.settimeout(LIMIT_S)
    words = head.split(b"\n", 1)[0].decode("latin-1").split()
    is_request = len(words) == 3 and words[2].startswith("HTTP/1.") and words[1].startswith("/")
    return words[1].partition("?")[0] if is_request else ""


def _send(connection: socket.socket, data: bytes) -> None:
    with effect("http.reply"):
        connection.sendall(data)


def _end(connection: socket.socket) -> None:
    """Half-close and read what the client still sends, so that no reset overtakes the answer."""
    connection.shutdown(socket.SHUT_WR)
    connection.settimeout(0.5)
    try:
        connection.recv(HEAD_BYTES_AT_MOST)
    except TimeoutError:
        return

"""Servers and clients in many pods at once, all in this process: a socket belongs to the namespace in which it was made.

`Traffic.table` connects every pod to every pod at every port and says who got an answer.
"""

from __future__ import annotations

import contextlib
import select
import selectors
import socket
import threading
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from vpccni.lab.namespaces import Place, call_in

HELLO = b"hello"
ANSWER_WITHIN_S = 0.35
"""Who has no answer by then has none: an answer on this machine takes a millisecond."""
QUEUE = 256


class Cell(NamedTuple):
    """One connection that may be there or not."""

    source: str
    destination: str
    protocol: str
    port: int


@dataclass(frozen=True)
class Endpoint:
    """A pod as far as packets go: its name, its namespace's handle, its address."""

    name: str
    netns: str
    address: str


class Traffic:
    """Serves in every pod that is added until it is removed."""

    def __init__(self, ports: Sequence[int]) -> None:
        self._ports = ports
        self._endpoints: dict[str, Endpoint] = {}
        self._servers: dict[str, list[socket.socket]] = {}
        self._selector = selectors.DefaultSelector()
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def close(self) -> None:
        self._ended.set()
        self._thread.join()
        for name in list(self._servers):
            self.remove(name)
        self._selector.close()

    def add(self, endpoint: Endpoint) -> None:
        """Serve in a pod on every port, TCP and UDP."""
        kind = socket.AF_INET6 if ":" in endpoint.address else socket.AF_INET

        def listen() -> list[socket.socket]:
            made = []
            for port in self._ports:
                made.append(socket.create_server(("", port), family=kind, backlog=QUEUE))
                datagrams = socket.socket(kind, socket.SOCK_DGRAM)
                datagrams.bind((endpoint.address, port))
                made.append(datagrams)
            return made

        self._endpoints[endpoint.name] = endpoint
        self._servers[endpoint.name] = call_in(Place(net=endpoint.netns), listen)
        with self._lock:
            for one in self._servers[endpoint.name]:
                one.setblocking(False)
                self._selector.register(one, selectors.EVENT_READ)

    def remove(self, name: str) -> None:
        """Serve no longer in a pod."""
        with self._lock:
            for one in self._servers.pop(name):
                if not self._ended.is_set():
                    self._selector.unregister(one)
                one.close()
        del self._endpoints[name]

    def _serve(self) -> None:
        while not self._ended.is_set():
            with self._lock:
                for key, _ in self._selector.select(0):
                    with contextlib.suppress(OSError):  # who asked is gone already
                        _answer(key.fileobj)
            select.select([], [], [], 0.002)

    def table(self) -> set[Cell]:
        """Return the cells that have an answer."""
        clients: dict[int, tuple[socket.socket, Cell]] = {}
        for source in self._endpoints.values():
            for made, cell in call_in(Place(net=source.netns), lambda source=source: list(self._dial(source))):
                clients[made.fileno()] = made, cell
        try:
            return _answered(clients)
        finally:
            for made, _ in clients.values():
                made.close()

    def _dial(self, source: Endpoint) -> Iterable[tuple[socket.socket, Cell]]:
        kind = socket.AF_INET6 if ":" in source.address else socket.AF_INET
        for destination in self._endpoints.values():
            for port in self._ports:
                for protocol, how in (("TCP", socket.SOCK_STREAM), ("UDP", socket.SOCK_DGRAM)):
                    one = socket.socket(kind, how)
                    one.setblocking(False)
                    with contextlib.suppress(OSError):  # TCP is on its way; a refusal shows as no answer
                        one.connect((destination.address, port))
                        one.send(HELLO)
                    yield one, Cell(source.name, destination.name, protocol, port)


def _answer(server: object) -> None:
    assert isinstance(server, socket.socket)
    if server.type == socket.SOCK_DGRAM:
        data, peer = server.recvfrom(100)
        server.sendto(data, peer)
    else:
        peer_socket, _ = server.accept()
        with peer_socket:
            peer_socket.sendall(HELLO)


def _answered(clients: dict[int, tuple[socket.socket, Cell]]) -> set[Cell]:
    poll = select.poll()
    for descriptor in clients:
        poll.register(descriptor, select.POLLIN)
    answered: set[Cell] = set()
    deadline = time.monotonic() + ANSWER_WITHIN_S
    while len(answered) < len(clients) and (left := deadline - time.monotonic()) > 0:
        for descriptor, _ in poll.poll(left * 1000):
            poll.unregister(descriptor)
            one, cell = clients[descriptor]
            with contextlib.suppress(OSError):  # refused
                if one.recv(100) == HELLO:
                    answered.add(cell)
    return answered

"""Sockets of this process in a pod: a socket belongs to the namespace in which it was made, whoever uses it."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator

from vpccni.lab.namespaces import Place, call_in
from vpccni.lab.pod import Pod

HELLO = b"hello"
FIRST_SYN_S = 0.9
"""Below the second after which TCP asks again: who is connected by then got through with its first packet."""
BACKLOG = 512
LOOK_EVERY_S = 0.05


def _family(address: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in address else socket.AF_INET


def made_in(netns_path: str, make: Callable[[], socket.socket]) -> socket.socket:
    """Return a socket that was made in a namespace."""
    return call_in(Place(net=netns_path), make)


def datagrams_in(netns_path: str, address: str, port: int = 0) -> socket.socket:
    """Return a UDP socket there, for talk with addresses of this one's family; bound to the port if one is given."""

    def make() -> socket.socket:
        one = socket.socket(_family(address), socket.SOCK_DGRAM)
        if port:
            one.bind((address, port))
        return one

    return made_in(netns_path, make)


def connects(netns_path: str, address: str, port: int, *, within_s: float = FIRST_SYN_S, source: str = "") -> bool:
    """Tell whether a TCP connection from there, from the address `source` if one is given, gets its answer in time."""
    one = made_in(netns_path, lambda: socket.socket(_family(address), socket.SOCK_STREAM))
    with one:
        one.settimeout(within_s)
        try:
            if source:
                one.bind((source, 0))
            one.connect((address, port))
            return one.recv(len(HELLO)) == HELLO
        except OSError:
            return False


@contextlib.contextmanager
def serving(pod: Pod, *ports: int) -> Iterator[None]:
    """Greet everybody who connects to a pod on these ports."""
    kind = _family(pod.address)
    servers = [
        made_in(pod.netns_path, lambda port=port: socket.create_server(("", port), family=kind, backlog=BACKLOG))
        for port in ports
    ]
    ended = threading.Event()
    threads = [threading.Thread(target=_greet, args=(server, ended)) for server in servers]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        ended.set()
        for thread, server in zip(threads, servers, strict=True):
            thread.join()
            server.close()


def _greet(server: socket.socket, ended: threading.Event) -> None:
    server.settimeout(LOOK_EVERY_S)
    while not ended.is_set():
        with contextlib.suppress(OSError):  # nobody came, or he is gone again
            peer, _ = server.accept()
            with peer:
                peer.sendall(HELLO)


class Listener:
    """Puts into `heard` what the datagrams say that reach a pod."""

    def __init__(self, pod: Pod, port: int, heard: set[bytes]) -> None:
        self._socket = datagrams_in(pod.netns_path, pod.address, port)
        self._socket.settimeout(LOOK_EVERY_S)
        self._ended = threading.Event()
        self._heard = heard
        self._thread = threading.Thread(target=self._listen)

    def __enter__(self) -> Listener:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()
        self._socket.close()

    def _listen(self) -> None:
        while not self._ended.is_set():
            with contextlib.suppress(TimeoutError):
                self._heard.add(self._socket.recv(100))


class Talker:
    """Sends datagrams from a namespace without a pause from now on: also before there is any link in it."""

    def __init__(self, netns_path: str, words: bytes, *to: tuple[str, int], every_s: float = 0.0005) -> None:
        self._socket = datagrams_in(netns_path, to[0][0])
        self._words, self._to, self._every_s = words, to, every_s
        self._ended = threading.Event()
        self.sent = 0
        """Datagrams that the kernel of the pod took, to send them."""
        self._thread = threading.Thread(target=self._talk)
        self._thread.start()

    def close(self) -> None:
        self._ended.set()
        self._thread.join()
        self._socket.close()

    def _talk(self) -> None:
        while not self._ended.is_set():
            for peer in self._to:
                with contextlib.suppress(OSError):  # no route yet, or no more
                    self._socket.sendto(self._words, peer)
                    self.sent += 1
            time.sleep(self._every_s)

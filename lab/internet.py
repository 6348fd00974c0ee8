"""The internet host: tells a caller which address it came from (TCP 80) and echoes datagrams (UDP 7), both over IPv4 and IPv6."""

from __future__ import annotations

import socket
import socketserver
import threading
from typing import Final

from vpccni.lab.fabric import INTERNET_ADDRESS_V6
from vpccni.lab.namespaces import Place, call_in

WHOAMI_PORT: Final = 80
ECHO_PORT: Final = 7


class _Whoami(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        address = self.client_address[0].encode()
        head = b"HTTP/1.0 200 OK\r\nContent-Type: text/plain\r\nContent-Length: %d\r\n\r\n" % (len(address) + 1)
        # A plain TCP caller sends nothing and gets the bare address; HTTP callers get a reply they understand.
        self.request.settimeout(0.2)
        try:
            asked = self.request.recv(4096)
        except TimeoutError:
            asked = b""
        self.request.sendall((head if b"HTTP/" in asked else b"") + address + b"\n")


class _Echo(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        data, reply_to = self.request
        reply_to.sendto(data, self.client_address)


class _Tcp(socketserver.ThreadingTCPServer):
    daemon_threads = True
    allow_reuse_address = True
    request_queue_size = 128


class _Tcp6(_Tcp):
    address_family = socket.AF_INET6


class _Udp(socketserver.UDPServer):
    max_packet_size = 65_535


class _Udp6(_Udp):
    address_family = socket.AF_INET6


def serve(netns: str) -> None:
    """Open both services inside the internet host's namespace, each in a thread."""
    v4, v6 = "0.0.0.0", INTERNET_ADDRESS_V6  # the IPv6 wildcard would take IPv4 callers as well

    def open_all() -> tuple[socketserver.BaseServer, ...]:
        return (_Tcp((v4, WHOAMI_PORT), _Whoami), _Tcp6((v6, WHOAMI_PORT), _Whoami),
                _Udp((v4, ECHO_PORT), _Echo), _Udp6((v6, ECHO_PORT), _Echo))  # fmt: skip

    for server in call_in(Place(net=netns), open_all):
        threading.Thread(target=server.serve_forever, name="internet", daemon=True).start()

"""Traffic that counts itself, run inside pods: numbered UDP packets, a TCP stream, and a server that says who asks.

    python -m vpccni.lab.probe serve PORT            UDP: counts numbers; TCP: echoes; answers `whoami` with the peer's address
    python -m vpccni.lab.probe udp ADDRESS PORT      1,000 numbered packets a second until standard input closes
    python -m vpccni.lab.probe tcp ADDRESS PORT      a line a millisecond, each echoed, until standard input closes
    python -m vpccni.lab.probe ask ADDRESS PORT      print the address the server saw

Each prints one JSON line at its end.
"""

from __future__ import annotations

import json
import os
import select
import socket
import sys
import time
from collections.abc import Sequence
from typing import Final

PACKETS_A_SECOND: Final = 1000
STALL_S: Final = 5.0
RUN_AT_MOST_S: Final = 300.0
WHOAMI: Final = b"whoami\n"


def main(argv: Sequence[str]) -> int:
    """Run one probe; return 0 when it ended in order."""
    verb, *rest = argv
    if verb == "serve":
        report = serve(int(rest[0]))
    elif verb == "udp":
        report = send_udp(rest[0], int(rest[1]))
    elif verb == "tcp":
        report = stream_tcp(rest[0], int(rest[1]))
    else:
        report = {"seen": ask(rest[0], int(rest[1]))}
    sys.stdout.write(json.dumps(report) + "\n")
    sys.stdout.flush()
    return 0


def serve(port: int) -> dict[str, object]:
    """Serve until standard input closes; report the numbers received, the highest, and the senders."""
    udp = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
    udp.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    udp.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
    udp.bind(("::", port))
    listener = socket.create_server(("::", port), family=socket.AF_INET6, backlog=64, dualstack_ipv6=True)
    clients: list[socket.socket] = []
    numbers: set[int] = set()
    senders: set[str] = set()
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    end = time.monotonic() + RUN_AT_MOST_S
    while time.monotonic() < end:
        readable, _, _ = select.select([sys.stdin, udp, listener, *clients], [], [], 1.0)
        if sys.stdin in readable and not os.read(sys.stdin.fileno(), 1):
            break
        if udp in readable:
            data, peer = udp.recvfrom(2048)
            numbers.add(int(data.split()[0]))
            senders.add(_plain(peer[0]))
        if listener in readable:
            clients.append(listener.accept()[0])
        for client in [one for one in clients if one in readable]:
            if not _echo(client):
                clients.remove(client)
                client.close()
    return {"received": len(numbers), "highest": max(numbers, default=0), "senders": sorted(senders)}


def _plain(address: str) -> str:
    """Return an address as people write it: a socket for both families shows IPv4 as a part of IPv6."""
    return address.removeprefix("::ffff:")


def _echo(client: socket.socket) -> bool:
    try:
        data = client.recv(65536)
    except ConnectionError:
        return False
    if data == WHOAMI:
        client.sendall(_plain(client.getpeername()[0]).encode() + b"\n")
    elif data:
        client.sendall(data)
    return bool(data)


def send_udp(address: str, port: int) -> dict[str, object]:
    """Send numbered packets at a steady rate until standard input closes."""
    sender = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM)
    sender.connect((address, port))
    begin = time.monotonic()
    number = refused = 0
    while not select.select([sys.stdin], [], [], 0)[0] and time.monotonic() - begin < RUN_AT_MOST_S:
        number += 1
        try:
            sender.send(f"{number} probe".encode())
        except OSError:
            refused += 1
        ahead = begin + number / PACKETS_A_SECOND - time.monotonic()
        if ahead > 0:
            time.sleep(ahead)
    time.sleep(0.3)  # the last packets arrive before the server is told to count
    return {"sent": number, "refused": refused, "seconds": round(time.monotonic() - begin, 2)}


def stream_tcp(address: str, port: int) -> dict[str, object]:
    """Keep one connection busy until standard input closes; report lines echoed and the longest wait for one, in ms."""
    stream = socket.create_connection((address, port), timeout=STALL_S)
    stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    begin = time.monotonic()
    lines, longest, broken = 0, 0.0, ""
    while not select.select([sys.stdin], [], [], 0)[0] and time.monotonic() - begin < RUN_AT_MOST_S:
        line = f"line {lines}\n".encode()
        sent = time.monotonic()
        try:
            stream.sendall(line)
            got = b""
            while len(got) < len(line):
                part = stream.recv(len(line) - len(got))
                if not part:
                    raise ConnectionError("closed")
                got += part
        except OSError as error:
            broken = str(error)
            break
        longest = max(longest, time.monotonic() - sent)
        lines += 1
        time.sleep(0.001)
    return {"lines": lines, "longest_ms": round(longest * 1000, 1), "broken": broken}


def ask(address: str, port: int) -> str:
    """Return the address under which the server at `address` sees us; the lab's internet host answers on connect."""
    with socket.create_connection((address, port), timeout=STALL_S) as stream:
        stream.sendall(WHOAMI)
        return stream.recv(100).decode().strip()


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))

"""The parts of an ADD that can be asked alone: a round trip to the front door, an address from the allocator and back."""

from __future__ import annotations

import secrets
import socket
import time
from pathlib import Path
from typing import Final

import zmq

from vpccni.components.netlink_programmer.frontdoor import (
    HEAD,
    KIND_HEALTH,
    MAGIC_REQUEST,
    REPLY_HEAD,
    VERSION,
)
from vpccni.shared import names
from vpccni.shared.bus import Client
from vpccni.shared.bus.access import endpoint
from vpccni.shared.loop import Loop
from vpccni.shared.messages.allocation import Assign, Assigned, Release
from vpccni.shared.messages.base import Message, PodRef, Sandbox

ANSWER_WITHIN_S: Final = 5.0


def front_door_seconds(run_dir: Path, count: int) -> list[float]:
    """Ask the front door for its health over a connection each time, as the plugin does; return the seconds of each."""
    head = HEAD.pack(MAGIC_REQUEST, VERSION, KIND_HEALTH, 0, int(ANSWER_WITHIN_S * 1000), 0, 0)
    return [_one_round_trip(str(run_dir / "front-door.sock"), head) for _ in range(count)]


def _one_round_trip(path: str, head: bytes) -> float:
    begin = time.perf_counter()
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(ANSWER_WITHIN_S)
        connection.connect(path)
        connection.sendall(head)
        if len(connection.recv(REPLY_HEAD.size)) != REPLY_HEAD.size:
            raise RuntimeError(f"the front door at {path} closed the connection without an answer; see its log")
    return time.perf_counter() - begin


def allocator_seconds(run_dir: Path, count: int) -> tuple[list[float], list[float]]:
    """Take an address and give it back, over the bus, with the checkpoint that each writes; return the seconds of both."""
    loop = Loop()
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    client = Client(context, loop, names.IP_ALLOCATOR, endpoint(run_dir, names.IP_ALLOCATOR, "rpc"))
    assign: list[float] = []
    release: list[float] = []

    def ask(message: Message, seconds: list[float]) -> Message:
        begin = time.perf_counter()
        answer = loop.run_until(client.call(message, timeout_s=ANSWER_WITHIN_S), timeout_s=ANSWER_WITHIN_S)
        seconds.append(time.perf_counter() - begin)
        return answer

    ask(Release(sandbox=Sandbox("bench-connects", "eth0"), reason="PodDeleted"), [])
    try:
        for number in range(count):
            sandbox = Sandbox(secrets.token_hex(32), "eth0")
            given = ask(Assign(sandbox=sandbox, pod=PodRef("bench", f"part-{number}", "")), assign)
            if not isinstance(given, Assigned):
                raise RuntimeError(f"the allocator gave no address to {sandbox}: {given}")
            ask(Release(sandbox=sandbox, reason="PodDeleted"), release)
    finally:
        context.destroy(linger=0)
        loop.close()
    return assign, release

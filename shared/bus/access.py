"""Who owns a socket, and who may connect to it.

A second bind on an ipc path takes the path over without a word and leaves the first owner deaf for ever, so a lock file decides
who may bind. ZeroMQ asks the ZAP handler for each new connection; on ipc it names the peer as uid:gid:pid.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable
from pathlib import Path
from typing import Final

import zmq

from vpccni.shared.errors import SocketTaken
from vpccni.shared.loop import Loop

ZAP_ENDPOINT: Final = "inproc://zeromq.zap.01"
ZAP_DOMAIN: Final = b"vpccni"
PATH_BYTES_AT_MOST: Final = 107


def bus_folder(run_dir: Path) -> Path:
    """Return the folder of the sockets, made 0700 when missing."""
    folder = run_dir / "bus"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    return folder


def endpoint(run_dir: Path, process: str, kind: str) -> str:
    """Return the ZeroMQ address of a process's socket; `kind` is "rpc" or "events"."""
    path = str(run_dir / "bus" / f"{process}.{kind}")
    if len(path.encode()) > PATH_BYTES_AT_MOST:
        raise SocketTaken(
            "the socket's path is too long",
            on=path,
            why=f"the kernel takes {PATH_BYTES_AT_MOST} bytes",
            remedy="Use a shorter run folder",
        )
    return f"ipc://{path}"


def claim(run_dir: Path, process: str) -> int:
    """Take the lock of a process name and return its descriptor, to be kept open for the process's life.

    Raises `SocketTaken` when another process has it; nothing is changed then.
    """
    path = bus_folder(run_dir) / f"{process}.lock"
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = os.read(descriptor, 32).decode(errors="replace").strip()
        os.close(descriptor)
        raise SocketTaken(
            f"another {process} is running",
            on=str(path),
            why=f"process {holder or 'unknown'} holds the lock",
            remedy="End that one first, or give this one another --run-dir",
        ) from None
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
    return descriptor


def uid_of(address: bytes) -> bytes:
    """Return the uid in what ZeroMQ says of an ipc peer: `uid:gid:pid`, in some builds behind a host name and a colon."""
    parts = address.split(b":")
    return parts[-3] if len(parts) >= 3 else b""


class AccessControl:
    """Answers ZeroMQ's question "may this peer connect?": only processes of our own uid may."""

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], loop: Loop, *, refused: Callable[[str], None]) -> None:
        self._refused = refused
        self._allowed = str(os.geteuid()).encode()
        self._socket = context.socket(zmq.REP)
        self._socket.setsockopt(zmq.LINGER, 0)
        self._socket.bind(ZAP_ENDPOINT)
        loop.watch(self._socket, self._answer)

    def _answer(self) -> None:
        version, request_id, _domain, address, _identity, _mechanism, *_ = self._socket.recv_multipart()
        allowed = address == b"" or uid_of(address) == self._allowed  # empty: inproc, this very process
        if not allowed:
            self._refused(address.decode(errors="replace"))
        status = (b"200", b"OK") if allowed else (b"400", b"another user")
        self._socket.send_multipart([version, request_id, *status, b"", b""])

    def close(self) -> None:
        self._socket.close()

"""The plugin's socket: frames with descriptors in, a reply and an exit code out (docs/front-door.md).

The frame outlives a release (an old plugin stays on disk during a roll-out), so it carries its own version. Only root, or our own
user, is let in. A frame that breaks a limit ends its connection and is counted; it never ends the loop.
"""

from __future__ import annotations

import array
import errno
import os
import socket
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from vpccni.shared.loop import Loop, Timer

MAGIC_REQUEST: Final = b"VCNI"
MAGIC_REPLY: Final = b"VCNR"
VERSION: Final = 1
KIND_CNI: Final = 1
KIND_HEALTH: Final = 2
HEAD: Final = struct.Struct("<4sHHIIII")
REPLY_HEAD: Final = struct.Struct("<4sHHII")
ENV_BYTES: Final = 64 * 1024
STDIN_BYTES: Final = 1 << 20
DESCRIPTORS: Final = 6
CONNECTIONS: Final = 512
FRAME_WITHIN_S: Final = 5.0
PAUSE_S: Final = 0.1  # before the next look when the process has no descriptor left
NETNS, NETLINK, POD_SYSCTL, HOST_SYSCTL, LOG, EGRESS_STATE = range(DESCRIPTORS)


@dataclass
class Frame:
    """One request of a plugin. `descriptors` by their bit; they are closed when the reply is sent."""

    kind: int
    env: dict[str, str]
    stdin: bytes
    deadline_s: float
    descriptors: dict[int, int] = field(default_factory=dict)

    def take(self, bit: int) -> int:
        """Return a descriptor and leave closing it to the caller; -1 when the plugin did not send it."""
        return self.descriptors.pop(bit, -1)

    def close(self) -> None:
        for descriptor in self.descriptors.values():
            os.close(descriptor)
        self.descriptors.clear()


Reply = Callable[[int, str], None]


class FrontDoor:
    """Listens at `path`; `on_frame(frame, reply)` answers each frame once."""

    def __init__(
        self, loop: Loop, path: Path, on_frame: Callable[[Frame, Reply], None], *, count: Callable[[str], None]
    ) -> None:
        self._loop, self._on_frame, self._count = loop, on_frame, count
        self._open = 0
        self._paused = False
        path.unlink(missing_ok=True)
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        self._listener.bind(str(path))
        os.chmod(path, 0o660)
        self._listener.listen(CONNECTIONS)
        loop.watch(self._listener.fileno(), self._accept)

    def close(self) -> None:
        self._pause()
        self._listener.close()

    def _accept(self) -> None:
        while self._open < CONNECTIONS:
            try:
                connection, _ = self._listener.accept()
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno not in (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS):
                    raise
                self._count("vpccni_frontdoor_no_descriptors")
                self._pause()
                self._loop.call_later(PAUSE_S, self._resume)
                return
            _pid, uid, _gid = struct.unpack("3i", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
            if uid not in (0, os.geteuid()):
                self._count("vpccni_frontdoor_refused")
                connection.close()
                continue
            self._open += 1
            _Connection(self._loop, connection, self._on_frame, self._count, self._closed)
        self._pause()  # who waits in the backlog would wake the loop without end

    def _pause(self) -> None:
        self._paused = True
        self._loop.unwatch(self._listener.fileno())

    def _resume(self) -> None:
        if self._paused and self._listener.fileno() >= 0:
            self._paused = False
            self._loop.watch(self._listener.fileno(), self._accept)

    def _closed(self) -> None:
        self._open -= 1
        self._resume()


class _Connection:
    """One plugin process: reads its frame, answers, closes."""

    def __init__(
        self,
        loop: Loop,
        connection: socket.socket,
        on_frame: Callable[[Frame, Reply], None],
        count: Callable[[str], None],
        closed: Callable[[], None],
    ) -> None:
        self._loop, self._socket, self._on_frame, self._count, self._on_close = (
            loop,
            connection,
            on_frame,
            count,
            closed,
        )
        self._data = bytearray()
        self._descriptors: list[int] = []
        self._frame: Frame | None = None
        self._gone = False
        self._timer: Timer = loop.call_later(FRAME_WITHIN_S, self._late)
        connection.setblocking(False)
        loop.watch(connection.fileno(), self._readable)

    def _readable(self) -> None:
        try:
            data, ancillary, _, _ = self._socket.recvmsg(
                1 << 16,
                socket.CMSG_SPACE((DESCRIPTORS + 1) * 4),
                socket.MSG_CMSG_CLOEXEC,  # one more shows too many
            )
        except BlockingIOError:
            return
        except OSError:
            data, ancillary = b"", []
        for level, kind, raw in ancillary:
            if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                received = array.array("i", raw[: len(raw) // 4 * 4])
                self._descriptors += received
        if not data:
            self._close()  # the plugin is gone; work that was started goes on, the reply has nobody to read it
            return
        if len(self._descriptors) > DESCRIPTORS or self._frame is not None:
            self._count("vpccni_frontdoor_bad_frames")  # more descriptors than a frame has, or bytes after its end
            self._close()
            return
        self._data += data
        self._try_frame()

    def _try_frame(self) -> None:
        if len(self._data) < HEAD.size:
            return
        magic, version, kind, mask, deadline_ms, env_bytes, stdin_bytes = HEAD.unpack_from(self._data)
        if magic != MAGIC_REQUEST or version != VERSION or env_bytes > ENV_BYTES or stdin_bytes > STDIN_BYTES:
            self._count("vpccni_frontdoor_bad_frames")
            self._close()
            return
        if len(self._data) < HEAD.size + env_bytes + stdin_bytes:
            return
        self._timer.cancel()
        bits = [bit for bit in range(DESCRIPTORS) if mask >> bit & 1]
        env = bytes(self._data[HEAD.size : HEAD.size + env_bytes])
        stdin = bytes(self._data[HEAD.size + env_bytes : HEAD.size + env_bytes + stdin_bytes])
        descriptors = dict(zip(bits, self._descriptors, strict=False))
        self._descriptors = self._descriptors[len(bits) :]
        self._frame = Frame(kind, parse_env(env), stdin, deadline_ms / 1000, descriptors)
        self._on_frame(self._frame, self._reply)

    def _reply(self, exit_code: int, text: str) -> None:
        if self._frame is not None:
            self._frame.close()
        if self._gone:
            return
        data = text.encode()
        self._socket.setblocking(True)
        self._socket.settimeout(1.0)  # a reply of a few KB fits the socket's buffer; a stuck reader costs at most this
        try:
            self._socket.sendall(REPLY_HEAD.pack(MAGIC_REPLY, VERSION, exit_code, 0, len(data)) + data)
        except OSError:
            self._count("vpccni_frontdoor_unread_replies")
        self._close()

    def _late(self) -> None:
        self._count("vpccni_frontdoor_bad_frames")
        self._close()

    def _close(self) -> None:
        if self._gone:
            return
        self._gone = True
        self._timer.cancel()
        self._loop.unwatch(self._socket.fileno())
        self._socket.close()
        for descriptor in self._descriptors:
            os.close(descriptor)
        self._descriptors.clear()
        self._on_close()


def parse_env(raw: bytes) -> dict[str, str]:
    """Return NUL-terminated KEY=VALUE strings as a mapping; parts without `=` are left out."""
    pairs = (part.partition("=") for part in raw.decode(errors="replace").split("\0"))
    return {name: value for name, equals, value in pairs if equals}

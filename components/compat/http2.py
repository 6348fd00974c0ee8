"""gRPC's unary calls on one listening socket: HTTP/2 by `h2`, in the process's own loop, nothing of it blocks.

Replies are small: one that the socket's buffer does not take is of a peer that reads nothing, and the connection ends.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import quote

import h2.config
import h2.connection
import h2.events
import h2.exceptions
import h2.settings

from vpccni.shared.loop import Loop

CONNECTIONS: Final = 64
STREAMS_AT_MOST: Final = 64
REQUEST_BYTES: Final = 1 << 16
READ_BYTES: Final = 1 << 16
IDLE_S: Final = 300.0
DEADLINE_S: Final = 20.0
"""Of a call that names none: the original's plugin never does (spec rpc.md 9)."""
PREFIX: Final = struct.Struct(">BI")
UNITS: Final = {"H": 3600.0, "M": 60.0, "S": 1.0, "m": 1e-3, "u": 1e-6, "n": 1e-9}
HEAD: Final = [(":status", "200"), ("content-type", "application/grpc")]
PRINTABLE: Final = " !#$&'()*+,-./:;<=>?@[]^_`{|}~\""
"""What stands as it is in a `grpc-message`, beside letters and digits."""
UNKNOWN, INVALID_ARGUMENT, RESOURCE_EXHAUSTED, UNIMPLEMENTED, INTERNAL, UNAVAILABLE = 2, 3, 8, 12, 13, 14
NOT_FOUND, DEADLINE_EXCEEDED = 5, 4

OnCall = Callable[[str, bytes, float], Awaitable[bytes]]
"""(method path, request, deadline in seconds) to the reply; raises `GrpcError`."""


class GrpcError(Exception):
    """A call's end without a reply: a gRPC status code and a text."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(text)
        self.code, self.text = code, text


@dataclass
class _Stream:
    path: str
    deadline_s: float
    data: bytearray = field(default_factory=bytearray)


class GrpcServer:
    """Answers on `listener` (bound and listening) until `close`. `count(name)` hears of what was refused."""

    def __init__(self, loop: Loop, listener: socket.socket, on_call: OnCall, *, count: Callable[[str], None]) -> None:
        self._loop, self._listener, self._on_call, self._count = loop, listener, on_call, count
        self._open: set[_Connection] = set()
        listener.setblocking(False)
        loop.watch(listener.fileno(), self._accept)

    def close(self) -> None:
        """Take no more calls; those under way end without a reply."""
        self._loop.unwatch(self._listener.fileno())
        self._listener.close()
        for connection in tuple(self._open):
            connection.close()

    def _accept(self) -> None:
        try:
            accepted, _ = self._listener.accept()
        except OSError:
            self._count("vpccni_compat_accept_failures")
            return
        if len(self._open) >= CONNECTIONS:
            self._count("vpccni_compat_refused")
            accepted.close()
            return
        self._open.add(_Connection(self._loop, accepted, self._on_call, count=self._count, closed=self._open.discard))


class _Connection:
    """One peer."""

    def __init__(
        self,
        loop: Loop,
        peer: socket.socket,
        on_call: OnCall,
        *,
        count: Callable[[str], None],
        closed: Callable[[_Connection], None],
    ) -> None:
        self._loop, self._socket, self._on_call, self._count, self._closed = loop, peer, on_call, count, closed
        self._streams: dict[int, _Stream] = {}
        self._heard = loop.clock()
        self._gone = False
        self._h2 = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False, header_encoding="utf-8"))
        self._h2.local_settings = h2.settings.Settings(
            client=False, initial_values={h2.settings.SettingCodes.MAX_CONCURRENT_STREAMS: STREAMS_AT_MOST}
        )
        self._h2.initiate_connection()
        peer.setblocking(False)
        loop.watch(peer.fileno(), self._readable)
        loop.call_later(IDLE_S, self._still_there)
        self._flush()

    def close(self) -> None:
        """End the connection; idempotent."""
        if not self._gone:
            self._gone = True
            self._loop.unwatch(self._socket.fileno())
            self._socket.close()
            self._closed(self)

    def _still_there(self) -> None:
        silent_s = self._loop.clock() - self._heard
        if self._gone:
            return
        if silent_s >= IDLE_S:
            self.close()
        else:
            self._loop.call_later(IDLE_S - silent_s, self._still_there)

    def _readable(self) -> None:
        self._heard = self._loop.clock()
        try:
            data = self._socket.recv(READ_BYTES)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self.close()
            return
        try:
            for event in self._h2.receive_data(data):
                self._on_event(event)
        except (h2.exceptions.ProtocolError, ValueError):  # ValueError: headers that are no UTF-8
            self._count("vpccni_compat_bad_frames")
            self._flush()
            self.close()
            return
        self._flush()

    def _on_event(self, event: h2.events.Event) -> None:
        match event:
            case h2.events.RequestReceived():
                headers = {str(name): str(value) for name, value in event.headers or ()}
                deadline_s = timeout_s(headers.get("grpc-timeout", ""))
                self._streams[event.stream_id] = _Stream(headers.get(":path", ""), deadline_s)
            case h2.events.DataReceived():
                self._h2.acknowledge_received_data(event.flow_controlled_length or 0, event.stream_id)
                self._take(event.stream_id, event.data or b"")
            case h2.events.StreamEnded():
                if (stream := self._streams.pop(event.stream_id, None)) is not None:
                    self._loop.spawn(self._answer(event.stream_id, stream), name="grpc call")
            case h2.events.StreamReset():
                self._streams.pop(event.stream_id, None)
            case h2.events.ConnectionTerminated():
                self.close()

    def _take(self, stream_id: int, data: bytes) -> None:
        stream = self._streams.get(stream_id)
        if stream is None:
            return
        stream.data += data
        if len(stream.data) > REQUEST_BYTES + PREFIX.size:
            del self._streams[stream_id]
            self._refuse(stream_id, GrpcError(RESOURCE_EXHAUSTED, f"a request has at most {REQUEST_BYTES} bytes"))

    async def _answer(self, stream_id: int, stream: _Stream) -> None:
        try:
            reply = await self._on_call(stream.path, request_of(bytes(stream.data)), stream.deadline_s)
        except GrpcError as error:
            self._refuse(stream_id, error)
            return
        except Exception as error:
            self._refuse(stream_id, GrpcError(INTERNAL, repr(error)[:200]))
            raise

        def frames() -> None:
            self._h2.send_headers(stream_id, HEAD)
            self._h2.send_data(stream_id, PREFIX.pack(0, len(reply)) + reply)
            self._h2.send_headers(stream_id, [("grpc-status", "0")], end_stream=True)

        self._send(frames)

    def _refuse(self, stream_id: int, error: GrpcError) -> None:
        headers = [*HEAD, ("grpc-status", str(error.code)), ("grpc-message", quote(error.text, safe=PRINTABLE))]
        self._send(lambda: self._h2.send_headers(stream_id, headers, end_stream=True))

    def _send(self, frames: Callable[[], None]) -> None:
        if self._gone:
            return
        try:
            frames()
        except h2.exceptions.ProtocolError:  # the peer reset the stream, or takes no more bytes
            self._count("vpccni_compat_unread_replies")
            return
        self._flush()

    def _flush(self) -> None:
        data = self._h2.data_to_send()
        if self._gone or not data:
            return
        try:
            whole = self._socket.send(data) == len(data)
        except OSError:
            whole = False
        if not whole:
            self._count("vpccni_compat_unread_replies")
            self.close()


def request_of(data: bytes) -> bytes:
    """Return the one message of a unary call; raises `GrpcError` for anything else."""
    if len(data) < PREFIX.size:
        raise GrpcError(INTERNAL, "the call has no message")
    compressed, size = PREFIX.unpack_from(data)
    if compressed:
        raise GrpcError(UNIMPLEMENTED, "compressed messages are not read")
    if len(data) != PREFIX.size + size:
        raise GrpcError(INTERNAL, "the call has not one message")
    return data[PREFIX.size :]


def timeout_s(text: str) -> float:
    """Return the deadline that a `grpc-timeout` header asks for, at most `DEADLINE_S`, which is also what stands for none."""
    number, unit = text[:-1], text[-1:]
    if unit not in UNITS or not (number.isascii() and number.isdigit() and len(number) <= 8):
        return DEADLINE_S
    return min(int(number) * UNITS[unit], DEADLINE_S)

"""Asking another process: one DEALER socket a peer, resent when the peer came back and every 250 ms, until the deadline.

A request that is in flight when the peer dies is never answered on that connection; therefore every request is sent again as
soon as the socket is connected again, and the idempotency key makes the repetition harmless.
"""

from __future__ import annotations

import itertools
import os
from dataclasses import dataclass
from typing import Final

import zmq
from zmq.utils.monitor import recv_monitor_message

from vpccni.shared.codec import MESSAGE_BYTES_AT_MOST, BadMessage, pack, unpack
from vpccni.shared.errors import PeerRefused, PeerTimeout
from vpccni.shared.loop import Future, Loop, Timer
from vpccni.shared.messages.base import Message, tag_of
from vpccni.shared.messages.common import ErrorReply

RECONNECT_MS: Final = 10
RECONNECT_AT_MOST_MS: Final = 100
"""Attempts at a peer that stays away grow this rare: every 10 ms they cost 1 % of a core with four peers absent, so 0.2 %."""
RESEND_S: Final = 0.25
IN_FLIGHT_AT_MOST: Final = 4096
SEND_HIGH_WATER: Final = 2000


@dataclass(slots=True)
class _Pending:
    raw: bytes
    tag: str
    future: Future[Message]
    deadline: Timer
    resend: Timer


class Client:
    """A persistent connection to the rpc socket of one process; made before the peer exists is fine."""

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], loop: Loop, peer: str, address: str) -> None:
        self.peer = peer
        self._loop = loop
        self._numbers = itertools.count(1)
        self._prefix = os.urandom(6).hex()
        self._pending: dict[bytes, _Pending] = {}
        self._socket = context.socket(zmq.DEALER)
        for option, value in (
            (zmq.LINGER, 0),
            (zmq.SNDTIMEO, 0),
            (zmq.IMMEDIATE, 1),
            (zmq.RECONNECT_IVL, RECONNECT_MS),
            (zmq.RECONNECT_IVL_MAX, RECONNECT_AT_MOST_MS),
            (zmq.MAXMSGSIZE, MESSAGE_BYTES_AT_MOST),
            (zmq.SNDHWM, SEND_HIGH_WATER),
        ):
            self._socket.setsockopt(option, value)
        self._monitor = self._socket.get_monitor_socket(zmq.EVENT_HANDSHAKE_SUCCEEDED)
        self._socket.connect(address)
        loop.watch(self._socket, self._receive)
        loop.watch(self._monitor, self._connected)

    def call(self, message: Message, *, timeout_s: float, key: str = "", trace_id: str = "") -> Future[Message]:
        """Ask; the future gives the answer, or fails with `PeerTimeout` or `PeerRefused`.

        `key`: give the same one to ask the same thing again across calls; by default each call has its own.
        """
        future: Future[Message] = Future()
        tag = tag_of(type(message))
        if len(self._pending) >= IN_FLIGHT_AT_MOST:
            future.fail(
                PeerTimeout(
                    f"{IN_FLIGHT_AT_MOST} requests wait for {self.peer}",
                    on=tag,
                    remedy=f"See `vpccni status` for {self.peer}",
                )
            )
            return future
        number = f"{self._prefix}{next(self._numbers):x}"
        request_id = number.encode()
        raw = pack(
            message,
            request_id=request_id,
            key=key or number,
            deadline=self._loop.clock() + timeout_s,
            trace_id=trace_id,
        )
        deadline = self._loop.call_later(timeout_s, lambda: self._expire(request_id, timeout_s))
        pending = _Pending(
            raw, tag, future, deadline, self._loop.call_later(RESEND_S, lambda: self._resend(request_id))
        )
        self._pending[request_id] = pending
        self._send(pending)
        return future

    def close(self) -> None:
        """Fail what is in flight and give the sockets back."""
        for request_id in list(self._pending):
            self._expire(request_id, 0.0)
        self._loop.unwatch(self._socket)
        self._loop.unwatch(self._monitor)
        self._socket.disable_monitor()
        self._monitor.close()
        self._socket.close()

    def _send(self, pending: _Pending) -> None:
        try:
            self._socket.send(pending.raw, zmq.NOBLOCK)
        except zmq.Again:
            return  # nobody there: sent when the connection is, see _connected

    def _resend(self, request_id: bytes) -> None:
        pending = self._pending.get(request_id)
        if pending is not None:
            pending.resend = self._loop.call_later(RESEND_S, lambda: self._resend(request_id))
            self._send(pending)

    def _connected(self) -> None:
        while self._monitor.poll(0):
            recv_monitor_message(self._monitor)
        for pending in list(self._pending.values()):
            self._send(pending)

    def _receive(self) -> None:
        while True:
            try:
                raw = self._socket.recv(zmq.NOBLOCK)
            except zmq.Again:
                return
            self._take(raw)

    def _take(self, raw: bytes) -> None:
        try:
            envelope = unpack(raw)
        except BadMessage as error:
            pending = self._forget(error.request_id)
            if pending is not None:
                pending.future.fail(self._refused(pending.tag, error.code, str(error)))
            return
        if (
            isinstance(envelope.body, ErrorReply)
            and envelope.body.code == "busy"
            and envelope.request_id in self._pending
        ):
            return  # asked again by the resend timer, until the deadline
        pending = self._forget(envelope.request_id)
        if pending is None:
            return  # a second answer to a request that was sent twice
        if isinstance(envelope.body, ErrorReply):
            error_reply = envelope.body
            pending.future.fail(
                PeerRefused(
                    f"{self.peer}: {error_reply.what}",
                    peer_code=error_reply.code,
                    on=error_reply.on or pending.tag,
                    why=error_reply.why,
                    remedy=error_reply.remedy,
                )
            )
        else:
            pending.future.set(envelope.body)

    def _refused(self, tag: str, code: str, why: str) -> PeerRefused:
        return PeerRefused(f"{self.peer} gave an answer that cannot be read", peer_code=code, on=tag, why=why)

    def _forget(self, request_id: bytes) -> _Pending | None:
        pending = self._pending.pop(request_id, None)
        if pending is not None:
            pending.deadline.cancel()
            pending.resend.cancel()
        return pending

    def _expire(self, request_id: bytes, timeout_s: float) -> None:
        pending = self._forget(request_id)
        if pending is not None:
            pending.future.fail(
                PeerTimeout(
                    f"no answer from {self.peer}",
                    on=pending.tag,
                    why=f"nothing within {timeout_s:.1f} s",
                    remedy=f"See its log and `vpccni status`; it is restarted by itself when {self.peer} is down",
                )
            )

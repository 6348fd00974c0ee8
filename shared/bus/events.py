"""Telling all who keep a copy: every event is a complete picture, numbered, under the owner's epoch (new at each start).

A subscriber that is new, or sees a gap or another epoch, asks for a snapshot (at most once a second) and so holds the latest of
each message type again. Nothing depends on an event having arrived: the heartbeat's number shows what was missed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

import msgspec
import zmq

from vpccni.shared.bus.access import ZAP_DOMAIN
from vpccni.shared.bus.client import RECONNECT_AT_MOST_MS, RECONNECT_MS, Client
from vpccni.shared.codec import MESSAGE_BYTES_AT_MOST, BadMessage, pack, to_message, unpack
from vpccni.shared.errors import BusError
from vpccni.shared.loop import Loop
from vpccni.shared.messages.base import Message, tag_of
from vpccni.shared.messages.common import GetSnapshot, Snapshot

EVENTS_HIGH_WATER: Final = 1000
SNAPSHOT_AT_MOST_EVERY_S: Final = 1.0
SNAPSHOT_TIMEOUT_S: Final = 2.0


class Publisher:
    """The event socket of a process."""

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], address: str, *, epoch: str) -> None:
        self.epoch = epoch
        self.sequence = 0
        self._latest: dict[str, Message] = {}
        self._socket = context.socket(zmq.PUB)
        self._socket.setsockopt(zmq.LINGER, 0)
        self._socket.setsockopt(zmq.SNDHWM, EVENTS_HIGH_WATER)
        self._socket.setsockopt(zmq.ZAP_DOMAIN, ZAP_DOMAIN)
        self._socket.bind(address)

    def publish(self, message: Message) -> None:
        """Send to whoever listens, and remember as the latest of its type."""
        self.sequence += 1
        self._latest[tag_of(type(message))] = message
        self._socket.send(pack(message, request_id=self.sequence.to_bytes(8, "big"), key=self.epoch))

    def snapshot(self) -> Snapshot:
        """Return the latest of each type."""
        messages = [(tag, msgspec.to_builtins(message)) for tag, message in self._latest.items()]
        return Snapshot(epoch=self.epoch, sequence=self.sequence, messages=messages)

    def close(self) -> None:
        self._socket.close()


class Subscription:
    """A copy of what one peer publishes. `last_heard`: CLOCK_BOOTTIME seconds of its last sign of life, 0 before the first."""

    def __init__(
        self,
        context: zmq.Context[zmq.Socket[bytes]],
        loop: Loop,
        peer: str,
        address: str,
        client: Client,
        handlers: Mapping[type[Any], Callable[[Any], None]],
        *,
        count: Callable[[str, dict[str, str]], None],
    ) -> None:
        self.peer = peer
        self.last_heard = 0.0
        self.epoch = ""
        self._sequence = 0
        self._loop = loop
        self._client = client
        self._count = count
        self._handlers = dict(handlers)
        self._asking = False
        self._asked_at = float("-inf")
        self._socket = context.socket(zmq.SUB)
        self._socket.setsockopt(zmq.LINGER, 0)
        self._socket.setsockopt(zmq.RCVHWM, EVENTS_HIGH_WATER)
        self._socket.setsockopt(zmq.MAXMSGSIZE, MESSAGE_BYTES_AT_MOST)
        self._socket.setsockopt(zmq.RECONNECT_IVL, RECONNECT_MS)
        self._socket.setsockopt(zmq.RECONNECT_IVL_MAX, RECONNECT_AT_MOST_MS)
        self._socket.setsockopt(zmq.SUBSCRIBE, b"")
        self._socket.connect(address)
        loop.watch(self._socket, self._receive)
        self._want_snapshot()

    def close(self) -> None:
        self._loop.unwatch(self._socket)
        self._socket.close()

    def _receive(self) -> None:
        while True:
            try:
                raw = self._socket.recv(zmq.NOBLOCK)
            except zmq.Again:
                return
            try:
                envelope = unpack(raw)
            except BadMessage as error:
                self._count("vpccni_bus_bad_messages", {"code": error.code})
                continue
            self._take(envelope.key, int.from_bytes(envelope.request_id, "big"), envelope.body)

    def _take(self, epoch: str, sequence: int, message: Message) -> None:
        self.last_heard = self._loop.clock()
        complete = epoch == self.epoch and sequence == self._sequence + 1
        if epoch == self.epoch and sequence <= self._sequence:
            return  # older than the snapshot we hold
        self._sequence = sequence
        if not complete:
            self._want_snapshot()
        self.epoch = epoch
        self._deliver(message)

    def _deliver(self, message: Message) -> None:
        handler = self._handlers.get(type(message))
        if handler is not None:
            handler(message)

    def _want_snapshot(self) -> None:
        if self._asking:
            return
        self._asking = True
        wait = max(0.0, self._asked_at + SNAPSHOT_AT_MOST_EVERY_S - self._loop.clock())
        self._loop.call_later(wait, self._start_asking)

    def _start_asking(self) -> None:
        self._loop.spawn(self._ask(), name=f"snapshot of {self.peer}")

    async def _ask(self) -> None:
        self._asked_at = self._loop.clock()
        try:
            answer = await self._client.call(GetSnapshot(), timeout_s=SNAPSHOT_TIMEOUT_S)
        except BusError:
            self._count("vpccni_bus_snapshots_missed", {"peer": self.peer})
            self._asking = False
            self._want_snapshot()
            return
        self._asking = False
        if isinstance(answer, Snapshot):
            self._apply(answer)

    def _apply(self, snapshot: Snapshot) -> None:
        if snapshot.epoch == self.epoch and snapshot.sequence < self._sequence:
            self._want_snapshot()
            return
        self.last_heard = self._loop.clock()
        self.epoch, self._sequence = snapshot.epoch, snapshot.sequence
        for _, body in snapshot.messages:
            try:
                self._deliver(to_message(body))
            except BadMessage as error:
                self._count("vpccni_bus_bad_messages", {"code": error.code})

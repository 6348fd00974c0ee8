"""Answering requests: one ROUTER socket, a bounded queue a verb, and the same answer to a request that is asked again.

A request is decoded, then waits in the queue of its message type. After the socket is drained the verbs are served in the order
in which they were registered, so a process registers releases before assignments. Two kinds of handler:

    one     `async def handler(message, call) -> Message`, at most `at_once` of them at a time
    batch   `def handler(calls) -> list[Message]`: all that wait, in one go (one save pays for a burst, design 5)

A request with an idempotency key that was answered within `REMEMBERED_S` gets the same answer; one that is still being worked on
gets a second copy of its answer. A bad message gets an error reply and a counter; the loop goes on.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

import zmq

from vpccni.shared.bus.access import ZAP_DOMAIN
from vpccni.shared.codec import MESSAGE_BYTES_AT_MOST, BadMessage, Envelope, pack, unpack
from vpccni.shared.errors import VpccniError
from vpccni.shared.loop import Loop
from vpccni.shared.messages.base import Message, tag_of
from vpccni.shared.messages.common import ErrorReply

M = TypeVar("M", bound=Message)

DRAIN_AT_MOST: Final = 512
"""Requests read in one turn of the loop before they are served."""
REMEMBERED_S: Final = 60.0
REMEMBERED_AT_MOST: Final = 4096
SEND_HIGH_WATER: Final = 2000


@dataclass(slots=True)
class Call:
    """One request being answered: to whom, until when, under which trace."""

    message: Message
    deadline: float
    trace_id: str
    key: str
    waiting: list[tuple[bytes, bytes]]
    """(peer's routing id, request id) of everybody who asked this."""


@dataclass(slots=True)
class _Verb:
    limit: int
    queue: deque[Call] = field(default_factory=deque)
    one: Callable[[Any, Call], Awaitable[Message]] | None = None
    batch: Callable[[Sequence[Call]], Sequence[Message]] | None = None
    at_once: int = 64
    running: int = 0


class Server:
    """See the module. `count(name, labels)` hears of refused and bad requests."""

    def __init__(
        self,
        context: zmq.Context[zmq.Socket[bytes]],
        loop: Loop,
        address: str,
        *,
        count: Callable[[str, dict[str, str]], None],
    ) -> None:
        self._loop = loop
        self._count = count
        self._verbs: dict[str, _Verb] = {}
        self._in_work: dict[str, Call] = {}
        self._answered: OrderedDict[str, tuple[float, Message]] = OrderedDict()
        self._socket = context.socket(zmq.ROUTER)
        self._socket.setsockopt(zmq.LINGER, 0)
        self._socket.setsockopt(zmq.SNDTIMEO, 0)
        self._socket.setsockopt(zmq.ROUTER_MANDATORY, 1)
        self._socket.setsockopt(zmq.MAXMSGSIZE, MESSAGE_BYTES_AT_MOST)
        self._socket.setsockopt(zmq.SNDHWM, SEND_HIGH_WATER)
        self._socket.setsockopt(zmq.ZAP_DOMAIN, ZAP_DOMAIN)
        self._socket.bind(address)
        loop.watch(self._socket, self._drain)

    def handle(
        self, kind: type[M], handler: Callable[[M, Call], Awaitable[Message]], *, limit: int = 256, at_once: int = 64
    ) -> None:
        """Serve a message type one by one; more than `limit` waiting are answered with "busy"."""
        self._verbs[tag_of(kind)] = _Verb(limit, one=handler, at_once=at_once)

    def handle_batch(
        self, kind: type[Message], handler: Callable[[Sequence[Call]], Sequence[Message]], *, limit: int = 2048
    ) -> None:
        """Serve all waiting requests of a type together; the answers are in the order of the calls."""
        self._verbs[tag_of(kind)] = _Verb(limit, batch=handler)

    def waiting(self) -> int:
        """Return how many requests wait for their turn or are being worked on."""
        return sum(len(verb.queue) + verb.running for verb in self._verbs.values())

    def close(self) -> None:
        self._loop.unwatch(self._socket)
        self._socket.close()

    # -- receiving

    def _drain(self) -> None:
        for _ in range(DRAIN_AT_MOST):
            try:
                peer, *frames = self._socket.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                break
            self._receive(peer, frames[-1] if frames else b"")
        self._serve()

    def _receive(self, peer: bytes, raw: bytes) -> None:
        try:
            envelope = unpack(raw)
        except BadMessage as error:
            self._count("vpccni_bus_bad_messages", {"code": error.code})
            remedy = "wrong version, waiting" if error.code == "protocol" else ""
            reply = ErrorReply(code=error.code, what="the message cannot be read", why=str(error)[:500], remedy=remedy)
            self._send(peer, error.request_id, reply)
            return
        self._accept(peer, envelope)

    def _accept(self, peer: bytes, envelope: Envelope) -> None:
        tag = tag_of(type(envelope.body))
        verb = self._verbs.get(tag)
        if verb is None:
            self._count("vpccni_bus_bad_messages", {"code": "not_served"})
            self._send(peer, envelope.request_id, ErrorReply(code="not_served", what=f"{tag} is not answered here"))
            return
        if envelope.key and (remembered := self._answered.get(envelope.key)):
            self._send(peer, envelope.request_id, remembered[1])
            return
        if envelope.key and (same := self._in_work.get(envelope.key)):
            if (peer, envelope.request_id) not in same.waiting:
                same.waiting.append((peer, envelope.request_id))
            return
        if len(verb.queue) >= verb.limit:
            self._count("vpccni_bus_busy", {"message": tag})
            self._send(
                peer, envelope.request_id, ErrorReply(code="busy", what=f"{verb.limit} requests wait already", on=tag)
            )
            return
        call = Call(envelope.body, envelope.deadline, envelope.trace_id, envelope.key, [(peer, envelope.request_id)])
        if call.key:
            self._in_work[call.key] = call
        verb.queue.append(call)
        self._count("vpccni_bus_requests", {"message": tag})

    # -- serving

    def _serve(self) -> None:
        for tag, verb in self._verbs.items():
            if not verb.queue:
                continue
            if verb.batch is not None:
                self._serve_batch(tag, verb)
            else:
                self._start_waiting(tag, verb)

    def _serve_batch(self, tag: str, verb: _Verb) -> None:
        assert verb.batch is not None
        calls = [call for call in verb.queue if not self._expired(call)]
        verb.queue.clear()
        try:
            answers = verb.batch(calls)
        except VpccniError as error:
            answers = [_error_reply(error)] * len(calls)
        except Exception as error:  # noqa: BLE001  the server's edge: answered, counted, logged; the loop goes on
            self._loop.on_error(tag, error)
            answers = [ErrorReply(code="internal", what=f"{tag} failed", why=repr(error)[:500])] * len(calls)
        for call, answer in zip(calls, answers, strict=True):
            self._finish(call, answer)

    def _start_waiting(self, tag: str, verb: _Verb) -> None:
        while verb.queue and verb.running < verb.at_once:
            call = verb.queue.popleft()
            if not self._expired(call):
                verb.running += 1
                self._loop.spawn(self._run_one(tag, verb, call), name=tag)

    async def _run_one(self, tag: str, verb: _Verb, call: Call) -> None:
        assert verb.one is not None
        try:
            answer = await verb.one(call.message, call)
        except VpccniError as error:
            answer = _error_reply(error)
        except Exception as error:  # noqa: BLE001  the server's edge: answered, counted, logged; the loop goes on
            self._loop.on_error(tag, error)
            answer = ErrorReply(code="internal", what=f"{tag} failed", why=repr(error)[:500])
        finally:
            verb.running -= 1
        self._finish(call, answer)
        self._start_waiting(tag, verb)

    def _expired(self, call: Call) -> bool:
        if call.deadline and self._loop.clock() > call.deadline:
            self._in_work.pop(call.key, None)
            self._count("vpccni_bus_expired", {"message": tag_of(type(call.message))})
            return True
        return False

    def _finish(self, call: Call, answer: Message) -> None:
        if call.key:
            self._in_work.pop(call.key, None)
            if not isinstance(answer, ErrorReply):
                self._remember(call.key, answer)
        for peer, request_id in call.waiting:
            self._send(peer, request_id, answer)

    def _remember(self, key: str, answer: Message) -> None:
        now = self._loop.clock()
        self._answered[key] = (now, answer)
        while self._answered:
            oldest, (at, _) = next(iter(self._answered.items()))
            if len(self._answered) <= REMEMBERED_AT_MOST and now - at < REMEMBERED_S:
                break
            del self._answered[oldest]

    def _send(self, peer: bytes, request_id: bytes, answer: Message) -> None:
        try:
            self._socket.send_multipart([peer, pack(answer, request_id=request_id)])
        except (zmq.Again, zmq.ZMQError):
            self._count("vpccni_bus_unsent_replies", {})  # the peer is gone: it asks again when it is back


def _error_reply(error: VpccniError) -> ErrorReply:
    return ErrorReply(code=error.code, what=error.what, on=error.on, why=error.why, remedy=error.remedy)

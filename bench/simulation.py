"""A loop whose clock jumps from one timer to the next, and processes that talk without sockets: the fleet's stage.

The services run as they are. What is replaced is what they stand on: `Loop` (simulated seconds), `Process` (messages are handed over
after a moment, counters are added up), blocking calls (they take simulated time and no thread).
"""

from __future__ import annotations

import heapq
import itertools
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, TypeVar

from vpccni.shared.bus import Call
from vpccni.shared.errors import PeerTimeout
from vpccni.shared.loop import Future, Loop, Timer
from vpccni.shared.messages.base import Message
from vpccni.shared.settings import Settings, read

T = TypeVar("T")

MESSAGE_S: Final = 0.0005
BLOCKING_S: Final = 0.005
"""A blocking call that says nothing else of its time: instance metadata, a file."""


class Stage:
    """The clock and all that is still to happen. Time stands still while something is ready and then jumps to the next timer."""

    def __init__(self, *, on_error: Callable[[str, BaseException], None]) -> None:
        self.now = 1000.0
        self.on_error = on_error
        self.ready: deque[Callable[[], None]] = deque()
        self.takes_s = 0.0
        """What a blocking call adds to this while it runs is the time it takes."""
        self._timers: list[tuple[float, int, Timer]] = []
        self._order = itertools.count()

    def at(self, when: float, timer: Timer) -> None:
        heapq.heappush(self._timers, (when, next(self._order), timer))

    def run_to(self, until: float) -> None:
        """Run everything that happens up to a moment."""
        while True:
            while self.ready:
                self._guard(self.ready.popleft())
            if not self._timers or self._timers[0][0] > until:
                break
            self.now, _, timer = heapq.heappop(self._timers)
            self._guard(timer.fire)
        self.now = until

    def _guard(self, call: Callable[[], None]) -> None:
        try:
            call()
        except Exception as error:  # noqa: BLE001  a service's bug: counted and told, the fleet goes on
            self.on_error("stage", error)


class SimulatedLoop(Loop):
    """One process's view of the stage; after `die` nothing of it happens any more."""

    def __init__(self, stage: Stage) -> None:  # not Loop's own: that one opens a pipe and a poller
        self.stage, self.alive = stage, True
        self.clock = lambda: stage.now
        self.on_error = stage.on_error

    def die(self) -> None:
        """Be killed."""
        self.alive = False

    def call_soon(self, call: Callable[[], None]) -> None:
        self.stage.ready.append(lambda: call() if self.alive else None)

    def call_later(self, seconds: float, call: Callable[[], None]) -> Timer:
        timer = Timer(lambda: call() if self.alive else None)
        self.stage.at(self.stage.now + seconds, timer)
        return timer

    def call_from_thread(self, call: Callable[[], None]) -> None:
        self.call_soon(call)

    def in_thread(self, work: Callable[..., T], *arguments: Any) -> Future[T]:
        """Carry the call out at once, as a server does; the answer comes when its time is over."""
        future: Future[T] = Future()

        def run() -> None:
            self.stage.takes_s = BLOCKING_S
            try:
                value = work(*arguments)
            except Exception as error:  # noqa: BLE001  handed to the awaiting task
                failure = error
                self.call_later(self.stage.takes_s, lambda: future.fail(failure))
            else:
                self.call_later(self.stage.takes_s, lambda: future.set(value))

        self.call_soon(run)
        return future


class Silence:
    """A log that nobody reads."""

    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda *words, **fields: None


class SimulatedProcess:
    """What `Process` offers a service. `peers`: the processes of the same node by name."""

    def __init__(
        self, name: str, loop: SimulatedLoop, run_dir: Path, raw: Mapping[str, str], peers: dict[str, SimulatedProcess]
    ) -> None:
        self.name, self.loop, self.run_dir, self.raw, self.peers = name, loop, run_dir, dict(raw), peers
        self.settings: Settings = read(raw).settings
        self.log = Silence()
        self.counts: Counter[str] = Counter()
        self._one: dict[type[Any], Callable[[Any, Call], Awaitable[Message]]] = {}
        self._batch: dict[type[Any], Callable[[Sequence[Call]], Sequence[Message]]] = {}
        self._heard: list[tuple[type[Any], Callable[[Any], None]]] = []
        self._last: dict[type[Any], Message] = {}
        peers[name] = self

    def handle(self, kind: type[Any], handler: Callable[[Any, Call], Awaitable[Message]], **limits: int) -> None:
        self._one[kind] = handler

    def handle_batch(
        self, kind: type[Any], handler: Callable[[Sequence[Call]], Sequence[Message]], **limits: int
    ) -> None:
        self._batch[kind] = handler

    def publish(self, message: Message) -> None:
        self._last[type(message)] = message
        for kind, callback in self._heard:
            if kind is type(message):
                self._hand_over(callback, message)

    def subscribe(self, peer: str, handlers: Mapping[type[Any], Callable[[Any], None]]) -> None:
        owner = self.peers[peer]
        for kind, callback in handlers.items():
            owner._heard.append((kind, callback))
            if kind in owner._last:
                self._hand_over(callback, owner._last[kind])

    def _hand_over(self, callback: Callable[[Any], None], message: Message) -> None:
        self.loop.call_later(MESSAGE_S, lambda: callback(message))

    def client(self, peer: str) -> _Caller:
        return _Caller(self.loop, self.peers[peer])

    def count(self, name: str, value: float = 1, **labels: str) -> None:
        self.counts[name] += int(value)

    def gauge(self, name: str, value: Callable[[], float], **labels: str) -> None:
        """Nobody scrapes here."""

    def degraded(self, key: str, sentence: str) -> None:
        self.counts[f"degraded {key}"] += 1

    def healthy(self, key: str) -> None:
        """Nobody asks here."""

    def serving(self) -> None:
        """Nobody probes here."""

    def on_stop(self, call: Callable[[], None]) -> None:
        """Nothing here is stopped in order."""

    async def answer(self, message: Message) -> Message:
        """Answer as the server would."""
        kind = type(message)
        call = Call(message, 0.0, "", "", [])
        if kind in self._batch:
            return self._batch[kind]([call])[0]
        return await self._one[kind](message, call)


class _Caller:
    """A client of one peer."""

    def __init__(self, loop: SimulatedLoop, peer: SimulatedProcess) -> None:
        self._loop, self._peer = loop, peer

    def call(self, message: Message, *, timeout_s: float, **more: str) -> Future[Message]:
        answer: Future[Message] = Future()

        async def run() -> None:
            await self._loop.sleep(MESSAGE_S)
            answer.set(await self._peer.answer(message))

        self._loop.spawn(run(), name="call")
        self._loop.call_later(
            timeout_s, lambda: answer.fail(PeerTimeout("no answer", on=self._peer.name, why=f"none in {timeout_s} s"))
        )
        return answer

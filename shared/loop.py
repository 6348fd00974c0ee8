"""The loop of a process: one thread, one zmq poller, timers, and `async def` handlers without asyncio.

asyncio costs 4.7 MB a process and its ZeroMQ bridge doubles the time of a message (docs/decisions/0001-own-loop.md). What the
processes need is smaller: wait for sockets, run timers, and let a handler wait for an answer. A `Task` drives a coroutine; what
it awaits is a `Future`. Nothing here blocks but `poll`; blocking work goes to `in_thread`, a bounded pool.
"""

from __future__ import annotations

import heapq
import itertools
import os
import threading
from collections import deque
from collections.abc import Callable, Coroutine, Generator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final, Generic, TypeVar

import zmq

from vpccni.shared.clock import BootClock, boottime

T = TypeVar("T")

THREADS: Final = 4
"""Blocking calls at once in a process (EC2, metadata, file sync); more wait in the pool's queue."""
POLL_AT_MOST_S: Final = 60.0


class Future(Generic[T]):
    """A value that will be there later. Awaited by at most a few tasks; set once, later sets are ignored."""

    __slots__ = ("_callbacks", "_error", "_value", "done")

    def __init__(self) -> None:
        self.done = False
        self._value: T | None = None
        self._error: BaseException | None = None
        self._callbacks: list[Callable[[], None]] = []

    def set(self, value: T) -> None:
        """Give the value and wake who waits."""
        if not self.done:
            self._value = value
            self._finish()

    def fail(self, error: BaseException) -> None:
        """Give an error instead of a value."""
        if not self.done:
            self._error = error
            self._finish()

    def _finish(self) -> None:
        self.done = True
        callbacks, self._callbacks = self._callbacks, []
        for callback in callbacks:
            callback()

    def when_done(self, callback: Callable[[], None]) -> None:
        """Call back when the value is there, at once when it already is."""
        if self.done:
            callback()
        else:
            self._callbacks.append(callback)

    def result(self) -> T:
        """Return the value or raise the error; only after `done`."""
        if self._error is not None:
            raise self._error
        return self._value  # type: ignore[return-value]  # None only where T allows it: `set` gave it

    def __await__(self) -> Generator[Future[Any], None, T]:
        if not self.done:
            yield self
        return self.result()


class Timer:
    """A call in the future; `cancel` is idempotent."""

    __slots__ = ("_call", "cancelled")

    def __init__(self, call: Callable[[], None]) -> None:
        self._call = call
        self.cancelled = False

    def cancel(self) -> None:
        self.cancelled = True

    def fire(self) -> None:
        if not self.cancelled:
            self._call()


class Loop:
    """See the module. `on_error(where, error)` hears of every error that a callback or task lets out."""

    def __init__(
        self, *, clock: BootClock = boottime, on_error: Callable[[str, BaseException], None] | None = None
    ) -> None:
        self.clock = clock
        self.on_error = on_error or _raise
        self._poller = zmq.Poller()
        self._readers: dict[Any, Callable[[], None]] = {}
        self._ready: deque[Callable[[], None]] = deque()
        self._timers: list[tuple[float, int, Timer]] = []
        self._order = itertools.count()
        self._running = False
        self._threads: ThreadPoolExecutor | None = None
        self._from_threads: deque[Callable[[], None]] = deque()
        self._wake_read, self._wake_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._owner = threading.get_ident()
        self.watch(self._wake_read, self._drain_wake)

    # -- sockets

    def watch(self, source: zmq.Socket[bytes] | int, on_readable: Callable[[], None]) -> None:
        """Call `on_readable` whenever the ZeroMQ socket or file descriptor has something to read."""
        self._readers[source] = on_readable
        self._poller.register(source, zmq.POLLIN)

    def unwatch(self, source: zmq.Socket[bytes] | int) -> None:
        """Stop watching; idempotent."""
        if self._readers.pop(source, None) is not None:
            self._poller.unregister(source)

    # -- time and tasks

    def call_soon(self, call: Callable[[], None]) -> None:
        """Call in the next turn of the loop."""
        self._ready.append(call)

    def call_later(self, seconds: float, call: Callable[[], None]) -> Timer:
        """Call once after `seconds`."""
        timer = Timer(call)
        heapq.heappush(self._timers, (self.clock() + seconds, next(self._order), timer))
        return timer

    def every(self, seconds: float, call: Callable[[], None], *, name: str) -> Timer:
        """Call every `seconds` until the returned timer is cancelled; an error in one call does not end the series."""
        series = Timer(call)

        def turn() -> None:
            if series.cancelled:
                return
            self.call_later(seconds, turn)
            self._guard(name, call)

        self.call_later(seconds, turn)
        return series

    def spawn(self, coroutine: Coroutine[Any, Any, T], *, name: str) -> Future[T]:
        """Run a coroutine as a task. Its error goes to whoever awaits the returned future, and to `on_error` when nobody does."""
        outcome: Future[T] = Future()

        def step() -> None:
            try:
                waits_for = coroutine.send(None)
            except StopIteration as end:
                outcome.set(end.value)
            except Exception as error:  # noqa: BLE001  a task's edge: the error is handed on, never lost
                unheard = not outcome._callbacks
                outcome.fail(error)
                if unheard:
                    self.on_error(name, error)
            else:
                waits_for.when_done(lambda: self.call_soon(step))

        self.call_soon(step)
        return outcome

    def sleep(self, seconds: float) -> Future[None]:
        """Return a future that is done after `seconds`."""
        future: Future[None] = Future()
        self.call_later(seconds, lambda: future.set(None))
        return future

    def in_thread(self, work: Callable[..., T], *arguments: Any) -> Future[T]:
        """Run a blocking call in the pool; await its result. The call must carry its own time limit."""
        if self._threads is None:
            self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="blocking")
        future: Future[T] = Future()

        def run() -> None:
            try:
                value = work(*arguments)
            except Exception as error:  # noqa: BLE001  handed to the awaiting task
                failure = error
                self.call_from_thread(lambda: future.fail(failure))
            else:
                self.call_from_thread(lambda: future.set(value))

        self._threads.submit(run)
        return future

    def call_from_thread(self, call: Callable[[], None]) -> None:
        """Have `call` run in the loop's thread; the one method that other threads may use."""
        self._from_threads.append(call)
        try:
            os.write(self._wake_write, b"\0")
        except BlockingIOError:
            return  # the pipe is full: the loop is being woken already

    # -- running

    def run(self) -> None:
        """Run until `stop`."""
        self._running = True
        while self._running:
            self._turn()

    def run_until(self, waited: Future[T], *, timeout_s: float) -> T:
        """Run until the future is done; raise TimeoutError after `timeout_s`. For command line tools and tests."""
        deadline = self.clock() + timeout_s
        self.call_later(timeout_s, lambda: None)
        while not waited.done:
            if self.clock() >= deadline:
                raise TimeoutError(f"nothing within {timeout_s} s")
            self._turn()
        return waited.result()

    def stop(self) -> None:
        """End `run` after this turn."""
        self._running = False
        self.call_soon(lambda: None)

    def close(self) -> None:
        """Give back the wake-up pipe and the threads; the loop is not used afterwards."""
        if self._threads is not None:
            self._threads.shutdown(wait=False, cancel_futures=True)
        os.close(self._wake_read)
        os.close(self._wake_write)

    def _turn(self) -> None:
        for source, _ in self._poller.poll(self._wait_ms()):
            reader = self._readers.get(source)
            if reader is not None:
                self._guard("reader", reader)
        now = self.clock()
        while self._timers and self._timers[0][0] <= now:
            self._guard("timer", heapq.heappop(self._timers)[2].fire)
        for _ in range(len(self._ready)):
            self._guard("task", self._ready.popleft())

    def _wait_ms(self) -> int:
        if self._ready:
            return 0
        while self._timers and self._timers[0][2].cancelled:
            heapq.heappop(self._timers)
        wait = self._timers[0][0] - self.clock() if self._timers else POLL_AT_MOST_S
        return max(0, min(int(wait * 1000) + 1, int(POLL_AT_MOST_S * 1000)))

    def _guard(self, where: str, call: Callable[[], None]) -> None:
        try:
            call()
        except Exception as error:  # noqa: BLE001  the loop's edge: counted and logged by the process, the loop goes on
            self.on_error(where, error)

    def _drain_wake(self) -> None:
        try:
            os.read(self._wake_read, 4096)
        except BlockingIOError:
            return
        while self._from_threads:
            self._ready.append(self._from_threads.popleft())


def _raise(where: str, error: BaseException) -> None:
    raise error

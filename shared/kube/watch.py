"""One followed kind: a thread that reads (`follow`), and the copy in the loop that its steps keep.

The thread hands steps over in batches; when the loop does not keep up, the thread waits, and with it the connection. The copy outlives
every outage: with the API away the process goes on with what it last saw, and says so.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final, Generic, Protocol, TypeVar

from vpccni.shared.kube.errors import KubeRefused
from vpccni.shared.kube.follow import Changed, Follower, Heard, Listed, Pace, Step
from vpccni.shared.kube.objects import Key
from vpccni.shared.kube.transport import Transport
from vpccni.shared.loop import Loop

T = TypeVar("T")

WAITING_AT_MOST: Final = 1024
"""Steps that wait for the loop; then the thread reads no further."""
JOIN_S: Final = 0.05
JOIN_TRIES: Final = 20
"""A thread that is connecting cannot be woken: it is a daemon and ends with the process."""
DEGRADED_AFTER: Final = 2
"""Failures in a row: a single one is an API server being replaced."""


@dataclass(frozen=True, slots=True)
class Change(Generic[T]):
    """What became of one object: `before` None is new, `after` None is gone."""

    key: Key
    before: T | None
    after: T | None


@dataclass(frozen=True, slots=True)
class Failed:
    """A connection ended with this; the next is tried after a pause."""

    error: KubeRefused
    failures: int


class Owner(Protocol):
    """What a watch needs of its process."""

    loop: Loop

    def connect(self) -> Transport: ...
    def count(self, name: str, value: float = 1, /, **labels: str) -> None: ...
    def degraded(self, key: str, sentence: str, /) -> None: ...
    def healthy(self, key: str, /) -> None: ...


class Watch(Generic[T]):
    """See the module. `objects` is the copy; `changed` is called in the loop with each batch of changes, and once when the first list
    is complete, even with nothing in it. Objects whose value stays equal are no change.
    """

    def __init__(
        self,
        owner: Owner,
        name: str,
        follower: Follower[T],
        changed: Callable[[Sequence[Change[T]]], None],
        *,
        pace: Pace,
    ) -> None:
        self.name = name
        self.objects: dict[Key, T] = {}
        self.synced = False
        self.installed = True
        self.heard_at = 0.0
        self.error = ""
        self._owner, self._follower, self._changed, self._pace = owner, follower, changed, pace
        self._waiting: list[Step[T] | Failed] = []
        self._room = threading.Condition()
        self._stopped = threading.Event()
        self._transport: Transport | None = None
        self._thread = threading.Thread(target=self._run, name=f"kube-{name}", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End the thread; the copy stays as it is."""
        self._stopped.set()
        with self._room:
            self._room.notify_all()
        for _ in range(JOIN_TRIES):
            if (transport := self._transport) is not None:
                transport.shut()  # again each time: the stream may have been about to open
            self._thread.join(JOIN_S)
            if not self._thread.is_alive():
                return

    # -- the thread

    def _run(self) -> None:
        failures = 0
        while not self._stopped.is_set():
            try:
                for step in self._follower.turn(self._connected()):
                    if isinstance(step, Heard | Changed):
                        failures = 0
                    self._hand_over(step)
                    if self._stopped.is_set():
                        break
                    if isinstance(step, Listed) and not step.installed:
                        self._stopped.wait(self._pace.absent_s)
            except KubeRefused as error:
                failures += 1
                self._pause(Failed(error, failures))
            except Exception as error:  # noqa: BLE001  the thread's edge: reported by the loop, and the watch goes on
                failures += 1
                self._owner.loop.call_from_thread(partial(self._owner.loop.on_error, f"kube {self.name}", error))
                self._pause(Failed(KubeRefused("the watch failed", status=0, why=repr(error)), failures))
        self._disconnect()

    def _pause(self, failed: Failed) -> None:
        self._disconnect()
        if not self._stopped.is_set():
            self._hand_over(failed)
            self._stopped.wait(self._pace.pauses.pause_s(failed.failures, random.random()))

    def _connected(self) -> Transport:
        if self._transport is None:
            self._transport = self._owner.connect()
        return self._transport

    def _disconnect(self) -> None:
        transport, self._transport = self._transport, None
        if transport is not None:
            transport.close()

    def _hand_over(self, step: Step[T] | Failed) -> None:
        with self._room:
            self._room.wait_for(lambda: len(self._waiting) < WAITING_AT_MOST or self._stopped.is_set())
            self._waiting.append(step)
            if len(self._waiting) == 1 and not self._stopped.is_set():
                self._owner.loop.call_from_thread(self._take)

    # -- the loop

    def _take(self) -> None:
        with self._room:
            steps, self._waiting = self._waiting, []
            self._room.notify_all()
        changes: list[Change[T]] = []
        first = False
        for step in steps:
            if isinstance(step, Failed):
                self._note_failure(step)
                continue
            self._note_success()
            if isinstance(step, Listed):
                first = first or not self.synced
                self.synced, self.installed = True, step.installed
                changes += self._replace(step.objects)
            elif isinstance(step, Changed):
                changes += self._put(step.key, step.value)
        if changes or first:
            self._changed(changes)

    def _replace(self, objects: dict[Key, T]) -> list[Change[T]]:
        gone = [key for key in self.objects if key not in objects]
        changes = [change for key in gone for change in self._put(key, None)]
        return changes + [change for key, value in objects.items() for change in self._put(key, value)]

    def _put(self, key: Key, value: T | None) -> list[Change[T]]:
        before = self.objects.get(key)
        if before == value:
            return []
        if value is None:
            del self.objects[key]
        else:
            self.objects[key] = value
        return [Change(key, before, value)]

    def _note_success(self) -> None:
        self.heard_at = self._owner.loop.clock()
        if self.error:
            self.error = ""
            self._owner.healthy(f"kubernetes {self.name}")

    def _note_failure(self, failed: Failed) -> None:
        error = failed.error
        self.error = str(error)
        self._owner.count("vpccni_kube_errors", 1, watch=self.name, status=str(error.status or "none"))
        if failed.failures >= DEGRADED_AFTER or not self.synced:
            self._owner.degraded(
                f"kubernetes {self.name}",
                f"The Kubernetes API gives no news of {self.name}; what was last seen stays in force. {error}",
            )

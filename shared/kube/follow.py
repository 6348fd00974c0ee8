"""Following one kind: list, then watch from there, again and again, each connection's news as steps. Blocking; no thread, no loop here.

    list pages ──► Listed ──► watch ──► Changed, Heard ... ──► the stream ends: watch again from the last version
        ▲                       │
        └── 410, or no way on ──┘

A watch goes on from the last version seen, also after an outage, so that an API server that comes back is not asked for everything at
once by all nodes. A version that it no longer has (410), or that leads to the same garbage three times, is given up for a new list.
"""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final, Generic, TypeVar

import msgspec

from vpccni.shared.backoff import Backoff
from vpccni.shared.kube.errors import GONE, NOT_FOUND, KubeRefused, remedy_of
from vpccni.shared.kube.objects import Key, Projection, version_of
from vpccni.shared.kube.resources import Resource
from vpccni.shared.kube.transport import Transport

T = TypeVar("T")

PAGE: Final = 500
GIVE_UP_A_VERSION_AFTER: Final = 3
SHORTEST_WATCH_S: Final = 1.0
"""A stream that ends sooner, with nothing in it, counts as a failure: else a proxy that closes at once would be asked without pause."""
PAUSES: Final = Backoff(0.5, 30.0, jitter=0.5)


@dataclass(frozen=True, slots=True)
class Pace:
    """Times in seconds. `list_timeout_s`: until a list's answer, and a stream's begin. `silence_s`: a stream without even a bookmark is
    opened anew, for it may be dead. It need not be: of a kind that nothing happens to, a real API server sends none for minutes, where
    its etcd does not tell it of progress. So silence is no failure; a server that does not open the next stream is.
    """

    list_timeout_s: float = 15.0
    watch_s: float = 290.0
    silence_s: float = 90.0
    pauses: Backoff = PAUSES
    absent_s: float = 60.0


@dataclass(frozen=True, slots=True)
class Listed(Generic[T]):
    """Everything there is. `installed` false: the server does not know the kind, so that there is nothing."""

    objects: dict[Key, T]
    installed: bool = True


@dataclass(frozen=True, slots=True)
class Changed(Generic[T]):
    """One object is now this, or gone (None)."""

    key: Key
    value: T | None


@dataclass(frozen=True, slots=True)
class Heard:
    """Nothing new: a bookmark, or a stream's end as agreed."""


Step = Listed[T] | Changed[T] | Heard


class _ListMeta(msgspec.Struct, rename={"resource_version": "resourceVersion", "more": "continue"}):
    resource_version: str = ""
    more: str = ""


class _List(msgspec.Struct):
    metadata: _ListMeta
    items: list[msgspec.Raw] | None = None


class _Event(msgspec.Struct):
    type: str
    object: msgspec.Raw


class _Status(msgspec.Struct):
    code: int = 0
    message: str = ""


_decode_list = msgspec.json.Decoder(_List).decode
_decode_event = msgspec.json.Decoder(_Event).decode
_decode_status = msgspec.json.Decoder(_Status).decode


class Follower(Generic[T]):
    """See the module. One for each selection; `turn` is one connection."""

    def __init__(
        self, resource: Resource, projection: Projection[Any, T], *, namespace: str, query: dict[str, str], pace: Pace
    ) -> None:
        self._path = resource.path(namespace=namespace)
        self._projection, self._query, self._pace = projection, query, pace
        self._version = ""
        self._unreadable = 0

    def turn(self, transport: Transport) -> Iterator[Step[T]]:
        """List or watch once. Raises `KubeRefused`; the next turn goes on from what was seen."""
        try:
            if self._version:
                yield from self._watch(transport)
            else:
                yield self._list(transport)
        except KubeRefused as error:
            if error.status == GONE or self._unreadable >= GIVE_UP_A_VERSION_AFTER:
                self._version, self._unreadable = "", 0
            raise

    def _list(self, transport: Transport) -> Listed[T]:
        objects: dict[Key, T] = {}
        query = {**self._query, "limit": str(PAGE)}
        while True:
            try:
                reply = transport.ask("GET", self._path, query, timeout_s=self._pace.list_timeout_s)
            except KubeRefused as error:
                if error.status == NOT_FOUND:
                    return Listed({}, installed=False)
                raise
            found = self._decode(reply.body)
            for text in found.items or ():
                key, _, value = self._projection.read(text)
                if value is not None:
                    objects[key] = value
            if not found.metadata.more:
                self._version = found.metadata.resource_version
                return Listed(objects)
            query["continue"] = found.metadata.more

    def _decode(self, body: bytes) -> _List:
        try:
            return _decode_list(body)
        except (msgspec.MsgspecError, ValueError, RecursionError) as error:
            raise self._garbage(error) from error

    def _watch(self, transport: Transport) -> Iterator[Step[T]]:
        seconds = self._pace.watch_s * random.uniform(0.8, 1.0)
        query = {
            **self._query,
            "watch": "true",
            "allowWatchBookmarks": "true",
            "resourceVersion": self._version,
            "timeoutSeconds": str(max(1, int(seconds))),
        }
        begun, heard = time.monotonic(), False
        pace = self._pace
        for line in transport.lines(self._path, query, opening_s=pace.list_timeout_s, silence_s=pace.silence_s):
            yield self._step(line)
            heard, self._unreadable = True, 0
        if not heard and time.monotonic() - begun < SHORTEST_WATCH_S:
            raise KubeRefused("the watch ends at once", status=0, on=self._path)
        yield Heard()

    def _step(self, line: bytes) -> Step[T]:
        try:
            event = _decode_event(line)
            if event.type == "ERROR":
                raise self._refused(_decode_status(event.object))
            if event.type == "BOOKMARK":
                return self._bookmark(version_of(event.object))
            key, version, value = self._projection.read(event.object)
        except (msgspec.MsgspecError, ValueError, RecursionError) as error:
            raise self._garbage(error) from error
        self._version = version or self._version
        return Changed(key, None if event.type == "DELETED" else value)

    def _bookmark(self, version: str) -> Heard:
        """Take the version over. One below ours is of a store that was put back to an older state: only a new list tells what is there."""
        if version.isdigit() and self._version.isdigit() and int(version) < int(self._version):
            raise KubeRefused(
                "the Kubernetes API went back in time", status=GONE, on=self._path, why=f"version {version}"
            )
        self._version = version or self._version
        return Heard()

    def _refused(self, said: _Status) -> KubeRefused:
        self._unreadable += 1
        remedy = remedy_of(said.code)
        return KubeRefused("the watch is refused", status=said.code, on=self._path, why=said.message, remedy=remedy)

    def _garbage(self, error: Exception) -> KubeRefused:
        self._unreadable += 1
        return KubeRefused("the Kubernetes API's answer cannot be read", status=0, on=self._path, why=str(error))

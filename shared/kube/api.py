"""The Kubernetes API of one process: its watches, and single calls that end by their deadline whatever the server does."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Final, TypeVar

import msgspec

from vpccni.shared.kube.access import find_access
from vpccni.shared.kube.errors import NOT_FOUND, KubeRefused
from vpccni.shared.kube.follow import Follower, Pace
from vpccni.shared.kube.objects import Key, Projection, Wire
from vpccni.shared.kube.resources import Resource
from vpccni.shared.kube.transport import JSON, MERGE_PATCH, Reply, Transport
from vpccni.shared.kube.watch import Change, Watch
from vpccni.shared.loop import Future, Loop
from vpccni.shared.process import Process

T = TypeVar("T")
W = TypeVar("W", bound=Wire)

CALLS_AT_MOST: Final = 64
"""Calls that wait for the one thread; more are refused at once."""
_Job = Callable[[], None]


class Kube:
    """See the module. Nothing is connected before the first watch or call."""

    def __init__(
        self,
        loop: Loop,
        raw: Mapping[str, str],
        *,
        user_agent: str,
        count: Callable[..., None],
        degraded: Callable[[str, str], None],
        healthy: Callable[[str], None],
    ) -> None:
        self.loop, self.count, self.degraded, self.healthy = loop, count, degraded, healthy
        self._raw, self._agent = raw, user_agent
        self._watches: list[Watch[object]] = []
        self._calls: queue.Queue[_Job | None] = queue.Queue(CALLS_AT_MOST)
        self._caller: threading.Thread | None = None
        self._transport: Transport | None = None
        self._stopped = False

    @classmethod
    def of(cls, process: Process) -> Kube:
        """Return the API as a process uses it: its counters, its health, ended with it."""
        version = process.settings.cni_version
        kube = cls(
            process.loop,
            process.raw,
            user_agent=f"{process.name}-{version}",  # spec ipam.md 27
            count=process.count,
            degraded=process.degraded,
            healthy=process.healthy,
        )
        process.on_stop(kube.stop)
        return kube

    def stop(self) -> None:
        """End all threads; calls under way are not waited for."""
        self._stopped = True
        for watch in self._watches:
            watch.stop()
        if self._caller is not None:
            try:
                self._calls.put_nowait(None)
            except queue.Full:
                return  # the thread is a daemon: it ends with the process

    def connect(self) -> Transport:
        """Return a new connection with the access as it is now. For threads. Raises KubeRefused."""
        return Transport(find_access(self._raw), user_agent=self._agent)

    # -- watches

    def watch(
        self,
        resource: Resource,
        *,
        wire: type[W],
        project: Callable[[W], T | None],
        changed: Callable[[Sequence[Change[T]]], None],
        namespace: str = "",
        fields: str = "",
        labels: str = "",
        pace: Pace | None = None,
    ) -> Watch[T]:
        """Keep a copy of the objects of a selection, each projected by `project` (in the watch's thread) before it is kept; see `Watch`."""
        name, pace = resource.plural, pace or Pace()
        query = {key: value for key, value in (("fieldSelector", fields), ("labelSelector", labels)) if value}
        projection = Projection(wire, project, lambda key, error: self._bad(name, key, error))
        follower = Follower(resource, projection, namespace=namespace, query=query, pace=pace)
        watch = Watch(self, name, follower, changed, pace=pace)
        self._watches.append(watch)  # type: ignore[arg-type]  # the list only stops them
        self.count("vpccni_kube_errors", 0, watch=name, status="none")
        return watch

    def _bad(self, name: str, key: Key, error: Exception) -> None:
        self.loop.call_from_thread(lambda: self.count("vpccni_kube_bad_objects", 1, watch=name))

    # -- calls

    async def get(
        self, resource: Resource, wire: type[W], *, name: str, namespace: str = "", timeout_s: float = 3.0
    ) -> W | None:
        """Return an object, None if there is none. Raises KubeRefused, at the latest after `timeout_s`."""
        path = resource.path(namespace=namespace, name=name)
        try:
            reply = await self.call("GET", path, timeout_s=timeout_s)
            return msgspec.json.decode(reply.body, type=wire)
        except msgspec.MsgspecError as error:
            raise KubeRefused(
                "the Kubernetes API's answer cannot be read", status=0, on=path, why=str(error)
            ) from error
        except KubeRefused as error:
            if error.status == NOT_FOUND:
                return None
            raise

    async def create(
        self, resource: Resource, body: Mapping[str, object], *, namespace: str = "", timeout_s: float = 5.0
    ) -> None:
        """Create an object. Raises KubeRefused (409: it exists); after a status of 0 nobody knows whether it was created."""
        await self.call("POST", resource.path(namespace=namespace), body=body, timeout_s=timeout_s)

    async def patch(
        self,
        resource: Resource,
        body: Mapping[str, object],
        *,
        name: str,
        namespace: str = "",
        subresource: str = "",
        timeout_s: float = 5.0,
    ) -> None:
        """Merge `body` into an object (RFC 7396). Raises KubeRefused."""
        path = resource.path(namespace=namespace, name=name, subresource=subresource)
        await self.call("PATCH", path, body=body, content_type=MERGE_PATCH, timeout_s=timeout_s)

    async def call(
        self, method: str, path: str, *, timeout_s: float, query: Mapping[str, str] | None = None, body: object = None,
        content_type: str = JSON,
    ) -> Reply:  # fmt: skip
        """Send one request in the calls' own thread and return its answer. Raises KubeRefused, at the latest after `timeout_s`."""
        answer: Future[Reply] = Future()
        late = KubeRefused(
            "the Kubernetes API does not answer", status=0, on=path, why=f"nothing within {timeout_s:g} s"
        )
        timer = self.loop.call_later(timeout_s, lambda: answer.fail(late))

        def run() -> None:
            if answer.done:
                return  # its time was over before its turn came
            try:
                reply = self._connected().ask(
                    method, path, query or {}, timeout_s=timeout_s, body=body, content_type=content_type
                )
            except Exception as error:  # noqa: BLE001  handed to the awaiting task
                self._disconnect()
                self._in_loop(partial(answer.fail, error))
            else:
                self._in_loop(partial(answer.set, reply))

        try:
            self._calls.put_nowait(run)
        except queue.Full:
            raise KubeRefused("too many requests wait for the Kubernetes API", status=0, on=path) from None
        self._start_caller()
        try:
            return await answer
        finally:
            timer.cancel()

    def _in_loop(self, call: Callable[[], None]) -> None:
        if not self._stopped:
            self.loop.call_from_thread(call)

    def _start_caller(self) -> None:
        if self._caller is None:
            self._caller = threading.Thread(target=self._work, name="kube-calls", daemon=True)
            self._caller.start()

    def _work(self) -> None:
        while (job := self._calls.get()) is not None:
            job()
        self._disconnect()

    def _connected(self) -> Transport:
        if self._transport is None:
            self._transport = self.connect()
        return self._transport

    def _disconnect(self) -> None:
        transport, self._transport = self._transport, None
        if transport is not None:
            transport.close()

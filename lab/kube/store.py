"""Objects with resource versions, finalizers and a bounded history that watches read from.

Pure data behind one condition: each change gets the next number and is appended to the history; a watcher that asks for a number
older than the history's begin gets `Gone` and must list again, as with a real API server.
"""

from __future__ import annotations

import copy
import threading
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from vpccni.lab.kube.resources import Resource

Object = dict[str, Any]
HISTORY_KEPT = 10_000
GENERATED_BASE = 58
"""Of `generateName`: what is longer is cut, as a real API server does."""


class ApiError(Exception):
    """A refusal with HTTP status and Kubernetes' reason."""

    def __init__(self, status: int, reason: str, message: str) -> None:
        super().__init__(message)
        self.status, self.reason, self.message = status, reason, message


@dataclass(frozen=True)
class Change:
    """One step of the history: `before` lets a selector watch see an object leave its selection."""

    version: int
    resource: Resource
    type: str
    object: Object
    before: Object | None


class Store:
    """All objects of one cluster."""

    def __init__(self, history: int = HISTORY_KEPT, *, first_version: int = 1) -> None:
        self.changed = threading.Condition()
        self.version = first_version
        self._objects: dict[Resource, dict[tuple[str, str], Object]] = {}
        self._history: deque[Change] = deque(maxlen=history)
        self._lost = first_version  # changes up to this version are no longer in the history

    def list(
        self, resource: Resource, namespace: str | None, keep: Callable[[Object], bool]
    ) -> tuple[list[Object], int]:
        """Return copies of matching objects and the version they are the state of."""
        with self.changed:
            kept = self._objects.get(resource, {}).items()
            found = [
                copy.deepcopy(o)
                for (ns, _), o in sorted(kept, key=lambda row: row[0])
                if namespace in (None, ns) and keep(o)
            ]
            return found, self.version

    def get(self, resource: Resource, namespace: str, name: str) -> Object:
        """Return a copy of one object."""
        with self.changed:
            return copy.deepcopy(self._find(resource, namespace, name))

    def find(self, resource: Resource, namespace: str, name: str) -> Object | None:
        """Return the object itself, not to be changed, or None."""
        with self.changed:
            return self._objects.get(resource, {}).get((namespace, name))

    def create(self, resource: Resource, namespace: str, obj: Object) -> Object:
        """Store a new object; 409 if the name is taken."""
        with self.changed:
            meta = obj.setdefault("metadata", {})
            if not meta.get("name") and meta.get("generateName"):
                meta["name"] = meta["generateName"][:GENERATED_BASE] + uuid.uuid4().hex[:5]
            name = meta.get("name")
            if not name:
                raise ApiError(422, "Invalid", f"{resource.kind} is invalid: metadata.name: Required value")
            if (namespace, name) in self._objects.get(resource, {}):
                raise ApiError(409, "AlreadyExists", f'{resource.plural} "{name}" already exists')
            obj |= {"apiVersion": resource.api_version, "kind": resource.kind}
            meta["uid"] = meta.get("uid") or str(uuid.uuid4())
            meta["creationTimestamp"] = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
            meta.setdefault("generation", 1)
            if resource.namespaced:
                meta["namespace"] = namespace
            return self._put(resource, namespace, "ADDED", obj, None)

    def update(self, resource: Resource, namespace: str, name: str, change: Callable[[Object], Object],
               *, subresource: str = "", expected: str | None = None) -> Object:  # fmt: skip
        """Replace an object by `change(copy)`; 409 if it is no longer at version `expected`."""
        with self.changed:
            before = self._find(resource, namespace, name)
            after = change(copy.deepcopy(before))
            wanted = expected or after.get("metadata", {}).get("resourceVersion")
            if wanted and wanted != before["metadata"]["resourceVersion"]:
                raise ApiError(
                    409,
                    "Conflict",
                    f'Operation cannot be fulfilled on {resource.plural} "{name}": the object has been modified',
                )
            if after.get("metadata", {}).get("uid", before["metadata"]["uid"]) != before["metadata"]["uid"]:
                raise ApiError(422, "Invalid", f'{resource.kind} "{name}" is invalid: metadata.uid: field is immutable')
            after = _merge_parts(before, after, subresource)
            if _same(before, after):
                return copy.deepcopy(before)
            if before.get("spec") != after.get("spec"):
                after["metadata"]["generation"] = before["metadata"].get("generation", 1) + 1
            if after["metadata"].get("deletionTimestamp") and not after["metadata"].get("finalizers"):
                return self._drop(resource, namespace, name, after)
            return self._put(resource, namespace, "MODIFIED", after, before)

    def delete(self, resource: Resource, namespace: str, name: str, *, expected: str | None = None) -> Object:
        """Delete an object, or mark it while finalizers remain; 409 if it is no longer at version `expected`."""
        with self.changed:
            before = self._find(resource, namespace, name)
            if expected and expected != before["metadata"]["resourceVersion"]:
                raise ApiError(409, "Conflict", f'{resource.plural} "{name}": the precondition does not hold')
            if not before["metadata"].get("finalizers"):
                return self._drop(resource, namespace, name, copy.deepcopy(before))
            if before["metadata"].get("deletionTimestamp"):
                return copy.deepcopy(before)
            after = copy.deepcopy(before)
            after["metadata"]["deletionTimestamp"] = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
            return self._put(resource, namespace, "MODIFIED", after, before)

    def watch(self, since: int, *, until: float, bookmark_s: float) -> Iterator[Change | int]:
        """Yield changes after `since`, and every `bookmark_s` the version reached (a bookmark), however much happens. Ends at `until`."""
        at, marked_at = since, time.monotonic()
        while time.monotonic() < until:
            with self.changed:
                if at < self._lost - 1:
                    raise ApiError(410, "Expired", f"too old resource version: {at} ({self._lost})")
                batch = [change for change in self._history if change.version > at]
                if not batch:
                    at = max(at, self.version)  # nothing after `at` is in the history: all up to here is seen
                    self.changed.wait(min(bookmark_s, max(0.0, until - time.monotonic())))
            yield from batch
            at = batch[-1].version if batch else at
            if time.monotonic() - marked_at >= bookmark_s:
                yield at
                marked_at = time.monotonic()

    def forget_history(self) -> None:
        """Compact: every watch from an older version now gets 410."""
        with self.changed:
            self._history.clear()
            self.version += 1
            self._lost = self.version + 1
            self.changed.notify_all()

    def _find(self, resource: Resource, namespace: str, name: str) -> Object:
        found = self._objects.get(resource, {}).get((namespace, name))
        if found is None:
            raise ApiError(404, "NotFound", f'{resource.plural} "{name}" not found')
        return found

    def _put(self, resource: Resource, namespace: str, kind: str, obj: Object, before: Object | None) -> Object:
        self.version += 1
        obj["metadata"]["resourceVersion"] = str(self.version)
        self._objects.setdefault(resource, {})[(namespace, obj["metadata"]["name"])] = obj
        self._append(Change(self.version, resource, kind, obj, before))
        return copy.deepcopy(obj)

    def _drop(self, resource: Resource, namespace: str, name: str, obj: Object) -> Object:
        before = self._objects[resource].pop((namespace, name))
        self.version += 1
        obj["metadata"]["resourceVersion"] = str(self.version)
        self._append(Change(self.version, resource, "DELETED", obj, before))
        return obj

    def _append(self, change: Change) -> None:
        if len(self._history) == self._history.maxlen:
            self._lost = self._history[0].version + 1
        self._history.append(change)
        self.changed.notify_all()


def _merge_parts(before: Object, after: Object, subresource: str) -> Object:
    """Keep what this door may not change: status through the main one, all else through `status`."""
    if subresource == "status":
        merged = copy.deepcopy(before)
        if "status" in after:
            merged["status"] = after["status"]
        for part in ("annotations", "labels"):  # a status patch may carry these, as with nodes and pods
            if part in after.get("metadata", {}):
                merged["metadata"][part] = after["metadata"][part]
        return merged
    kept = {
        key: before["metadata"][key]
        for key in ("uid", "creationTimestamp", "name", "generation", "namespace")
        if key in before["metadata"]
    }
    after["metadata"] = {**after.get("metadata", {}), **kept}
    if "deletionTimestamp" in before["metadata"]:
        after["metadata"]["deletionTimestamp"] = before["metadata"]["deletionTimestamp"]
    after.pop("status", None)
    if "status" in before:
        after["status"] = before["status"]
    after |= {"apiVersion": before["apiVersion"], "kind": before["kind"]}
    return after


def _same(before: Object, after: Object) -> bool:
    def bare(obj: Object) -> Object:
        return {**obj, "metadata": {k: v for k, v in obj["metadata"].items() if k != "resourceVersion"}}

    return bare(before) == bare(after)

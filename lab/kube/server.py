"""The API over HTTP: paths to resources, patches, lists, watches and a minimum of discovery."""

from __future__ import annotations

import contextlib
import json
import re
import socket
import sys
import threading
import time
from collections.abc import Callable
from http.server import ThreadingHTTPServer
from pathlib import Path
from typing import Any, Final
from urllib.parse import parse_qs, unquote, urlsplit

import jsonpatch

from vpccni.lab.kube import defaults, events, schema
from vpccni.lab.kube.resources import BY_PATH, RESOURCES, Resource
from vpccni.lab.kube.selectors import selector
from vpccni.lab.kube.store import ApiError, Change, Object, Store
from vpccni.lab.unix_http import JsonHandler, UnixServer

WATCH_DEFAULT_S: Final = 300.0
BOOKMARK_S: Final = 5.0  # a real API server sends one a minute
EVENTS: Final = BY_PATH[("events.k8s.io", "v1", "events")]
DEFINITIONS: Final = BY_PATH[("apiextensions.k8s.io", "v1", "customresourcedefinitions")]
_PATH = re.compile(
    r"^/(?:api/(?P<core>v1)|apis/(?P<group>[^/]+)/(?P<version>[^/]+))"
    r"(?:/namespaces/(?P<namespace>[^/]+)(?=/[^/]+))?/(?P<plural>[^/]+)(?:/(?P<name>[^/]+))?(?:/(?P<sub>[^/]+))?$"
)
_NAMESPACE_SUB = re.compile(r"^/api/v1/namespaces/[^/]+/(status|finalize)$")


class Faults:
    """Refuses requests on demand: a status for paths with a prefix, or no answer at all."""

    def __init__(self) -> None:
        self.status: int | None = None
        self.prefix = ""

    def check(self, path: str) -> None:
        if self.status is not None and path.startswith(self.prefix):
            raise ApiError(self.status, "InternalError", "refused by a fault of the lab")


def merge_patch(target: Any, patch: Any) -> Any:
    """Return RFC 7396's merge of `patch` into `target`."""
    if not isinstance(patch, dict):
        return patch
    merged = dict(target) if isinstance(target, dict) else {}
    for key, value in patch.items():
        if value is None:
            merged.pop(key, None)
        else:
            merged[key] = merge_patch(merged.get(key), value)
    return merged


def _discovery(path: str) -> Object | None:
    """Answer /version, /api, /apis and their resource lists; None for other paths."""
    groups = sorted({(r.group, r.version) for r in RESOURCES if r.group})
    if path == "/version":
        return {
            "major": "1",
            "minor": "34",
            "gitVersion": "v1.34.2-lab",
            "platform": "linux/amd64",
            "buildDate": "2025-01-01T00:00:00Z",
            "compiler": "gc",
            "gitCommit": "lab",
            "gitTreeState": "clean",
            "goVersion": "none",
        }
    if path == "/api":
        return {"kind": "APIVersions", "versions": ["v1"]}
    if path == "/apis":
        rows = [
            {
                "name": g,
                "versions": [{"groupVersion": f"{g}/{v}", "version": v}],
                "preferredVersion": {"groupVersion": f"{g}/{v}", "version": v},
            }
            for g, v in groups
        ]
        return {"kind": "APIGroupList", "apiVersion": "v1", "groups": rows}
    found = re.match(r"^/(?:api/(v1)|apis/([^/]+)/([^/]+))$", path)
    if found:
        group, version = found[2] or "", found[1] or found[3]
        names = [r for r in RESOURCES if (r.group, r.version) == (group, version)]
        verbs = ["create", "delete", "get", "list", "patch", "update", "watch"]
        named = [
            {
                "name": r.plural,
                "singularName": r.kind.lower(),
                "namespaced": r.namespaced,
                "kind": r.kind,
                "verbs": verbs,
            }
            for r in names
        ]
        return {
            "kind": "APIResourceList",
            "apiVersion": "v1",
            "groupVersion": f"{group}/{version}" if group else version,
            "resources": named,
        }
    return None


def _status_of(error: ApiError) -> Object:
    return {
        "kind": "Status",
        "apiVersion": "v1",
        "metadata": {},
        "status": "Failure",
        "message": error.message,
        "reason": error.reason,
        "code": error.status,
    }


class Handler(JsonHandler):
    """One request of one client."""

    store: Store
    faults: Faults
    disable_nagle_algorithm = False  # set by hand: it does not exist on Unix sockets

    def setup(self) -> None:
        if self.request.family == socket.AF_INET:
            self.request.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        super().setup()

    def _dispatch(self, act: Callable[[Resource, dict[str, str]], None]) -> None:
        url = urlsplit(self.path)
        self._query = {key: values[-1] for key, values in parse_qs(url.query, keep_blank_values=True).items()}
        try:
            self.faults.check(url.path)
            act(*self._route(unquote(url.path)))
        except ApiError as error:
            self._refuse(error)
        except (jsonpatch.JsonPatchTestFailed, jsonpatch.JsonPatchConflict) as error:
            self._refuse(ApiError(422, "Invalid", f"the server rejected our request: {error}"))
        except (ValueError, KeyError, TypeError, jsonpatch.JsonPatchException) as error:
            self._refuse(ApiError(400, "BadRequest", f"the request cannot be understood: {error!r}"))

    def _refuse(self, error: ApiError) -> None:
        self.reply(error.status, _status_of(error))

    def _route(self, path: str) -> tuple[Resource, dict[str, str]]:
        if _NAMESPACE_SUB.match(path):
            _, _, _, _, name, sub = path.split("/")
            return BY_PATH[("", "v1", "namespaces")], {"namespace": "", "name": name, "sub": sub}
        found = _PATH.match(path)
        resource = (
            BY_PATH.get((found["group"] or "", found["core"] or found["version"], found["plural"])) if found else None
        )
        if found is None or resource is None:
            raise ApiError(404, "NotFound", f"the server could not find the requested resource {path}")
        return resource, {key: found[key] or "" for key in ("namespace", "name", "sub")}

    def do_GET(self) -> None:
        path = urlsplit(self.path).path.rstrip("/")
        if path in ("/healthz", "/livez", "/readyz"):
            return self.reply(200, "ok")
        if (document := _discovery(path)) is not None:
            return self.reply(200, document)
        return self._dispatch(self._read)

    def do_POST(self) -> None:
        if self.path.startswith("/lab/"):
            return self._lab_verb()
        return self._dispatch(self._create)

    def do_PUT(self) -> None:
        self._dispatch(self._replace)

    def do_PATCH(self) -> None:
        self._dispatch(self._patch)

    def do_DELETE(self) -> None:
        self._dispatch(self._delete)

    def _lab_verb(self) -> None:
        """The lab's own door: compact the history, or refuse requests."""
        ask = self.body() or {}
        if self.path == "/lab/compact":
            self.store.forget_history()
        elif self.path == "/lab/fault":
            self.faults.status, self.faults.prefix = ask.get("status"), ask.get("prefix", "")
        self.reply(200, {})

    def _read(self, resource: Resource, at: dict[str, str]) -> None:
        if at["name"]:
            return self.reply(200, self.store.get(resource, at["namespace"], at["name"]))
        keep = selector(self._query.get("labelSelector", ""), self._query.get("fieldSelector", ""))
        namespace = at["namespace"] or None
        if self._query.get("watch") in ("1", "true"):
            return self._watch(resource, namespace, keep)
        items, version = self.store.list(resource, namespace, keep)
        meta: Object = {"resourceVersion": str(version)}
        if self._query.get("limit") and self._query["limit"] != "0":
            items, more, left = _chunk(items, int(self._query["limit"]), self._query.get("continue", ""))
            meta |= {"continue": more, "remainingItemCount": left} if more else {}
        return self.reply(
            200, {"kind": f"{resource.kind}List", "apiVersion": resource.api_version, "metadata": meta, "items": items}
        )

    def _watch(self, resource: Resource, namespace: str | None, keep: Callable[[Object], bool]) -> None:
        seconds = float(self._query.get("timeoutSeconds") or WATCH_DEFAULT_S)
        bookmarks = self._query.get("allowWatchBookmarks") in ("1", "true")
        since = int(self._query.get("resourceVersion") or 0)
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        self.wfile.flush()
        try:
            self._stream(since, seconds, resource, namespace, keep, bookmarks=bookmarks)
            self.wfile.write(b"0\r\n\r\n")
            self.wfile.flush()
        except OSError:
            self.close_connection = True

    def _stream(self, since: int, seconds: float, resource: Resource, namespace: str | None, keep: Callable[[Object], bool],
                *, bookmarks: bool) -> None:  # fmt: skip
        try:
            if since == 0:
                items, since = self.store.list(resource, namespace, keep)
                for item in items:
                    self._event("ADDED", item)
            for step in self.store.watch(since, until=time.monotonic() + seconds, bookmark_s=BOOKMARK_S):
                self._step(step, resource, namespace, keep, bookmarks=bookmarks)
        except ApiError as error:
            self._event("ERROR", _status_of(error))

    def _step(self, step: Change | int, resource: Resource, namespace: str | None, keep: Callable[[Object], bool],
              *, bookmarks: bool) -> None:  # fmt: skip
        if isinstance(step, int):
            if bookmarks:
                mark = {
                    "kind": resource.kind,
                    "apiVersion": resource.api_version,
                    "metadata": {"resourceVersion": str(step)},
                }
                self._event("BOOKMARK", mark)
            return
        if step.resource is not resource or namespace not in (None, step.object["metadata"].get("namespace")):
            return
        now, before = keep(step.object), step.before is not None and keep(step.before)
        if step.type == "MODIFIED" and now != before:
            self._event("ADDED" if now else "DELETED", step.object)
        elif now or (step.type == "DELETED" and before):
            self._event(step.type, step.object)

    def _event(self, kind: str, obj: Object) -> None:
        line = json.dumps({"type": kind, "object": obj}).encode() + b"\n"
        self.wfile.write(b"%x\r\n%s\r\n" % (len(line), line))
        self.wfile.flush()

    def _create(self, resource: Resource, at: dict[str, str]) -> None:
        new = self.body()
        if resource is EVENTS:
            events.check_new(new, at["namespace"])
        defaults.apply(resource, new)
        self.reply(201, self.store.create(resource, at["namespace"], self._fitting(resource, new)))

    def _replace(self, resource: Resource, at: dict[str, str]) -> None:
        new = self._fitting(resource, self.body())
        self.reply(200, self.store.update(resource, at["namespace"], at["name"], lambda _: new, subresource=at["sub"]))

    def _patch(self, resource: Resource, at: dict[str, str]) -> None:
        patch, kind = self.body(), self.headers.get("Content-Type", "")

        def change(before: Object) -> Object:
            if "json-patch" in kind:
                patched: Object = jsonpatch.apply_patch(before, patch)
                return patched
            if "strategic" in kind and (conditions := patch.get("status", {}).get("conditions")):
                # Conditions are the one list that strategic patches of nodes and pods carry; its key is the type.
                kept = {row["type"]: row for row in before.get("status", {}).get("conditions", [])}
                kept |= {row["type"]: {**kept.get(row["type"], {}), **row} for row in conditions}
                return {
                    **merge_patch(before, patch),
                    "status": {
                        **merge_patch(before.get("status", {}), patch["status"]),
                        "conditions": list(kept.values()),
                    },
                }
            merged: Object = merge_patch(before, patch)
            if not isinstance(patch, dict) or "resourceVersion" not in patch.get("metadata", {}):
                merged.get("metadata", {}).pop("resourceVersion", None)
            if resource is EVENTS:
                events.check_change(before, merged)
            return merged

        def fitting(before: Object) -> Object:
            return self._fitting(resource, change(before), before)

        self.reply(200, self.store.update(resource, at["namespace"], at["name"], fitting, subresource=at["sub"]))

    def _fitting(self, resource: Resource, obj: Object, before: Object | None = None) -> Object:
        """Return a custom object as its definition, where there is one, would store it. Raises ApiError 422.

        What was wrong already, of before the definition, is let through: a real API server asks no more of a change (ratcheting).
        """
        definition = self.store.find(DEFINITIONS, "", f"{resource.plural}.{resource.group}")
        if definition is None:
            return obj
        (form,) = (row["schema"]["openAPIV3Schema"] for row in definition["spec"]["versions"] if row["name"] == resource.version)  # fmt: skip
        forms = {part: form["properties"][part] for part in ("spec", "status") if part in form["properties"]}
        filled = {part: schema.completed(one, obj[part]) for part, one in forms.items() if part in obj}
        old = {fault for part in filled if before for fault in schema.faults(forms[part], before.get(part, {}), part)}
        wrong = [fault for part, value in filled.items() for fault in schema.faults(forms[part], value, part) if fault not in old]  # fmt: skip
        if wrong:
            raise ApiError(422, "Invalid", f"{resource.kind} is invalid: {'; '.join(wrong)}")
        return {**obj, **filled}

    def _delete(self, resource: Resource, at: dict[str, str]) -> None:
        expected = ((self.body() or {}).get("preconditions") or {}).get("resourceVersion")
        if at["name"]:
            return self.reply(200, self.store.delete(resource, at["namespace"], at["name"], expected=expected))
        keep = selector(self._query.get("labelSelector", ""), self._query.get("fieldSelector", ""))
        items, _ = self.store.list(resource, at["namespace"] or None, keep)
        for item in items:
            self.store.delete(resource, item["metadata"].get("namespace", ""), item["metadata"]["name"])
        return self.reply(200, {"kind": "Status", "apiVersion": "v1", "status": "Success"})


def _chunk(items: list[Object], limit: int, token: str) -> tuple[list[Object], str, int]:
    start = int(token or 0)
    end = start + limit
    return items[start:end], str(end) if end < len(items) else "", max(len(items) - end, 0)


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128
    faults: Faults

    def __init__(self, address: tuple[str, int], handler: type[Handler]) -> None:
        super().__init__(address, handler)
        self.faults = handler.faults
        self._open: set[socket.socket] = set()

    def process_request(self, request: Any, client_address: Any) -> None:
        self._open.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        self._open.discard(request)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is no error; all else is shown."""
        if not isinstance(sys.exc_info()[1], OSError):
            super().handle_error(request, client_address)

    def close_all(self) -> None:
        """Cut every connection, as a killed server does."""
        for request in list(self._open):
            with contextlib.suppress(OSError):
                request.shutdown(socket.SHUT_RDWR)


def serve(store: Store, address: tuple[str, int] | None, socket_path: Path | None) -> list[Any]:
    """Serve on a TCP address and on a Unix socket, each in a thread; return the servers."""
    handler = type("StoreHandler", (Handler,), {"store": store, "faults": Faults()})
    servers: list[Any] = []
    if address is not None:
        servers.append(_Server(address, handler))
    if socket_path is not None:
        servers.append(UnixServer(str(socket_path), handler))
    for server in servers:
        threading.Thread(target=server.serve_forever, name="kube", daemon=True).start()
    return servers

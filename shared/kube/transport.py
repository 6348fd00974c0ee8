"""Adapter of the `kubernetes` package: its transport (TLS, proxies, keep-alive) without its models.

`import kubernetes` costs 34 MB (22 beside boto3), nearly all of it generated models and APIs that nothing here needs. Its two modules that
carry requests cost 2 MB beside boto3: they are loaded with empty packages in place of the packages' `__init__`
(docs/decisions/0006-kubernetes-client.md).
"""

from __future__ import annotations

import importlib.util
import os
import socket
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any, Final, NamedTuple
from urllib.parse import urlencode

import msgspec

from vpccni.shared.effects import effect
from vpccni.shared.kube.access import Access
from vpccni.shared.kube.errors import KubeRefused, remedy_of

CONNECT_TIMEOUT_S: Final = 3.0
BODY_BYTES_AT_MOST: Final = 64 * 1024 * 1024
LINE_BYTES_AT_MOST: Final = 8 * 1024 * 1024
"""An object has at most 1.5 MiB in etcd; as JSON it is larger."""
READ_BYTES: Final = 64 * 1024
MERGE_PATCH: Final = "application/merge-patch+json"
JSON: Final = "application/json"
_PACKAGES: Final = ("kubernetes", "kubernetes.client", "kubernetes.utils")
_importing = threading.Lock()
_loaded: list[Any] = []


class Reply(NamedTuple):
    """A successful answer."""

    status: int
    body: bytes


class _Refusal(msgspec.Struct):
    message: str = ""
    reason: str = ""


class _Late(KubeRefused):
    """Nothing came in time."""


class Transport:
    """Requests to one API server; used by one thread at a time, but for `shut`. Every error is a `KubeRefused`."""

    def __init__(self, access: Access, *, user_agent: str) -> None:
        self._access, self._agent = access, user_agent
        self._descriptors: list[int] = []
        rest, configuration = _modules()
        settings = configuration.Configuration(host=access.server, **({"proxy": access.proxy} if access.proxy else {}))
        settings.verify_ssl = access.verify
        settings.ssl_ca_cert = self._file(access.ca_file, access.ca_data)
        settings.cert_file = self._file(access.cert_file, access.cert_data)
        settings.key_file = self._file(access.key_file, access.key_data)
        settings.tls_server_name = access.server_name or None
        settings.retries = False  # pauses and limits are ours
        settings.keep_alive = True
        settings.connection_pool_maxsize = 1
        self._rest = rest.RESTClientObject(settings)
        self._streaming: Any = None

    def close(self) -> None:
        """Close connections and descriptors."""
        self._rest.close()
        for descriptor in self._descriptors:
            os.close(descriptor)
        self._descriptors.clear()

    def shut(self) -> None:
        """End a stream that another thread reads: its next read says that it is over."""
        streaming = self._streaming
        if streaming is not None:
            try:
                streaming.shutdown()
            except (OSError, ValueError, RuntimeError):
                return  # it has just ended by itself

    def ask(self, method: str, path: str, query: Mapping[str, str], *, timeout_s: float, body: object = None,
            content_type: str = JSON) -> Reply:  # fmt: skip
        """Send one request and return the whole answer, within `timeout_s` of silence and about twice that in all."""
        deadline = time.monotonic() + timeout_s
        with effect(f"kube.{method.lower()}"):
            response = self._send(method, path, query, read_timeout_s=timeout_s, body=body, content_type=content_type)
        try:
            return Reply(response.status, _whole(response, deadline, path))
        finally:
            response.release_conn()

    def lines(self, path: str, query: Mapping[str, str], *, opening_s: float, silence_s: float) -> Iterator[bytes]:
        """Yield the lines of a stream until it ends, or nothing comes for `silence_s`. It must begin within `opening_s`."""
        response = self._send("GET", path, query, read_timeout_s=opening_s)
        if (connection := response.connection) is not None and connection.sock is not None:
            connection.sock.settimeout(silence_s)
        self._streaming = response
        rest = b""
        try:
            for chunk in _chunks(response, path):
                *lines, rest = (rest + chunk).split(b"\n")
                yield from (line for line in lines if line.strip())
                if len(rest) > LINE_BYTES_AT_MOST:
                    raise KubeRefused("a line of the stream is too long", status=0, on=path)
        except _Late:
            return
        finally:
            self._streaming = None
            response.close()

    def _send(self, method: str, path: str, query: Mapping[str, str], *, read_timeout_s: float, body: object = None,
              content_type: str = JSON) -> Any:  # fmt: skip
        """Return the response with its body unread; anything but a success is raised."""
        url = f"{self._access.server.rstrip('/')}{path}{'?' if query else ''}{urlencode(query)}"
        headers = {"Accept": JSON, "Content-Type": content_type, "User-Agent": self._agent}
        if authorization := self._access.authorization():
            headers["Authorization"] = authorization
        timeouts = (min(CONNECT_TIMEOUT_S, read_timeout_s), read_timeout_s)
        try:
            response = self._rest.request(method, url, headers=headers, body=body, _request_timeout=timeouts).response
        except Exception as error:
            raise _no_answer(path, error) from error
        if not 200 <= response.status < 300:
            raise _refusal(response, path, time.monotonic() + read_timeout_s)
        return response

    def _file(self, path: str, data: bytes) -> str | None:
        """Return a path for what TLS reads from files only; contents never touch a disk."""
        if not data:
            return path or None
        descriptor = os.memfd_create("kubeconfig")
        self._descriptors.append(descriptor)
        os.write(descriptor, data)
        return f"/proc/self/fd/{descriptor}"


def _modules() -> tuple[Any, Any]:
    """Return `kubernetes.client.rest` and `.configuration`; the stand-ins for their packages leave no trace."""
    with _importing:
        if not _loaded:
            found = importlib.util.find_spec("kubernetes")
            if found is None or found.origin is None:
                raise KubeRefused("the package kubernetes is not installed", status=0)
            others = _taken_out()
            for name in _PACKAGES:
                package = ModuleType(name)
                package.__path__ = [str(Path(found.origin).parent.joinpath(*name.split(".")[1:]))]
                sys.modules[name] = package
            try:
                _loaded.extend(import_module(f"kubernetes.client.{name}") for name in ("rest", "configuration"))
            finally:
                _taken_out()
                sys.modules.update(others)
        return _loaded[0], _loaded[1]


def _taken_out() -> dict[str, ModuleType]:
    names = [name for name in sys.modules if name.split(".")[0] == "kubernetes"]
    return {name: sys.modules.pop(name) for name in names}


def _chunks(response: Any, path: str) -> Iterator[bytes]:
    """Yield what arrives as it arrives."""
    try:
        if response.chunked:
            yield from response.stream(decode_content=True)
        else:
            while piece := response.read1(READ_BYTES):
                yield piece
    except Exception as error:
        raise _no_answer(path, error) from error


def _whole(response: Any, deadline: float, path: str) -> bytes:
    pieces, size = [], 0
    for piece in _chunks(response, path):
        pieces.append(piece)
        size += len(piece)
        if size > BODY_BYTES_AT_MOST:
            raise KubeRefused("the answer is too large", status=0, on=path, why=f"over {BODY_BYTES_AT_MOST} bytes")
        if time.monotonic() > deadline:
            raise KubeRefused("the answer does not end", status=0, on=path)
    return b"".join(pieces)


def _refusal(response: Any, path: str, deadline: float) -> KubeRefused:
    try:
        said = msgspec.json.decode(_whole(response, deadline, path), type=_Refusal)
        why = said.message or said.reason
    except (KubeRefused, msgspec.MsgspecError):
        why = ""
    finally:
        response.close()
    status = int(response.status)
    return KubeRefused(
        "the Kubernetes API refuses", status=status, on=path, why=f"{status} {why or response.reason or ''}".strip(),
        remedy=remedy_of(status),
    )  # fmt: skip


def _no_answer(path: str, error: BaseException) -> KubeRefused:
    """Say what happened in the system's own words: urllib3's texts carry addresses of objects that differ each time."""
    seen: BaseException | None = error
    while seen is not None and not isinstance(seen, OSError):
        seen = seen.__cause__ or seen.__context__
    if isinstance(seen, TimeoutError | socket.timeout):
        return _Late("the Kubernetes API does not answer", status=0, on=path, why="no answer in time")
    if isinstance(seen, OSError) and seen.strerror:
        why = seen.strerror
    else:
        why = f"{type(error).__name__}: {error}".split(" object at 0x")[0]
    return KubeRefused("the Kubernetes API does not answer", status=0, on=path, why=why)

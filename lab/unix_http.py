"""JSON over HTTP on a Unix socket: how the machine asks a lab's processes without entering its namespaces."""

from __future__ import annotations

import http.client
import json
import os
import socket
import socketserver
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any, Final

ASK_TIMEOUT_S: Final = 30.0


class _Connection(http.client.HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("lab", timeout=ASK_TIMEOUT_S)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(ASK_TIMEOUT_S)
        self.sock.connect(str(self._path))


def ask(path: Path, method: str, url: str, body: Any = None, content_type: str = "application/json") -> tuple[int, Any]:
    """Return status and decoded JSON reply. Raises OSError if nobody answers."""
    connection = _Connection(path)
    try:
        text = None if body is None else json.dumps(body)
        connection.request(method, url, body=text, headers={"Content-Type": content_type})
        reply = connection.getresponse()
        data = reply.read()
        return reply.status, json.loads(data) if data else None
    finally:
        connection.close()


class UnixServer(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    """An HTTP server on a Unix socket. Its path appears when connections are taken: who waits for the path may use it at once."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(self, path: str, handler: type[BaseHTTPRequestHandler]) -> None:
        self._path = path
        super().__init__(f"{path}.new", handler)

    def server_activate(self) -> None:
        super().server_activate()
        os.rename(f"{self._path}.new", self._path)


class JsonHandler(BaseHTTPRequestHandler):
    """A handler with JSON helpers that works on Unix sockets, where a caller has no address."""

    protocol_version = "HTTP/1.1"
    wbufsize = -1

    def address_string(self) -> str:
        return "unix"

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing a request: the call log is kept elsewhere."""

    def body(self) -> Any:
        """Return the request's JSON body, None if there is none."""
        length = int(self.headers.get("Content-Length") or 0)
        return json.loads(self.rfile.read(length)) if length else None

    def reply(self, status: int, document: Any) -> None:
        """Send a JSON document in one write."""
        data = json.dumps(document).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)
        self.wfile.flush()

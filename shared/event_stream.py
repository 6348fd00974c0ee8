"""Server-sent events on the loop: one text for all who listen, sent again when it changed. A client that does not read is let go.

Nothing is computed and no timer runs while nobody listens. Connections come from `http.HandOver`.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from vpccni.shared.loop import Loop, Timer

CLIENTS_AT_MOST: Final = 8
LOOK_EVERY_S: Final = 1.0
ALIVE_EVERY_S: Final = 15.0
"""A comment so often: it tells a client that went from one that waits."""
BEHIND_AT_MOST_S: Final = 5.0
HEAD: Final = (
    b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nCache-Control: no-store\r\nConnection: close\r\n\r\n"
    b"retry: 1000\n\n"
)
TOO_MANY: Final = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"


@dataclass(slots=True)
class _Client:
    connection: socket.socket
    given: bytes
    unsent: bytes
    behind_since: float
    heard_at: float


class EventStream:
    """See the module. `text()` is asked for once a second while somebody listens."""

    def __init__(self, loop: Loop, text: Callable[[], str]) -> None:
        self._loop, self._text = loop, text
        self._clients: list[_Client] = []
        self._timer: Timer | None = None

    def take(self, connection: socket.socket) -> None:
        """Serve one more client, from the present text on; one too many is told to try later."""
        connection.setblocking(False)
        now = self._loop.clock()
        if len(self._clients) >= CLIENTS_AT_MOST:
            self._flush(_Client(connection, b"", TOO_MANY, now, now))
            connection.close()
            return
        event = self._event_now()
        client = _Client(connection, event, HEAD + event, now, now)
        self._clients.append(client)
        if self._timer is None:
            self._timer = self._loop.every(LOOK_EVERY_S, self._look, name="event stream")
        self._serve(client)

    def _event_now(self) -> bytes:
        return b"data: " + self._text().replace("\n", "\ndata: ").encode() + b"\n\n"

    def _look(self) -> None:
        event = self._event_now()
        now = self._loop.clock()
        for client in list(self._clients):
            if event != client.given and not client.unsent:  # one that is behind gets the newest when it has caught up
                client.given, client.unsent, client.behind_since = event, event, now
            elif not client.unsent and now - client.heard_at > ALIVE_EVERY_S:
                client.unsent, client.behind_since = b":\n\n", now
            self._serve(client)
        if not self._clients and self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _serve(self, client: _Client) -> None:
        late = bool(client.unsent) and self._loop.clock() - client.behind_since > BEHIND_AT_MOST_S
        if late or not self._flush(client):
            self._clients.remove(client)
            client.connection.close()

    def _flush(self, client: _Client) -> bool:
        """Send what goes without waiting; False when the client went."""
        while client.unsent:
            try:
                sent = client.connection.send(client.unsent)
            except BlockingIOError:
                return True
            except OSError:
                return False
            client.unsent = client.unsent[sent:]
            client.heard_at = self._loop.clock()
        return True

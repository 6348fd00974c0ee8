"""Adapter: the pages of all pods through the API server's proxy, many at a time (spec operations.md 4.2, 17.7).

Blocking: one call of `collect` is one cycle. One pod that hangs holds one of `AT_ONCE` connections for `WITHIN_S`; one that sends garbage
costs itself alone.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import Final

from vpccni.components.metrics_helper.parse import Page, Unreadable, parse
from vpccni.shared.errors import VpccniError
from vpccni.shared.kube.transport import Transport

AT_ONCE: Final = 32
WITHIN_S: Final = 4.0
"""Of silence for one page; twice that in all."""
PORT: Final = 61678


@dataclass(frozen=True, slots=True)
class Target:
    """One aws-node pod."""

    uid: str
    namespace: str
    name: str

    def path(self) -> str:
        return f"/api/v1/namespaces/{self.namespace}/pods/{self.name}:{PORT}/proxy/metrics"


Outcome = Page | VpccniError


class Scraper:
    """Connections that are kept from cycle to cycle, one a thread."""

    def __init__(self, connect: Callable[[], Transport], *, at_once: int = AT_ONCE, within_s: float = WITHIN_S) -> None:
        self._connect, self._within_s = connect, within_s
        self._threads = ThreadPoolExecutor(at_once, thread_name_prefix="scrape")
        self._local = threading.local()

    def collect(self, targets: Sequence[Target], *, until: float) -> Mapping[str, Outcome]:
        """Return a page or an error for each pod's uid, at the latest `WITHIN_S` or so after `until` (monotonic seconds)."""
        asked = {one.uid: self._threads.submit(self._page, one, until) for one in targets}
        wait(asked.values())
        return {uid: future.result() for uid, future in asked.items()}

    def close(self) -> None:
        """Let go of the threads; what they are waiting for ends by its own limit."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _page(self, target: Target, until: float) -> Outcome:
        left_s = until - time.monotonic()
        if left_s <= 0:
            return Unreadable("the pod was not asked", on=target.name, why="the cycle's time was over before its turn")
        try:
            reply = self._connected().ask("GET", target.path(), {}, timeout_s=min(self._within_s, max(left_s, 0.1)))
            return parse(reply.body.decode("utf-8"))
        except UnicodeDecodeError as error:
            return Unreadable("the page cannot be read", on=target.name, why=str(error))
        except Unreadable as error:
            return error
        except VpccniError as error:
            self._disconnect()
            return error

    def _connected(self) -> Transport:
        transport: Transport | None = getattr(self._local, "transport", None)
        if transport is None:
            transport = self._local.transport = self._connect()
        return transport

    def _disconnect(self) -> None:
        transport: Transport | None = getattr(self._local, "transport", None)
        self._local.transport = None
        if transport is not None:
            transport.close()

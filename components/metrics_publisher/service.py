"""The publisher's loop: events into copies, copies into pages. A scrape asks nobody."""

from __future__ import annotations

import platform
from collections.abc import Callable
from typing import Any, Final

import vpccni
from vpccni.components.metrics_publisher import introspection, node_page
from vpccni.components.metrics_publisher.exposition import merged, render
from vpccni.components.metrics_publisher.own_process import process_series
from vpccni.components.metrics_publisher.pool import Picture, card_gauges, pool_gauges
from vpccni.components.metrics_publisher.sources import Series, Source, stale
from vpccni.shared import names
from vpccni.shared.clock import wall_ns
from vpccni.shared.event_stream import EventStream
from vpccni.shared.exposition import CONTENT_TYPE
from vpccni.shared.http import NOT_FOUND, Answer, HandOver, HttpServer, Reply
from vpccni.shared.messages.allocation import LedgerState, PoolState
from vpccni.shared.messages.common import Status
from vpccni.shared.messages.inventory import Inventory, NodeFacts
from vpccni.shared.messages.policy import PolicyState
from vpccni.shared.messages.wiring import UsableEnis, Wirings
from vpccni.shared.node_view import Heard, NodeView, view
from vpccni.shared.process import Process

METRICS_ADDRESS: Final = ":61678"  # spec operations.md 2.1
METRICS_ADDRESS_VARIABLE: Final = "VPCCNI_METRICS_BIND_ADDRESS"
LOOK_EVERY_S: Final = 5.0
JSON: Final = "application/json"


class Service:
    """See the module."""

    def __init__(self, process: Process) -> None:
        self._process = process
        self._picture = Picture()
        self._sources = {name: Source(name) for name in names.NODE_PROCESSES}
        self._servers: list[HttpServer] = []
        self._stream = EventStream(process.loop, lambda: node_page.content(self._view()))
        release = (("goversion", f"python{platform.python_version()}"), ("version", vpccni.__version__))
        self._build: dict[Series, float] = {("awscni_build_info", release): 1.0}

    def start(self) -> None:
        """Keep copies of what the others publish, and open the ports that the operator wants."""
        kept: dict[str, dict[type[Any], Callable[[Any], None]]] = {
            names.ENI_MANAGER: {Inventory: self._take_inventory, NodeFacts: self._take_node},
            names.IP_ALLOCATOR: {PoolState: self._take_pool, LedgerState: self._take_ledger},
            names.NETLINK_PROGRAMMER: {UsableEnis: self._take_usable, Wirings: self._take_wirings},
            names.POLICY_AGENT: {PolicyState: self._take_policy},
        }
        for peer, handlers in kept.items():
            self._process.subscribe(peer, {Status: self._take_status, **handlers})
        settings = self._process.settings
        if settings.metrics_enabled:
            self._open("metrics", self._process.raw.get(METRICS_ADDRESS_VARIABLE) or METRICS_ADDRESS, self._metrics)
        if settings.introspection_enabled:
            self._open("introspection", settings.introspection_bind_address, self._introspection)
        self._process.loop.every(LOOK_EVERY_S, self._look_for_stale, name="look for stale sources")
        self._process.serving()

    def _open(self, what: str, address: str, answer: Answer) -> None:
        def trouble(why: str) -> None:
            if why:
                self._process.degraded(what, f"{what}: {why}")
            else:
                self._process.healthy(what)
                self._process.log.info("listening", what=what, address=address)

        server = HttpServer(self._process.loop, address, answer, trouble)
        self._servers.append(server)
        server.start()

    # -- events

    def _take_status(self, status: Status) -> None:
        source = self._sources.get(status.process)
        if source is None:
            self._process.count("vpccni_publisher_unknown_sources")
            return
        source.take(status, self._process.loop.clock())
        self._process.count("vpccni_publisher_heartbeats", source=status.process)

    def _take_inventory(self, inventory: Inventory) -> None:
        self._picture.inventory = inventory

    def _take_node(self, node: NodeFacts) -> None:
        self._picture.node = node

    def _take_pool(self, pool: PoolState) -> None:
        self._picture.pool = pool

    def _take_ledger(self, ledger: LedgerState) -> None:
        self._picture.ledger = ledger

    def _take_usable(self, usable: UsableEnis) -> None:
        self._picture.usable = usable

    def _take_wirings(self, wirings: Wirings) -> None:
        self._picture.wirings = wirings

    def _take_policy(self, policy: PolicyState) -> None:
        self._picture.policy = policy

    def _look_for_stale(self) -> None:
        old = stale(
            (source for name, source in self._sources.items() if name != self._process.name), self._process.loop.clock()
        )
        if old:
            self._process.degraded(
                "sources", f"not heard for two heartbeats: {', '.join(old)}; shown as they last were"
            )
        else:
            self._process.healthy("sources")

    # -- pages

    def _metrics(self, path: str) -> Reply:
        if path != "/metrics":
            return NOT_FOUND
        now = self._process.loop.clock()
        self._process.count("vpccni_publisher_scrapes")
        self._sources[self._process.name].take(self._process.status(), now)
        extra = self._build | pool_gauges(self._picture) | card_gauges(self._view().enis) | process_series()
        counters, gauges = merged(list(self._sources.values()), extra, now)
        return Reply(render(counters, gauges), content_type=CONTENT_TYPE)

    def _introspection(self, path: str) -> Reply | HandOver:
        self._process.log.info("introspection", path=path)
        if path == node_page.PATH:
            return Reply(node_page.page(self._view()), content_type=node_page.CONTENT_TYPE)
        if path == node_page.EVENTS_PATH:
            return HandOver(self._stream.take)
        if not introspection.is_found(path, self._picture):
            return Reply("Not Found", 404)
        return Reply(introspection.answer(path, self._picture, self._process.settings), content_type=JSON)

    def _view(self) -> NodeView:
        """Return the node as the copies here show it, this process as it is now."""
        now = self._process.loop.clock()
        self._sources[self._process.name].take(self._process.status(), now)
        heard = {
            name: Heard(source.status, max(0.0, now - source.heard_at), source.restarts, source.is_stale(now))
            for name, source in self._sources.items()
        }
        return view(
            self._picture,
            heard,
            wall_ns=wall_ns(),
            boot_s=now,
            cooldown_s=self._process.settings.ip_cooldown_s,
            totals=self._sources[names.ENI_MANAGER].totals(),
        )

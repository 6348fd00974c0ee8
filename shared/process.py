"""What every component's `__main__` starts from: settings, log, lock, loop, bus, counters, health and the common requests.

process = Process.start(names.IP_ALLOCATOR, argv)
process.handle(Release, ...)        # serve
process.subscribe(...)              # keep copies
return process.run()
"""

from __future__ import annotations

import argparse
import os
import sys
import uuid
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, TypeVar

import zmq

from vpccni.shared import effects, flapping, settings_file
from vpccni.shared.bus import AccessControl, Call, Client, Publisher, Server, Subscription, claim
from vpccni.shared.bus.access import bus_folder, endpoint
from vpccni.shared.clock import boottime
from vpccni.shared.errors import SettingsError, VpccniError
from vpccni.shared.log import LEVELS, Log, level_name
from vpccni.shared.loop import Loop, Timer
from vpccni.shared.messages.base import Message
from vpccni.shared.messages.common import (
    ArmKillPoint,
    Counter,
    Done,
    EffectsRecorded,
    ErrorReply,
    Gauge,
    GetSnapshot,
    GetStatus,
    GetTrace,
    RecordEffects,
    SetLogLevel,
    Status,
    Trace,
)
from vpccni.shared.parent import end_with_parent
from vpccni.shared.settings import Settings, read
from vpccni.shared.signals import when_told_to_end
from vpccni.shared.vitals import Vitals

M = TypeVar("M", bound=Message)

HEARTBEAT_S: Final = 5.0
RUN_DIR_DEFAULT: Final = "/var/run/aws-node"
EXIT_SETTINGS: Final = 1


class Process(Vitals):
    """One component at run time. Made by `start`; `run` returns the exit status."""

    def __init__(self, name: str, run_dir: Path, settings: Settings, raw: Mapping[str, str], log: Log) -> None:
        super().__init__(log)
        self.name, self.run_dir, self.settings, self.raw = name, run_dir, settings, raw
        self.epoch = uuid.uuid4().hex[:16]
        self.started_at = boottime()
        self._lock = claim(run_dir, name)
        self.loop = Loop(on_error=self._on_error)
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._context.set(zmq.MAX_SOCKETS, 256)
        self._access = AccessControl(self._context, self.loop, refused=self._refused)
        self.served_at = 0.0
        self._on_stop: list[Callable[[], None]] = []
        self._clients: dict[str, Client] = {}
        self._level_timer: Timer | None = None
        self._exit_status = 0
        self.detail: Callable[[], dict[str, Any]] = dict
        self.server = Server(self._context, self.loop, endpoint(run_dir, name, "rpc"), count=self._count_labels)
        self.publisher = Publisher(self._context, endpoint(run_dir, name, "events"), epoch=self.epoch)
        self.gauge("vpccni_bus_waiting", lambda: float(self.server.waiting()))
        self._serve_common()
        self.loop.every(HEARTBEAT_S, self.heartbeat, name="heartbeat")

    @classmethod
    def start(cls, name: str, argv: Sequence[str]) -> Process:
        """Return the process named `name`, or end (SystemExit) with one clear line when it cannot start."""
        parser = argparse.ArgumentParser(prog=f"vpccni {name}")
        parser.add_argument("--run-dir", type=Path, default=Path(os.environ.get("VPCCNI_RUN_DIR", RUN_DIR_DEFAULT)))
        arguments = parser.parse_args(argv)
        try:
            end_with_parent(os.environ)
            arguments.run_dir.mkdir(parents=True, exist_ok=True)
            waited = flapping.slow_down(bus_folder(arguments.run_dir), name)
            raw = settings_file.raw_settings(arguments.run_dir, os.environ)
            reading = read(raw)
            if reading.errors:
                raise SettingsError(
                    "the settings cannot be used",
                    why="; ".join(reading.errors),
                    remedy="Correct the environment of aws-node",
                )
            log = Log(name, level=_log_level(name, raw), path=raw.get("VPCCNI_LOG_FILE", "stderr"))
            if waited:
                log.warning("started too often, start delayed", seconds=waited)
            for warning in reading.warnings:
                log.warning("setting replaced by its default", detail=warning)
            return cls(name, arguments.run_dir, reading.settings, raw, log)
        except (VpccniError, OSError) as error:
            sys.stderr.write(f"vpccni {name}: {error}\n")
            raise SystemExit(EXIT_SETTINGS) from error

    # -- messages

    def handle(
        self, kind: type[M], handler: Callable[[M, Call], Awaitable[Message]], *, limit: int = 256, at_once: int = 64
    ) -> None:
        """Answer a message type; see `bus.server`."""
        self.server.handle(kind, handler, limit=limit, at_once=at_once)

    def handle_batch(
        self, kind: type[Message], handler: Callable[[Sequence[Call]], Sequence[Message]], *, limit: int = 2048
    ) -> None:
        """Answer all waiting messages of a type together."""
        self.server.handle_batch(kind, handler, limit=limit)

    def publish(self, message: Message) -> None:
        """Tell whoever keeps a copy; the latest of each type is what a snapshot gives."""
        self.publisher.publish(message)
        self.count("vpccni_bus_events", 1)

    def client(self, peer: str) -> Client:
        """Return the one connection to a peer's rpc socket."""
        if peer not in self._clients:
            self._clients[peer] = Client(self._context, self.loop, peer, endpoint(self.run_dir, peer, "rpc"))
        return self._clients[peer]

    def subscribe(self, peer: str, handlers: Mapping[type[Any], Callable[[Any], None]]) -> Subscription:
        """Keep a copy of what a peer publishes."""
        address = endpoint(self.run_dir, peer, "events")
        client = self.client(peer)
        return Subscription(self._context, self.loop, peer, address, client, handlers, count=self._count_labels)

    # -- health

    def serving(self) -> None:
        """Say that start-up is over."""
        if not self.served_at:
            self.served_at = boottime()
            self.log.info("serving", pid=os.getpid(), ms=round((self.served_at - self.started_at) * 1000))
            self.heartbeat()

    def status(self) -> Status:
        """Return state, health and metrics as one document."""
        state = "starting" if not self.served_at else "degraded" if self._reasons else "serving"
        return Status(
            process=self.name,
            pid=os.getpid(),
            epoch=self.epoch,
            started_at=self.started_at,
            now=boottime(),
            state=state,
            reasons=list(self._reasons.values()),
            log_level=self.log.level,
            counters=[Counter(name, value, dict(labels)) for (name, labels), value in self._counters.items()],
            gauges=[Gauge(name, value(), dict(labels)) for (name, labels), value in self._gauges.items()],
            detail=self.detail(),
        )

    def heartbeat(self) -> None:
        """Publish the status now."""
        self.publish(self.status())

    # -- life

    def on_stop(self, call: Callable[[], None]) -> None:
        """Call when SIGTERM or SIGINT asks for the end."""
        self._on_stop.append(call)

    def run(self) -> int:
        """Run until SIGTERM or SIGINT; return the exit status."""
        when_told_to_end(self.loop, self._stop)
        self.loop.run()
        self.log.info("ended", pid=os.getpid())
        self._context.destroy(linger=0)
        return self._exit_status

    def _stop(self) -> None:
        for call in self._on_stop:
            call()
        self.loop.stop()

    # -- requests that every process answers

    def _serve_common(self) -> None:
        self.handle(GetSnapshot, self._on_get_snapshot)
        self.handle(GetStatus, self._on_get_status)
        self.handle(SetLogLevel, self._on_set_log_level)
        self.handle(GetTrace, self._on_get_trace)
        if os.environ.get("VPCCNI_KILL_POINTS") == "1":
            self.handle(ArmKillPoint, self._on_arm)
            self.handle(RecordEffects, self._on_record)

    async def _on_get_snapshot(self, message: GetSnapshot, call: Call) -> Message:
        return self.publisher.snapshot()

    async def _on_get_status(self, message: GetStatus, call: Call) -> Message:
        return self.status()

    async def _on_set_log_level(self, message: SetLogLevel, call: Call) -> Message:
        if message.level.lower() not in LEVELS:
            return ErrorReply(
                code="bad_level", what=f"no log level {message.level!r:.20}", remedy=f"Use one of {', '.join(LEVELS)}"
            )
        before = self.log.level
        if self._level_timer is not None:
            self._level_timer.cancel()
        self.log.level = message.level.lower()
        self.log.info("log level set", level=self.log.level, seconds=message.for_seconds)
        if message.for_seconds > 0:
            self._level_timer = self.loop.call_later(message.for_seconds, lambda: self._level_back(before))
        return Done()

    def _level_back(self, level: str) -> None:
        self.log.level = level
        self.log.info("log level back", level=level)

    async def _on_get_trace(self, message: GetTrace, call: Call) -> Message:
        return Trace(trace_id=message.trace_id, lines=self.log.lines_of(message.trace_id))

    async def _on_arm(self, message: ArmKillPoint, call: Call) -> Message:
        effects.arm(message.effect, nth=message.nth, before=message.before)
        return Done()

    async def _on_record(self, message: RecordEffects, call: Call) -> Message:
        return EffectsRecorded(effects=effects.record(message.on))

    # -- edges

    def _count_labels(self, name: str, labels: dict[str, str]) -> None:
        self.count(name, 1, **labels)

    def _refused(self, peer: str) -> None:
        self.count("vpccni_bus_refused_peers", 1)
        self.log.warning("connection refused", peer=peer, why="it is another user's process")

    def _on_error(self, where: str, error: BaseException) -> None:
        self.count("vpccni_unexpected_errors", 1, where=where)
        self.log.exception("unexpected error", error, on=where)


def _log_level(name: str, raw: Mapping[str, str]) -> str:
    """Return the level for a process: LOG_LEVEL_<PROCESS> of its own environment, else AWS_VPC_K8S_CNI_LOGLEVEL (spec env.md 4)."""
    own = os.environ.get(f"LOG_LEVEL_{name.upper()}")
    return level_name(own or raw.get("AWS_VPC_K8S_CNI_LOGLEVEL") or "debug")

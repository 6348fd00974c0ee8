"""The helper's loop: the pods as Kubernetes shows them, a cycle every interval, a push to CloudWatch every second interval.

One cycle and one push run at a time, in a thread each; a cycle that takes as long as its interval ends there, and what was not asked is
asked in the next. Nothing waits for ever, and what CloudWatch does not take waits in `outbox`.
"""

from __future__ import annotations

import math
import os
import socket
import time
import uuid
from collections.abc import Mapping
from typing import Final

import msgspec

from vpccni.components.metrics_helper import cloudwatch, instance
from vpccni.components.metrics_helper.aggregate import Figures, Memory, aggregate
from vpccni.components.metrics_helper.cloudwatch import CloudWatch
from vpccni.components.metrics_helper.config import Config
from vpccni.components.metrics_helper.election import Election
from vpccni.components.metrics_helper.families import COUNTER, FORWARDED, SUMMARY
from vpccni.components.metrics_helper.outbox import BATCH, Datum, bounded
from vpccni.components.metrics_helper.parse import Page
from vpccni.components.metrics_helper.republish import page
from vpccni.components.metrics_helper.scrape import Outcome, Scraper, Target
from vpccni.shared.errors import CloudRefused, VpccniError
from vpccni.shared.exposition import CONTENT_TYPE
from vpccni.shared.http import NOT_FOUND, HttpServer, Reply
from vpccni.shared.instance_identity import identity
from vpccni.shared.kube import PODS, Kube, Wire
from vpccni.shared.kube.election import RETRY_S
from vpccni.shared.log import Log
from vpccni.shared.loop import Loop
from vpccni.shared.signals import when_told_to_end

LABELS: Final = "k8s-app=aws-node"  # spec operations.md 4.2
PUSH_EVERY_CYCLES: Final = 2  # spec operations.md 4.5
END_WITHIN_S: Final = 8.0
"""For the last push and the lease, inside the 10 s that the kubelet waits at least (it waits 30 s by default)."""
NAMED_AT_MOST: Final = 5


class _Spec(msgspec.Struct, frozen=True, rename="camel"):
    node_name: str = ""


class _Status(msgspec.Struct, frozen=True, rename="camel"):
    phase: str = ""


class PodWire(Wire, frozen=True, rename="camel"):
    """A pod as far as it is read."""

    spec: _Spec = _Spec()
    status: _Status = _Status()


def target_of(wire: PodWire) -> Target | None:
    """Return whom to ask; None for a pod that cannot answer: not running (yet), or going. One that is not ready does answer."""
    meta = wire.metadata
    if wire.status.phase != "Running" or meta.deletion_timestamp:
        return None
    return Target(meta.uid, meta.namespace, meta.name)


class Service:
    """See the module. Making one asks metadata and EC2 for what the environment does not tell; raises CloudRefused."""

    def __init__(self, config: Config, log: Log) -> None:
        self._config, self._log = config, log
        self._loop = Loop(on_error=self._on_error)
        self._own: dict[str, float] = {}
        self._reasons: dict[str, str] = {}
        self._cloudwatch = _cloudwatch_of(config) if config.use_cloudwatch else None
        self._kube = Kube(
            self._loop,
            config.raw,
            user_agent=f"cni-metrics-helper-{config.version}",
            count=self._count,
            degraded=self._degraded,
            healthy=self._healthy,
        )
        me = f"{config.identity}_{uuid.uuid4().hex[:8]}"
        self._election = Election(self._kube, config.own_namespace, me)
        self._scraper = Scraper(self._kube.connect)
        self._memory = Memory()
        self._sums: Mapping[str, float] = {}
        self._waiting: tuple[Datum, ...] = ()
        self._collecting = self._pushing = self._ending = False

    def run(self) -> int:
        """Run until SIGTERM or SIGINT."""
        when_told_to_end(self._loop, self._told_to_end)
        self._start()
        self._loop.run()
        self._kube.stop()
        self._scraper.close()
        self._log.info("ended", pid=os.getpid())
        return 0

    def _start(self) -> None:
        config = self._config
        self._pods = self._kube.watch(
            PODS,
            wire=PodWire,
            project=target_of,
            changed=lambda changes: None,
            namespace=config.namespace,
            labels=LABELS,
        )
        if config.use_prometheus:
            HttpServer(self._loop, config.bind_address, self._answer, self._listens).start()
        self._turn()
        self._loop.every(RETRY_S, self._turn, name="lease")
        self._loop.every(config.interval_s, self._spawn_cycle, name="cycle")
        if self._cloudwatch is not None:
            self._loop.every(config.interval_s * PUSH_EVERY_CYCLES, self._spawn_push, name="push")
        self._log.info("serving", pid=os.getpid(), seconds=config.interval_s, instance=socket.gethostname())

    def _told_to_end(self) -> None:
        if not self._ending:
            self._ending = True
            self._loop.call_later(END_WITHIN_S, self._loop.stop)
            self._loop.spawn(self._end(), name="end")

    async def _end(self) -> None:
        """Send what waits and free the lease; whatever of it fails, the end comes."""
        try:
            await self._push()
            await self._election.give_up()
        except VpccniError as error:
            self._log.warning("the lease stays until its time is over", error=str(error))
        finally:
            self._loop.stop()

    # -- cycles

    def _turn(self) -> None:
        self._loop.spawn(self._election.turn(), name="lease")

    def _spawn_cycle(self) -> None:
        if self._collecting or self._ending:
            return
        if not self._election.is_leader():
            self._memory, self._sums = Memory(), {}  # another one's time is not ours to count when we take over
            return
        self._loop.spawn(self._cycle(), name="cycle")

    async def _cycle(self) -> None:
        self._collecting = True
        try:
            targets = list(self._pods.objects.values())
            begun, wall = self._loop.clock(), time.time()
            until = time.monotonic() + self._config.interval_s
            outcomes = await self._loop.in_thread(lambda: self._scraper.collect(targets, until=until))
            read = self._read(targets, outcomes)
            self._memory, figures = aggregate(self._memory, read, {one.uid for one in targets})
            self._sums = figures.values
            self._own |= {"vpccni_helper_cycle_seconds": round(self._loop.clock() - begun, 3)}
            self._count("vpccni_helper_cycles")
            self._tell(targets, figures)
            if self._cloudwatch is not None:
                self._waiting = bounded([*self._waiting, *data_of(figures, wall, self._config.latency_unit)])
        finally:
            self._collecting = False

    def _read(self, targets: list[Target], outcomes: Mapping[str, Outcome]) -> dict[str, Page]:
        """Return the pages; who gave none is counted and named in one warning (spec operations.md 17.3)."""
        names = {one.uid: one.name for one in targets}
        failed = {names[uid]: outcome for uid, outcome in outcomes.items() if isinstance(outcome, VpccniError)}
        self._own["vpccni_helper_pods"] = len(targets)
        self._count("vpccni_helper_scrape_failures", len(failed))
        if failed:
            some = "; ".join(f"{name}: {error}" for name, error in list(failed.items())[:NAMED_AT_MOST])
            self._log.warning("pods left out", count=len(failed), total=len(targets), why=some)
        return {uid: outcome for uid, outcome in outcomes.items() if not isinstance(outcome, VpccniError)}

    def _tell(self, targets: list[Target], figures: Figures) -> None:
        names = {one.uid: one.name for one in targets}
        if figures.began_again:
            again = [names.get(uid, uid) for uid in figures.began_again]
            self._log.info(
                "counters began again",
                count=len(again),
                detail="counted from 0 on",
                pod=" ".join(again[:NAMED_AT_MOST]),
            )
        self._log.debug("collected", total=len(targets), seconds=self._own["vpccni_helper_cycle_seconds"])

    # -- CloudWatch

    def _spawn_push(self) -> None:
        if not self._ending:
            self._loop.spawn(self._push(), name="push")

    async def _push(self) -> None:
        """Send what waits, a batch at a time, until nothing waits or a call fails: then it waits for the next push."""
        if self._pushing or self._cloudwatch is None:
            return
        self._pushing = True
        try:
            while batch := self._waiting[:BATCH]:
                self._waiting = self._waiting[BATCH:]  # taken out while under way: bounding must not touch what is sent
                if not await self._sent(self._cloudwatch, batch):
                    return
        finally:
            self._pushing = False

    async def _sent(self, client: CloudWatch, batch: tuple[Datum, ...]) -> bool:
        try:
            await self._loop.in_thread(client.put, batch)
        except CloudRefused as error:
            self._count("vpccni_helper_cloudwatch_failures")
            if cloudwatch.is_final(error):
                self._count("vpccni_helper_cloudwatch_refused", len(batch))
                self._log.error("figures refused for ever", count=len(batch), code=error.error_code, error=str(error))
                return True
            self._waiting = bounded([*batch, *self._waiting])
            self._degraded("cloudwatch", f"CloudWatch takes nothing, {len(self._waiting)} figures wait. {error}")
            return False
        self._count("vpccni_helper_cloudwatch_sent", len(batch))
        self._healthy("cloudwatch")
        return True

    # -- the page

    def _answer(self, path: str) -> Reply:
        if path != "/metrics":
            return NOT_FOUND
        now = {
            "vpccni_helper_publishes": float(self._election.is_leader()),
            "vpccni_helper_cloudwatch_waiting": float(len(self._waiting)),
        }
        return Reply(page(self._sums, self._own | now), content_type=CONTENT_TYPE)

    def _listens(self, why: str) -> None:
        if why:
            self._degraded("metrics", why)
        else:
            self._healthy("metrics")

    # -- what it says of itself

    def _count(self, name: str, value: float = 1, **labels: str) -> None:
        self._own[name] = self._own.get(name, 0.0) + value

    def _degraded(self, key: str, sentence: str) -> None:
        if self._reasons.get(key) != sentence:
            self._log.warning("degraded", what=key, why=sentence)
        self._reasons[key] = sentence

    def _healthy(self, key: str) -> None:
        if self._reasons.pop(key, None) is not None:
            self._log.info("recovered", what=key)

    def _on_error(self, where: str, error: BaseException) -> None:
        self._log.exception("unexpected error", error, on=where)


def data_of(figures: Figures, at: float, latency_unit: str) -> list[Datum]:
    """Return the data of a cycle collected at wall clock `at`. The unit is Count for all (spec operations.md 4.5), the latency's by choice."""
    return [
        Datum(
            metric=FORWARDED[family].metric,
            value=value,
            at=at,
            unit=latency_unit if FORWARDED[family].kind == SUMMARY else "Count",
            is_count=FORWARDED[family].kind == COUNTER,
        )
        for family, value in sorted(figures.values.items())
        if math.isfinite(value)  # CloudWatch takes a call with one that is not for wrong altogether
    ]


def _cloudwatch_of(config: Config) -> CloudWatch:
    region, cluster_id = config.region, config.cluster_id
    version, timeout_s = config.version, float(config.http_timeout_s)
    if not region or not cluster_id:
        found_region, instance_id = identity(config.metadata_endpoint, remedy="Set AWS_REGION and AWS_CLUSTER_ID")
        region = region or found_region
        if not cluster_id:
            tags = cloudwatch.tags_of(instance_id, region=region, version=version, timeout_s=timeout_s)
            cluster_id = instance.cluster_of(tags)
    return CloudWatch(region=region, cluster_id=cluster_id, version=version, timeout_s=timeout_s)

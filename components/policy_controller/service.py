"""The loop: what the watches show becomes work, and each piece of work is one pass over one policy.

definitions there ─► switch read ─► (off: nothing more) ─► all lists in, and we lead ─► passes ─► told to end: lease given back
"""

from __future__ import annotations

import random
import socket
import uuid
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

from vpccni.components.policy_controller import definitions
from vpccni.components.policy_controller.endpoints import Endpoints
from vpccni.components.policy_controller.exposition import (
    ADVANCED,
    DURATION,
    LEADS,
    OBJECTS,
    PROBLEMS,
    QUEUE_ADDS,
    QUEUE_DEPTH,
    QUEUE_RETRIES,
    RECONCILIATIONS,
)
from vpccni.components.policy_controller.flags import Flags
from vpccni.components.policy_controller.knowledge import Knowledge
from vpccni.components.policy_controller.model import Kind, PolicyId
from vpccni.components.policy_controller.passes import NoLongerLeading, Passes
from vpccni.components.policy_controller.policies import INVALID
from vpccni.components.policy_controller.resolve import MIXED_BACKENDS, TOO_LARGE, UNRESOLVED_PORT
from vpccni.components.policy_controller.watches import Watches
from vpccni.components.policy_controller.work import Work
from vpccni.components.policy_controller.writer import Writer
from vpccni.shared.kube import Change, KubeRefused, Wire
from vpccni.shared.kube.leader import Leader
from vpccni.shared.kube.resources import CONFIG_MAPS
from vpccni.shared.loop import Timer
from vpccni.shared.standalone import Standalone

SWITCH_NAMESPACE, SWITCH_NAME = "kube-system", "amazon-vpc-cni"  # spec policy.md 3.3, env.md 11
SWITCH_KEY: Final = "enable-network-policy-controller"
OWN_NAMESPACE: Final = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
SWEEP_EVERY_S: Final = 60.0
"""Between looks for endpoint objects that no policy owns; seen twice, they go."""
DRAIN_LOOK_S: Final = 0.02
FORBIDDEN: Final = 403
EXIT_LOST, EXIT_DEFINITIONS = 1, 1
KINDS_OF_PROBLEMS: Final = (INVALID, UNRESOLVED_PORT, MIXED_BACKENDS, TOO_LARGE)


class _SwitchWire(Wire, frozen=True):
    data: dict[str, str] | None = None


class Service:
    """See the module."""

    def __init__(self, host: Standalone, flags: Flags) -> None:
        self._host, self._flags, self._loop = host, flags, host.loop
        self._kube = host.kube()
        self._writer = Writer(self._kube)
        self._knowledge = Knowledge()
        self._work: Work[PolicyId] = Work(flags.pod_update_batch_period_s)
        self._watches: Watches | None = None
        self._leader: Leader | None = None
        self._switch: bool | None = None
        self._is_off = False
        self._works = False
        self._wake_timer: Timer | None = None
        self._by_uid: dict[str, PolicyId] = {}
        self._endpoints = {False: Endpoints(), True: Endpoints()}
        """Endpoint objects of namespaces (False) and of the cluster (True)."""
        self._orphans: set[str] = set()
        self._identity = f"{socket.gethostname()}_{uuid.uuid4()}"
        self._passes = Passes(
            host,
            self._writer,
            self._knowledge,
            self._endpoints,
            leads=self._leads,
            chunk_size=flags.endpoint_chunk_size,
            reporter=self._identity,
        )
        self._set_gauges()

    def start(self) -> None:
        """Begin; everything else follows from what the API says."""
        self._loop.spawn(self._begin(), name="start")
        self._host.before_end = lambda: self._loop.spawn(self._retire(), name="end")

    def is_ready(self) -> bool:
        """Tell whether this replica could lead: it knows the cluster, or has been switched off."""
        return self._is_off or (self._watches is not None and self._watches.synced)

    # -- start and end

    async def _begin(self) -> None:
        try:
            await definitions.ensure(self._kube, self._host.log)
        except definitions.NotEstablished as error:
            self._host.log.error("custom resource definitions are not served", on=str(error))
            self._host.end(EXIT_DEFINITIONS)
            return
        self._loop.spawn(self._audit_definitions(), name="definitions")
        if not self._flags.enable_configmap_check:
            self._switched(True)
            return
        self._kube.watch(
            CONFIG_MAPS,
            wire=_SwitchWire,
            project=lambda wire: (wire.data or {}).get(SWITCH_KEY) == "true",
            changed=self._on_switch,
            namespace=SWITCH_NAMESPACE,
            fields=f"metadata.name={SWITCH_NAME}",
        )

    def _on_switch(self, changes: Sequence[Change[bool]]) -> None:
        """The switch decides once; when it changes, the process ends and comes back in the new state (spec policy.md 3.3)."""
        is_on = bool(changes and changes[-1].after)
        if self._switch is None:
            self._switched(is_on)
        elif is_on != self._switch:
            self._host.log.info("switch changed", on=f"{SWITCH_NAMESPACE}/{SWITCH_NAME}", value=is_on)
            self._host.end(0)

    def _switched(self, is_on: bool) -> None:
        self._switch = is_on
        if not is_on:
            self._is_off = True
            self._host.log.info("switched off", on=f"{SWITCH_NAMESPACE}/{SWITCH_NAME}", what=SWITCH_KEY)
            return
        self._watches = Watches(
            self._kube,
            self._knowledge,
            self._endpoints,
            self._by_uid,
            namespace=self._flags.watch_namespace,
            touched=self._touched,
            meant=self._meant,
            heard=self._begin_work,
        )
        if self._flags.enable_leader_election:
            self._leader = Leader(
                self._host.kube(),
                self._host.log,
                name=self._flags.leader_election_id,
                namespace=self._flags.leader_election_namespace or _own_namespace(),
                identity=self._identity,
                begins=self._begin_work,
                lost=self._on_lost,
            )
            self._leader.start()

    def _begin_work(self) -> None:
        if self._works or self._watches is None or not self._watches.synced or not self._leads():
            return
        self._works = True
        self._host.log.info("works", count=len(self._knowledge.policies))
        for policy_id in self._knowledge.policies:
            self._meant(policy_id)
        self._loop.every(SWEEP_EVERY_S, self._sweep, name="sweep")

    def _on_lost(self) -> None:
        self._works = False
        self._host.log.error("leadership lost", on=self._flags.leader_election_id)
        self._host.before_end = None
        self._host.end(EXIT_LOST)

    async def _retire(self) -> None:
        """Finish the passes under way, then give the lease back."""
        self._works = False
        while self._work.running:
            await self._loop.sleep(DRAIN_LOOK_S)
        if self._leader is not None:
            await self._leader.release()

    async def _audit_definitions(self) -> None:
        while not (name := await definitions.lost(self._kube, self._host.log)):
            await self._loop.sleep(definitions.AUDIT_EVERY_S)
        self._host.log.warning("a custom resource definition was deleted: starting anew makes it", on=name)
        self._host.end(EXIT_DEFINITIONS)

    # -- work

    def _leads(self) -> bool:
        return self._leader.leads if self._leader is not None else not self._flags.enable_leader_election

    def _touched(self, policies: Iterable[PolicyId]) -> None:
        if self._works:
            for policy_id in policies:
                self._host.count(QUEUE_ADDS, name="policy")
                self._work.add_for_others(policy_id, self._loop.clock())
            self._wake()

    def _meant(self, policy_id: PolicyId) -> None:
        if policy_id not in self._knowledge.policies:
            self._work.forget(policy_id)
            self._passes.problems.pop(policy_id, None)
        elif self._works:
            self._host.count(QUEUE_ADDS, name="policy")
            self._work.add(policy_id, self._loop.clock())
            self._wake()

    def _wake(self) -> None:
        """Start as many passes as may run at once, and come back when the next is due."""
        if self._wake_timer is not None:
            self._wake_timer.cancel()
            self._wake_timer = None
        while self._works and self._work.running < self._flags.max_concurrent_reconciles:
            policy_id = self._work.take(self._loop.clock())
            if policy_id is None:
                break
            self._loop.spawn(self._do(policy_id), name="pass")
        wait = self._work.wait_s(self._loop.clock()) if self._works else None
        if wait is not None and self._work.running < self._flags.max_concurrent_reconciles:
            self._wake_timer = self._loop.call_later(wait, self._wake)

    async def _do(self, policy_id: PolicyId) -> None:
        begun, kind = self._loop.clock(), str(policy_id.kind)
        try:
            await self._passes.run(policy_id)
            self._work.done(policy_id)
            result = "success"
        except NoLongerLeading:
            self._work.done(policy_id)
            return
        except KubeRefused as error:
            result = "error"
            self._put_off(policy_id, str(error))
        except Exception as error:
            result = "error"
            self._host.log.exception("pass failed", error, on=str(policy_id))
            self._put_off(policy_id, repr(error))
        finally:
            self._loop.call_soon(self._wake)
        self._host.count(RECONCILIATIONS, policy_type=kind, result=result)
        self._host.observe(DURATION, self._loop.clock() - begun, policy_type=kind)

    def _put_off(self, policy_id: PolicyId, why: str) -> None:
        pause = self._work.failed(policy_id, self._loop.clock(), random.random())
        self._host.count(QUEUE_RETRIES, name="policy")
        self._host.log.warning("pass is tried again", on=str(policy_id), why=why, seconds=round(pause, 2))

    # -- endpoint objects

    def _sweep(self) -> None:
        """Look again at what the watch never confirmed, and delete what no policy owns for two looks (the API's own collector may be late)."""
        known = self._by_uid
        for endpoints in self._endpoints.values():
            self._touched({known[uid] for uid in endpoints.forget_unconfirmed(self._loop.clock()) if uid in known})
        orphans = {uid for endpoints in self._endpoints.values() for uid in endpoints.owners() if uid not in known}
        for uid in orphans & self._orphans:
            self._loop.spawn(self._delete_orphans(uid), name="orphans")
        self._orphans = orphans

    async def _delete_orphans(self, uid: str) -> None:
        for is_cluster, endpoints in self._endpoints.items():
            for stored in endpoints.of(uid):
                if not self._leads():
                    return
                try:
                    await self._writer.delete(Kind.CLUSTER if is_cluster else Kind.NETWORK, stored)
                    endpoints.deleted(stored)
                except KubeRefused as error:
                    self._host.log.warning("endpoints without a policy not deleted", on=stored.name, error=str(error))

    # -- what is measured

    def _set_gauges(self) -> None:
        gauge = self._host.gauge
        for kind in Kind:
            gauge(OBJECTS, lambda kind=kind: float(self._number_of(kind)), policy_type=str(kind))  # type: ignore[misc]  # the default binds it
        gauge(ADVANCED, lambda: float(self._number_of(Kind.APPLICATION) + self._number_of(Kind.CLUSTER) > 0))
        gauge(LEADS, lambda: float(self._leads()), name=self._flags.leader_election_id)
        gauge(QUEUE_DEPTH, lambda: float(len(self._work)), name="policy")
        for reason in KINDS_OF_PROBLEMS:
            gauge(PROBLEMS, lambda reason=reason: float(self._number_with(reason)), reason=reason)  # type: ignore[misc]  # likewise

    def _number_of(self, kind: Kind) -> int:
        return sum(policy_id.kind is kind for policy_id in self._knowledge.policies)

    def _number_with(self, reason: str) -> int:
        return sum(any(one.reason == reason for one in problems) for problems in self._passes.problems.values())


def _own_namespace() -> str:
    try:
        return OWN_NAMESPACE.read_text(encoding="utf-8").strip()
    except OSError:
        return SWITCH_NAMESPACE  # not in a pod: where the chart puts it

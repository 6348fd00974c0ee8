"""The loop: what the watches show becomes work, and each piece of work is one pass over one policy.

    definitions there ─► switch read ─► (off: nothing more) ─► all lists in, and we lead ─► passes ─► told to end: lease given back

A pass: finalizer, resolve, plan against the endpoint objects as they are, write, say what is wrong. It writes nothing where nothing differs, so
that a restart, or another replica that takes over, goes through all policies without a write.
"""

from __future__ import annotations

import random
import socket
import time
import uuid
from collections.abc import Coroutine, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from vpccni.components.policy_controller import definitions
from vpccni.components.policy_controller.chunks import Plan, name_groups, plan_objects
from vpccni.components.policy_controller.documents import FINALIZERS, WITH_STATUS, conditions_of, event_of, head_of
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
from vpccni.components.policy_controller.model import Held, Kind, Policy, PolicyId, Problem, Rows, Stored
from vpccni.components.policy_controller.policies import INVALID
from vpccni.components.policy_controller.resolve import MIXED_BACKENDS, TOO_LARGE, UNRESOLVED_PORT, Resolution
from vpccni.components.policy_controller.watches import Watches
from vpccni.components.policy_controller.work import Work
from vpccni.components.policy_controller.writer import Writer
from vpccni.shared.clock import wall_ns
from vpccni.shared.kube import Change, KubeRefused, Wire
from vpccni.shared.kube.election import micro_time
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


class _NoLongerLeading(Exception):
    """Another replica may lead: a pass ends where it is."""


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
        self._problems: dict[PolicyId, frozenset[Problem]] = {}
        self._orphans: set[str] = set()
        self._identity = f"{socket.gethostname()}_{uuid.uuid4()}"
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
            self._problems.pop(policy_id, None)
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
            await self._pass(policy_id)
            self._work.done(policy_id)
            result = "success"
        except _NoLongerLeading:
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

    # -- a pass

    async def _pass(self, policy_id: PolicyId) -> None:
        held = self._knowledge.policies.get(policy_id)
        if held is None:
            return
        if held.is_deleting:
            await self._let_go(held)
            return
        if FINALIZERS[policy_id.kind] not in held.finalizers:
            self._check_lead()
            await self._writer.put_finalizer(held)
        resolution = self._knowledge.resolve(policy_id)
        if not resolution.is_too_large:
            await self._carry_out(held.policy, self._plan(held.policy, resolution))
        await self._tell(held, resolution.problems)

    def _plan(self, policy: Policy, resolution: Resolution) -> Plan:
        stored = self._objects_of(policy)
        names = name_groups(policy.id.name, resolution.groups, stored)
        plans = [
            plan_objects(
                replace(head_of(policy), reference=reference),
                Rows(group.ingress, resolution.egress, group.targets),
                [one for one in stored if one.head.reference == reference],
                size=self._flags.endpoint_chunk_size,
            )
            for reference, group in names
        ]
        used = {reference for reference, _ in names}
        unused = tuple(one for one in stored if one.head.reference not in used)
        return Plan(
            create=tuple(one for plan in plans for one in plan.create),
            update=tuple(one for plan in plans for one in plan.update),
            delete=(*(one for plan in plans for one in plan.delete), *unused),
        )

    async def _carry_out(self, policy: Policy, plan: Plan) -> None:
        endpoints = self._endpoints(policy.id.kind)
        if not len(plan):
            return
        changed_at = _nanoseconds()
        for wanted in plan.create:
            self._check_lead()
            endpoints.written(await self._writer.create(policy, wanted, changed_at=changed_at), self._loop.clock())
        for stored, wanted in plan.update:
            self._check_lead()
            after = await self._writer.update(policy, stored, wanted, changed_at=changed_at)
            endpoints.written(after, self._loop.clock())
        for stored in plan.delete:
            self._check_lead()
            await self._writer.delete(policy.id.kind, stored)
            endpoints.deleted(stored)
        self._host.log.info(
            "endpoints written", on=str(policy.id), count=len(plan), detail=f"{len(plan.create)} created, {len(plan.update)} updated, {len(plan.delete)} deleted"
        )  # fmt: skip

    async def _let_go(self, held: Held) -> None:
        """The policy is being deleted: its endpoint objects go, then our finalizer."""
        policy = held.policy
        await self._carry_out(policy, Plan(delete=tuple(self._objects_of(policy))))
        if FINALIZERS[policy.id.kind] in held.finalizers:
            self._check_lead()
            await self._writer.take_finalizer(held)

    async def _tell(self, held: Held, problems: Sequence[Problem]) -> None:
        """Say what is wrong: in conditions where the kind has them, and once in an event."""
        policy, told = held.policy, self._problems.get(held.policy.id, frozenset())
        if policy.id.kind in WITH_STATUS:
            conditions = conditions_of(held, problems, now=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()))
            if conditions != list(held.conditions):
                await self._politely(self._writer.set_conditions(policy, conditions), policy)
        for problem in problems:
            if problem not in told:
                event = event_of(policy, problem, reporter=self._identity, now=micro_time(wall_ns()))
                self._host.log.warning("policy has a problem", on=str(policy.id), reason=problem.reason, why=problem.text)  # fmt: skip
                await self._politely(self._writer.tell(policy, event), policy)
        self._problems[policy.id] = frozenset(problems)

    async def _politely(self, call: Coroutine[Any, Any, None], policy: Policy) -> None:
        """Make a call that only informs: what the API will never take is counted and left, what it cannot take now is tried again."""
        self._check_lead(call)
        try:
            await call
        except KubeRefused as error:
            if not error.is_final and error.status != FORBIDDEN:
                raise
            self._host.count("vpccni_policy_reports_refused", status=str(error.status))
            self._host.log.warning("report refused", on=str(policy.id), error=str(error))

    def _check_lead(self, call: Coroutine[Any, Any, None] | None = None) -> None:
        """Raise where another replica may lead by now: two writers would undo each other's work."""
        if not self._leads():
            if call is not None:
                call.close()
            raise _NoLongerLeading

    # -- endpoint objects

    def _endpoints(self, kind: Kind) -> Endpoints:
        assert self._watches is not None
        return self._watches.endpoints[kind is Kind.CLUSTER]

    def _objects_of(self, policy: Policy) -> list[Stored]:
        return self._endpoints(policy.id.kind).of(policy.uid)

    def _sweep(self) -> None:
        """Look again at what the watch never confirmed, and delete what no policy owns for two looks (the API's own collector may be late)."""
        assert self._watches is not None
        known = self._watches.by_uid
        for endpoints in self._watches.endpoints.values():
            self._touched({known[uid] for uid in endpoints.forget_unconfirmed(self._loop.clock()) if uid in known})
        orphans = {
            uid for endpoints in self._watches.endpoints.values() for uid in endpoints.owners() if uid not in known
        }
        for uid in orphans & self._orphans:
            self._loop.spawn(self._delete_orphans(uid), name="orphans")
        self._orphans = orphans

    async def _delete_orphans(self, uid: str) -> None:
        assert self._watches is not None
        for is_cluster, endpoints in self._watches.endpoints.items():
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
        return sum(any(one.reason == reason for one in problems) for problems in self._problems.values())


def _own_namespace() -> str:
    try:
        return OWN_NAMESPACE.read_text(encoding="utf-8").strip()
    except OSError:
        return SWITCH_NAMESPACE  # not in a pod: where the chart puts it


def _nanoseconds() -> str:
    """Return now as RFC 3339 with nanoseconds (spec policy.md 2.2)."""
    seconds, rest = divmod(wall_ns(), 1_000_000_000)
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds)) + f".{rest:09d}Z"

"""One pass over one policy: finalizer, resolve, plan against the endpoint objects as they are, write, say what is wrong.

It writes nothing where nothing differs, so that a restart, or another replica that takes over, goes through all policies without a write.
Before each write it asks whether we still lead: two writers would undo each other's work.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any, Final

from vpccni.components.policy_controller.chunks import Plan, name_groups, plan_objects
from vpccni.components.policy_controller.documents import FINALIZERS, WITH_STATUS, conditions_of, event_of, head_of
from vpccni.components.policy_controller.endpoints import Endpoints
from vpccni.components.policy_controller.knowledge import Knowledge
from vpccni.components.policy_controller.model import Held, Kind, Policy, PolicyId, Problem, Rows, Stored
from vpccni.components.policy_controller.resolve import Resolution
from vpccni.components.policy_controller.writer import Writer
from vpccni.shared.clock import wall_ns
from vpccni.shared.kube import KubeRefused
from vpccni.shared.kube.election import micro_time
from vpccni.shared.standalone import Standalone

FORBIDDEN: Final = 403


class NoLongerLeading(Exception):
    """Another replica may lead: a pass ends where it is."""


class Passes:
    """See the module. `problems`: what each policy was told to have wrong with it."""

    def __init__(
        self,
        host: Standalone,
        writer: Writer,
        knowledge: Knowledge,
        endpoints: Mapping[bool, Endpoints],
        *,
        leads: Callable[[], bool],
        chunk_size: int,
        reporter: str,
    ) -> None:
        self._host, self._loop, self._writer = host, host.loop, writer
        self._knowledge, self._endpoints = knowledge, endpoints
        self._leads, self._chunk_size, self._reporter = leads, chunk_size, reporter
        self.problems: dict[PolicyId, frozenset[Problem]] = {}

    async def run(self, policy_id: PolicyId) -> None:
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
        if held.policy.subject is not None and not resolution.is_too_large:  # else what was in force stays
            await self._carry_out(held.policy, self._plan(held.policy, resolution))
        await self._tell(held, resolution.problems)

    def _plan(self, policy: Policy, resolution: Resolution) -> Plan:
        stored = self._objects_of(policy)
        names = name_groups(policy.id.name, resolution.groups, stored)
        plans = [
            plan_objects(
                head_of(policy, reference),
                Rows(group.ingress, resolution.egress, group.targets),
                [one for one in stored if one.head.reference == reference],
                size=self._chunk_size,
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
        endpoints = self._endpoints[policy.id.kind is Kind.CLUSTER]
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
        policy, told = held.policy, self.problems.get(held.policy.id, frozenset())
        if policy.id.kind in WITH_STATUS:
            conditions = conditions_of(held, problems, now=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()))
            if conditions != list(held.conditions):
                await self._politely(self._writer.set_conditions(policy, conditions), policy)
        for problem in problems:
            if problem not in told:
                event = event_of(policy, problem, reporter=self._reporter, now=micro_time(wall_ns()))
                self._host.log.warning("policy has a problem", on=str(policy.id), reason=problem.reason, why=problem.text)  # fmt: skip
                await self._politely(self._writer.tell(policy, event), policy)
        self.problems[policy.id] = frozenset(problems)

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
            raise NoLongerLeading

    def _objects_of(self, policy: Policy) -> list[Stored]:
        return self._endpoints[policy.id.kind is Kind.CLUSTER].of(policy.uid)


def _nanoseconds() -> str:
    """Return now as RFC 3339 with nanoseconds (spec policy.md 2.2)."""
    seconds, rest = divmod(wall_ns(), 1_000_000_000)
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds)) + f".{rest:09d}Z"

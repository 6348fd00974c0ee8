"""Writing what is not addresses: tags and security groups of our ENIs, and the removal of leaked ones. Pods never wait for it.

One chore at a time. A refused action rests for a while; the next read of EC2 or metadata brings it up again.
"""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import TYPE_CHECKING, Final

from vpccni.components.eni_manager.chores import SetGroups, SetTags, chores
from vpccni.components.eni_manager.cloud import Cloud
from vpccni.components.eni_manager.facts import TAG_CREATED, eni_tags
from vpccni.components.eni_manager.leaks import candidates, chance, judge
from vpccni.components.eni_manager.lifecycle import Lifecycle
from vpccni.components.eni_manager.state import State
from vpccni.shared.backoff import Backoff
from vpccni.shared.errors import CloudRefused
from vpccni.shared.names import EniId
from vpccni.shared.process import Process

if TYPE_CHECKING:
    from vpccni.components.eni_manager.ec2 import Ec2

SWEEP_S: Final = 3600.0  # spec ipam.md 2
REST: Final = Backoff(20.0, 300.0)
"""Pauses of a refused chore, and of a refused sweep at start."""

CountNodes = Callable[[], Awaitable[int | None]]
"""How many nodes the cluster has; None when that is not known."""


class Upkeep:
    """See the module. `nodes`: see `CountNodes`."""

    def __init__(
        self, process: Process, cloud: Cloud, ec2: Ec2, state: State, life: Lifecycle, *, nodes: CountNodes
    ) -> None:
        self._process, self._cloud, self._ec2 = process, cloud, ec2
        self._state, self._life, self._nodes = state, life, nodes
        settings, instance_id = process.settings, state.instance.instance_id
        tags = eni_tags(instance_id, settings.cluster_name, settings.additional_eni_tags, created_at="")
        self._tags = {key: value for key, value in tags.items() if key != TAG_CREATED}
        self._busy = False
        self._resting: dict[type[SetGroups | SetTags], tuple[float, int]] = {}

    # -- tags and groups

    def turn(self) -> None:
        """Start on what is due, unless it is under way."""
        if not self._busy and self._due():
            self._busy = True
            self._process.loop.spawn(self._work(), name="chores")

    def _due(self) -> list[SetGroups | SetTags]:
        now, leaving = self._process.loop.clock(), self._life.freeing()
        todo = chores(self._state.picture, self._state.groups_kept(), self._tags)
        return [one for one in todo if self._resting.get(type(one), (0.0, 0))[0] <= now and one.eni_id not in leaving]

    async def _work(self) -> None:
        try:
            while todo := self._due():
                await self._do(todo[0])
        finally:
            self._busy = False

    async def _do(self, one: SetGroups | SetTags) -> None:
        try:
            if isinstance(one, SetGroups):
                await self._set_groups(one)
            else:
                await self._set_tags(one)
            self._resting.pop(type(one), None)
        except CloudRefused:
            tries = self._resting.get(type(one), (0.0, 0))[1] + 1
            until = self._process.loop.clock() + REST.pause_s(tries, random.random())
            self._resting[type(one)] = (until, tries)

    async def _set_groups(self, one: SetGroups) -> None:
        state = self._state
        await self._cloud.call(
            "ModifyNetworkInterfaceAttribute", lambda: self._ec2.set_groups(one.eni_id, one.groups), routine=True
        )
        self._process.log.info("security groups written", eni=one.eni_id, detail=", ".join(one.groups))
        if one.eni_id in state.picture.enis:
            state.show(state.picture.with_groups(one.eni_id, one.groups, now=self._process.loop.clock()))

    async def _set_tags(self, one: SetTags) -> None:
        state = self._state
        await self._cloud.call("CreateTags", lambda: self._ec2.tag(one.eni_id, one.tags), routine=True)
        self._process.log.info("tags written", eni=one.eni_id, detail=", ".join(sorted(one.tags)))
        if one.eni_id in state.picture.enis:
            state.show(state.picture.with_tags(one.eni_id, one.tags, now=self._process.loop.clock()))

    # -- leaked ENIs

    def begin(self, *, journal_lost: bool) -> None:
        """Sweep from now on: own ENIs at once if no journal tells of them, those of vanished instances hourly."""
        if not self._process.settings.leaked_eni_cleanup:
            return
        if journal_lost:
            self._process.loop.spawn(self._sweep_own(), name="own leaks")
        self._process.loop.call_later(SWEEP_S * random.random(), self._hourly)

    async def _sweep_own(self) -> None:
        tries = 0
        while True:
            try:
                await self._sweep(self._state.instance.instance_id)
                self._life.journal_is_complete()
            except CloudRefused:
                tries += 1
                await self._process.loop.sleep(REST.pause_s(tries, random.random()))
            else:
                return

    def _hourly(self) -> None:
        self._process.loop.call_later(SWEEP_S, self._hourly)
        self._process.loop.spawn(self._sweep_cluster(), name="leaks")

    async def _sweep_cluster(self) -> None:
        if random.random() >= chance(await self._nodes()):
            return  # another node's turn
        try:
            await self._sweep("*")
        except CloudRefused as error:
            self._process.log.warning("leaked enis not looked for", error=error)

    async def _sweep(self, instance_id: str) -> None:
        """Find, judge, stamp and delete. `instance_id` "*": of all instances; raise `CloudRefused` when EC2 cannot be read."""
        instance, cluster = self._state.instance, self._process.settings.cluster_name
        filtered = cluster if instance_id == "*" else ""
        found = await self._cloud.call(
            "DescribeNetworkInterfaces",
            lambda: self._ec2.unattached(instance.vpc_id, instance_id=instance_id, cluster=filtered),
            routine=True,
        )
        own, in_journal = instance.instance_id, self._life.hidden()
        suspects = candidates(found, own=own, cluster=cluster, in_journal=in_journal)
        others = sorted({eni.instance_tag for eni in suspects} - {own})
        living = frozenset[str]()
        if others:
            living = await self._cloud.call(
                "DescribeInstances", lambda: self._ec2.living_instances(others), routine=True
            )
        now = datetime.now().astimezone()
        todo = judge(suspects, own=own, living=living, now=now)
        for eni_id in todo.stamp:
            await self._stamp(eni_id, now.isoformat(timespec="seconds"))
        for eni_id in todo.delete:
            await self._delete(eni_id)

    async def _stamp(self, eni_id: EniId, created_at: str) -> None:
        try:
            await self._cloud.call("CreateTags", lambda: self._ec2.tag(eni_id, {TAG_CREATED: created_at}), routine=True)
        except CloudRefused as error:
            self._process.log.warning("unattached eni not stamped", eni=eni_id, error=error)

    async def _delete(self, eni_id: EniId) -> None:
        try:
            await self._cloud.call("DeleteNetworkInterface", lambda: self._ec2.delete(eni_id), routine=True)
        except CloudRefused as error:
            self._cloud.left_over("cleanUpLeakedENIDeleteErr", error)
            return
        self._process.count("vpccni_leaked_enis_deleted", 1)
        self._process.log.info("leaked eni deleted", eni=eni_id)

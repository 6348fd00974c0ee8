"""Carrying a plan out: addresses assigned and unassigned, ENIs begun, and what is made of EC2's refusals.

An ENI is in one change at a time. A refusal closes either the one subnet (no room in it) or growing as a whole, for a while; what EC2
left in doubt is looked at before the ENI is changed again.
"""

from __future__ import annotations

import random
import uuid
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from typing import TYPE_CHECKING, Final

from vpccni.components.eni_manager.cloud import Cloud
from vpccni.components.eni_manager.facts import NewEni, eni_tags
from vpccni.components.eni_manager.hindrance import (
    EC2_DOWN,
    EC2_REFUSED,
    FRAGMENTED,
    FULL,
    SUBNET_FULL,
    THROTTLED,
    WITHOUT_PREFIX,
    Hindrance,
    after_failure,
    cause_of,
)
from vpccni.components.eni_manager.journal import CREATE, DETACH, Intent
from vpccni.components.eni_manager.lifecycle import Lifecycle
from vpccni.components.eni_manager.looking import Looking
from vpccni.components.eni_manager.planner import AssignTo, Busy, CreateOn, Plan, Terms, UnassignFrom
from vpccni.components.eni_manager.state import State
from vpccni.components.eni_manager.subnets import FULL_S
from vpccni.shared.errors import CloudRefused
from vpccni.shared.names import EniId, SubnetId
from vpccni.shared.process import Process

if TYPE_CHECKING:
    from vpccni.components.eni_manager.ec2 import Ec2

Tell = Callable[[str, str], None]
"""Hears a reason (one word of docs/errors.md) and a sentence for the operator."""

ASSIGN: Final = "AssignPrivateIpAddresses"
ASSIGN_IPV6: Final = "AssignIpv6Addresses"
CREATE_AT_ONCE: Final = 3
FREE_AT_ONCE: Final = 2
TOLD_EVERY_S: Final = 3600.0
"""A subnet without room is told again after this long (spec ipam.md W32)."""
FULL_ADVICE: Final = "Other subnets are tried; add one, or lower the warm targets"
FRAGMENTED_ADVICE: Final = (
    "Other subnets are tried. Reserve a block for prefixes (create-subnet-cidr-reservation, type prefix) or give pods another subnet; "
    "VPCCNI_PREFIX_FALLBACK=true goes on with single addresses"
)


class Changes:
    """See the module. `growth`, `shrink`: what stands in the way now. `turn()` is called when there is something new to plan."""

    def __init__(
        self,
        process: Process,
        cloud: Cloud,
        ec2: Ec2,
        state: State,
        life: Lifecycle,
        looking: Looking,
        *,
        tell: Tell,
        turn: Callable[[], None],
    ) -> None:
        self._process, self._cloud, self._ec2, self._state = process, cloud, ec2, state
        self._life, self._looking, self._tell, self._turn = life, looking, tell, turn
        self._fallback = process.settings.prefix_fallback
        self._changing: dict[EniId, int] = {}
        self._told: dict[tuple[str, str], float] = {}
        self.growth, self.shrink = Hindrance(), Hindrance()
        process.gauge("awscni_ipamd_action_inprogress", lambda: float(self.busy().grows), fn="increaseDatastorePool")
        process.gauge("awscni_ipamd_action_inprogress", lambda: float(self.busy().shrinks), fn="decreaseDatastorePool")

    def busy(self) -> Busy:
        """Return what is under way."""
        state = self._state
        hidden = [one for one in self._life.intents.values() if one.eni_id not in state.picture.enis]
        creating = [(one.card, self._items_of(one)) for one in hidden]
        return Busy(dict(self._changing), creating, self._life.freeing())

    def terms(self, now: float) -> Terms:
        """Return what growing may use now."""
        state = self._state
        closed = state.subnets.closed(now=now)
        may_create = any(subnet_id not in closed for subnet_id in state.candidates())
        return Terms(state.limits.slots, state.unit, closed, may_create, spare_primary=state.custom is not None)

    def start(self, todo: Plan, now: float) -> None:
        """Start what the plan says, as far as nothing stands in the way."""
        if not (todo.grows or todo.short or todo.held_back or self.busy().pending_items):
            self.growth = Hindrance()
        if not self.shrink.blocks(now):
            self._start_shrinking(todo)
        if not self.growth.blocks(now):
            self._start_growing(todo, now)

    def succeeded(self, subnet_id: SubnetId) -> None:
        """Take note that growing works, and in which subnet."""
        self._state.subnets = self._state.subnets.with_success(subnet_id)
        self.growth = Hindrance()

    def refused(self, error: CloudRefused, subnet_id: SubnetId, asked: int) -> None:
        """Take note that EC2 refused to grow by `asked` addresses of a subnet, or a step on the way there."""
        cause, now = cause_of(error.error_code), self._process.loop.clock()
        by_address = cause in FULL or error.api.startswith("Assign")
        fn = "increaseIPPoolAllocIPAddressesFailed" if by_address else "increaseIPPoolAllocENI"
        self._process.count("awscni_ipamd_error_count", 1, fn=fn)
        if cause in FULL and error.api != ASSIGN_IPV6:
            self._no_room(cause, error, subnet_id, asked)
        else:
            self._state.subnets = self._state.subnets.with_untried(subnet_id, now=now)
            self.growth = self._after(self.growth, error)

    # -- steps

    def _start_growing(self, todo: Plan, now: float) -> None:
        state = self._state
        for step in todo.assign:
            subnet_id = state.picture.enis[step.eni_id].cloud.subnet_id
            if subnet_id in state.subnets.closed(now=now) and not state.ipv6:
                continue  # the step before it tries the subnet; for IPv6 prefixes none is ever full
            count = state.subnets.ask_at_most(subnet_id, step.count)
            state.subnets = state.subnets.with_try(subnet_id, now=now)
            self._changing[step.eni_id] = count
            self._process.loop.spawn(self._assign(AssignTo(step.eni_id, count), subnet_id), name="assign")
        room = CREATE_AT_ONCE - len(self._life.growing())
        for new in todo.create[: max(room, 0)]:
            self._create(new, now)

    def _start_shrinking(self, todo: Plan) -> None:
        for step in todo.unassign:
            self._changing[step.eni_id] = 0
            self._process.loop.spawn(self._unassign(step), name="unassign")
        room = FREE_AT_ONCE - len(self._life.freeing())
        for eni_id in todo.free[: max(room, 0)]:
            card = self._state.picture.enis[eni_id].cloud.card
            self._life.begin(Intent(token=uuid.uuid4().hex, step=DETACH, card=card, eni_id=eni_id))

    def _create(self, new: CreateOn, now: float) -> None:
        """Begin an ENI in the first subnet that is open; its own address is one of those asked for."""
        subnets = self._state.subnets
        for subnet_id in self._state.candidates():
            count = subnets.ask_at_most(subnet_id, new.count + 1) - 1
            if subnet_id not in subnets.closed(now=now) and count > 0:
                self._state.subnets = subnets.with_try(subnet_id, now=now)
                self._life.begin(self._create_intent(new.card, subnet_id, count))
                return

    def _create_intent(self, card: int, subnet_id: SubnetId, count: int) -> Intent:
        token, settings, state = uuid.uuid4().hex, self._process.settings, self._state
        created_at = datetime.now().astimezone().isoformat(timespec="seconds")
        instance_id = state.instance.instance_id
        tags = eni_tags(instance_id, settings.cluster_name, settings.additional_eni_tags, created_at)
        new = NewEni(
            token=token,
            subnet_id=subnet_id,
            groups=state.groups_of_new(),
            description=f"aws-K8S-{instance_id}",
            tags=tuple(sorted(tags.items())),
            addresses=count,
            by_prefix=state.by_prefix,
            ipv6=state.ipv6,
        )
        return Intent(token=token, step=CREATE, card=card, new=new)

    async def _assign(self, step: AssignTo, subnet_id: SubnetId) -> None:
        look_again, state, by_prefix = False, self._state, self._state.by_prefix
        try:
            if state.ipv6:
                added = await self._cloud.call(ASSIGN_IPV6, lambda: self._ec2.assign_ipv6_prefix(step.eni_id))
            else:
                added = await self._cloud.call(
                    ASSIGN, lambda: self._ec2.assign(step.eni_id, step.count, by_prefix=by_prefix)
                )
            if step.eni_id in state.picture.enis:
                state.show(state.picture.with_items(step.eni_id, added, now=self._process.loop.clock()))
            self.succeeded(subnet_id)
            self._process.log.info("addresses assigned", eni=step.eni_id, count=len(added))
        except CloudRefused as error:
            self.refused(error, subnet_id, step.count)
            look_again = cause_of(error.error_code) in (EC2_DOWN, EC2_REFUSED)
        await self._done(step.eni_id, look_again=look_again)

    async def _unassign(self, step: UnassignFrom) -> None:
        look_again, state = False, self._state
        try:
            await self._cloud.call("UnassignPrivateIpAddresses", lambda: self._ec2.unassign(step.eni_id, step.items))
            if step.eni_id in state.picture.enis:
                state.show(state.picture.without_items(step.eni_id, step.items, now=self._process.loop.clock()))
            self.shrink = Hindrance()
            self._process.log.info("addresses unassigned", eni=step.eni_id, count=len(step.items))
        except CloudRefused as error:
            self._process.count("awscni_ipamd_error_count", 1, fn="decreaseIPPool")
            self.shrink = self._after(self.shrink, error)
            look_again = cause_of(error.error_code) in (EC2_DOWN, EC2_REFUSED)
        await self._done(step.eni_id, look_again=look_again)

    async def _done(self, eni_id: EniId, *, look_again: bool) -> None:
        """Free the ENI for the next step; where EC2's answer left doubt, only after a look."""
        if look_again:
            await self._looking.look_or_say()
        self._changing.pop(eni_id, None)
        self._turn()

    # -- refusals

    def _no_room(self, cause: str, error: CloudRefused, subnet_id: SubnetId, asked: int) -> None:
        state, now = self._state, self._process.loop.clock()
        state.subnets = state.subnets.with_refusal(subnet_id, cause, now=now)
        self._process.count("vpccni_subnet_refusals", 1, subnet=subnet_id, cause=cause)
        self._process.loop.call_later(FULL_S + 0.01, self._turn)
        advice = FRAGMENTED_ADVICE if cause == FRAGMENTED else FULL_ADVICE
        self._tell_seldom(cause, subnet_id, f"EC2 finds no room in {subnet_id} ({error.why}). {advice}")
        if cause == SUBNET_FULL and not state.by_prefix:
            self._process.loop.spawn(self._ask_for_the_rest(subnet_id, asked), name="rest")
        elif self._fallback and state.by_prefix and not state.ipv6 and not self.terms(now).may_create:
            state.by_prefix = False
            state.subnets = state.subnets.without_refusals(FRAGMENTED)
            self._tell("PrefixFallback", "All subnets are fragmented: single addresses are used until the next start")

    async def _ask_for_the_rest(self, subnet_id: SubnetId, asked: int) -> None:
        """Find out whether a subnet that refused has a few addresses left, and have them."""
        await self._looking.read_subnets()
        state = self._state
        state.subnets = state.subnets.with_rest(subnet_id, asked, now=self._process.loop.clock())
        self._turn()

    def _tell_seldom(self, reason: str, on: str, sentence: str) -> None:
        now = self._process.loop.clock()
        if now >= self._told.get((reason, on), 0.0):
            self._told[(reason, on)] = now + TOLD_EVERY_S
            self._tell(reason, sentence)

    def _after(self, before: Hindrance, error: CloudRefused) -> Hindrance:
        now = self._process.loop.clock()
        backoff = WITHOUT_PREFIX if self._state.ipv6 else None
        cause = cause_of(error.error_code)
        after = after_failure(before, cause, str(error), now=now, random=random.random(), backoff=backoff)
        if after.cause == THROTTLED:
            after = replace(after, until=max(self._cloud.open_at(error.api), now))
        if after.until != before.until:
            self._process.loop.call_later(after.until - now + 0.01, self._turn)
        return after

    def _items_of(self, intent: Intent) -> int:
        new = intent.new
        return new.addresses if new and not intent.frees and new.by_prefix == self._state.by_prefix else 0

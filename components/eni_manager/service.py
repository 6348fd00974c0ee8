"""The loop: the allocator's wish and the clock in, EC2 calls and the `Inventory` out.

`Manager` turns the wish into calls. Every change of what is known ends in `_turn`: plan, start what the plan says and is not under
way, publish if something is new. Growth starts with the wish, not with a timer. Nothing is published before the first look at both
metadata and EC2 is complete; until then the process says why it waits.
"""

from __future__ import annotations

import random
import uuid
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from typing import TYPE_CHECKING, Final

from vpccni.components.eni_manager.cloud import Cloud
from vpccni.components.eni_manager.facts import CloudEni, InstanceFacts, NewEni, eni_tags
from vpccni.components.eni_manager.hindrance import (
    FRAGMENTED,
    FULL,
    LOOK,
    NO_ANSWER,
    SUBNET_FULL,
    THROTTLED,
    Hindrance,
    after_failure,
    cause_of,
)
from vpccni.components.eni_manager.imds import Imds
from vpccni.components.eni_manager.inventory import held_eni
from vpccni.components.eni_manager.journal import CREATE, DETACH, Intent, Journal
from vpccni.components.eni_manager.lifecycle import Lifecycle
from vpccni.components.eni_manager.limits import InstanceLimits
from vpccni.components.eni_manager.looking import Looking
from vpccni.components.eni_manager.outlook import card_limits, growth_of, inventory_of
from vpccni.components.eni_manager.planner import (
    CORDONED,
    PROVISIONING_OFF,
    AssignTo,
    Busy,
    CreateOn,
    Plan,
    Terms,
    UnassignFrom,
    plan,
    restrained,
)
from vpccni.components.eni_manager.remembered import Remembered
from vpccni.components.eni_manager.state import State
from vpccni.components.eni_manager.subnets import FULL_S, Subnets
from vpccni.components.eni_manager.upkeep import CountNodes, Upkeep
from vpccni.shared.errors import CloudRefused
from vpccni.shared.messages.inventory import CapacityTarget, CardLimit, Inventory
from vpccni.shared.names import EniId, SubnetId
from vpccni.shared.process import Process
from vpccni.shared.settings import TRUE

if TYPE_CHECKING:
    from vpccni.components.eni_manager.ec2 import Ec2

Tell = Callable[[str, str], None]
"""Hears a reason (one word of docs/errors.md) and a sentence for the operator."""

CREATE_AT_ONCE: Final = 3
FREE_AT_ONCE: Final = 2
TOLD_EVERY_S: Final = 3600.0
"""A subnet without room is told again after this long (spec ipam.md W32)."""
CARD: Final = 0
"""The one card that is managed until ENABLE_MULTI_NIC is supported."""
FRAGMENTED_ADVICE: Final = (
    "Reserve a block for prefixes (create-subnet-cidr-reservation, type prefix) or give pods another subnet; "
    "VPCCNI_PREFIX_FALLBACK=true goes on with single addresses"
)


class Manager:
    """See the module. Made when the first look succeeded."""

    def __init__(
        self,
        process: Process,
        imds: Imds,
        cloud: Cloud,
        ec2: Ec2,
        instance: InstanceFacts,
        limits: InstanceLimits,
        *,
        tell: Tell,
        nodes: CountNodes,
    ) -> None:
        settings = process.settings
        self._process, self._cloud, self._ec2, self._tell = process, cloud, ec2, tell
        self._state = State(
            instance,
            limits,
            Subnets(instance.subnet_id, settings.cluster_name, settings.subnet_discovery),
            by_prefix=settings.prefix_delegation and limits.prefixes,
        )
        self._fallback = process.raw.get("VPCCNI_PREFIX_FALLBACK", "") in TRUE
        journal = Journal(process.run_dir / "eni_manager.journal")
        self._life = Lifecycle(process.loop, cloud, ec2, journal, instance_id=instance.instance_id, owner=self)
        self._remembered = Remembered(process.run_dir / "eni_manager.enis", instance.instance_id)
        self._looking = Looking(
            process, imds, cloud, ec2, self._state, self._life, self._remembered, changed=self._turn
        )
        self._upkeep = Upkeep(process, cloud, ec2, self._state, self._life, nodes=nodes)
        self._wish: CapacityTarget | None = None
        self._plan = Plan()
        self._is_cordoned = False
        self._changing: dict[EniId, int] = {}
        self._growth, self._shrink = Hindrance(), Hindrance()
        self._told: dict[tuple[str, str], float] = {}
        self._published: Inventory | None = None

    async def start(self) -> None:
        """Take the first look and go on with what a crash left; raise `CloudRefused` when it cannot be had."""
        if self._process.settings.prefix_delegation and not self._state.by_prefix:
            self._process.log.warning(
                "prefixes are not possible on this type",
                kind=self._state.instance.instance_type,
                why="ENABLE_PREFIX_DELEGATION needs a nitro or bare metal type; single addresses are used",
            )
        try:
            self._life.load()
        except ValueError as error:
            self._process.log.error(
                "journal kept aside", error=error, remedy="ENIs it named are left to the leak sweep"
            )
        self._remembered.load()
        self._state.subnets = replace(self._state.subnets, excluded_before=self._remembered.excluded)
        await self._looking.first()
        self._life.resume()
        self._looking.begin()
        if self._process.settings.provisioning:
            self._upkeep.begin(journal_lost=self._life.journal_lost)
        self._process.serving()

    def wish(self, wish: CapacityTarget) -> None:
        """Take the allocator's present wish; it replaces the one before."""
        if wish != self._wish:
            self._process.log.debug("capacity wished", reason=wish.reason, detail=wish)
        self._wish = wish
        self._turn()

    def cordoned(self, is_cordoned: bool) -> None:
        """Take note that the node takes no new pods (taint node.kubernetes.io/unschedulable): it neither grows nor frees ENIs."""
        if is_cordoned != self._is_cordoned:
            self._is_cordoned = is_cordoned
            self._turn()

    def kubelet_pods(self, pods: int) -> None:
        """Take the kubelet's number of pods in place of the published one; 0: it is not known."""
        if pods != self._state.limits.kubelet_pods:
            self._state.limits = replace(self._state.limits, kubelet_pods=pods)
            self._turn()

    # -- what the lifecycle tells

    def devices_in_use(self, card: int) -> set[int]:
        return {eni.cloud.device_number for eni in self._state.picture.enis.values() if eni.cloud.card == card}

    def eni_ready(self, eni: CloudEni) -> None:
        state, now = self._state, self._process.loop.clock()
        known = {one.cloud.subnet_id: one.subnet_cidr for one in state.picture.enis.values()}
        cidr = {**known, **state.subnets.cidrs()}.get(eni.subnet_id, "")
        state.subnets = state.subnets.with_success(eni.subnet_id)
        state.show(state.picture.with_eni(held_eni(self._looking.rules, eni, None, subnet_cidr=cidr, now=now), now=now))
        self._growth = Hindrance()
        self._process.log.info("eni attached", eni=eni.eni_id, device=eni.device_number, count=len(eni.addresses))
        self._publish()

    def eni_gone(self, eni_id: EniId) -> None:
        state = self._state
        if eni_id in state.picture.enis:
            state.show(state.picture.without_eni(eni_id, now=self._process.loop.clock()))
            self._process.log.info("eni detached", eni=eni_id)
            self._turn()

    def growth_refused(self, error: CloudRefused, new: NewEni | None) -> None:
        if new is not None:
            self._refused(error, new.subnet_id, new.addresses + 1)

    def under_way_changed(self) -> None:
        self._turn()

    def journal_refused(self, error: OSError) -> None:
        self._process.count("vpccni_journal_errors", 1)
        self._process.log.error("journal cannot be written", error=error, remedy="Free space in the run folder")

    # -- plan and apply

    def _turn(self) -> None:
        if self._looking.provisional:
            self._publish()
            return
        if self._wish is not None:
            now = self._process.loop.clock()
            todo = plan(self._wish, self._state.picture, self._cards(), self._terms(now), self._busy())
            self._plan = todo = restrained(todo, self._restraint())
            if not todo.grows and not todo.short and not todo.held_back and not self._busy().pending_items:
                self._growth = Hindrance()
            if not self._shrink.blocks(now):
                self._start_shrinking(todo)
            if not self._growth.blocks(now):
                self._start_growing(todo, now)
        if self._process.settings.provisioning:
            self._upkeep.turn()
        self._publish()

    def _restraint(self) -> str:
        settings = self._process.settings
        if not settings.provisioning:
            return PROVISIONING_OFF
        return CORDONED if self._is_cordoned and not settings.manage_unschedulable else ""

    def _terms(self, now: float) -> Terms:
        subnets = self._state.subnets
        closed = subnets.closed(now=now)
        may_create = any(subnet_id not in closed for subnet_id in subnets.candidates())
        return Terms(self._state.limits.slots, self._state.unit, closed, may_create)

    def _start_growing(self, todo: Plan, now: float) -> None:
        state = self._state
        for step in todo.assign:
            subnet_id = state.picture.enis[step.eni_id].cloud.subnet_id
            if subnet_id in state.subnets.closed(now=now):
                continue  # the step before it tries the subnet
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
        for subnet_id in subnets.candidates():
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
            groups=state.groups,
            description=f"aws-K8S-{instance_id}",
            tags=tuple(sorted(tags.items())),
            addresses=count,
            by_prefix=state.by_prefix,
        )
        return Intent(token=token, step=CREATE, card=card, new=new)

    async def _assign(self, step: AssignTo, subnet_id: SubnetId) -> None:
        look_again, state, by_prefix = False, self._state, self._state.by_prefix
        try:
            added = await self._cloud.call(
                "AssignPrivateIpAddresses", lambda: self._ec2.assign(step.eni_id, step.count, by_prefix=by_prefix)
            )
            if step.eni_id in state.picture.enis:
                state.show(state.picture.with_items(step.eni_id, added, now=self._process.loop.clock()))
            state.subnets = state.subnets.with_success(subnet_id)
            self._growth = Hindrance()
            self._process.log.info("addresses assigned", eni=step.eni_id, count=len(added))
        except CloudRefused as error:
            self._refused(error, subnet_id, step.count)
            look_again = cause_of(error.error_code) in ("EC2_DOWN", "EC2_REFUSED")
        await self._done_changing(step.eni_id, look_again=look_again)

    async def _unassign(self, step: UnassignFrom) -> None:
        look_again, state = False, self._state
        try:
            await self._cloud.call("UnassignPrivateIpAddresses", lambda: self._ec2.unassign(step.eni_id, step.items))
            if step.eni_id in state.picture.enis:
                state.show(state.picture.without_items(step.eni_id, step.items, now=self._process.loop.clock()))
            self._shrink = Hindrance()
            self._process.log.info("addresses unassigned", eni=step.eni_id, count=len(step.items))
        except CloudRefused as error:
            self._process.count("awscni_ipamd_error_count", 1, fn="decreaseIPPool")
            self._shrink = self._after(self._shrink, error)
            look_again = error.error_code in NO_ANSWER or cause_of(error.error_code) == "EC2_REFUSED"
        await self._done_changing(step.eni_id, look_again=look_again)

    async def _done_changing(self, eni_id: EniId, *, look_again: bool) -> None:
        """Free the ENI for the next step; where EC2's answer left doubt, only after a look."""
        if look_again:
            await self._looking.look_or_say()
        self._changing.pop(eni_id, None)
        self._turn()

    # -- refusals

    def _refused(self, error: CloudRefused, subnet_id: SubnetId, asked: int) -> None:
        cause, now = cause_of(error.error_code), self._process.loop.clock()
        by_address = cause in FULL or error.api.startswith("Assign")
        fn = "increaseIPPoolAllocIPAddressesFailed" if by_address else "increaseIPPoolAllocENI"
        self._process.count("awscni_ipamd_error_count", 1, fn=fn)
        if cause in FULL:
            self._no_room(cause, error, subnet_id, asked)
        else:
            self._state.subnets = self._state.subnets.with_untried(subnet_id, now=now)
            self._growth = self._after(self._growth, error)
        self._publish()

    def _no_room(self, cause: str, error: CloudRefused, subnet_id: SubnetId, asked: int) -> None:
        state, now = self._state, self._process.loop.clock()
        state.subnets = state.subnets.with_refusal(subnet_id, cause, now=now)
        self._process.count("vpccni_subnet_refusals", 1, subnet=subnet_id, cause=cause)
        self._process.loop.call_later(FULL_S + 0.01, self._turn)
        advice = (
            FRAGMENTED_ADVICE if cause == FRAGMENTED else "Other subnets are tried; add one, or lower the warm targets"
        )
        self._tell_seldom(cause, subnet_id, f"EC2 finds no room in {subnet_id} ({error.why}). {advice}")
        if cause == SUBNET_FULL and not state.by_prefix:
            self._process.loop.spawn(self._ask_for_the_rest(subnet_id, asked), name="rest")
        elif self._fallback and state.by_prefix and not self._terms(now).may_create:
            state.by_prefix = False
            state.subnets = state.subnets.without_refusals(FRAGMENTED)
            self._tell("PrefixFallback", "All subnets are fragmented: single addresses are used until the next start")

    async def _ask_for_the_rest(self, subnet_id: SubnetId, asked: int) -> None:
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
        after = after_failure(before, cause_of(error.error_code), str(error), now=now, random=random.random())
        if after.cause == THROTTLED:
            after = replace(after, until=max(self._cloud.open_at(error.api), now))
        if after.until != before.until:
            self._process.loop.call_later(after.until - now + 0.01, self._turn)
        return after

    def _busy(self) -> Busy:
        state = self._state
        hidden = [one for one in self._life.intents.values() if one.eni_id not in state.picture.enis]
        creating = [(one.card, self._items_of(one)) for one in hidden]
        return Busy(dict(self._changing), creating, self._life.freeing())

    def _items_of(self, intent: Intent) -> int:
        new = intent.new
        return new.addresses if new and not intent.frees and new.by_prefix == self._state.by_prefix else 0

    # -- publishing

    def _cards(self) -> list[CardLimit]:
        return card_limits(self._state.picture, self._state.limits, self._process.settings.max_eni, (CARD,))

    def _publish(self) -> None:
        state, now = self._state, self._process.loop.clock()
        if not state.picture.enis:
            return
        inventory = inventory_of(
            state.instance,
            state.limits,
            state.picture,
            cards=self._cards(),
            vpc_cidrs=state.vpc_cidrs,
            growth=growth_of(self._growth, self._plan, state.subnets, state.instance.instance_type, now=now),
            pending_addresses=self._busy().pending_items * state.unit,
            by_prefix=state.by_prefix,
        )
        if inventory != self._published:
            self._published = inventory
            self._remember()
            self._process.publish(inventory)

    def _remember(self) -> None:
        if self._looking.provisional:
            return
        try:
            self._remembered.save(self._state.picture.enis.values(), self._state.subnets.excluded())
        except OSError as error:
            self._process.log.warning("enis cannot be written down", error=error, remedy="Free space in the run folder")


def first_pause_s(tries: int) -> float:
    """Return the pause after the `tries`-th failed attempt at the first look."""
    return LOOK.pause_s(tries, random.random())

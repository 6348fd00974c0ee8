"""The loop: the allocator's wish and the clock in, EC2 calls and the `Inventory` out.

`Manager` holds the picture and is the only one to change it. Every change ends in `_turn`: publish if something is new, plan, start
what the plan says and is not under way. Growth starts with the wish, not with a timer. Nothing is published before the first look
at both metadata and EC2 is complete; until then the process says why it waits.
"""

from __future__ import annotations

import random
import uuid
from collections.abc import Callable, Coroutine
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final, TypeVar

from vpccni.components.eni_manager.cloud import Cloud
from vpccni.components.eni_manager.facts import CloudEni, InstanceFacts, MetadataEni, NewEni, eni_tags
from vpccni.components.eni_manager.hindrance import ENI_LIMIT, LOOK, NO_ANSWER, Hindrance, after_failure, cause_of
from vpccni.components.eni_manager.imds import Imds
from vpccni.components.eni_manager.inventory import Picture, Rules, differs, held_eni, look
from vpccni.components.eni_manager.journal import CREATE, DETACH, Intent, Journal
from vpccni.components.eni_manager.lifecycle import Lifecycle
from vpccni.components.eni_manager.limits import InstanceLimits, eni_limit
from vpccni.components.eni_manager.planner import AssignTo, Busy, CreateOn, Plan, UnassignFrom, plan
from vpccni.shared.errors import CloudRefused
from vpccni.shared.loop import Future
from vpccni.shared.messages.inventory import CapacityTarget, CardLimit, Growth, Inventory
from vpccni.shared.names import EniId
from vpccni.shared.process import Process

if TYPE_CHECKING:
    from vpccni.components.eni_manager.ec2 import Ec2

T = TypeVar("T")

RECONCILE_S: Final = 60.0  # spec ipam.md 2
VPC_REFRESH_S: Final = 30.0  # spec ipam.md 2: VPC CIDRs and security groups
CREATE_AT_ONCE: Final = 3
FREE_AT_ONCE: Final = 2
CARD: Final = 0
"""The one card that is managed until ENABLE_MULTI_NIC is supported."""


class Manager:
    """See the module. Made when the first look succeeded."""

    def __init__(
        self, process: Process, imds: Imds, cloud: Cloud, ec2: Ec2, instance: InstanceFacts, limits: InstanceLimits
    ) -> None:
        self._process, self._imds, self._cloud, self._ec2 = process, imds, cloud, ec2
        self._instance, self._limits = instance, limits
        self._rules = Rules(instance, process.settings.manage_untagged_eni)
        self._life = Lifecycle(
            process.loop,
            cloud,
            ec2,
            Journal(process.run_dir / "eni_manager.journal"),
            instance_id=instance.instance_id,
            owner=self,
        )
        self._picture = Picture()
        self._wish: CapacityTarget | None = None
        self._changing: dict[EniId, int] = {}
        self._growth, self._shrink = Hindrance(), Hindrance()
        self._short = 0
        self._vpc_cidrs: list[str] = []
        self._groups: list[str] = []
        self._published: Inventory | None = None
        self._looking: Future[None] | None = None

    async def start(self) -> None:
        """Take the first look and go on with what a crash left; raise `CloudRefused` when it cannot be had."""
        await self._refresh_vpc()
        listed = await self._read(self._imds.enis)
        try:
            self._life.load()
        except ValueError as error:
            self._process.log.error(
                "journal kept aside", error=error, remedy="ENIs it named are left to the leak sweep"
            )
        await self._look(listed)
        self._life.resume()
        self._every(RECONCILE_S, self._reconcile, "reconcile")
        self._every(VPC_REFRESH_S, self._refresh_or_count, "vpc")
        self._process.serving()

    def _every(self, seconds: float, work: Callable[[], Coroutine[Any, Any, None]], name: str) -> None:
        def start() -> None:
            self._process.loop.spawn(work(), name=name)

        self._process.loop.every(seconds, start, name=name)

    def wish(self, wish: CapacityTarget) -> None:
        """Take the allocator's present wish; it replaces the one before."""
        if wish != self._wish:
            self._process.log.debug("capacity wished", reason=wish.reason, detail=wish)
        self._wish = wish
        self._turn()

    # -- what the lifecycle tells

    def devices_in_use(self, card: int) -> set[int]:
        return {eni.cloud.device_number for eni in self._picture.enis.values() if eni.cloud.card == card}

    def eni_ready(self, eni: CloudEni) -> None:
        now = self._process.loop.clock()
        subnet_cidr = next(
            (one.subnet_cidr for one in self._picture.enis.values() if one.cloud.subnet_id == eni.subnet_id), ""
        )
        held = held_eni(self._rules, eni, None, subnet_cidr=subnet_cidr, now=now)
        self._picture = self._picture.with_eni(held, now=now)
        self._growth = Hindrance()
        self._process.log.info("eni attached", eni=eni.eni_id, device=eni.device_number, count=len(eni.addresses))
        self._publish()

    def eni_gone(self, eni_id: EniId) -> None:
        if eni_id in self._picture.enis:
            self._picture = self._picture.without_eni(eni_id, now=self._process.loop.clock())
            self._process.log.info("eni detached", eni=eni_id)
            self._turn()

    def growth_refused(self, error: CloudRefused) -> None:
        full = cause_of(error.error_code) == "SUBNET_FULL"
        fn = (
            "increaseIPPoolAllocIPAddressesFailed"
            if full or error.api.startswith("Assign")
            else "increaseIPPoolAllocENI"
        )
        self._process.count("awscni_ipamd_error_count", 1, fn=fn)
        self._growth = self._after(self._growth, error)
        self._publish()

    def under_way_changed(self) -> None:
        self._turn()

    def journal_refused(self, error: OSError) -> None:
        self._process.count("vpccni_journal_errors", 1)
        self._process.log.error("journal cannot be written", error=error, remedy="Free space in the run folder")

    # -- plan and apply

    def _turn(self) -> None:
        if self._wish is None:
            self._publish()
            return
        now = self._process.loop.clock()
        todo = plan(self._wish, self._picture, self._cards(), self._limits.slots, self._busy())
        self._short = todo.short
        if not todo.grows and not todo.short and not self._busy().pending_addresses:
            self._growth = Hindrance()
        if not self._shrink.blocks(now):
            self._start_shrinking(todo)
        if not self._growth.blocks(now):
            self._start_growing(todo)
        self._publish()

    def _start_growing(self, todo: Plan) -> None:
        for step in todo.assign:
            self._changing[step.eni_id] = step.count
            self._process.loop.spawn(self._assign(step), name="assign")
        room = CREATE_AT_ONCE - len(self._life.growing())
        for new in todo.create[: max(room, 0)]:
            self._life.begin(self._create_intent(new))

    def _start_shrinking(self, todo: Plan) -> None:
        for step in todo.unassign:
            self._changing[step.eni_id] = 0
            self._process.loop.spawn(self._unassign(step), name="unassign")
        room = FREE_AT_ONCE - len(self._life.freeing())
        for eni_id in todo.free[: max(room, 0)]:
            self._life.begin(Intent(token=uuid.uuid4().hex, step=DETACH, card=CARD, eni_id=eni_id))

    def _create_intent(self, new: CreateOn) -> Intent:
        token = uuid.uuid4().hex
        settings = self._process.settings
        created_at = datetime.now().astimezone().isoformat(timespec="seconds")
        tags = eni_tags(self._instance.instance_id, settings.cluster_name, settings.additional_eni_tags, created_at)
        return Intent(
            token=token,
            step=CREATE,
            card=new.card,
            new=NewEni(
                token=token,
                subnet_id=self._instance.subnet_id,
                groups=tuple(self._groups),
                description=f"aws-K8S-{self._instance.instance_id}",
                tags=tuple(sorted(tags.items())),
                addresses=new.count,
            ),
        )

    async def _assign(self, step: AssignTo) -> None:
        look_again = False
        try:
            added = await self._cloud.call(
                "AssignPrivateIpAddresses", lambda: self._ec2.assign(step.eni_id, step.count)
            )
            if step.eni_id in self._picture.enis:
                self._picture = self._picture.with_addresses(step.eni_id, added, now=self._process.loop.clock())
            self._growth = Hindrance()
            self._process.log.info("addresses assigned", eni=step.eni_id, count=len(added))
        except CloudRefused as error:
            self.growth_refused(error)
            look_again = cause_of(error.error_code) in ("EC2_DOWN", "EC2_REFUSED")
        await self._done_changing(step.eni_id, look_again=look_again)

    async def _unassign(self, step: UnassignFrom) -> None:
        look_again = False
        try:
            await self._cloud.call(
                "UnassignPrivateIpAddresses", lambda: self._ec2.unassign(step.eni_id, step.addresses)
            )
            if step.eni_id in self._picture.enis:
                now = self._process.loop.clock()
                self._picture = self._picture.without_addresses(step.eni_id, step.addresses, now=now)
            self._shrink = Hindrance()
            self._process.log.info("addresses unassigned", eni=step.eni_id, count=len(step.addresses))
        except CloudRefused as error:
            self._process.count("awscni_ipamd_error_count", 1, fn="decreaseIPPool")
            self._shrink = self._after(self._shrink, error)
            look_again = error.error_code in NO_ANSWER or cause_of(error.error_code) == "EC2_REFUSED"
        await self._done_changing(step.eni_id, look_again=look_again)

    async def _done_changing(self, eni_id: EniId, *, look_again: bool) -> None:
        """Free the ENI for the next step; where EC2's answer left doubt, only after a look."""
        if look_again:
            await self._look_or_count(None)
        self._changing.pop(eni_id, None)
        self._turn()

    def _after(self, before: Hindrance, error: CloudRefused) -> Hindrance:
        now = self._process.loop.clock()
        after = after_failure(before, cause_of(error.error_code), str(error), now=now, random=random.random())
        if after.until != before.until:
            self._process.loop.call_later(after.until - now + 0.01, self._turn)
        return after

    def _busy(self) -> Busy:
        hidden = [one for one in self._life.intents.values() if one.eni_id not in self._picture.enis]
        creating = [(one.card, one.new.addresses if one.new and not one.frees else 0) for one in hidden]
        return Busy(dict(self._changing), creating, self._life.freeing())

    # -- looks

    async def _reconcile(self) -> None:
        try:
            listed = await self._read(self._imds.enis)
        except CloudRefused as error:
            self._process.count("awscni_ipamd_error_count", 1, fn="reconcileFailedGetENIs")
            self._process.degraded("metadata", str(error))
            return
        self._process.healthy("metadata")
        self._process.count("awscni_reconcile_count", 1, fn="nodeIPPoolReconcile")
        if differs(self._picture, listed, now=self._process.loop.clock()):
            await self._look_or_count(listed)
            self._turn()

    async def _look_or_count(self, listed: list[MetadataEni] | None) -> None:
        try:
            await self._look(listed)
        except CloudRefused as error:
            self._process.degraded("look", f"The inventory may be old. {error}")

    async def _look(self, listed: list[MetadataEni] | None) -> None:
        """Ask EC2 (and metadata, unless `listed`) and take over what they show. One look follows the other."""
        while self._looking is not None:
            await self._looking
        self._looking = running = Future[None]()
        try:
            if listed is None:
                listed = await self._read(self._imds.enis)
            described = await self._cloud.call(
                "DescribeNetworkInterfaces", lambda: self._ec2.enis_of_instance(self._instance.instance_id)
            )
        finally:
            self._looking = None
            running.set(None)
        hidden = self._life.hidden()
        settled = [eni for eni in described if eni.eni_id not in hidden or eni.eni_id in self._picture.enis]
        self._picture, findings = look(self._picture, self._rules, listed, settled, now=self._process.loop.clock())
        for finding in findings:
            self._process.count("awscni_ipamd_error_count", 1, fn=finding.kind)
            self._process.log.warning("inventory differs", kind=finding.kind, on=finding.on, why=finding.why)
        self._process.healthy("look")
        self._turn()

    async def _refresh_vpc(self) -> None:
        mac = self._instance.primary_mac
        self._vpc_cidrs = await self._read(lambda: self._imds.vpc_cidrs(mac))
        self._groups = await self._read(lambda: self._imds.security_groups(mac))

    async def _refresh_or_count(self) -> None:
        try:
            await self._refresh_vpc()
        except CloudRefused as error:
            self._process.degraded("metadata", str(error))
            return
        self._process.healthy("metadata")
        self._publish()

    async def _read(self, work: Callable[[], T]) -> T:
        return await self._process.loop.in_thread(work)

    # -- publishing

    def _cards(self) -> list[CardLimit]:
        unmanaged = sum(1 for eni in self._picture.enis.values() if not eni.managed and eni.cloud.card == CARD)
        return [CardLimit(CARD, max(eni_limit(self._limits, self._process.settings.max_eni) - unmanaged, 0))]

    def _growth_message(self) -> Growth:
        if not self._growth.cause and self._short:
            detail = f"{self._short} addresses more than {self._instance.instance_type} allows are wished"
            return Growth(ENI_LIMIT, detail, 0.0)
        return self._growth.growth()

    def _publish(self) -> None:
        instance = self._instance
        if not self._picture.enis:
            return
        inventory = Inventory(
            instance_id=instance.instance_id,
            instance_type=instance.instance_type,
            region=instance.region,
            availability_zone=instance.availability_zone,
            primary_address=instance.primary_address,
            primary_mac=instance.primary_mac,
            vpc_cidrs=self._vpc_cidrs,
            cards=self._cards(),
            slots=self._limits.slots,
            max_pods=self._limits.max_pods,
            enis=[eni.message() for _, eni in sorted(self._picture.enis.items())],
            growth=self._growth_message(),
            pending_addresses=self._busy().pending_addresses,
        )
        if inventory != self._published:
            self._published = inventory
            self._process.publish(inventory)


def first_pause_s(tries: int) -> float:
    """Return the pause after the `tries`-th failed attempt at the first look."""
    return LOOK.pause_s(tries, random.random())

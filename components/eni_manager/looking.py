"""Reading EC2 and metadata on time: what is there, what may be used. Nothing here changes anything at EC2.

Metadata is read every minute and makes EC2 be asked when it shows something else. EC2 itself is asked every LOOK_S: tags (`no_manage`)
and subnet tags are seen nowhere else, and both must be noticed within two minutes (spec ipam.md W14, W30). The pauses are uneven so
that the nodes of a cluster do not ask together. A read that fails is said and changes nothing (spec ipam.md W1).

    start -> metadata -> (EC2 silent or refusing: what is remembered and metadata shows, provisional) -> first look -> settled

With ENABLE_IMDS_ONLY_MODE metadata stands for EC2 and EC2 is never asked.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Coroutine, Mapping
from typing import TYPE_CHECKING, Any, Final, TypeVar

from vpccni.components.eni_manager.cloud import Cloud
from vpccni.components.eni_manager.facts import CloudEni, MetadataEni
from vpccni.components.eni_manager.hindrance import LOOK
from vpccni.components.eni_manager.imds import Imds
from vpccni.components.eni_manager.inventory import FindingKind, Picture, Rules, differs, look
from vpccni.components.eni_manager.lifecycle import Lifecycle
from vpccni.components.eni_manager.remembered import Remembered, from_metadata, vouched
from vpccni.components.eni_manager.state import State
from vpccni.shared.errors import CloudRefused
from vpccni.shared.loop import Future
from vpccni.shared.process import Process

if TYPE_CHECKING:
    from vpccni.components.eni_manager.ec2 import Ec2

T = TypeVar("T")

REPAIRS, FAILURES, DOUBTS = "awscni_reconcile_count", "awscni_ipamd_error_count", "vpccni_inventory_doubts"
COUNTED: Final[Mapping[FindingKind, tuple[str, str]]] = {
    "eniAppeared": (REPAIRS, "eniReconcileAdd"),
    "eniGone": (REPAIRS, "eniReconcileDel"),
    "addressAppeared": (REPAIRS, "eniDataStorePoolReconcileAdd"),
    "addressGone": (REPAIRS, "eniIPPoolReconcileDel"),
    "eniUnusable": (FAILURES, "eniReconcileAdd"),
    "eniDoubted": (DOUBTS, "eni"),
    "addressDoubted": (DOUBTS, "address"),
}
"""How each kind of finding is counted: the public names and labels are those of spec operations.md 2.2 and 2.3."""
RECONCILE_S: Final = 60.0  # spec ipam.md 2
RECONCILE_IPV6_S: Final = 50.0
"""All pods depend on one prefix: that it is gone must be noticed within 60 s (spec ipam.md W7)."""
VPC_REFRESH_S: Final = 30.0  # spec ipam.md 2: VPC CIDRs and security groups
LOOK_S: Final = 95.0
UNEVEN: Final = 0.1
SUBNETS_AT_START_S: Final = 2.0
"""How long the first inventory waits for the subnets; later ones correct it."""
PROVISIONAL_AFTER_S: Final = 0.7
"""How long EC2 may be silent at start before pods are served from what is remembered (spec ipam.md W35: below 2 s in all)."""


class Looking:
    """See the module. `changed()` is called after each read that may have changed the state.

    `provisional`: EC2 has not shown the ENIs yet, so nothing may be changed.
    """

    def __init__(
        self,
        process: Process,
        imds: Imds,
        cloud: Cloud,
        ec2: Ec2,
        state: State,
        life: Lifecycle,
        remembered: Remembered,
        *,
        changed: Callable[[], None],
    ) -> None:
        self._process, self._imds, self._cloud, self._ec2 = process, imds, cloud, ec2
        self._state, self._life, self._changed = state, life, changed
        self._remembered = remembered
        self.provisional = True
        cards = [card for card, _ in state.limits.cards] if state.multi_nic else [state.limits.default_card]
        self._rules = Rules(state.instance, process.settings.manage_untagged_eni, frozenset(cards))
        self._running: Future[None] | None = None
        process.gauge(
            "awscni_ipamd_action_inprogress", lambda: float(self._running is not None), fn="nodeIPPoolReconcile"
        )

    @property
    def rules(self) -> Rules:
        return self._rules

    async def first(self) -> None:
        """Read metadata, then EC2 until it answers; raise `CloudRefused` only where metadata cannot be had."""
        subnets = self._subnets_or_too_late()
        await self._read_vpc()
        listed = await self._read(self._imds.enis)
        timer = self._process.loop.call_later(PROVISIONAL_AFTER_S, lambda: self._serve_remembered(listed))
        await subnets
        tries = 0
        while self.provisional:
            try:
                await self.look(listed if tries == 0 else None)
            except CloudRefused as error:
                tries += 1
                self._process.degraded("look", f"EC2 has not shown this instance's ENIs yet. {error}")
                self._serve_remembered(listed)
                await self._process.loop.sleep(LOOK.pause_s(tries, random.random()))
        timer.cancel()

    def _serve_remembered(self, listed: list[MetadataEni]) -> None:
        state = self._state
        if not self.provisional or state.picture.enis or not self._remembered.enis:
            return
        hidden, now = self._life.hidden(), self._process.loop.clock()
        enis = [eni for eni in self._remembered.enis if eni.eni_id not in hidden]
        state.show(Picture(vouched(self._rules, enis, listed, self._remembered.cidrs, now=now)))
        self._process.log.warning("enis served from memory", count=len(enis), why="EC2 has not answered yet")
        self._process.serving()
        self._changed()

    def begin(self) -> None:
        """Go on reading, each on its own time."""
        self._every(RECONCILE_IPV6_S if self._state.ipv6 else RECONCILE_S, self._reconcile, "reconcile")
        self._every(VPC_REFRESH_S, self._refresh_vpc, "vpc")
        self._every(LOOK_S, lambda: self.look_or_say(routine=True), "look")
        self._every(LOOK_S, self.read_subnets, "subnets")

    def look_soon(self) -> None:
        """Take a look beside whatever else goes on."""
        self._process.loop.spawn(self.look_or_say(), name="look")

    async def look_or_say(self, listed: list[MetadataEni] | None = None, *, routine: bool = False) -> None:
        """Take a look; where it fails the inventory is said to be old. `routine`: nobody waits for it."""
        try:
            await self.look(listed, routine=routine)
        except CloudRefused as error:
            self._process.degraded("look", f"The inventory may be old. {error}")

    async def look(self, listed: list[MetadataEni] | None = None, *, routine: bool = False) -> None:
        """Ask EC2 (and metadata, unless `listed`) and take over what they show. One look follows the other."""
        while self._running is not None:
            await self._running
        self._running = running = Future[None]()
        try:
            if listed is None:
                listed = await self._read(self._imds.enis)
            described = await self._describe(listed, routine=routine)
        finally:
            self._running = None
            running.set(None)
        state, hidden = self._state, self._life.hidden()
        before = Picture() if self.provisional else state.picture
        settled = [eni for eni in described if eni.eni_id not in hidden or eni.eni_id in before.enis]
        now = self._process.loop.clock()
        picture, findings = look(before, self._rules, listed, settled, now=now, subnets=state.subnets.cidrs())
        if self.provisional:
            picture = picture.ordered_as(self._remembered.enis)
        self.provisional = False
        state.show(picture)
        for finding in findings:
            name, fn = COUNTED[finding.kind]
            self._process.count(name, 1, fn=fn)
            self._process.log.warning("inventory differs", kind=finding.kind, on=finding.on, why=finding.why)
        self._process.healthy("look")
        self._tell_unusable()
        self._changed()

    def _tell_unusable(self) -> None:
        odd = [f"{eni.eni_id} is unusable: {eni.problem}" for eni in self._state.picture.enis.values() if eni.problem]
        if odd:
            self._process.degraded("enis", "; ".join(sorted(odd)))
        else:
            self._process.healthy("enis")

    async def _describe(self, listed: list[MetadataEni], *, routine: bool) -> list[CloudEni]:
        if self._process.settings.imds_only:
            return from_metadata(listed, self._remembered.enis, self._rules)
        instance_id = self._state.instance.instance_id
        return await self._cloud.call(
            "DescribeNetworkInterfaces", lambda: self._ec2.enis_of_instance(instance_id), routine=routine
        )

    async def read_subnets(self) -> None:
        """Read the subnets of the VPC and zone; where it fails what was read before stays in force."""
        state = self._state
        if self._process.settings.imds_only:
            return
        vpc_id, zone = state.instance.vpc_id, state.instance.availability_zone
        try:
            seen = await self._cloud.call("DescribeSubnets", lambda: self._ec2.subnets(vpc_id, zone), routine=True)
        except CloudRefused as error:
            self._process.degraded("subnets", f"Subnets and their tags are those last read. {error}")
            return
        self._process.healthy("subnets")
        state.subnets = state.subnets.with_seen(seen)
        state.show(state.picture)
        self._changed()

    async def _reconcile(self) -> None:
        try:
            listed = await self._read(self._imds.enis)
        except CloudRefused as error:
            self._process.count("awscni_ipamd_error_count", 1, fn="reconcileFailedGetENIs")
            self._process.degraded("metadata", str(error))
            return
        self._process.healthy("metadata")
        if differs(self._state.picture, listed, now=self._process.loop.clock()):
            await self.look_or_say(listed, routine=True)

    async def _refresh_vpc(self) -> None:
        try:
            await self._read_vpc()
        except CloudRefused as error:
            self._process.degraded("metadata", str(error))
            return
        self._process.healthy("metadata")
        self._changed()

    async def _read_vpc(self) -> None:
        mac = self._state.instance.primary_mac
        self._state.vpc_cidrs = await self._read(lambda: self._imds.vpc_cidrs(mac))
        if self._state.ipv6:
            self._state.vpc_ipv6_cidrs = await self._read(lambda: self._imds.vpc_ipv6_cidrs(mac))
        self._state.groups = tuple(await self._read(lambda: self._imds.security_groups(mac)))

    async def _read(self, work: Callable[[], T]) -> T:
        return await self._process.loop.in_thread(work)

    def _subnets_or_too_late(self) -> Future[None]:
        """Begin to read the subnets; the future is done when they are read, or when waiting for them has to end."""
        done: Future[None] = Future()

        async def read() -> None:
            try:
                await self.read_subnets()
            finally:
                done.set(None)

        self._process.loop.spawn(read(), name="subnets")
        self._process.loop.call_later(SUBNETS_AT_START_S, lambda: done.set(None))
        return done

    def _every(self, seconds: float, work: Callable[[], Coroutine[Any, Any, None]], name: str) -> None:
        loop = self._process.loop

        async def once() -> None:
            try:
                await work()
            finally:
                again()

        def start() -> None:
            loop.spawn(once(), name=name)

        def again() -> None:
            loop.call_later(seconds * (1 + UNEVEN * random.uniform(-1, 1)), start)

        again()

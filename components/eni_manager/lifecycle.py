"""ENIs under way: from nothing to attached, or from attached to deleted, one journaled step after the other.

    create ──> attach ──> own ──> in the inventory
                 │          │
                 └──────────┴──> detach ──> delete ──> gone          a surrendered ENI starts at detach

Every step can be repeated: create carries a client token, attach and own look first when they are not sure what the call before
them did, detach and delete take "is gone" as success. So a process that died between any two calls goes on where it was. A growing
ENI that EC2 refuses to go on with is taken back. Freeing is repeated, with pauses, until EC2 confirms it.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import TYPE_CHECKING, Final, Protocol, TypeVar

import msgspec

from vpccni.components.eni_manager.cloud import Cloud
from vpccni.components.eni_manager.facts import CloudEni, NewEni
from vpccni.components.eni_manager.hindrance import LOOK, NO_ANSWER, THROTTLED, cause_of
from vpccni.components.eni_manager.journal import ATTACH, CREATE, DELETE, DETACH, OWN, Intent, Journal
from vpccni.shared.errors import CloudRefused
from vpccni.shared.loop import Loop
from vpccni.shared.names import EniId

if TYPE_CHECKING:
    from vpccni.components.eni_manager.ec2 import Ec2

CallResult = TypeVar("CallResult")

POLL_FIRST_S: Final = 0.1
POLL_LONGEST_S: Final = 5.0
METADATA_ALONE_S: Final = (1.5, 0.5, 1.0, 2.0)
"""So long metadata alone is asked whether an ENI is attached, before EC2 is each time: one EC2 call when metadata is right, and one
that is old costs at most 2 s."""
SHOWN_LONGEST_S: Final = 0.8
LAG_S: Final = 15.0
"""EC2's reads may show the state before our last call for this long."""
ATTACHED_WITHIN_S: Final = 120.0
DEVICES: Final = 100  # spec ipam.md 2
DEVICE_TRIES: Final = 3
IN_USE: Final = frozenset({"InvalidNetworkInterface.InUse", "InvalidParameterValue"})


class Owner(Protocol):
    """Who hears what comes of it."""

    def devices_in_use(self, card: int) -> set[int]: ...
    def eni_ready(self, eni: CloudEni) -> None: ...
    def eni_gone(self, eni_id: EniId) -> None: ...
    def growth_refused(self, error: CloudRefused, new: NewEni | None) -> None: ...
    def under_way_changed(self) -> None: ...
    def journal_refused(self, error: OSError) -> None: ...


class Lifecycle:
    """See the module. `intents` is what the journal holds, by token. `macs()` asks instance metadata for the ENIs it lists."""

    def __init__(
        self,
        loop: Loop,
        cloud: Cloud,
        ec2: Ec2,
        journal: Journal,
        *,
        macs: Callable[[], list[str]],
        instance_id: str,
        owner: Owner,
    ) -> None:
        self._loop, self._cloud, self._ec2, self._journal, self._macs = loop, cloud, ec2, journal, macs
        self._instance_id, self._owner = instance_id, owner
        self.intents: dict[str, Intent] = {}
        self._unsure: set[str] = set()

    def begin(self, intent: Intent) -> None:
        """Write the intent down and start on it."""
        self._put(intent)
        self._loop.spawn(self._drive(intent.token), name=f"eni {intent.step}")

    def load(self) -> None:
        """Read what the journal holds; raise ValueError when it cannot be read."""
        self.intents = {intent.token: intent for intent in self._journal.load()}

    def resume(self) -> None:
        """Go on with what `load` read."""
        for intent in self.intents.values():
            self._unsure.add(intent.token)
            self._loop.spawn(self._drive(intent.token), name=f"eni {intent.step}")

    @property
    def journal_lost(self) -> bool:
        """Tell whether `load` found no journal: ENIs may be under way that nobody knows."""
        return self._journal.lost

    def journal_is_complete(self) -> None:
        """Have a journal on disk, empty if need be: from now on it tells everything."""
        try:
            self._journal.save(list(self.intents.values()))
        except OSError as error:
            self._owner.journal_refused(error)

    def growing(self) -> list[Intent]:
        """Return the intents that end with one more ENI."""
        return [intent for intent in self.intents.values() if not intent.frees]

    def freeing(self) -> frozenset[EniId]:
        """Return the ENIs that are being given back."""
        return frozenset(EniId(intent.eni_id) for intent in self.intents.values() if intent.frees)

    def hidden(self) -> frozenset[EniId]:
        """Return every ENI that has an intent: not to be taken for a settled one."""
        return frozenset(EniId(intent.eni_id) for intent in self.intents.values() if intent.eni_id)

    # -- one intent

    async def _drive(self, token: str) -> None:
        tries = 0
        while (intent := self.intents.get(token)) is not None:
            try:
                await self._step(intent)
                tries = 0
            except CloudRefused as error:
                tries += 1
                self._unsure.add(token)
                if self._refused(self.intents[token], error, tries):
                    throttled = cause_of(error.error_code) == THROTTLED  # then the call itself waits for its turn
                    await self._loop.sleep(POLL_FIRST_S if throttled else LOOK.pause_s(tries, random.random()))
            except OSError as error:  # the journal: every step can be repeated
                tries += 1
                self._unsure.add(token)
                self._owner.journal_refused(error)
                await self._loop.sleep(LOOK.pause_s(tries, random.random()))
        self._unsure.discard(token)
        self._owner.under_way_changed()

    async def _step(self, intent: Intent) -> None:
        if intent.step == CREATE:
            await self._create(intent)
        elif intent.step == ATTACH:
            await self._attach(intent)
        elif intent.step == OWN:
            await self._own(intent)
        elif intent.step == DETACH:
            await self._detach(intent)
        else:
            await self._call("DeleteNetworkInterface", lambda: self._ec2.delete(EniId(intent.eni_id)))
            self._drop(intent)

    async def _create(self, intent: Intent) -> None:
        new = intent.new
        assert new is not None, "a create intent carries what to create"
        eni = await self._call("CreateNetworkInterface", lambda: self._ec2.create(new))
        self._unsure.discard(intent.token)
        self._next(intent, step=ATTACH, eni_id=eni.eni_id, mac=eni.mac, device=self._free_device(intent.card))

    async def _attach(self, intent: Intent) -> None:
        eni_id = EniId(intent.eni_id)
        if intent.token in self._unsure:
            seen = await self._seen(eni_id, lambda eni: True)
            if seen is None:
                self._drop(intent)
                return
            if seen.attachment_id:
                self._next(intent, step=OWN)
                return
        device, card = intent.device, intent.card
        await self._call(
            "AttachNetworkInterface", lambda: self._ec2.attach(eni_id, self._instance_id, device=device, card=card)
        )
        self._next(intent, step=OWN)

    async def _own(self, intent: Intent) -> None:
        eni_id = EniId(intent.eni_id)
        eni = await self._attached(eni_id, intent.mac)
        if eni is None:
            self._drop(intent)
        elif not eni.is_attached_to(self._instance_id):
            self._unsure.add(intent.token)
            self._next(intent, step=ATTACH if not eni.attachment_id else DETACH)
        else:
            if not eni.delete_on_termination:
                await self._call(
                    "ModifyNetworkInterfaceAttribute",
                    lambda: self._ec2.delete_on_termination(eni_id, eni.attachment_id),
                )
            self._owner.eni_ready(eni)
            self._drop(intent)

    async def _attached(self, eni_id: EniId, mac: str) -> CloudEni | None:
        """Wait for the ENI to be attached; return what EC2 shows of it then, or when the time is over (None: not known)."""
        for alone_s in METADATA_ALONE_S:
            if await self._shown_by_metadata(mac, within_s=alone_s):
                break
            eni = await self._call("DescribeNetworkInterfaces", lambda: self._ec2.eni(eni_id))
            if eni is not None and eni.is_attached_to(self._instance_id):
                return eni
        return await self._seen(eni_id, lambda one: one.is_attached_to(self._instance_id), within_s=ATTACHED_WITHIN_S)

    async def _shown_by_metadata(self, mac: str, *, within_s: float) -> bool:
        """Wait until instance metadata lists the ENI, which costs no call of EC2's; true too where only EC2 can tell."""
        deadline, pause = self._loop.clock() + within_s, POLL_FIRST_S
        while mac:
            try:
                if mac in await self._loop.in_thread(self._macs):
                    return True
            except CloudRefused:
                return True
            left_s = deadline - self._loop.clock()
            if left_s <= 0:
                return False
            await self._loop.sleep(min(pause, left_s))
            pause = min(pause * 2, SHOWN_LONGEST_S)
        return True

    async def _detach(self, intent: Intent) -> None:
        eni_id = EniId(intent.eni_id)
        eni = await self._seen(eni_id, lambda one: True)
        if eni is not None and eni.attachment_id:
            attachment_id = eni.attachment_id
            if eni.attachment_status not in ("detaching", "detached"):
                await self._call("DetachNetworkInterface", lambda: self._ec2.detach(eni_id, attachment_id))
            eni = await self._seen(eni_id, lambda one: not one.attachment_id, within_s=ATTACHED_WITHIN_S)
        if eni is not None and eni.attachment_id:
            return  # still detaching: looked at again
        self._owner.eni_gone(eni_id)
        if eni is None:
            self._drop(intent)
        else:
            self._next(intent, step=DELETE)

    async def _seen(
        self, eni_id: EniId, enough: Callable[[CloudEni], bool], *, within_s: float = LAG_S
    ) -> CloudEni | None:
        """Poll EC2 until it shows what is `enough`; then, or after `within_s`, return what it shows (None: not known)."""
        deadline, pause, lag_until = self._loop.clock() + within_s, POLL_FIRST_S, self._loop.clock() + LAG_S
        while True:
            eni = await self._call("DescribeNetworkInterfaces", lambda: self._ec2.eni(eni_id))
            now = self._loop.clock()
            if (eni is not None and enough(eni)) or now >= deadline:
                return eni
            if (eni is None or eni.status == "available") and now >= lag_until:
                return eni
            await self._loop.sleep(pause)
            pause = min(pause * 2, POLL_LONGEST_S)

    # -- refusals and the journal

    def _refused(self, intent: Intent, error: CloudRefused, tries: int) -> bool:
        """Decide how to go on after a refusal; return whether to wait before the next try."""
        unknown = error.error_code in NO_ANSWER
        if intent.frees:
            self._count_left_over(intent, error)
            return True
        if intent.step == ATTACH and error.error_code in IN_USE and tries <= DEVICE_TRIES:
            self._next(intent, device=self._free_device(intent.card, above=intent.device))
            return True
        self._owner.growth_refused(error, intent.new)
        if unknown or (intent.step != CREATE and cause_of(error.error_code) == THROTTLED):
            return True
        if intent.step == CREATE:
            self._drop(intent)
        else:
            self._next(intent, step=DETACH)
        return False

    def _count_left_over(self, intent: Intent, error: CloudRefused) -> None:
        if error.api == "DeleteNetworkInterface":
            self._cloud.left_over("AllocENIDeleteErr" if intent.new is not None else "FreeENIDeleteErr", error)
        elif error.api == "DescribeNetworkInterfaces" and intent.step == DETACH:
            self._cloud.left_over("getENIAttachmentIDFailed", error)
        elif intent.new is not None:
            self._cloud.left_over("ENICleanupUponModifyNetworkErr", error)

    def _free_device(self, card: int, *, above: int = -1) -> int:
        taken = self._owner.devices_in_use(card) | {one.device for one in self.intents.values() if one.card == card}
        return next((device for device in range(above + 1, DEVICES) if device not in taken), DEVICES)

    def _next(self, intent: Intent, *, step: str = "", eni_id: str = "", mac: str = "", device: int = -1) -> None:
        changed = msgspec.structs.replace(
            intent,
            step=step or intent.step,
            eni_id=eni_id or intent.eni_id,
            mac=mac or intent.mac,
            device=device if device >= 0 else intent.device,
        )
        self._put(changed)

    def _put(self, intent: Intent) -> None:
        after = {**self.intents, intent.token: intent}
        self._journal.save(list(after.values()))  # before it counts: what cannot be written down is not begun
        self.intents = after

    def _drop(self, intent: Intent) -> None:
        after = {token: one for token, one in self.intents.items() if token != intent.token}
        self._journal.save(list(after.values()))
        self.intents = after

    async def _call(self, api: str, work: Callable[[], CallResult]) -> CallResult:
        return await self._cloud.call(api, work)

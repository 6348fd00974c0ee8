"""The loop: the allocator's wish and the clock in, EC2 calls and the `Inventory` out.

`Manager` turns the wish into calls. Every change of what is known ends in `_turn`: plan, start what the plan says and is not under
way, publish if something is new. Growth starts with the wish, not with a timer. Nothing is published before metadata and EC2 agree, or,
while EC2 is silent, metadata and what EC2 told an earlier process; until then the process says why it waits.
"""

from __future__ import annotations

import random
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from vpccni.components.eni_manager.annotations import is_among
from vpccni.components.eni_manager.changes import Changes, Tell
from vpccni.components.eni_manager.cloud import Cloud
from vpccni.components.eni_manager.facts import CloudEni, InstanceFacts, NewEni
from vpccni.components.eni_manager.hindrance import (
    LOOK,
)
from vpccni.components.eni_manager.imds import Imds
from vpccni.components.eni_manager.inventory import held_eni
from vpccni.components.eni_manager.ipv6 import Watch, plan_prefixes
from vpccni.components.eni_manager.journal import Journal
from vpccni.components.eni_manager.kube_facts import NOT_KNOWN_YET, EniConfig
from vpccni.components.eni_manager.lifecycle import Lifecycle
from vpccni.components.eni_manager.limits import InstanceLimits
from vpccni.components.eni_manager.looking import Looking
from vpccni.components.eni_manager.network_cards import card_limits
from vpccni.components.eni_manager.outlook import growth_of, inventory_of
from vpccni.components.eni_manager.patience import Patience, retry_spread_s, urgent_part
from vpccni.components.eni_manager.planner import (
    CORDONED,
    PROVISIONING_OFF,
    Plan,
    plan,
    restrained,
)
from vpccni.components.eni_manager.remembered import Remembered
from vpccni.components.eni_manager.state import State
from vpccni.components.eni_manager.subnets import Subnets
from vpccni.components.eni_manager.upkeep import CountNodes, Upkeep
from vpccni.shared.errors import CloudRefused
from vpccni.shared.messages.inventory import CapacityTarget, CardLimit, Inventory
from vpccni.shared.names import EniId
from vpccni.shared.process import Process

if TYPE_CHECKING:
    from vpccni.components.eni_manager.ec2 import Ec2

PATIENCE_SLACK_S: Final = 0.01
NODES_SOON_AGAIN_S: Final = 60.0
"""A node that starts is seldom the only one: it counts again when the others are there too."""
NODES_AGAIN_S: Final = 600.0
REASON_PREFIX_LOST: Final = "Ipv6PrefixLost"


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
        self._process, self._cloud = process, cloud
        self._state = State(
            instance,
            limits,
            Subnets(instance.subnet_id, settings.cluster_name, settings.subnet_discovery),
            by_prefix=settings.prefix_delegation and limits.prefixes,
            ipv6=settings.ipv6,
            multi_nic=settings.multi_nic,
            custom=NOT_KNOWN_YET if settings.custom_networking else None,
        )
        journal = Journal(process.run_dir / "eni_manager.journal")
        self._life = Lifecycle(
            process.loop, cloud, ec2, journal, macs=imds.macs, instance_id=instance.instance_id, owner=self
        )
        self._remembered = Remembered(process.run_dir / "eni_manager.enis", instance.instance_id)
        self._looking = Looking(
            process, imds, cloud, ec2, self._state, self._life, self._remembered, changed=self._turn
        )
        self._changes = Changes(process, cloud, ec2, self._state, self._life, self._looking, tell=tell, turn=self._turn)
        self._upkeep = Upkeep(process, cloud, ec2, self._state, self._life, nodes=nodes)
        self._wish: CapacityTarget | None = None
        self._plan = Plan()
        self._is_cordoned = False
        self._nodes = nodes
        self._node_count: int | None = None
        self._patience, self._put_off = Patience(), False
        self._tell, self._watch = tell, Watch()
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
        self._watch = Watch.remembered(self._remembered.enis)
        self._state.subnets = replace(self._state.subnets, excluded_before=self._remembered.excluded)
        await self._looking.first()
        self._life.resume()
        self._looking.begin()
        if self._process.settings.provisioning:
            self._upkeep.begin(journal_lost=self._life.journal_lost)
        self._count_again()
        self._process.loop.call_later(NODES_SOON_AGAIN_S, self._count_again)
        self._process.loop.every(NODES_AGAIN_S, self._count_again, name="count nodes")
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

    def eni_config(self, config: EniConfig | str) -> None:
        """Take the ENIConfig that new ENIs come from, or why there is none; with custom networking only."""
        if config != self._state.custom:
            self._state.custom = config
            self._turn()

    def has(self, address: str) -> bool:
        """Tell whether a text is an address that an ENI of this node holds for pods."""
        return is_among(address, (item for eni in self._state.picture.enis.values() for item in eni.all_items))

    # -- what the lifecycle tells

    def devices_in_use(self, card: int) -> set[int]:
        return {eni.cloud.device_number for eni in self._state.picture.enis.values() if eni.cloud.card == card}

    def eni_ready(self, eni: CloudEni) -> None:
        state, now = self._state, self._process.loop.clock()
        known = {one.cloud.subnet_id: one.subnet_cidr for one in state.picture.enis.values()}
        cidr = {**known, **state.subnets.cidrs()}.get(eni.subnet_id, "")
        self._changes.succeeded(eni.subnet_id)
        held = held_eni(
            self._looking.rules,
            eni,
            None,
            subnet_cidr=cidr,
            subnet_cidr_v6=state.subnets.cidr_v6(eni.subnet_id),
            now=now,
        )
        state.show(state.picture.with_eni(held, now=now))
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
            self._changes.refused(error, new.subnet_id, new.addresses + 1)
            self._publish()

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
        now = self._process.loop.clock()
        if self._state.ipv6:
            self._keep_prefixes(now)
        elif self._wish is not None:
            terms, busy = self._changes.terms(now), self._changes.busy()
            todo = plan(self._wish, self._state.picture, self._cards(), terms, busy)
            self._plan = restrained(todo, self._restraint())
            self._changes.start(self._patient(self._plan, self._wish.urgent, now), now)
        if self._process.settings.provisioning:
            self._upkeep.turn()
        self._publish()

    def _keep_prefixes(self, now: float) -> None:
        """See to it that each card has its IPv6 prefix; what the allocator wishes plays no part."""
        before, cards = self._watch, self._cards()
        self._watch = after = before.after(self._state.picture, [limit.card for limit in cards], now=now)
        if missing := sorted(after.used[card] for card in after.lost):
            sentence = (
                f"EC2 no longer shows {', '.join(missing)}: pods with addresses of it have no network; put it back"
            )
            self._process.degraded("prefix", sentence)
            if after.lost.keys() - before.lost.keys():
                self._process.count("vpccni_ipv6_prefixes_lost", 1)
                self._tell(REASON_PREFIX_LOST, sentence)
                if (at := after.next_at(now=now)) is not None:
                    self._process.loop.call_later(at - now + PATIENCE_SLACK_S, self._looking.look_soon)
        else:
            self._process.healthy("prefix")
        busy = self._changes.busy()
        self._plan = plan_prefixes(
            self._state.picture,
            cards,
            self._changes.terms(now),
            growing={card for card, _ in busy.creating},
            blocked=after.blocked(now=now),
        )
        if not self._process.settings.provisioning:
            self._plan = restrained(self._plan, PROVISIONING_OFF)
        idle = tuple(step for step in self._plan.assign if step.eni_id not in busy.enis)
        self._changes.start(replace(self._plan, assign=idle), now)

    def _patient(self, todo: Plan, urgent: int, now: float) -> Plan:
        """Return the plan with only its urgent growth while the rest may wait."""
        at_once = urgent_part(todo, -(-urgent // self._state.unit) - self._changes.busy().pending_items)
        wait = self._patience.wait_s(waits=at_once != todo, nodes=self._node_count, now=now, random=random.random())
        if not wait:
            return todo
        if not self._put_off:
            self._put_off = True
            self._process.loop.call_later(wait + PATIENCE_SLACK_S, self._patience_ends)
        return at_once

    def _patience_ends(self) -> None:
        self._put_off = False
        self._turn()

    def _count_again(self) -> None:
        self._process.loop.spawn(self._count_nodes(), name="count nodes")

    async def _count_nodes(self) -> None:
        self._node_count = await self._nodes()
        self._cloud.spread(retry_spread_s(self._node_count))

    def _restraint(self) -> str:
        settings = self._process.settings
        if not settings.provisioning:
            return PROVISIONING_OFF
        return CORDONED if self._is_cordoned and not settings.manage_unschedulable else ""

    # -- publishing

    def _cards(self) -> list[CardLimit]:
        state = self._state
        return card_limits(state.picture, state.limits, self._process.settings.max_eni, state.cards())

    def _publish(self) -> None:
        state, now = self._state, self._process.loop.clock()
        if not state.picture.enis:
            return
        inventory = inventory_of(
            state,
            cards=self._cards(),
            growth=growth_of(self._changes.growth, self._plan, state, now=now),
            pending_addresses=self._changes.busy().pending_items * state.unit,
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

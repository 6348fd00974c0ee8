"""The allocator's loop: releases and assignments in batches under one save, copies of the inventory, the wish for capacity.

    Assign*, Release* ──▶ ledger (core) ──▶ checkpoint.save ──▶ answers
    Inventory, UsableEnis ──▶ pool          PoolState, LedgerState ──▶ events
    Wirings ──▶ audit                       CapacityTarget ──▶ eni_manager

A change is answered only after its save; a save that fails is taken back, leaves everything as it was and gives nothing out.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final, cast

from vpccni.components.ip_allocator import audit, causes, outlook, warm_pool, wish
from vpccni.components.ip_allocator import ledger as books
from vpccni.components.ip_allocator import pool as pools
from vpccni.components.ip_allocator.blocks import Block
from vpccni.components.ip_allocator.checkpoint import Checkpoint
from vpccni.components.ip_allocator.ledger import Change, Holding, Ledger
from vpccni.components.ip_allocator.losses import losses
from vpccni.components.ip_allocator.view import View
from vpccni.shared import names
from vpccni.shared.bus import Call
from vpccni.shared.clock import wall_ns
from vpccni.shared.errors import BusError, CheckpointFailed
from vpccni.shared.loop import Timer
from vpccni.shared.messages.allocation import (
    Assign,
    Assigned,
    NoCapacity,
    PoolState,
    Release,
    Released,
)
from vpccni.shared.messages.base import Message, Sandbox
from vpccni.shared.messages.inventory import CapacityTarget, Inventory
from vpccni.shared.messages.wiring import UsableEnis, Wirings
from vpccni.shared.process import Process

REVIEW_S: Final = 5.0
QUIET_S: Final = 30.0
SHRINK_EVERY_S: Final = 30.0  # spec ipam.md 2: address scale-down at most once per 30 s
DEMAND_LASTS_S: Final = 2.0
"""A sandbox that got nothing counts as demand this long after its last try."""
POOL_STATE_AFTER_S: Final = 0.1
LEDGER_STATE_AFTER_S: Final = 2.0
ANNOTATED_AFTER_S: Final = 0.1
"""With ANNOTATE_POD_IP somebody waits for the news of an assignment."""
TARGET_AFTER_S: Final = 0.02
TARGET_TIMEOUT_S: Final = 2.0
RESEND_TARGET_S: Final = 30.0


class AllocatorService:
    """The one owner of the ledger. `start` loads the checkpoint and begins to serve."""

    def __init__(self, process: Process, checkpoint: Checkpoint) -> None:
        self._process, self._checkpoint = process, checkpoint
        self._clock = process.loop.clock
        self._period_s = float(process.settings.ip_cooldown_s)
        self._tell_after_s = ANNOTATED_AFTER_S if process.settings.annotate_pod_ip else LEDGER_STATE_AFTER_S
        self._ledger = Ledger()
        self._inventory: Inventory | None = None
        self._usable: UsableEnis | None = None
        self._occupancy: pools.Occupancy | None = None
        self._rebuild = self._resting_due = False
        self._unclaimed: frozenset[str] = frozenset()
        self._findings = audit.NOTHING
        self._demand: dict[Sandbox, tuple[float, bool]] = {}
        """When a sandbox got nothing, and whether it wants an address of every card."""
        self._shrunk_at = self._reviewed_at = float("-inf")
        self._stirred = True
        self._sent: tuple[float, CapacityTarget] | None = None
        self._timers: dict[str, Timer] = {}

    def start(self) -> None:
        """Load the ledger, serve, and keep copies of what the peers know."""
        loaded = self._checkpoint.load()
        self._rebuild = loaded.ledger is None
        self._resting_due = bool(loaded.trouble)
        if loaded.trouble:
            self._process.log.error("checkpoint unreadable, rebuilding from the kernel", why=loaded.trouble)
            self._process.count("vpccni_ledger_rebuilds")
        self._ledger = loaded.ledger or Ledger()
        process = self._process
        process.handle_batch(Release, self._on_releases)
        process.handle_batch(Assign, self._on_assigns)
        process.subscribe(names.ENI_MANAGER, {Inventory: self._on_inventory})
        process.subscribe(names.NETLINK_PROGRAMMER, {UsableEnis: self._on_usable, Wirings: self._on_wirings})
        process.loop.every(REVIEW_S, self._review, name="review")
        process.on_stop(self._fold)
        process.count("awscni_add_ip_req_count", 0)
        process.count("awscni_no_available_ip_addresses", 0)
        self._save(self._ledger)
        self._publish_pool()
        self._publish_ledger()
        process.serving()

    # -- requests

    def _on_releases(self, calls: Sequence[Call]) -> list[Message]:
        asks = [cast(Release, call.message) for call in calls]
        answers: list[Message] = []
        for ask, call in zip(asks, calls, strict=True):
            holdings = self._ledger.held.get(ask.sandbox, ())
            self._process.count("awscni_del_ip_req_count", reason=ask.reason)
            self._process.log.info(
                "address released" if holdings else "nothing to release",
                trace=call.trace_id,
                sandbox=str(ask.sandbox),
                address=",".join(holding.address for holding in holdings),
                reason=ask.reason,
            )
            answers.append(Released(sandbox=ask.sandbox, interfaces=[one.interface() for one in holdings]))
        self._replace(books.release(self._ledger, [ask.sandbox for ask in asks], now=self._clock()))
        for ask in asks:
            self._demand.pop(ask.sandbox, None)
        return answers

    def _on_assigns(self, calls: Sequence[Call]) -> list[Message]:
        asks = [cast(Assign, call.message) for call in calls]
        self._process.count("awscni_add_ip_req_count", len(asks))
        if self._occupancy is None or self._rebuild:
            return [self._known_or_starting(ask) for ask in asks]
        now = self._clock()
        change, given = pools.assign(
            self._occupancy, self._ledger, asks, now=now, period_s=self._period_s, wall_ns=wall_ns()
        )
        self._replace(change)
        answers: list[Message] = []
        for ask, call, holdings in zip(asks, calls, given, strict=True):
            if not holdings:
                self._demand[ask.sandbox] = (now, ask.multi_nic)
                answers.append(self._refusal(ask))
                continue
            self._demand.pop(ask.sandbox, None)
            self._process.log.info(
                "address assigned",
                trace=call.trace_id,
                sandbox=str(ask.sandbox),
                pod=str(ask.pod),
                address=",".join(holding.address for holding in holdings),
                eni=",".join(holding.eni_id for holding in holdings),
            )
            answers.append(Assigned(sandbox=ask.sandbox, interfaces=[one.interface() for one in holdings]))
        return answers

    def _known_or_starting(self, ask: Assign) -> Message:
        holdings = self._ledger.held.get(ask.sandbox, ())
        if holdings and all(holding.eni_id and holding.route_table for holding in holdings):
            return Assigned(sandbox=ask.sandbox, interfaces=[one.interface() for one in holdings])
        return self._refusal(ask)

    def _refusal(self, ask: Assign) -> NoCapacity:
        self._process.count("awscni_no_available_ip_addresses")
        self._plan_soon()
        cause, detail, retry_ms = self._cause(self._exhausted_card() if ask.multi_nic else None)
        self._process.count("vpccni_no_capacity", cause=cause)
        return NoCapacity(sandbox=ask.sandbox, cause=cause, detail=detail, retry_after_ms=retry_ms)

    def _exhausted_card(self) -> int | None:
        """Return the first network card without a free address: the one that keeps a multi-NIC pod waiting."""
        cards = self._occupancy.pool.cards if self._occupancy is not None else ()
        return next((card for card in cards if not self._census(card).assignable), None)

    def _cause(self, card: int | None = None) -> tuple[str, str, int]:
        """Return why no address is free, on one card or on any, in words, and when to ask again."""
        now = self._clock()
        if self._occupancy is None or self._inventory is None or self._rebuild:
            return causes.explain(None, None, can_grow=False, cools_in_s=None, now=now)
        cause, detail, retry_ms = self._cause_on(self._occupancy.pool, self._inventory, card, now=now)
        return cause, detail if card is None else f"network card {card}: {detail}", retry_ms

    def _cause_on(
        self, pool: pools.Pool, inventory: Inventory, card: int | None, *, now: float
    ) -> tuple[str, str, int]:
        census = self._census(card)
        waits = [at + self._period_s - now for at in self._ledger.released_at.values()]
        if inventory.ipv6:  # without its prefix the manager is after it, with it there is always an address
            return causes.explain(inventory, census, can_grow=True, cools_in_s=None, now=now)
        shapes = [
            (shape, targets)
            for one, shape, targets in wish.shapes(pool, self._view(), self._waiting(), self._targets())
            if card in (None, one)
        ]
        grows = any(warm_pool.wanted_total(shape, targets) > shape.total for shape, targets in shapes)
        return causes.explain(
            inventory,
            census,
            can_grow=grows or inventory.pending_addresses > 0,
            cools_in_s=min(waits) if waits and census.cooling else None,
            now=now,
            held_down=any(warm_pool.stops_at_minimum(targets) and shape.gaps for shape, targets in shapes),
        )

    # -- copies of the peers' facts

    def _on_inventory(self, inventory: Inventory) -> None:
        lost = losses(self._inventory, inventory, self._ledger.holders)
        self._process.count("awscni_force_removed_enis", lost.enis)
        self._process.count("awscni_force_removed_ips", lost.addresses)
        self._inventory = inventory
        items = frozenset(item for eni in inventory.enis for item in (*eni.addresses, *eni.prefixes))
        enis = frozenset(eni.eni_id for eni in inventory.enis)
        self._replace(books.forget_gone(self._ledger, items=items, enis=enis))
        self._rebuild_pool()

    def _on_usable(self, usable: UsableEnis) -> None:
        self._usable = usable
        self._rebuild_pool()

    def _rebuild_pool(self) -> None:
        if self._inventory is None or self._usable is None:
            return
        pool = pools.build(self._inventory, self._usable, self._unclaimed)
        self._occupancy = pools.Occupancy.of(pool, self._ledger, self._occupancy)
        if self._resting_due:
            self._resting_due = False
            addresses = pools.with_lost_history(pool, self._ledger)
            self._replace(books.rest_all(self._ledger, addresses, now=self._clock()))
        lost = [address for address in self._ledger.holders if pool.finder.find(address) is None]
        if lost:
            self._process.degraded(
                "lost", f"addresses of running pods that EC2 does not show: {', '.join(sorted(lost))}"
            )
        else:
            self._process.healthy("lost")
        self._plan_soon()
        self._publish_pool()

    def _on_wirings(self, wirings: Wirings) -> None:
        now = self._clock()
        found = audit.compare(self._ledger, wirings, self._findings, now=now, wall_ns=wall_ns(), at_once=self._rebuild)
        self._findings = found
        for conflict in found.conflicts:
            self._process.log.error("two claims to one address", detail=conflict)
            self._process.count("vpccni_ledger_conflicts")
        if found.gone:
            self._process.log.warning("sandboxes without a veth released", count=len(found.gone))
            self._process.count("vpccni_ledger_audit_releases", len(found.gone))
            self._replace(books.release(self._ledger, found.gone, now=now))
        if found.adopted:
            self._process.log.warning("wired pods adopted", count=len(found.adopted))
            self._process.count("vpccni_ledger_adoptions", len(found.adopted))
            self._replace(books.hold(self._ledger, self._placed(found.adopted)))
        if self._rebuild and wirings.wirings:
            self._resting_due = True  # a pod was here before, and what it or others gave back lately is not known
        unclaimed = frozenset(wirings.unclaimed) - self._ledger.holders.keys()
        if self._rebuild or unclaimed != self._unclaimed:
            self._rebuild, self._unclaimed = False, unclaimed
            self._after("ledger state", self._tell_after_s, self._publish_ledger)
            self._tell_unclaimed()
            self._rebuild_pool()

    def _placed(self, adopted: Sequence[Holding]) -> list[Holding]:
        """Return adopted holdings with the network card their addresses are on, as far as that is known yet."""
        pool = self._occupancy.pool if self._occupancy is not None else None
        return [pools.with_place(pool, holding) if pool is not None else holding for holding in adopted]

    def _tell_unclaimed(self) -> None:
        if not self._unclaimed:
            self._process.healthy("unclaimed")
            return
        listed = ", ".join(sorted(self._unclaimed))
        self._process.count("vpccni_ledger_unclaimed", len(self._unclaimed))
        self._process.log.error("addresses in use by nobody's pod", addresses=sorted(self._unclaimed))
        self._process.degraded("unclaimed", f"{listed}: the kernel leads them to pods that nobody claims; kept back")

    # -- the plan

    def _plan_soon(self) -> None:
        self._stirred = True
        self._after("plan", TARGET_AFTER_S, self._plan)

    def _review(self) -> None:
        """Look at what only time changes. On a quiet node, where nothing cools and nothing happened, that is only now and then."""
        now = self._clock()
        if (
            not self._stirred
            and not self._ledger.released_at
            and not self._demand
            and now - self._reviewed_at < QUIET_S
        ):
            return
        self._stirred, self._reviewed_at = False, now
        self._replace(books.forget_cooled(self._ledger, now=now, period_s=self._period_s), quiet=True)
        self._fold()
        self._plan()
        self._publish_pool()

    def _plan(self) -> None:
        if self._occupancy is None or self._inventory is None:
            return
        now = self._clock()
        if self._inventory.ipv6:  # nothing is grown or shrunk: the manager keeps a prefix by itself (spec ipam.md 17)
            self._demand.clear()
            return
        self._demand = {one: asked for one, asked in self._demand.items() if now - asked[0] < DEMAND_LASTS_S}
        pool, view, demand, targets = self._occupancy.pool, self._view(), self._waiting(), self._targets()
        if self._give_back(*view.leftovers()):  # what no new pod may use goes as its pods leave (W14, W16)
            view = self._view()
        if now - self._shrunk_at > SHRINK_EVERY_S:
            blocks, enis = wish.surplus(pool, view, demand, targets)
            if blocks or enis:
                self._shrunk_at = now
            if self._give_back(blocks, enis):
                view = self._view()
        free = {card: self._census(card).assignable for card in pool.cards}
        cards, urgent = wish.card_targets(pool, self._ledger, view, demand, targets, free)
        target = CapacityTarget(cards=cards, reason=f"{len(self._ledger.holders)} assigned", urgent=urgent)
        same = self._sent is not None and self._sent[1].cards == target.cards and self._sent[1].urgent == target.urgent
        if not same or self._sent is None or now - self._sent[0] > RESEND_TARGET_S:
            self._sent = (now, target)
            self._process.loop.spawn(self._send(target), name="capacity target")

    async def _send(self, target: CapacityTarget) -> None:
        try:
            await self._process.client(names.ENI_MANAGER).call(target, timeout_s=TARGET_TIMEOUT_S)
            self._process.healthy("target")
        except BusError as error:
            self._sent = None
            self._process.degraded("target", f"the ENI manager does not hear what is wanted: {error.why}")

    def _give_back(self, blocks: Sequence[Block], enis: Sequence[str]) -> bool:
        """Fence blocks and ENIs, so that the manager may take them away; return whether there was anything to give back."""
        if not (blocks or enis):
            return False
        self._process.log.info("giving back", eni=",".join(enis), addresses=[block.item for block in blocks])
        self._replace(books.fence(self._ledger, blocks, enis))
        return True

    def _targets(self) -> warm_pool.Targets:
        settings = self._process.settings
        return warm_pool.Targets(
            warm_eni=settings.warm_eni_target,
            warm_ip=settings.warm_ip_target,
            minimum_ip=settings.minimum_ip_target,
            warm_prefix=settings.warm_prefix_target,
            max_pods=self._inventory.max_pods if self._inventory else 0,
        )

    def _view(self) -> View:
        assert self._occupancy is not None
        assert self._inventory is not None
        return View(
            self._occupancy,
            self._ledger,
            self._inventory,
            now=self._clock(),
            period_s=self._period_s,
        )

    def _waiting(self) -> wish.Demand:
        everywhere = sum(multi_nic for _, multi_nic in self._demand.values())
        return wish.Demand(len(self._demand) - everywhere, everywhere)

    def _census(self, card: int | None = None) -> pools.Census:
        """Return the census of all cards, or of one."""
        assert self._occupancy is not None
        only = card if self._occupancy.pool.cards != (card,) else None
        return pools.count(self._occupancy, self._ledger, now=self._clock(), period_s=self._period_s, card=only)

    # -- saving and telling

    def _replace(self, change: Change, *, quiet: bool = False) -> None:
        """Put a change in force and save it. A save that fails takes it back: raises `CheckpointFailed`, and nothing was changed."""
        if not change:
            return
        undo = self._put_in_force(change)
        if not quiet:
            try:
                self._save(self._ledger, change)
            except CheckpointFailed:
                self._put_in_force(undo)
                raise
        self._after("pool state", POOL_STATE_AFTER_S, self._publish_pool)
        self._after("ledger state", self._tell_after_s, self._publish_ledger)
        self._plan_soon()

    def _put_in_force(self, change: Change) -> Change:
        undo = self._ledger.apply(change)
        if self._occupancy is not None:
            self._occupancy.note(change)
        return undo

    def _save(self, ledger: Ledger, change: Change = books.NOTHING) -> None:
        try:
            self._checkpoint.save(ledger, change)
        except CheckpointFailed as error:
            self._process.count("vpccni_checkpoint_failures")
            self._process.degraded("checkpoint", str(error))
            raise
        self._process.healthy("checkpoint")

    def _fold(self) -> None:
        """Bring the public file up to date: the reference, should it take over, knows no log."""
        try:
            self._checkpoint.fold(self._ledger)
        except CheckpointFailed as error:
            self._process.degraded("checkpoint", str(error))

    def _after(self, key: str, seconds: float, call: Callable[[], None]) -> None:
        """Run `call` once in `seconds`, however often it is asked for meanwhile."""
        if key not in self._timers:

            def fire() -> None:
                del self._timers[key]
                call()

            self._timers[key] = self._process.loop.call_later(seconds, fire)

    def _publish_pool(self) -> None:
        census = self._census() if self._occupancy is not None else pools.Census(pods=len(self._ledger.held))
        cause, detail, retry_ms = ("", "", 0) if census.assignable else self._cause()
        # Without its one prefix an IPv6 node is not just full for a moment (spec ipam.md W7).
        soon = retry_ms > 0 and not (
            self._inventory is not None and self._inventory.ipv6 and self._inventory.growth.cause
        )
        ready = census.assignable > 0 or census.pods > 0 or soon  # a full node is no broken one
        self._process.publish(
            PoolState(
                ready=ready and self._occupancy is not None,
                total=census.total,
                assigned=census.assigned,
                assignable=census.assignable,
                cooling=census.cooling,
                fenced=census.fenced,
                unconfirmed=census.unconfirmed,
                max_pods=self._inventory.max_pods if self._inventory else 0,
                cause=cause,
                detail=detail,
            )
        )

    def _publish_ledger(self) -> None:
        if not self._rebuild:  # an empty ledger whose pods are still to be found would read as their release
            self._process.publish(outlook.ledger_state(self._ledger))

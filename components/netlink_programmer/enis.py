"""Keeps the node ready for the ENIs of the inventory: primary link, firewall, then each secondary ENI; tells which are usable.

Wakes on a new inventory and every `LOOK_AGAIN_S`; one pass at a time. A pass that finds all right changes nothing.
"""

from __future__ import annotations

from typing import Final

from vpccni.components.netlink_programmer import iptables, kernel
from vpccni.components.netlink_programmer.firewall import FirewallFacts, wanted
from vpccni.shared.errors import VpccniError
from vpccni.shared.messages.inventory import Eni, Inventory
from vpccni.shared.messages.wiring import UsableEni, UsableEnis
from vpccni.shared.process import Process

LOOK_AGAIN_S: Final = 30.0
RETRY_FIRST_S: Final = 0.1
RETRY_AT_MOST_S: Final = 5.0
NODE_INIT: Final = "awscni_ipamd_node_initialization_duration_seconds"
CONNMARK_OUTCOMES: Final = "awscni_connmark_reconcile_total"
CONNMARK_BACKEND: Final = "iptables"  # the one that firewall.py writes (spec dataplane.md 11.6)


class EniKeeper:
    """Owns the node-level kernel state. `ready` once the primary link and the firewall are right."""

    def __init__(self, process: Process) -> None:
        self._process = process
        self._inventory: Inventory | None = None
        self._usable: dict[str, UsableEni] = {}
        self._known: dict[str, Eni] = {}
        self._running = False
        self._again = False
        self._retry_s = RETRY_FIRST_S
        self.ready = False
        process.loop.every(LOOK_AGAIN_S, self.wake, name="node pass")
        process.gauge("awscni_connmark_backend", lambda: 1.0, backend=CONNMARK_BACKEND)
        for result in ("success", "error"):
            process.count(CONNMARK_OUTCOMES, 0, result=result)

    def take(self, inventory: Inventory) -> None:
        """Hear of a new inventory."""
        self._inventory = inventory
        self.wake()

    def wake(self) -> None:
        """Make a pass soon."""
        if self._inventory is None:
            return
        if self._running:
            self._again = True
            return
        self._running = True
        self._process.loop.spawn(self._pass(self._inventory), name="node pass")

    async def _pass(self, inventory: Inventory) -> None:
        try:
            failed = await self._base(inventory)
            for eni in inventory.enis:
                if eni.managed and not await self._one(eni):
                    failed = True
            await self._forget_gone(inventory)
            self._publish()
        except Exception as error:
            self._process.log.exception("node pass failed", error)
            self._process.count("vpccni_node_pass_errors")
            failed = True
        finally:
            self._running = False
        self._retry_s = min(RETRY_AT_MOST_S, self._retry_s * 2) if failed else RETRY_FIRST_S
        if failed:
            self._process.loop.call_later(self._retry_s, self.wake)
        if self._again:
            self._again = False
            self.wake()

    async def _base(self, inventory: Inventory) -> bool:
        """Bring primary link, fwmark rule and firewall to what is wanted; return whether that failed."""
        settings = self._process.settings
        mark_rule = settings.node_port_support or not settings.external_snat
        try:
            link = await self._process.loop.in_thread(
                lambda: kernel.set_up_node(
                    inventory, mtu=settings.eni_mtu, connmark=settings.connmark, mark_rule=mark_rule
                )
            )
            facts = FirewallFacts(
                tuple(inventory.vpc_cidrs),
                settings.exclude_snat_cidrs,
                inventory.primary_address,
                link,
                settings.veth_prefix,
                settings.connmark,
                settings.external_snat,
                settings.node_port_support,
                settings.randomize_snat,
            )
            changed = await self._make_firewall_right(facts)
        except VpccniError as error:
            self._process.degraded("node", str(error))
            self._note_init(success=False)
            return True
        if changed:
            self._process.count("vpccni_firewall_changes", changed)
            self._process.log.info("firewall tables changed", count=changed)
        self._process.healthy("node")
        self._note_init(success=True)
        self.ready = True
        return False

    async def _make_firewall_right(self, facts: FirewallFacts) -> int:
        try:
            changed = await self._process.loop.in_thread(iptables.make_right, wanted(facts))
        except VpccniError:
            self._process.count(CONNMARK_OUTCOMES, result="error")
            raise
        self._process.count(CONNMARK_OUTCOMES, result="success")
        return changed

    def _note_init(self, *, success: bool) -> None:
        """Note how long the node took to be ready for pods. A try that fails counts too: the original ends with it and starts anew."""
        if not self.ready:
            took_s = self._process.loop.clock() - self._process.started_at
            self._process.observe(NODE_INIT, took_s, success=str(success).lower())

    async def _one(self, eni: Eni) -> bool:
        try:
            ifindex, table = await self._process.loop.in_thread(
                lambda: kernel.set_up_eni(eni, mtu=self._process.settings.eni_mtu)
            )
        except VpccniError as error:
            self._process.degraded(eni.eni_id, str(error))
            return False
        self._process.healthy(eni.eni_id)
        if eni.eni_id not in self._usable:
            self._process.log.info("eni usable", eni=eni.eni_id, route_table=table, ifindex=ifindex)
            self._usable[eni.eni_id] = UsableEni(eni.eni_id, table, ifindex)
            self._publish()
        self._usable[eni.eni_id] = UsableEni(eni.eni_id, table, ifindex)
        self._known[eni.eni_id] = eni
        return True

    async def _forget_gone(self, inventory: Inventory) -> None:
        present = {eni.eni_id for eni in inventory.enis}
        for eni_id in [eni_id for eni_id in self._known if eni_id not in present]:
            gone = self._known.pop(eni_id)
            self._usable.pop(eni_id, None)
            self._process.healthy(eni_id)
            await self._process.loop.in_thread(kernel.forget_eni, gone.primary_address)
            self._process.log.info("eni gone", eni=eni_id)

    def _publish(self) -> None:
        if self.ready:
            self._process.publish(UsableEnis(enis=sorted(self._usable.values(), key=lambda eni: eni.route_table)))

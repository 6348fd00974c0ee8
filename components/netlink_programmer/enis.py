"""Keeps the node ready for the ENIs of the inventory: links, tables, rules (`repair`), then the firewall; tells which are usable.

Wakes on a new inventory and every `LOOK_AGAIN_S`; one pass at a time. A pass that finds all right changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Final

from vpccni.components.netlink_programmer.facts import Link
from vpccni.components.netlink_programmer.firewall import Backend, FirewallFacts, Table
from vpccni.components.netlink_programmer.naming import MAIN_TABLE, route_table, veth_prefix_of
from vpccni.components.netlink_programmer.node_firewall import NodeFirewall
from vpccni.components.netlink_programmer.node_plan import NODE, EniWant, PodWant, Situation, link_by_mac, suspects
from vpccni.components.netlink_programmer.repair import Outcome, Repairer
from vpccni.components.netlink_programmer.wiring import Wired
from vpccni.shared.errors import KernelRefused, VpccniError
from vpccni.shared.messages.allocation import LedgerEntry
from vpccni.shared.messages.inventory import Eni, Inventory
from vpccni.shared.messages.wiring import UsableEni, UsableEnis
from vpccni.shared.process import Process

LOOK_AGAIN_S: Final = 30.0
ORPHAN_AFTER_S: Final = 25.0  # longer than an ADD may take
RETRY_FIRST_S: Final = 0.1
RETRY_AT_MOST_S: Final = 5.0
NODE_INIT: Final = "awscni_ipamd_node_initialization_duration_seconds"
CONNMARK_OUTCOMES: Final = "awscni_connmark_reconcile_total"
CONNMARK_BACKENDS: Final = {Backend.NFT: "nftables", Backend.LEGACY: "iptables"}  # spec operations.md 2
BACKEND_LOOK_S: Final = 5.0
"""How soon our rules follow when kubelet or kube-proxy show another back-end."""


class EniKeeper:
    """Owns the node-level kernel state. `ready` once the primary link and the firewall are right. `pods()`: all that are wired; `claimed()`:
    the addresses somebody holds by the ledger, None before it was heard.
    """

    def __init__(
        self,
        process: Process,
        pods: Callable[[], tuple[PodWant, ...]],
        claimed: Callable[[], frozenset[str] | None],
    ) -> None:
        self._process = process
        self._pods = pods
        self._claimed = claimed
        self._suspected: dict[str, float] = {}
        self._orphans: frozenset[str] = frozenset()
        self._gone: frozenset[str] = frozenset()
        self.repairer = Repairer(process, self.situation)
        self.repairer.on_trouble = self.wake
        self._inventory: Inventory | None = None
        self._usable: dict[str, UsableEni] = {}
        self._known: dict[str, Eni] = {}
        self._running = False
        self._again = False
        self._retry_s = RETRY_FIRST_S
        self.ready = False
        process.loop.every(LOOK_AGAIN_S, self.wake, name="node pass")
        self.firewall = NodeFirewall()
        process.loop.every(BACKEND_LOOK_S, self._look_at_backend, name="firewall back-end")
        for backend, label in CONNMARK_BACKENDS.items():
            process.gauge("awscni_connmark_backend", partial(self._uses, backend), backend=label)
        for result in ("success", "error"):
            process.count(CONNMARK_OUTCOMES, 0, result=result)

    def take(self, inventory: Inventory) -> None:
        """Hear of a new inventory."""
        self._inventory = inventory
        self.repairer.changed()
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

    def situation(self) -> Situation:
        """Return all that decides what the kernel should hold."""
        settings, inventory = self._process.settings, self._inventory
        if inventory is None:
            return Situation(self._pods())
        return Situation(
            pods=self._pods(),
            primary_mac=inventory.primary_mac,
            primary_subnet=next((_subnet(eni, inventory) for eni in inventory.enis if eni.is_primary), ""),
            enis=tuple(_want_of(eni, inventory) for eni in inventory.enis if _is_looked_after(eni, inventory)),
            gone=self._gone,
            orphans=self._orphans,
            mtu=settings.eni_mtu,
            connmark=settings.connmark,
            mark_rule=settings.node_port_support or not settings.external_snat,
            ipv6=inventory.ipv6,
            external_cidrs=settings.external_service_cidrs,
        )

    def egress_address(self) -> str:
        """Return the node's own address of the family that its pods do not have; "" where it has none, or before the first inventory."""
        inventory = self._inventory
        if inventory is None:
            return ""
        if inventory.ipv6:
            return inventory.primary_address
        return next((eni.primary_ipv6 for eni in inventory.enis if eni.is_primary), "")

    def told_by_ledger(self, wired: Wired, entries: Sequence[LedgerEntry]) -> Wired:
        """Return the wiring with what the kernel no longer told at the start: address and table, as far as it is safe to know.

        `entries`: what the ledger has for the sandbox; a pod on several network cards has its interfaces in card order. A host end
        that is down belongs to an ADD that never came to its end: it stays without an address.
        """
        enis = {eni.eni_id: eni for eni in self._inventory.enis} if self._inventory else {}
        known = sorted((enis[entry.eni_id].card, entry) for entry in entries if entry.eni_id in enis)
        if len(known) != len(entries) or wired.index >= len(known):
            return wired
        entry = known[wired.index][1]
        eni = enis[entry.eni_id]
        if wired.address not in ("", entry.address) or not self.repairer.is_up(wired.ifindex):
            return wired
        table = route_table(eni.card, eni.device_number) if wired.table == MAIN_TABLE else wired.table
        return replace(wired, address=entry.address, table=table, device_number=eni.device_number)

    async def _pass(self, inventory: Inventory) -> None:
        try:
            self._forget_gone(inventory)
            outcome = await self.repairer.look(settings=True)
            failed = await self._base(inventory, outcome)
            for eni in inventory.enis:
                if eni.managed and not self._one(eni, outcome):
                    failed = True
            failed = self._note_pods(outcome) or failed
            self._note_orphans(outcome)
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

    async def _base(self, inventory: Inventory, outcome: Outcome) -> bool:
        """Bring the firewall to what is wanted, with the primary link right; return whether that failed."""
        try:
            facts = self._firewall_facts(inventory, _primary_link(inventory, outcome))
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

    def _firewall_facts(self, inventory: Inventory, link: str) -> FirewallFacts:
        settings = self._process.settings
        return FirewallFacts(
            vpc_cidrs=tuple(inventory.vpc_cidrs),
            exclude_cidrs=settings.exclude_snat_cidrs,
            primary_address=inventory.primary_address,
            primary_link=link,
            veth_prefix=settings.veth_prefix,
            connmark=settings.connmark,
            external_snat=settings.external_snat,
            node_port=settings.node_port_support,
            randomize=settings.randomize_snat,
            older_prefixes=tuple(
                sorted({veth_prefix_of(pod.host_veth) for pod in self._pods()} - {settings.veth_prefix})
            ),
            ipv4_pods=not settings.ipv6,
            block_ipv4=settings.ipv6,
            block_ipv6=settings.v6_egress and not settings.ipv6,
        )

    async def firewall_outlook(self, links: Mapping[int, Link]) -> list[tuple[Table, str]]:
        """Return our part of each table and what would be restored to bring it about ("": nothing); none before the first inventory."""
        inventory = self._inventory
        primary = None if inventory is None else link_by_mac(links, inventory.primary_mac)
        if inventory is None or primary is None:
            return []
        return await self._process.loop.in_thread(self.firewall.outlook, self._firewall_facts(inventory, primary.name))

    def _uses(self, backend: Backend) -> float:
        return float(self.firewall.backend is backend)

    def _look_at_backend(self) -> None:
        if self.ready and not self._running:
            self._process.loop.spawn(self._follow_backend(), name="firewall back-end")

    async def _follow_backend(self) -> None:
        try:
            moved = await self._process.loop.in_thread(self.firewall.moved)
        except VpccniError as error:
            self._process.log.warning("firewall back-end cannot be told", why=str(error))
            return
        if moved:
            self._process.log.info("the node uses another firewall back-end", state=str(self.firewall.backend))
            self.wake()

    async def _make_firewall_right(self, facts: FirewallFacts) -> int:
        try:
            changed = await self._process.loop.in_thread(self.firewall.make_right, facts)
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

    def _one(self, eni: Eni, outcome: Outcome) -> bool:
        """Note whether an ENI can be used; it is when its link is there and nothing of it was refused."""
        link = link_by_mac(outcome.seen.links, eni.mac)
        why = outcome.refused.get(eni.eni_id)
        if link is None:
            why = str(
                KernelRefused(
                    "the ENI's link is not there yet", on=f"{eni.eni_id}, {eni.mac}", why="no link has this MAC"
                )
            )
        if link is None or why is not None:
            self._process.degraded(eni.eni_id, why or "")
            return False
        self._process.healthy(eni.eni_id)
        table = route_table(eni.card, eni.device_number)
        if eni.eni_id not in self._usable:
            self._process.log.info("eni usable", eni=eni.eni_id, route_table=table, ifindex=link.ifindex)
        self._usable[eni.eni_id] = UsableEni(eni.eni_id, table, link.ifindex)
        self._known[eni.eni_id] = eni
        return True

    def _note_pods(self, outcome: Outcome) -> bool:
        """Say what could not be mended of the pods; return whether there is such a thing."""
        enis = {NODE, *(eni_id for eni_id in self._known)}
        refused = sorted(why for owner, why in outcome.refused.items() if owner not in enis)
        if refused:
            self._process.degraded("repair", f"{len(refused)} pods' network cannot be put right: {refused[0]}")
        else:
            self._process.healthy("repair")
        return bool(refused)

    def _note_orphans(self, outcome: Outcome) -> None:
        """Have rules removed that are about addresses no pod has, once that has been so for `ORPHAN_AFTER_S`."""
        now, claimed = self._process.loop.clock(), self._claimed()
        found = frozenset[str]() if claimed is None else suspects(self.situation(), outcome.seen, claimed)
        self._suspected = {address: self._suspected.get(address, now) for address in found}
        orphans = frozenset(one for one, since in self._suspected.items() if now - since >= ORPHAN_AFTER_S)
        if orphans != self._orphans:
            self._orphans = orphans
            self.repairer.changed()
            self._again = True

    def _forget_gone(self, inventory: Inventory) -> None:
        present = {eni.eni_id for eni in inventory.enis}
        gone = {eni_id: eni for eni_id, eni in self._known.items() if eni_id not in present}
        for eni_id in gone:
            del self._known[eni_id]
            self._usable.pop(eni_id, None)
            self._process.healthy(eni_id)
            self._process.log.info("eni gone", eni=eni_id)
        addresses = self._gone | {_own_address(eni, inventory) for eni in gone.values()}
        self._gone = addresses - {_own_address(eni, inventory) for eni in inventory.enis}
        self.repairer.changed()

    def _publish(self) -> None:
        if self.ready:
            self._process.publish(UsableEnis(enis=sorted(self._usable.values(), key=lambda eni: eni.route_table)))


def _own_address(eni: Eni, inventory: Inventory) -> str:
    """Return the ENI's primary address of the family the node's pods have; "" where it has none."""
    return eni.primary_ipv6 if inventory.ipv6 else eni.primary_address


def _subnet(eni: Eni, inventory: Inventory) -> str:
    return eni.subnet_ipv6_cidr if inventory.ipv6 else eni.subnet_cidr


def _is_looked_after(eni: Eni, inventory: Inventory) -> bool:
    """The primary ENI's link is the node's; one without an address of the pods' family has no table to set up."""
    return eni.managed and not eni.is_primary and bool(_own_address(eni, inventory) and _subnet(eni, inventory))


def _want_of(eni: Eni, inventory: Inventory) -> EniWant:
    table = route_table(eni.card, eni.device_number)
    address, subnet = _own_address(eni, inventory), _subnet(eni, inventory)
    return EniWant(eni.eni_id, eni.mac, address, subnet, table, rule=not eni.is_trunk)


def _primary_link(inventory: Inventory, outcome: Outcome) -> str:
    """Return the primary link's name. Raises `KernelRefused` when there is none, or something of the node was refused."""
    link = link_by_mac(outcome.seen.links, inventory.primary_mac)
    if link is None:
        raise KernelRefused(
            "no link has the primary ENI's MAC",
            on=inventory.primary_mac,
            why="metadata names it",
            remedy="Check the instance's interfaces",
        )
    if NODE in outcome.refused:
        raise KernelRefused("the node's rules are not right", why=outcome.refused[NODE])
    return link.name

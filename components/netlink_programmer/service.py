"""The programmer's loop: frames from the front door, wirings in memory, node passes, the spool.

    frame ─▶ request ─▶ ADD (adding) / DEL / CHECK / STATUS / GC ─▶ reply
    Inventory ─▶ EniKeeper ─▶ UsableEnis       wirings ─▶ Wirings (at most every 0.5 s)

DEL needs no other process: what the allocator has not confirmed stays in the spool, which is replayed before the front door opens
and then in the background.
"""

from __future__ import annotations

import functools
import uuid
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from vpccni.components.netlink_programmer import observe, plugin_log, rtnl, standing
from vpccni.components.netlink_programmer import request as cni
from vpccni.components.netlink_programmer.adding import MARGIN_S, Adding
from vpccni.components.netlink_programmer.adoption import adopted
from vpccni.components.netlink_programmer.deleting import EGRESS, PLUGIN, Deleting
from vpccni.components.netlink_programmer.egress import Egress
from vpccni.components.netlink_programmer.egress_chains import ChainKeeper
from vpccni.components.netlink_programmer.enis import EniKeeper
from vpccni.components.netlink_programmer.explain import Explainer
from vpccni.components.netlink_programmer.facts import IPV4, IPV6
from vpccni.components.netlink_programmer.firewall import Backend
from vpccni.components.netlink_programmer.frontdoor import KIND_HEALTH, NETLINK, Frame, FrontDoor, Reply
from vpccni.components.netlink_programmer.naming import MAIN_TABLE, parse_alias, veth_prefix_of
from vpccni.components.netlink_programmer.node_plan import PodWant
from vpccni.components.netlink_programmer.request import CniRequest, WiredInterface
from vpccni.components.netlink_programmer.spool import Spool
from vpccni.components.netlink_programmer.story import pod_want
from vpccni.components.netlink_programmer.survey import survey, unclaimed
from vpccni.components.netlink_programmer.wired_pods import WiredPods
from vpccni.components.netlink_programmer.wiring import Wired, Wirer, delete_links
from vpccni.shared import names
from vpccni.shared.bus.server import Call
from vpccni.shared.errors import CniFailure, KernelRefused, SettingsError
from vpccni.shared.loop import Future
from vpccni.shared.messages.allocation import LedgerEntry, LedgerState, PoolState
from vpccni.shared.messages.base import Message, Sandbox
from vpccni.shared.messages.inventory import Inventory
from vpccni.shared.messages.wiring import Disown, Disowned, Wiring, Wirings
from vpccni.shared.process import Process

FRONT_DOOR: Final = "front-door.sock"
SPOOL: Final = "spool"
ADD_DEADLINE_S: Final = 20.0
WIRINGS_AFTER_S: Final = 0.5
BURY_AFTER_S: Final = 0.2
DISOWNED_REMEMBERED: Final = 256
"""Sandboxes that must not be adopted again between their being disowned and their release."""
SPOOL_AGAIN_S: Final = 5.0


class ProgrammerService:
    """Owns the wirings. `start` surveys the kernel, replays the spool and opens the front door."""

    def __init__(self, process: Process) -> None:
        self._process = process
        self._wired = WiredPods()
        self._adding: dict[Sandbox, Future[tuple[Wired, ...]]] = {}
        self._pool: PoolState | None = None
        self._ledger: dict[Sandbox, tuple[LedgerEntry, ...]] | None = None
        self._conflist_written = False
        self._wirings_due = False
        self._unclaimed: list[str] = []
        self._graves: list[int] = []
        self._digging = False
        self._wirer = Wirer(rtnl.RouteSocket(), bury=self._bury)
        self._adder = Adding(process, self._wirer, process.settings.network_policy_mode)
        self._enis = EniKeeper(process, self._pods, self._claimed_by_ledger)
        self._disowned: OrderedDict[Sandbox, None] = OrderedDict()
        process.handle(Disown, self._on_disown)
        self._explainer = Explainer(process, self._enis, self._wired, lambda: self._ledger or {})
        chains = ChainKeeper(process.loop, lambda: self._enis.firewall.backend or Backend.NFT)
        self._egress = Egress(process, self._wirer, chains)
        self._deleter = Deleting(
            process,
            self._wirer,
            self._wired,
            Spool(process.run_dir / SPOOL),
            self._egress,
            booked=lambda sandbox: [entry.address for entry in (self._ledger or {}).get(sandbox, ())],
            in_flight=lambda: self._adder.in_flight,
            changed=self._on_taken_down,
        )

    def start(self) -> None:
        """Be ready for the plugin."""
        seen = survey(observe.look((MAIN_TABLE,), families=(IPV4, IPV6)))
        self._wired.take_all(seen.wired)
        self._note_unclaimed(list(seen.unclaimed))
        self._enis.repairer.start()
        for ifindex in seen.parting:
            self._bury(ifindex)
        process = self._process
        self._allocator = process.subscribe(
            names.IP_ALLOCATOR, {PoolState: self._on_pool, LedgerState: self._on_ledger}
        )
        process.subscribe(names.ENI_MANAGER, {Inventory: self._enis.take})
        process.gauge("vpccni_wired_sandboxes", lambda: len(self._wired))
        process.loop.every(SPOOL_AGAIN_S, self._deleter.replay, name="spool")
        process.loop.every(SPOOL_AGAIN_S, self._heartbeat_wirings, name="wirings")
        self._deleter.replay()
        self._publish_wirings()
        self._door = FrontDoor(
            process.loop, process.run_dir / FRONT_DOOR, self._on_frame, count=lambda name: process.count(name)
        )
        process.on_stop(self._door.close)
        process.serving()

    # -- frames

    def _on_frame(self, frame: Frame, reply: Reply) -> None:
        if frame.kind == KIND_HEALTH:
            status = self._process.status()
            reply(0, f"{status.state}\n" + "".join(f"{reason}\n" for reason in status.reasons))
            return
        self._process.loop.spawn(self._answer(frame, reply), name="cni call")

    async def _answer(self, frame: Frame, reply: Reply) -> None:
        started = self._process.loop.clock()
        trace = uuid.uuid4().hex[:12]
        command, container = frame.env.get("CNI_COMMAND", ""), frame.env.get("CNI_CONTAINERID", "")
        told = plugin_log.PluginLog(frame, lost=self._log_line_lost)
        try:
            request = cni.parse(frame.env, frame.stdin)
            told.set_level(plugin_log.level_of(request))
            told.debug(plugin_log.begun(request, trace))
            if frame.env.get(PLUGIN) == EGRESS:
                text = await self._carry_out_egress(request, frame, trace=trace)
            else:
                text = await self._carry_out(request, frame, trace=trace)
            code = 0
            told.info(plugin_log.done(request, text, self._ms_since(started), trace))
        except CniFailure as error:
            code, text = 1, cni.failure(error, cni.stdin_version(frame.stdin))
            told.error(plugin_log.failed(command, container, error, trace))
            self._process.log.warning(
                "cni call failed", trace=trace, kind=command, code=error.cni_code, error=str(error)
            )
        except Exception as error:
            self._process.log.exception("cni call broke", error, trace=trace, kind=command)
            failure = CniFailure(
                f"{command} broke", cni_code=cni.CODE_OWN, why=repr(error)[:300], remedy=f"See trace {trace}"
            )
            code, text = 1, cni.failure(failure, cni.stdin_version(frame.stdin))
            told.error(plugin_log.failed(command, container, failure, trace))
        self._process.count("vpccni_cni_calls", command=command, code=str(code))
        self._process.log.info(
            "cni call", trace=trace, kind=command, container=container[:13], code=code, ms=self._ms_since(started)
        )
        reply(code, text)

    def _log_line_lost(self) -> None:
        self._process.count("vpccni_plugin_log_lines_lost")

    def _ms_since(self, started: float) -> float:
        return round((self._process.loop.clock() - started) * 1000, 2)

    async def _carry_out(self, request: CniRequest, frame: Frame, *, trace: str) -> str:
        deadline = self._process.loop.clock() + (frame.deadline_s or ADD_DEADLINE_S) - MARGIN_S
        if request.command == "ADD":
            wired = await self._add(request, frame, deadline=deadline, trace=trace)
            interfaces = [
                WiredInterface(one.host_veth, one.ifname, one.address, one.table, one.device_number) for one in wired
            ]
            return cni.result(request.version, request.pod, request.netns, interfaces)
        if request.command == "DEL":
            await self._delete(request, frame.env, frame.stdin, trace=trace)
        elif request.command == "CHECK":
            self._check(request, frame)
        elif request.command == "STATUS":
            self._status()
        else:
            await self._collect(request, trace=trace)
        return ""

    async def _carry_out_egress(self, request: CniRequest, frame: Frame, *, trace: str) -> str:
        if request.command == "ADD":
            deadline = self._process.loop.clock() + (frame.deadline_s or ADD_DEADLINE_S) - MARGIN_S
            return await self._egress.add(request, frame, deadline=deadline)
        if request.command == "DEL":
            await self._deleter.delete_egress(request, frame, trace=trace)
        elif request.command == "CHECK":
            await self._egress.check(request, frame)
        elif request.command == "GC":
            await self._egress.collect(request, frame, cni.valid_attachments(request))
        return ""

    # -- ADD

    async def _add(self, request: CniRequest, frame: Frame, *, deadline: float, trace: str) -> tuple[Wired, ...]:
        sandbox = request.sandbox
        if (running := self._adding.get(sandbox)) is not None:
            return await running
        known = self._wired.get(sandbox)
        if known and self._are_live(known):
            await self._adder.wait_until_ready(known, frame, deadline=deadline)
            return known
        future: Future[tuple[Wired, ...]] = Future()
        self._adding[sandbox] = future
        try:
            wired = await self._adder.add(request, frame, deadline=deadline, trace=trace)
        except Exception as error:
            self._explainer.note(request.pod, f"not added: {error}", trace)
            future.fail(error)
            raise
        finally:
            del self._adding[sandbox]
        self._wired.put(sandbox, wired)
        self._wirings_soon()
        for one in wired:
            self._explainer.note(request.pod, f"added: {one.address} on {one.host_veth}", trace)
        future.set(wired)
        return wired

    def _are_live(self, interfaces: Sequence[Wired]) -> bool:
        return all(self._is_live(one) for one in interfaces)

    def _is_live(self, wired: Wired) -> bool:
        """Whether the veth of a remembered wiring is still that sandbox's, with its address routed to it (else it is wired anew)."""
        found = self._wirer.find(wired.host_veth)
        owner = parse_alias(found[2]) if found else None
        return (
            bool(wired.address)
            and found is not None
            and found[0] == wired.ifindex
            and owner is not None
            and owner[0] == wired.sandbox
        )

    # -- DEL

    async def _delete(self, request: CniRequest, env: dict[str, str], stdin: bytes, *, trace: str) -> None:
        if (running := self._adding.get(request.sandbox)) is not None:
            try:
                await running
            except CniFailure:
                self._process.log.debug("deleted while its add failed", trace=trace, sandbox=str(request.sandbox))
        await self._deleter.delete(request, env, stdin, trace=trace)
        self._explainer.note(request.pod, f"deleted: sandbox {request.sandbox}", trace)
        self._process.log.info("pod deleted", trace=trace, sandbox=str(request.sandbox), pod=str(request.pod))

    def _on_taken_down(self, interfaces: Sequence[Wired]) -> None:
        self._wirings_soon()
        if any(veth_prefix_of(one.host_veth) != self._process.settings.veth_prefix for one in interfaces):
            self._enis.wake()  # its prefix's firewall rules go with the last veth of that prefix

    # -- the graveyard

    def _bury(self, ifindex: int) -> None:
        self._graves.append(ifindex)
        if not self._digging:
            self._digging = True
            self._process.loop.call_later(BURY_AFTER_S, self._dig)

    def _dig(self) -> None:
        self._process.loop.spawn(self._dig_all(), name="link deletion")

    async def _dig_all(self) -> None:
        """One thread at a time: a burst of deletions must not take those that an ADD needs."""
        try:
            while self._graves:
                graves, self._graves = self._graves, []
                await self._process.loop.in_thread(delete_links, graves)
        except KernelRefused as error:
            self._process.log.warning("links of deleted pods stay until the next start", error=str(error))
        finally:
            self._digging = False

    # -- the original's plugin, through compat

    async def _on_disown(self, ask: Disown, call: Call) -> Message:
        for one in self._wired.pop(ask.sandbox):
            self._wirer.disclaim(one)
            self._process.log.info("pod left to another plugin", sandbox=str(ask.sandbox), host_veth=one.host_veth)
        self._disowned[ask.sandbox] = None
        while len(self._disowned) > DISOWNED_REMEMBERED:
            self._disowned.popitem(last=False)
        self._wirings_soon()
        return Disowned(sandbox=ask.sandbox)

    # -- CHECK, STATUS, GC

    def _check(self, request: CniRequest, frame: Frame) -> None:
        wired = self._wired.get(request.sandbox)
        standing.check(wired if self._are_live(wired) else (), request, frame.take(NETLINK))

    def _status(self) -> None:
        age = self._process.loop.clock() - self._allocator.last_heard
        standing.status(self._pool, silent_s=age, node_ready=self._enis.ready)

    async def _collect(self, request: CniRequest, *, trace: str) -> None:
        valid = cni.valid_attachments(request)
        for sandbox in [one for one in self._wired.sandboxes() if one.network == request.sandbox.network]:
            if (sandbox.container_id, sandbox.ifname) not in valid and sandbox not in self._adding:
                self._deleter.end(sandbox)
                await self._deleter.release(sandbox, trace=trace)
                self._process.count("vpccni_gc_removed")

    # -- events

    def _on_pool(self, pool: PoolState) -> None:
        self._pool = pool
        if pool.assignable > 0 and self._enis.ready and not self._conflist_written:
            self._write_conflist()

    def _write_conflist(self) -> None:
        from vpccni.cni import conflist, install  # once a start

        process = self._process
        target = Path(process.settings.host_conf_path) / conflist.NAME
        try:
            install.write_atomically(target, self._conflist(), 0o644)
        except OSError as error:
            process.degraded("conflist", f"{target} cannot be written: {error}")
            return
        except SettingsError as error:
            process.degraded("conflist", error.line())
            return
        process.healthy("conflist")
        self._conflist_written = True
        process.log.info("conflist written", path=str(target))

    def _conflist(self) -> bytes:
        """Return the conflist: the operator's own with its placeholders filled, else ours. Raises SettingsError and OSError."""
        from vpccni.cni import conflist, conflist_template

        process = self._process
        address = self._enis.egress_address()
        if not address and conflist.egress_wanted(process.settings):
            process.log.warning("no egress for pods: the node has no address of that family")
        own = Path(process.raw.get(conflist_template.PLACE_VARIABLE) or conflist_template.PLACE)
        if own.exists():
            return conflist_template.fill(own.read_text(), process.settings, egress_address=address)
        versions = conflist.versions_in(process.raw)
        return conflist.render(process.settings, process.run_dir, versions, egress_address=address)

    def _on_ledger(self, ledger: LedgerState) -> None:
        self._ledger = {}
        for entry in ledger.entries:
            if not entry.released_at_ns:
                self._ledger[entry.sandbox] = (*self._ledger.get(entry.sandbox, ()), entry)
        self._complete_from_ledger()
        self._look_for_strangers()

    def _complete_from_ledger(self) -> None:
        """A start tells address and table by route and rule; where those were gone, the ledger knows them."""
        for sandbox in self._wired.sandboxes():
            entries = (self._ledger or {}).get(sandbox, ())
            if not entries or sandbox in self._adding:
                continue
            known = self._wired.get(sandbox)
            told = tuple(self._enis.told_by_ledger(one, entries) for one in known)
            if told == known:
                continue
            self._wired.put(sandbox, told)
            for one in told:
                self._process.log.info(
                    "wiring completed", sandbox=str(sandbox), address=one.address, route_table=one.table
                )
            self._wirings_soon()
            self._enis.wake()

    def _claimed_by_ledger(self) -> frozenset[str] | None:
        if self._ledger is None:
            return None
        return frozenset(entry.address for entries in self._ledger.values() for entry in entries)

    def _pods(self) -> tuple[PodWant, ...]:
        """Return what the kernel should hold for each pod whose wiring is complete and not being changed."""
        return tuple(pod_want(one) for one in self._wired if one.address and one.sandbox not in self._adding)

    def _wirings_soon(self) -> None:
        self._enis.repairer.changed()
        if not self._wirings_due:
            self._wirings_due = True
            self._process.loop.call_later(WIRINGS_AFTER_S, self._publish_wirings)

    def _publish_wirings(self) -> None:
        self._wirings_due = False
        wirings = [
            Wiring(one.sandbox, one.pod, one.host_veth, one.ifindex, [one.address] if one.address else [])
            for one in self._wired
        ]
        self._process.publish(Wirings(wirings=wirings, in_flight=list(self._adding), unclaimed=self._unclaimed))

    def _heartbeat_wirings(self) -> None:
        self._complete_from_ledger()
        self._publish_wirings()
        self._look_for_strangers()

    def _look_for_strangers(self) -> None:
        """Look for pods of the reference among those whose veth nobody claims. New ones cannot come: what is made from now on has its alias."""
        if self._unclaimed or self._unwired():
            self._process.loop.spawn(self._look_for_unclaimed(), name="unclaimed")

    def _unwired(self) -> list[LedgerEntry]:
        """Return what the ledger holds for interfaces that are neither wired nor being added."""
        wired = self._wired.addresses()
        return [
            entry
            for sandbox, entries in (self._ledger or {}).items()
            for entry in entries
            if sandbox not in self._adding
            and sandbox not in self._disowned
            and entry.address not in wired
            and not self._is_half_known(sandbox)
        ]

    def _is_half_known(self, sandbox: Sandbox) -> bool:
        """Whether a veth of ours of that sandbox is there without its address: it is nobody's to adopt."""
        return any(not one.address for one in self._wired.get(sandbox))

    async def _look_for_unclaimed(self) -> None:
        look = functools.partial(observe.look, (MAIN_TABLE,), families=(IPV4, IPV6))
        seen = await self._process.loop.in_thread(look)
        for wired in adopted(seen, self._unwired()):
            self._adopt(wired)
        claimed = self._wired.addresses()
        self._note_unclaimed([one for one in unclaimed(seen, claimed) if one in self._unclaimed])

    def _adopt(self, wired: Wired) -> None:
        """Look after a pod of the reference as if it were ours from now on."""
        try:
            self._wirer.claim(wired)
        except KernelRefused as error:
            self._process.log.warning("pod not adopted", sandbox=str(wired.sandbox), why=str(error))
            return
        self._wired.put(wired.sandbox, (*self._wired.get(wired.sandbox), wired))
        self._process.log.info(
            "pod adopted",
            pod=str(wired.pod),
            sandbox=str(wired.sandbox),
            address=wired.address,
            host_veth=wired.host_veth,
        )
        self._wirings_soon()

    def _note_unclaimed(self, addresses: list[str]) -> None:
        if addresses == self._unclaimed:
            return
        self._unclaimed = addresses
        if addresses:
            self._process.log.warning("addresses lead to pods nobody claims", addresses=addresses)
            self._process.degraded("unclaimed", f"pods of unknown owner use {', '.join(addresses)}: not given out")
        else:
            self._process.healthy("unclaimed")

"""The programmer's loop: frames from the front door, wirings in memory, node passes, the spool.

    frame ─▶ request ─▶ ADD (adding) / DEL / CHECK / STATUS / GC ─▶ reply
    Inventory ─▶ EniKeeper ─▶ UsableEnis       wirings ─▶ Wirings (at most every 0.5 s)

DEL needs no other process: what the allocator has not confirmed stays in the spool, which is replayed before the front door opens
and then in the background.
"""

from __future__ import annotations

import os
import uuid
from pathlib import Path
from typing import Final

from vpccni.components.netlink_programmer import observe, plugin_log, rtnl, standing
from vpccni.components.netlink_programmer import request as cni
from vpccni.components.netlink_programmer.adding import MARGIN_S, Adding
from vpccni.components.netlink_programmer.adoption import adopted
from vpccni.components.netlink_programmer.enis import EniKeeper
from vpccni.components.netlink_programmer.explain import Explainer
from vpccni.components.netlink_programmer.frontdoor import KIND_HEALTH, NETLINK, Frame, FrontDoor, Reply
from vpccni.components.netlink_programmer.naming import MAIN_TABLE, host_veth_name, parse_alias, veth_prefix_of
from vpccni.components.netlink_programmer.node_plan import PodWant
from vpccni.components.netlink_programmer.request import CniRequest, WiredInterface
from vpccni.components.netlink_programmer.spool import Spool, Spooled
from vpccni.components.netlink_programmer.story import pod_want
from vpccni.components.netlink_programmer.survey import survey, unclaimed
from vpccni.components.netlink_programmer.wiring import Wired, Wirer, delete_links
from vpccni.shared import names
from vpccni.shared.errors import BusError, CniFailure, KernelRefused
from vpccni.shared.loop import Future
from vpccni.shared.messages.allocation import LedgerEntry, LedgerState, PoolState, Release, Released
from vpccni.shared.messages.base import Message, Sandbox
from vpccni.shared.messages.inventory import Inventory
from vpccni.shared.messages.policy import Detach
from vpccni.shared.messages.wiring import Wiring, Wirings
from vpccni.shared.process import Process

FRONT_DOOR: Final = "front-door.sock"
SPOOL: Final = "spool"
EGRESS: Final = "egress-cni"
ADD_DEADLINE_S: Final = 20.0
RELEASE_WITHIN_S: Final = 0.5
DETACH_WITHIN_S: Final = 5.0
WIRINGS_AFTER_S: Final = 0.5
BURY_AFTER_S: Final = 0.2
SPOOL_AGAIN_S: Final = 5.0


class ProgrammerService:
    """Owns the wirings. `start` surveys the kernel, replays the spool and opens the front door."""

    def __init__(self, process: Process) -> None:
        self._process = process
        self._wired: dict[Sandbox, Wired] = {}
        self._adding: dict[Sandbox, Future[Wired]] = {}
        self._pool: PoolState | None = None
        self._ledger: dict[Sandbox, LedgerEntry] | None = None
        self._conflist_written = False
        self._wirings_due = False
        self._unclaimed: list[str] = []
        self._graves: list[int] = []
        self._wirer = Wirer(rtnl.RouteSocket(), bury=self._bury)
        self._adder = Adding(process, self._wirer, process.settings.network_policy_mode)
        self._enis = EniKeeper(process, self._pods, self._claimed_by_ledger)
        self._explainer = Explainer(process, self._enis, lambda: self._wired, lambda: self._ledger or {})
        self._spool = Spool(process.run_dir / SPOOL)

    def start(self) -> None:
        """Be ready for the plugin."""
        seen = survey(observe.look((MAIN_TABLE,)))
        self._wired = {wired.sandbox: wired for wired in seen.wired}
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
        process.loop.every(SPOOL_AGAIN_S, self._replay, name="spool")
        process.loop.every(SPOOL_AGAIN_S, self._heartbeat_wirings, name="wirings")
        self._replay()
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
            if frame.env.get("VPCCNI_PLUGIN") == EGRESS:
                text = cni.pass_on(request)
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
            interface = WiredInterface(
                wired.host_veth, request.sandbox.ifname, wired.address, wired.table, wired.device_number
            )
            return cni.result(request.version, request.pod, request.netns, [interface])
        if request.command == "DEL":
            await self._delete(request, frame.env, frame.stdin, trace=trace)
        elif request.command == "CHECK":
            self._check(request, frame)
        elif request.command == "STATUS":
            self._status()
        else:
            await self._collect(request, trace=trace)
        return ""

    # -- ADD

    async def _add(self, request: CniRequest, frame: Frame, *, deadline: float, trace: str) -> Wired:
        sandbox = request.sandbox
        if (running := self._adding.get(sandbox)) is not None:
            return await running
        known = self._wired.get(sandbox)
        if known is not None and self._is_live(known):
            return known
        future: Future[Wired] = Future()
        self._adding[sandbox] = future
        try:
            wired = await self._adder.add(request, frame, deadline=deadline, trace=trace)
        except Exception as error:
            self._explainer.note(request.pod, f"not added: {error}", trace)
            future.fail(error)
            raise
        finally:
            del self._adding[sandbox]
        self._wired[sandbox] = wired
        self._wirings_soon()
        self._explainer.note(request.pod, f"added: {wired.address} on {wired.host_veth}", trace)
        future.set(wired)
        return wired

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
        self._take_down(request)
        if not await self._release(request.sandbox, trace=trace):
            self._spool.put(env, stdin)
        self._explainer.note(request.pod, f"deleted: sandbox {request.sandbox}", trace)
        self._process.log.info("pod deleted", trace=trace, sandbox=str(request.sandbox), pod=str(request.pod))

    def _take_down(self, request: CniRequest) -> None:
        wired = self._wired.pop(request.sandbox, None)
        if wired is not None:
            if wired.address:
                self._wirer.take_down(wired)
            else:
                self._wirer.retire(wired.host_veth, wired.ifindex)
            self._forget_policy(wired)
            self._wirings_soon()
            if veth_prefix_of(wired.host_veth) != self._process.settings.veth_prefix:
                self._enis.wake()  # its prefix's firewall rules go with the last veth of that prefix
            return
        self._take_down_stranger(request)

    def _take_down_stranger(self, request: CniRequest) -> None:
        """A DEL for what this process never wired: the stored result tells the addresses, the kernel whether they are still the pod's."""
        in_use = {wired.address for wired in self._wired.values()}
        name = host_veth_name(request.pod, request.veth_prefix)
        found = self._wirer.find(name) if request.pod.name else None
        owner = parse_alias(found[2]) if found else None
        ours = found is not None and (owner is None or owner[0] == request.sandbox)
        for address in cni.previous_addresses(request.previous):
            if address not in in_use:
                for table in cni.previous_tables(request.previous):
                    self._wirer.remove_address(address=address, table=table, ifindex=found[0] if found and ours else 0)
        if found is not None and ours:
            self._wirer.retire(name, found[0])

    async def _release(self, sandbox: Sandbox, *, trace: str) -> bool:
        ask = Release(sandbox=sandbox, reason="PodDeleted")
        try:
            answer = await self._process.client(names.IP_ALLOCATOR).call(
                ask, timeout_s=RELEASE_WITHIN_S, trace_id=trace
            )
        except BusError as error:
            self._process.log.warning("release kept for later", trace=trace, sandbox=str(sandbox), why=str(error))
            return False
        return isinstance(answer, Released)

    def _forget_policy(self, wired: Wired) -> None:
        if self._process.settings.network_policy_mode in ("", "none"):
            return
        ask = Detach(sandbox=wired.sandbox, ifindexes=[wired.ifindex])
        self._process.loop.spawn(self._quietly(ask, names.POLICY_AGENT, DETACH_WITHIN_S), name="detach")

    async def _quietly(self, ask: Message, peer: str, timeout_s: float) -> None:
        """Ask without anybody waiting: the peer sweeps by itself what it was not told."""
        try:
            await self._process.client(peer).call(ask, timeout_s=timeout_s)
        except BusError as error:
            self._process.log.warning("not told", peer=peer, why=str(error))

    # -- the spool and the graveyard

    def _replay(self) -> None:
        for spooled in self._spool.waiting():
            self._process.loop.spawn(self._replay_one(spooled), name="spool")

    async def _replay_one(self, spooled: Spooled) -> None:
        try:
            request = cni.parse({**spooled.env, "CNI_COMMAND": "DEL"}, spooled.stdin)
        except CniFailure as error:
            self._process.log.error("spooled deletion cannot be read", path=str(spooled.path), error=str(error))
            os.rename(spooled.path, spooled.path.with_suffix(".bad"))
            return
        self._take_down(request)
        if await self._release(request.sandbox, trace="spool"):
            self._spool.done(spooled)
            self._process.count("vpccni_spool_replayed")

    def _bury(self, ifindex: int) -> None:
        if not self._graves:
            self._process.loop.call_later(BURY_AFTER_S, self._dig)
        self._graves.append(ifindex)

    def _dig(self) -> None:
        graves, self._graves = self._graves, []
        self._process.loop.spawn(self._dig_all(graves), name="link deletion")

    async def _dig_all(self, graves: list[int]) -> None:
        await self._process.loop.in_thread(delete_links, graves)

    # -- CHECK, STATUS, GC

    def _check(self, request: CniRequest, frame: Frame) -> None:
        wired = self._wired.get(request.sandbox)
        standing.check(wired if wired is not None and self._is_live(wired) else None, request, frame.take(NETLINK))

    def _status(self) -> None:
        age = self._process.loop.clock() - self._allocator.last_heard
        standing.status(self._pool, silent_s=age, node_ready=self._enis.ready)

    async def _collect(self, request: CniRequest, *, trace: str) -> None:
        listed = request.config.get("cni.dev/valid-attachments") or request.config.get("cni.dev/attachments") or []
        valid = {(entry.get("containerID"), entry.get("ifname")) for entry in listed if isinstance(entry, dict)}
        for sandbox in [one for one in self._wired if one.network == request.sandbox.network]:
            if (sandbox.container_id, sandbox.ifname) not in valid and sandbox not in self._adding:
                wired = self._wired.pop(sandbox)
                self._wirer.take_down(wired)
                self._forget_policy(wired)
                await self._release(sandbox, trace=trace)
                self._process.count("vpccni_gc_removed")
        self._wirings_soon()

    # -- events

    def _on_pool(self, pool: PoolState) -> None:
        self._pool = pool
        if pool.assignable > 0 and self._enis.ready and not self._conflist_written:
            self._write_conflist()

    def _write_conflist(self) -> None:
        from vpccni.cni import conflist, install  # once a start

        process = self._process
        target = Path(process.settings.host_conf_path) / conflist.NAME
        data = conflist.render(process.settings, process.run_dir, conflist.versions_in(process.raw))
        try:
            install.write_atomically(target, data, 0o644)
        except OSError as error:
            process.degraded("conflist", f"{target} cannot be written: {error}")
            return
        process.healthy("conflist")
        self._conflist_written = True
        process.log.info("conflist written", path=str(target))

    def _on_ledger(self, ledger: LedgerState) -> None:
        self._ledger = {entry.sandbox: entry for entry in ledger.entries if not entry.released_at_ns}
        self._complete_from_ledger()
        self._look_for_strangers()

    def _complete_from_ledger(self) -> None:
        """A start tells address and table by route and rule; where those were gone, the ledger knows them."""
        for sandbox, wired in list(self._wired.items()):
            entry = (self._ledger or {}).get(sandbox)
            if entry is None or sandbox in self._adding:
                continue
            told = self._enis.told_by_ledger(wired, address=entry.address, eni_id=entry.eni_id)
            if (told.address, told.table) != (wired.address, wired.table):
                self._wired[sandbox] = told
                self._process.log.info(
                    "wiring completed", sandbox=str(sandbox), address=told.address, route_table=told.table
                )
                self._wirings_soon()
                self._enis.wake()

    def _claimed_by_ledger(self) -> frozenset[str] | None:
        return None if self._ledger is None else frozenset(entry.address for entry in self._ledger.values())

    def _pods(self) -> tuple[PodWant, ...]:
        """Return what the kernel should hold for each pod whose wiring is complete and not being changed."""
        return tuple(
            pod_want(one) for sandbox, one in self._wired.items() if one.address and sandbox not in self._adding
        )

    def _wirings_soon(self) -> None:
        self._enis.repairer.changed()
        if not self._wirings_due:
            self._wirings_due = True
            self._process.loop.call_later(WIRINGS_AFTER_S, self._publish_wirings)

    def _publish_wirings(self) -> None:
        self._wirings_due = False
        wirings = [
            Wiring(one.sandbox, one.pod, one.host_veth, one.ifindex, [one.address] if one.address else [])
            for one in self._wired.values()
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
        """Return what the ledger holds for sandboxes that are neither wired nor being added."""
        ledger = self._ledger or {}
        return [entry for one, entry in ledger.items() if one not in self._wired and one not in self._adding]

    async def _look_for_unclaimed(self) -> None:
        seen = await self._process.loop.in_thread(observe.look, (MAIN_TABLE,))
        for wired in adopted(seen, self._unwired()):
            self._adopt(wired)
        self._note_unclaimed([one for one in unclaimed(seen, self._claimed()) if one in self._unclaimed])

    def _adopt(self, wired: Wired) -> None:
        """Look after a pod of the reference as if it were ours from now on."""
        try:
            self._wirer.claim(wired)
        except KernelRefused as error:
            self._process.log.warning("pod not adopted", sandbox=str(wired.sandbox), why=str(error))
            return
        self._wired[wired.sandbox] = wired
        self._process.log.info(
            "pod adopted",
            pod=str(wired.pod),
            sandbox=str(wired.sandbox),
            address=wired.address,
            host_veth=wired.host_veth,
        )
        self._wirings_soon()

    def _claimed(self) -> set[str]:
        return {one.address for one in self._wired.values()}

    def _note_unclaimed(self, addresses: list[str]) -> None:
        if addresses == self._unclaimed:
            return
        self._unclaimed = addresses
        if addresses:
            self._process.log.warning("addresses lead to pods nobody claims", addresses=addresses)
            self._process.degraded("unclaimed", f"pods of unknown owner use {', '.join(addresses)}: not given out")
        else:
            self._process.healthy("unclaimed")

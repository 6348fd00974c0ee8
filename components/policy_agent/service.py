"""The agent's conversation: Attach in the middle of an ADD, Detach after a DEL, policies from the API, and its state as an event.

The datapath is loaded by a task: until it is there an Attach waits, inside its own deadline. A load that fails is tried again
with back-off, and the status says why. Packets never wait for any of this.

    Attach ─▶ wait for the datapath ─▶ wait for the first lists, as long as the API may still give them ─▶ rule set in force ─▶ Attached
    an object changes ─▶ Enforcement.apply ─▶ what failed is tried again, with back-off
    every 30 s: flows that are over go; every 60 s: filters, entries and maps are compared with what they should be
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Final

import msgspec

from vpccni.components.policy_agent.adoption import unattached
from vpccni.components.policy_agent.datapath import Datapath, link_name
from vpccni.components.policy_agent.endpoints import Endpoint
from vpccni.components.policy_agent.enforcement import Applied, Enforcement
from vpccni.components.policy_agent.evaluate import Packet
from vpccni.components.policy_agent.knowledge import Knowledge
from vpccni.components.policy_agent.latency import ProgrammingLatency
from vpccni.components.policy_agent.layout import LAYOUT
from vpccni.components.policy_agent.node_addresses import Address, NodeAddresses
from vpccni.components.policy_agent.policy import Direction, prefix
from vpccni.components.policy_agent.previews import previews
from vpccni.components.policy_agent.selection import PARTS_WITHIN_S, PROVISIONAL_S, Behind
from vpccni.components.policy_agent.sweeper import Sweeper
from vpccni.components.policy_agent.telling import AuditDenies, Drops, FlowLog, verdict_story
from vpccni.shared.backoff import Backoff
from vpccni.shared.bus.server import Call
from vpccni.shared.errors import KernelRefused, VpccniError
from vpccni.shared.kube import Change
from vpccni.shared.loop import Future, Timer
from vpccni.shared.messages.base import Message, PodRef, Sandbox
from vpccni.shared.messages.common import Done
from vpccni.shared.messages.policy import (
    Attach,
    Attached,
    Detach,
    GetVerdict,
    PolicyCounters,
    PolicyInterface,
    PolicyState,
    PreviewPolicies,
    Previews,
    Verdicts,
)
from vpccni.shared.process import Process

STRICT: Final = "strict"
STANDARD: Final = "standard"
OFF: Final = ("", "none")
RETRY_FIRST_S: Final = 1.0
RETRY_AT_MOST_S: Final = 30.0
APPLY_AGAIN: Final = Backoff(0.2, 30.0, jitter=0.0)
PUBLISH_AT_MOST_EVERY_S: Final = 1.0
PUBLISH_AT_LEAST_EVERY_S: Final = 5.0
SWEEP_EVERY_S: Final = 60.0
FLOWS_EVERY_S: Final = 30.0
TIDY_EVERY_S: Final = 5.0
LISTS_WITHIN_S: Final = 5.0
"""How long an ADD waits for the first lists of an API server that has not refused them."""
LOOK_EVERY_S: Final = 0.02
NOT_AGAIN_S: Final = 300.0
"""How long an interface that was detached is not taken over, were its link and its pod's object still there (spec policy.md T-092)."""


class PolicyOff(VpccniError):
    code = "policy_off"


class BadMode(VpccniError):
    code = "policy_mode"


class BadQuestion(VpccniError):
    code = "policy_question"


class Service:
    """See the module. `load` makes or takes over the datapath; it is called in the loop, `prepare` before it in a thread.

    `know` begins to follow the API for a node with these addresses; it is called once, after the load. `flow_log` begins to write verdicts; None: they are not
    reported at all.
    """

    def __init__(
        self,
        process: Process,
        *,
        mode: str,
        prepare: Callable[[], None],
        load: Callable[[], Datapath],
        know: Callable[[frozenset[str], Callable[[Sequence[Change[Endpoint]]], None]], Knowledge],
        flow_log: Callable[[Datapath, Enforcement], FlowLog] | None = None,
        switched_off: bool = False,
    ) -> None:
        self._process = process
        self._switched_off = switched_off
        self._mode = mode.lower()
        self._prepare, self._load, self._know, self._flow_log = prepare, load, know, flow_log
        self._datapath: Datapath | None = None
        self._enforcement: Enforcement | None = None
        self._knowledge: Knowledge | None = None
        self._addresses: NodeAddresses | None = None
        self._loaded: Future[None] = Future()
        self._names: dict[int, str] = {}
        self._held: dict[Sandbox, set[int]] = {}
        self._detached: dict[int, float] = {}
        self._publishing = False
        self._published_at = float("-inf")
        self._failures = 0
        self._again: Timer | None = None
        self._parts_awaited = False
        self._local: frozenset[int] = frozenset()
        self._drops = Drops(process)
        self._audit_denies = AuditDenies(process)
        self._latency = ProgrammingLatency(process)

    def start(self) -> None:
        """Serve, and load unless policy is switched off."""
        self._process.handle(Detach, self._on_detach)
        self._process.handle(Attach, self._on_attach)
        self._process.handle(GetVerdict, self._on_get_verdict)
        self._process.handle(PreviewPolicies, self._on_preview)
        if self._switched_off or self._mode in OFF:
            self._process.detail = lambda: {"policy": "off"}
            self._process.log.info("policy is off", value=self._mode)
            self._process.serving()
            return
        self._process.degraded("datapath", "the policy programs are being loaded")
        self._process.gauge("vpccni_policy_attached_interfaces", lambda: float(len(self._names)))
        self._process.loop.spawn(self._load_until_it_works(), name="load the datapath")
        self._process.loop.every(PUBLISH_AT_LEAST_EVERY_S, self._publish_soon, name="publish policy state")
        self._process.loop.every(SWEEP_EVERY_S, self._sweep, name="sweep")
        self._process.loop.every(TIDY_EVERY_S, self._tidy, name="tidy rule sets")

    # -- loading

    async def _load_until_it_works(self) -> None:
        wait = RETRY_FIRST_S
        while self._datapath is None:
            try:
                await self._process.loop.in_thread(self._prepare)
                self._take(self._load())
            except VpccniError as error:
                self._process.count("vpccni_policy_load_failures", 1)
                self._process.degraded("datapath", error.line())
                self._process.log.error("policy programs not loaded", error=error.line(), seconds=wait)
                await self._process.loop.sleep(wait)
                wait = min(wait * 2, RETRY_AT_MOST_S)
        self._loaded.set(None)

    def _take(self, datapath: Datapath) -> None:
        """Mend what the time without an agent left, then serve. What is in force stays until the API's lists are in."""
        plan = datapath.repair()
        addresses = self._addresses or NodeAddresses()
        self._addresses = addresses
        local = addresses.read()
        self._be_local(datapath, local)
        self._enforcement = Enforcement(datapath, clock=self._process.loop.clock)
        self._names = {ifindex: link_name(ifindex) for ifindex in datapath.entries()}
        self._knowledge = self._know(frozenset(map(str, local)), self._on_change)
        self._datapath = datapath
        self._process.loop.watch(addresses.fileno(), self._on_addresses)
        self._count_repairs(len(plan.refilter), len(plan.forget))
        self._measure(datapath)
        datapath.report_verdicts(on=self._flow_log is not None)
        if self._flow_log is not None:
            self._flow_log(datapath, self._enforcement)
        self._process.healthy("datapath")
        self._process.gauge("vpccni_policy_incomplete", partial(_incomplete, self._enforcement))
        kind = "taken over" if datapath.taken_over else "loaded"
        self._process.log.info("policy programs in force", kind=kind, count=len(self._names), detail=str(plan))
        self._process.detail = self._detail
        self._process.serving()
        self._publish_soon()

    def _detail(self) -> dict[str, Any]:
        assert self._enforcement is not None
        return {
            "policies": len(self._enforcement.policies),
            "rule_sets": len(self._enforcement.rule_sets),
            "interfaces": len(self._names),
            "known": self._enforcement.knows,
        }

    def _measure(self, datapath: Datapath) -> None:
        sweeper = Sweeper(datapath, clock_ns=time.monotonic_ns, later=self._process.loop.call_soon)
        self._process.loop.every(FLOWS_EVERY_S, sweeper.begin, name="sweep flows")
        self._process.gauge("vpccni_policy_flows", lambda: float(sweeper.alive))
        for name in datapath.rule_maps.used:
            self._process.gauge("vpccni_policy_map_elements", partial(_elements_used, datapath, name), map=name)

    def _sweep(self) -> None:
        if self._datapath is None or self._enforcement is None:
            return
        plan = self._datapath.repair()
        for ifindex in plan.forget:
            self._forget_name(ifindex)
        self._on_change(())  # also ends what was taken for selected by labels alone
        mended = self._enforcement.audit()
        if plan.refilter or plan.forget or mended.wrong or mended.surplus:
            self._count_repairs(len(plan.refilter), len(plan.forget))
            self._process.count("vpccni_policy_repairs", mended.wrong + mended.surplus, kind="element")
            self._process.log.warning(
                "policy filters repaired",
                refiltered=len(plan.refilter),
                forgotten=len(plan.forget),
                elements=mended.wrong + mended.surplus,
            )
            self._publish_soon()

    def _tidy(self) -> None:
        if self._enforcement is not None:
            self._enforcement.tidy()

    def _count_repairs(self, refiltered: int, forgotten: int) -> None:
        self._process.count("vpccni_policy_repairs", refiltered, kind="filter")
        self._process.count("vpccni_policy_repairs", forgotten, kind="entry")

    # -- what the kernel and the API tell

    def _on_addresses(self) -> None:
        assert self._addresses is not None
        assert self._datapath is not None
        if not self._addresses.has_news():
            return
        local = self._addresses.read()
        self._be_local(self._datapath, local)
        if self._knowledge is not None:
            self._knowledge.hosts = frozenset(map(str, local))

    def _be_local(self, datapath: Datapath, addresses: frozenset[Address]) -> None:
        self._local = frozenset(prefix(str(one)).value for one in addresses)
        datapath.exempt(self._local)

    # -- questions

    async def _on_get_verdict(self, ask: GetVerdict, call: Call) -> Message:
        enforcement = self._enforcement
        if enforcement is None:
            return Verdicts(stories=[], known=False)
        try:
            packet = Packet(Direction[ask.direction.upper()], prefix(ask.address), ask.protocol, ask.port)
        except (ValueError, KeyError) as error:
            raise BadQuestion("this cannot be judged", on=f"{ask.direction} {ask.address}", why=str(error)) from error
        stories = [
            verdict_story(enforcement, ifindex, self._names[ifindex], packet, node=self._local)
            for ifindex, behind in sorted(enforcement.behind.items())
            if (behind.pod.namespace, behind.pod.name) == (ask.namespace, ask.name) and ifindex in self._names
        ]
        return Verdicts(stories=stories, known=enforcement.knows)

    async def _on_preview(self, ask: PreviewPolicies, call: Call) -> Message:
        if self._enforcement is None or self._knowledge is None:
            return Previews(pods=[], known=False)
        try:
            return previews(self._enforcement, ask, hosts=self._knowledge.hosts)
        except (msgspec.MsgspecError, ValueError) as error:
            raise BadQuestion("this is no endpoint object", why=str(error)) from error

    def _on_change(self, changes: Sequence[Change[Endpoint]]) -> None:
        enforcement, knowledge = self._enforcement, self._knowledge
        if enforcement is None or knowledge is None or not knowledge.synced:
            return
        first = not enforcement.knows
        enforcement.know(knowledge.copies)
        not_adopted = self._adopt(enforcement, knowledge)
        applied = enforcement.apply()
        applied.failed |= not_adopted
        self._latency.observe(changes, failed=bool(applied.failed))
        if first:
            self._process.healthy("policies")
            self._process.log.info("policies known", count=len(enforcement.policies))
        if applied.switched:
            self._process.count("vpccni_policy_switches", applied.switched)
            self._process.log.info("policies in force", count=applied.switched, policies=len(enforcement.policies))
        self._try_again(applied)
        self._look_for_parts(enforcement)

    def _look_for_parts(self, enforcement: Enforcement) -> None:
        """Take policies whose objects never come all as they are, when their time is over."""
        if enforcement.incomplete and not self._parts_awaited:
            self._parts_awaited = True
            self._process.log.info("policies wait for the rest of their objects", count=enforcement.incomplete)
            self._process.loop.call_later(PARTS_WITHIN_S, self._on_parts_late)

    def _on_parts_late(self) -> None:
        self._parts_awaited = False
        self._on_change(())

    def _adopt(self, enforcement: Enforcement, knowledge: Knowledge) -> dict[int, VpccniError]:
        """Take over pods that run under other programs, or that a policy selects although nothing is attached to them; return what
        could not be, by interface.

        A pod that nothing ever judged stays open without a policy, also in strict mode (spec policy.md T-079). Old programs
        judge until then, and their pins go after the last (T-087).
        """
        assert self._datapath is not None
        failed: dict[int, VpccniError] = {}
        now = self._process.loop.clock()
        self._detached = {ifindex: at for ifindex, at in self._detached.items() if now - at < NOT_AGAIN_S}
        links = {name: ifindex for ifindex, name in socket.if_nameindex() if ifindex not in self._detached}
        for found in list(unattached(knowledge.copies.pods, links, enforcement.behind)):
            was_judged = self._datapath.is_filtered(found.ifindex)
            long_ago = now - PROVISIONAL_S
            pod = PodRef(found.pod.namespace, found.pod.name, found.facts.uid)
            behind = Behind(pod, found.facts.addresses, was_judged and self._mode == STRICT, long_ago)
            if not was_judged and not enforcement.selecting(behind):
                continue
            try:
                enforcement.attach(found.ifindex, link=found.link, sandbox="", behind=behind, facts=found.facts)
            except VpccniError as error:
                self._process.log.warning("pod not taken over yet", pod=str(pod), error=error.line())
                failed[found.ifindex] = error
                continue
            self._names[found.ifindex] = found.link
            self._process.count("vpccni_policy_adopted", 1)
            self._process.log.info("pod taken over", pod=str(pod), host_veth=found.link)
        if not self._datapath.left_behind():
            self._datapath.forget_others()
        return failed

    def _try_again(self, applied: Applied) -> None:
        """Have what failed tried again; a newer try takes the place of the one that waits."""
        if self._again is not None:
            self._again.cancel()
            self._again = None
        if not applied.failed:
            self._failures = 0
            self._process.healthy("rule sets")
            return
        self._failures += 1
        error = next(iter(applied.failed.values()))
        self._process.count("vpccni_policy_write_failures", len(applied.failed), code=error.code)
        self._process.degraded("rule sets", f"{len(applied.failed)} interfaces keep older rules: {error.line()}")
        self._again = self._process.loop.call_later(
            APPLY_AGAIN.pause_s(self._failures, 0.5), lambda: self._on_change(())
        )

    # -- requests

    async def _on_attach(self, ask: Attach, call: Call) -> Message:
        if self._switched_off:  # the programmer asks all the same: its mode is aws-node's (spec env.md 8)
            return Attached(sandbox=ask.sandbox)
        mode = self._mode_of(ask)
        await self._loaded
        assert self._datapath is not None
        assert self._enforcement is not None
        assert self._knowledge is not None
        await self._lists(call.deadline)
        facts = None
        if self._enforcement.may_select(ask.pod.namespace):
            facts = await self._knowledge.pod(ask.pod.namespace, ask.pod.name)
        # A pod is listed under its first address; its policies hold on every interface.
        addresses = tuple(interface.address for interface in ask.interfaces)
        behind = Behind(ask.pod, addresses, mode == STRICT, self._process.loop.clock())
        for interface in ask.interfaces:
            link = self._link(interface)
            put = self._enforcement.attach(
                interface.ifindex, link=link, sandbox=sandbox_key(ask.sandbox), behind=behind, facts=facts
            )
            self._process.count("vpccni_policy_attaches", 1, filters="put" if put else "kept")
            self._names[interface.ifindex] = link
            self._detached.pop(interface.ifindex, None)
        self._held[ask.sandbox] = {interface.ifindex for interface in ask.interfaces}
        if not self._enforcement.knows:
            self._admitted_unknown(ask, mode)
        self._process.log.info(
            "policy attached", sandbox=str(ask.sandbox), pod=str(ask.pod), value=ask.mode, trace=call.trace_id
        )
        self._publish_soon()
        return Attached(sandbox=ask.sandbox)

    def _mode_of(self, ask: Attach) -> str:
        if self._mode in OFF:
            raise PolicyOff(
                "this agent has policy switched off",
                on=str(ask.pod),
                remedy="Give NETWORK_POLICY_ENFORCING_MODE the same value in all containers of the pod, or restart it",
            )
        mode = ask.mode.lower() or self._mode
        if mode not in (STRICT, STANDARD):
            raise BadMode("there is no such mode", on=str(ask.pod), why=repr(ask.mode), remedy="Use strict or standard")
        return mode

    async def _lists(self, deadline: float) -> None:
        """Wait for the first lists while the API may still give them, and never beyond the caller's deadline."""
        assert self._enforcement is not None
        assert self._knowledge is not None
        until = min(self._process.loop.clock() + LISTS_WITHIN_S, deadline - LOOK_EVERY_S)
        while not self._enforcement.knows and not self._knowledge.away and self._process.loop.clock() < until:
            await self._process.loop.sleep(LOOK_EVERY_S)

    def _admitted_unknown(self, ask: Attach, mode: str) -> None:
        """Standard admits what nobody knows policies of, strict isolates it; both loudly (design 5)."""
        assert self._knowledge is not None
        why = self._knowledge.away or "the first lists are not in yet"
        outcome = "isolated" if mode == STRICT else "open"
        self._process.count("vpccni_policy_attached_unknown", 1, outcome=outcome)
        self._process.degraded("policies", f"The policies are not known ({why}); new pods are {outcome} until they are")
        self._process.log.warning("policies not known", pod=str(ask.pod), outcome=outcome, why=why)

    def _link(self, interface: PolicyInterface) -> str:
        name = link_name(interface.ifindex)
        if name != interface.host_veth:
            raise KernelRefused(
                "policy cannot be attached",
                on=f"{interface.host_veth}, interface {interface.ifindex}",
                why=f"that index is {name or 'no link'} in this network namespace",
                remedy="The link went meanwhile: the runtime adds the pod again. If it stays, check that the agent runs in the host network",
            )
        return name

    async def _on_detach(self, ask: Detach, call: Call) -> Message:
        held = self._held.pop(ask.sandbox, set())
        if self._datapath is not None:
            for ifindex in held.union(ask.ifindexes):
                self._detach(self._datapath, ask.sandbox, ifindex)
            self._publish_soon()
        self._process.log.info("policy detached", sandbox=str(ask.sandbox), trace=call.trace_id)
        return Done()

    def _detach(self, datapath: Datapath, sandbox: Sandbox, ifindex: int) -> None:
        """Forget the interface unless it is another sandbox's by now: a DEL may be replayed long after."""
        entry = datapath.entry(ifindex)
        if entry is not None and not entry.is_held_by(sandbox_key(sandbox)):
            self._process.count("vpccni_policy_foreign_detaches", 1)
            return
        if datapath.detach(ifindex):
            self._process.count("vpccni_policy_detaches", 1)
        self._detached[ifindex] = self._process.loop.clock()
        self._forget_name(ifindex)

    def _forget_name(self, ifindex: int) -> None:
        self._names.pop(ifindex, None)
        if self._enforcement is not None:
            self._enforcement.forget(ifindex)
        for sandbox in [sandbox for sandbox, held in self._held.items() if ifindex in held]:
            self._held[sandbox].discard(ifindex)
            if not self._held[sandbox]:
                del self._held[sandbox]

    # -- events

    def _publish_soon(self) -> None:
        """Publish once, at most a second after the last time: a burst of ADDs is one event."""
        if self._publishing or self._datapath is None:
            return
        self._publishing = True
        wait = self._published_at + PUBLISH_AT_MOST_EVERY_S - self._process.loop.clock()
        self._process.loop.call_later(max(0.0, wait), self._publish)

    def _publish(self) -> None:
        self._publishing = False
        self._published_at = self._process.loop.clock()
        if self._datapath is not None:
            state = policy_state(self._datapath, self._names)
            self._drops.add(state.attached)
            if self._enforcement is not None:
                self._audit_denies.add(self._enforcement.audit_denials())
            self._process.publish(state)


def policy_state(datapath: Datapath, names: dict[int, str]) -> PolicyState:
    """Return what is loaded and attached, with the counters as they are now."""
    attached = []
    for ifindex, name in sorted(names.items()):
        towards, outward = datapath.counts(ifindex)
        attached.append(
            PolicyCounters(
                ifindex=ifindex,
                host_veth=name,
                ingress_packets=towards.packets,
                ingress_bytes=towards.bytes,
                egress_packets=outward.packets,
                egress_bytes=outward.bytes,
                ingress_dropped_packets=towards.dropped_packets,
                ingress_dropped_bytes=towards.dropped_bytes,
                egress_dropped_packets=outward.dropped_packets,
                egress_dropped_bytes=outward.dropped_bytes,
            )
        )
    return PolicyState(layout=LAYOUT, program_ids=sorted(datapath.program_ids.values()), attached=attached)


def sandbox_key(sandbox: Sandbox) -> str:
    """Return the sandbox as the one text that map entries remember a fingerprint of."""
    return f"{sandbox.network}/{sandbox.container_id}/{sandbox.ifname}"


def _incomplete(enforcement: Enforcement) -> float:
    return float(enforcement.incomplete)


def _elements_used(datapath: Datapath, name: str) -> float:
    return float(datapath.rule_maps.used[name][0])

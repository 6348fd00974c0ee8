"""The agent's conversation: Attach in the middle of an ADD, Detach after a DEL, and what is attached as an event.

The datapath is loaded by a task: until it is there an Attach waits, inside its own deadline. A load that fails is tried again
with back-off, and the status says why. Packets never wait for any of this.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from vpccni.components.policy_agent.datapath import Datapath, link_name
from vpccni.components.policy_agent.layout import FLAG_DENY_EGRESS, FLAG_DENY_INGRESS, LAYOUT, PodEntry
from vpccni.shared.bus.server import Call
from vpccni.shared.errors import KernelRefused, VpccniError
from vpccni.shared.loop import Future
from vpccni.shared.messages.base import Message, Sandbox
from vpccni.shared.messages.common import Done
from vpccni.shared.messages.policy import Attach, Attached, Detach, PolicyCounters, PolicyInterface, PolicyState
from vpccni.shared.process import Process

STRICT: Final = "strict"
OFF: Final = ("", "none")
RETRY_FIRST_S: Final = 1.0
RETRY_AT_MOST_S: Final = 30.0
PUBLISH_AT_MOST_EVERY_S: Final = 1.0
PUBLISH_AT_LEAST_EVERY_S: Final = 5.0
SWEEP_EVERY_S: Final = 60.0


class PolicyOff(VpccniError):
    code = "policy_off"


def default_flags(mode: str) -> int:
    """Return what holds for a pod that no policy selects: strict isolates it, standard leaves it open (spec policy.md 5.6)."""
    return FLAG_DENY_INGRESS | FLAG_DENY_EGRESS if mode.lower() == STRICT else 0


class Service:
    """See the module. `load` makes or takes over the datapath; it is called in the loop, `prepare` before it in a thread."""

    def __init__(
        self, process: Process, *, mode: str, prepare: Callable[[], None], load: Callable[[], Datapath]
    ) -> None:
        self._process = process
        self._mode = mode
        self._prepare, self._load = prepare, load
        self._datapath: Datapath | None = None
        self._loaded: Future[None] = Future()
        self._names: dict[int, str] = {}
        self._held: dict[Sandbox, set[int]] = {}
        self._publishing = False
        self._published_at = float("-inf")

    def start(self) -> None:
        """Serve, and load unless policy is switched off."""
        self._process.handle(Detach, self._on_detach)
        self._process.handle(Attach, self._on_attach)
        if self._mode.lower() in OFF:
            self._process.detail = lambda: {"policy": "off"}
            self._process.log.info("policy is off", value=self._mode)
            self._process.serving()
            return
        self._process.degraded("datapath", "the policy programs are being loaded")
        self._process.gauge("vpccni_policy_attached_interfaces", lambda: float(len(self._names)))
        self._process.loop.spawn(self._load_until_it_works(), name="load the datapath")
        self._process.loop.every(PUBLISH_AT_LEAST_EVERY_S, self._publish_soon, name="publish policy state")
        self._process.loop.every(SWEEP_EVERY_S, self._sweep, name="sweep")

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
        """Mend what the time without an agent left, then serve. Old pins go last: filters switch in `repair`."""
        plan = datapath.repair()
        carried = datapath.carry_over(default_flags(self._mode))
        self._datapath = datapath
        self._names = {ifindex: link_name(ifindex) for ifindex in datapath.entries()}
        self._count_repairs(len(plan.refilter) + carried, len(plan.forget))
        self._process.healthy("datapath")
        kind = "taken over" if datapath.taken_over else "loaded"
        self._process.log.info("policy programs in force", kind=kind, count=len(self._names), detail=str(plan))
        self._process.serving()
        self._publish_soon()

    def _sweep(self) -> None:
        if self._datapath is None:
            return
        plan = self._datapath.repair()
        for ifindex in plan.forget:
            self._forget_name(ifindex)
        if plan.refilter or plan.forget:
            self._count_repairs(len(plan.refilter), len(plan.forget))
            self._process.log.warning(
                "policy filters repaired", refiltered=len(plan.refilter), forgotten=len(plan.forget)
            )
            self._publish_soon()

    def _count_repairs(self, refiltered: int, forgotten: int) -> None:
        self._process.count("vpccni_policy_repairs", refiltered, kind="filter")
        self._process.count("vpccni_policy_repairs", forgotten, kind="entry")

    # -- requests

    async def _on_attach(self, ask: Attach, call: Call) -> Message:
        if self._mode.lower() in OFF:
            raise PolicyOff(
                "this agent has policy switched off",
                on=str(ask.pod),
                remedy="Give NETWORK_POLICY_ENFORCING_MODE the same value in all containers of the pod, or restart it",
            )
        await self._loaded
        assert self._datapath is not None
        flags = default_flags(ask.mode or self._mode)
        for interface in ask.interfaces:
            self._attach(self._datapath, ask.sandbox, interface, flags)
        self._held[ask.sandbox] = {interface.ifindex for interface in ask.interfaces}
        self._process.log.info(
            "policy attached", sandbox=str(ask.sandbox), pod=str(ask.pod), value=ask.mode, trace=call.trace_id
        )
        self._publish_soon()
        return Attached(sandbox=ask.sandbox)

    def _attach(self, datapath: Datapath, sandbox: Sandbox, interface: PolicyInterface, flags: int) -> None:
        name = link_name(interface.ifindex)
        if name != interface.host_veth:
            raise KernelRefused(
                "policy cannot be attached",
                on=f"{interface.host_veth}, interface {interface.ifindex}",
                why=f"that index is {name or 'no link'} in this network namespace",
                remedy="The link went meanwhile: the runtime adds the pod again. If it stays, check that the agent runs in the host network",
            )
        put = datapath.attach(interface.ifindex, PodEntry.of(flags=flags, link=name, sandbox=sandbox_key(sandbox)))
        self._process.count("vpccni_policy_attaches", 1, filters="put" if put else "kept")
        self._names[interface.ifindex] = name

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
        self._forget_name(ifindex)

    def _forget_name(self, ifindex: int) -> None:
        self._names.pop(ifindex, None)
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
            self._process.publish(policy_state(self._datapath, self._names))


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
            )
        )
    return PolicyState(layout=LAYOUT, program_ids=sorted(datapath.program_ids.values()), attached=attached)


def sandbox_key(sandbox: Sandbox) -> str:
    """Return the sandbox as the one text that map entries remember a fingerprint of."""
    return f"{sandbox.network}/{sandbox.container_id}/{sandbox.ifname}"

"""Messages that `netlink_programmer` publishes or answers: usable ENIs, wired pods, what it would change, one pod's network."""

from __future__ import annotations

import msgspec

from vpccni.shared.messages.base import Message, PodRef, Sandbox


class UsableEni(msgspec.Struct, frozen=True):
    """An ENI whose link, table, routes and rule are in place."""

    eni_id: str
    route_table: int
    ifindex: int


class UsableEnis(Message, frozen=True, kw_only=True, tag="wiring.usable_enis"):
    """All ENIs that pods' addresses may be given out from; never published before the first complete pass."""

    enis: list[UsableEni]


class Wiring(msgspec.Struct, frozen=True):
    """One host veth of ours, as its alias and the kernel tell. `addresses` come from the host routes that point to it.

    A pod on several network cards has one of these a card, all with the same sandbox.
    """

    sandbox: Sandbox
    pod: PodRef
    host_veth: str
    ifindex: int
    addresses: list[str]


class Wirings(Message, frozen=True, kw_only=True, tag="wiring.wirings"):
    """Every wired sandbox, and the sandboxes of ADDs in flight (they may hold an address and have no veth yet).

    `unclaimed`: addresses that a rule sends to a pod although no veth of ours says whose they are (another version wired them, or
    an alias was lost). Somebody may be using them.
    """

    wirings: list[Wiring]
    in_flight: list[Sandbox]
    unclaimed: list[str] = []


class Disown(Message, frozen=True, kw_only=True, tag="wiring.disown"):
    """Tell that another plugin deletes a sandbox now: its network is looked after no longer. Answered by `Disowned`; asking twice is safe."""

    sandbox: Sandbox


class Disowned(Message, frozen=True, kw_only=True, tag="wiring.disowned"):
    """Nothing of the sandbox is put back from here on."""

    sandbox: Sandbox


class GetPlan(Message, frozen=True, kw_only=True, tag="wiring.get_plan"):
    """Ask what the programmer would change in the kernel now. Answered by `Plan`; nothing is changed, asking twice is safe."""


class PlannedStep(msgspec.Struct, frozen=True):
    """One thing that is not as it should be: on whose behalf, what would be done, and why."""

    owner: str
    verb: str
    what: str
    why: str


class Plan(Message, frozen=True, kw_only=True, tag="wiring.plan"):
    """What would be done, in this order; nothing on a settled node.

    `awaited`: owners whose link is not there. `firewall`: the iptables-restore input of each table that is not right.
    """

    steps: list[PlannedStep]
    awaited: list[str]
    firewall: list[str]


class GetPodStory(Message, frozen=True, kw_only=True, tag="wiring.get_pod_story"):
    """Ask for the network of the pods of this name. Answered by `PodStory`; an empty namespace means any."""

    namespace: str
    name: str


class SandboxStory(msgspec.Struct, frozen=True):
    """One sandbox of the pod. `ledger`: what the allocator has for it, empty when nothing; an address the kernel lacks is empty too.

    `present`, `missing` and `foreign`: what should be in the kernel for it and is, what should and is not (each with what is there
    instead), and what is about its address and not ours. `chains`: the firewall rules its packets meet.
    """

    sandbox: Sandbox
    pod: PodRef
    host_veth: str
    ifindex: int
    address: str
    route_table: int
    eni_id: str
    ledger: str
    present: list[str]
    missing: list[str]
    foreign: list[str]
    chains: list[str]


class StoryLine(msgspec.Struct, frozen=True):
    """One thing that happened to the pod since the programmer's start: wall clock seconds, what, and the trace id where there is one."""

    at: float
    what: str
    trace_id: str


class PodStory(Message, frozen=True, kw_only=True, tag="wiring.pod_story"):
    """All the programmer knows of the pods of a name: nothing at all when it never heard of one."""

    sandboxes: list[SandboxStory]
    changes: list[StoryLine]

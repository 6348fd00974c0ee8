"""The maps and programs of the node with their pins: made once, taken over by every later start.

    <bpffs>/vpccni/<layout>/pods, rule_sets, flows, ...        the maps; they outlive programs and releases of one layout
    <bpffs>/vpccni/<layout>/<source hash>/handle_ingress, ...  the programs that use them

A start takes what is there and fits and makes what is missing, so it does not matter where the one before died. Programs of
another source are loaded beside; filters are switched by `Filters.put`, and only then are the old pins removed. Pods of another
layout go on under its programs until their rule sets are complete in this one (spec policy.md T-087).
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Final

import msgspec

from vpccni.components.policy_agent import layout, libbpf
from vpccni.components.policy_agent.conntrack import OpenFlow
from vpccni.components.policy_agent.filters import Filters
from vpccni.components.policy_agent.layout import (
    COUNTERS,
    DIRECTION_EGRESS,
    DIRECTION_INGRESS,
    EXEMPT,
    FLOWS,
    LAYOUT,
    MAPS,
    NAMES,
    NO_RULE_SET,
    PODS,
    PROGRAM_MAPS,
    SWEPT,
    USAGE_MAP,
    Count,
    MapDefinition,
    PodEntry,
    counter_key,
    ifindex_of,
    pod_key,
    summed,
)
from vpccni.components.policy_agent.libbpf import LoadedMap, LoadedProgram
from vpccni.components.policy_agent.objectfile import ObjectFile, patched
from vpccni.components.policy_agent.repair import RepairPlan, SeenLink, plan_repair
from vpccni.components.policy_agent.rule_maps import RuleMaps
from vpccni.components.policy_agent.selection import Behind
from vpccni.shared.effects import effect
from vpccni.shared.errors import KernelRefused

FOLDER: Final = "vpccni"
DIRECTIONS: Final = (DIRECTION_INGRESS, DIRECTION_EGRESS)


class Datapath:
    """What is loaded. `taken_over`: the programs were there already, from a start before."""

    def __init__(self, bpffs: Path, content: ObjectFile, filters: Filters) -> None:
        if not libbpf.is_bpffs(str(bpffs)):
            raise KernelRefused(
                "policy programs cannot be pinned",
                on=str(bpffs),
                why="it is not a bpf filesystem",
                remedy=f"Mount it on the node: mount -t bpf bpf {bpffs}",
            )
        self._root = bpffs / FOLDER
        self._folder = self._root / LAYOUT
        self._filters = filters
        self._source = content.hash
        (self._folder / content.hash).mkdir(mode=0o700, parents=True, exist_ok=True)
        self._maps = {definition.name: self._map(definition) for definition in MAPS}
        self.rule_maps = RuleMaps(self._maps)
        self._slots = {ifindex: entry.slot for ifindex, entry in self.entries().items()}
        self.taken_over = True
        self.programs: dict[str, LoadedProgram] = {
            program.name: self._program(
                program.name, patched(program, {name: one.descriptor for name, one in self._maps.items()})
            )
            for program in content.programs
        }

    @property
    def program_ids(self) -> dict[str, int]:
        return {name: program.id for name, program in self.programs.items()}

    # -- pods

    def attach(self, ifindex: int, entry: PodEntry, behind: Behind) -> bool:
        """Put an interface's rule set and filters in force; return whether a filter had to be put.

        Entry before filter: the first packet that meets the program meets its verdict. Again is harmless.
        """
        slot = self._slots.get(ifindex)
        if slot is None or not self._is_same(ifindex, entry):
            slot = self._clear_slot(ifindex)
        if self.behind(ifindex) != behind:
            libbpf.update(self._maps[NAMES.name], pod_key(ifindex), _padded(behind))
        libbpf.update(self._maps[PODS.name], pod_key(ifindex), replace(entry, slot=slot).packed())
        if self._filters.seen(ifindex) == self.program_ids:
            return False
        self._filters.put(ifindex, self.programs)
        return True

    def switch(self, ifindex: int, rule_set: int) -> None:
        """Have packets of an interface meet another rule set from now on: one write, a packet sees the old one or the new one."""
        entry = self.entry(ifindex)
        if entry is not None:
            libbpf.update(self._maps[PODS.name], pod_key(ifindex), replace(entry, rule_set=rule_set).packed())

    def remember(self, ifindex: int, flows: Sequence[OpenFlow]) -> None:
        """Put connections that are open already into an interface's table, to be judged by who began them.

        Only for one without a rule set: the programs write nothing of it then.
        """
        slot = self._slots.get(ifindex)
        if slot is None or not flows:
            return
        now = time.monotonic_ns()
        libbpf.update_many(
            self._maps[FLOWS.name],
            [
                (flow_key(ifindex, one), layout.FLOW.pack(now, NO_RULE_SET, 0, one.origin, layout.FLOW_ANSWERED))
                for one in flows[: layout.FLOWS_A_POD]
            ],
        )
        usage = libbpf.lookup(self._maps[USAGE_MAP.name], layout.NUMBER.pack(slot), USAGE_MAP.value_bytes) or b""
        made, spared = layout.USAGE.unpack(usage)
        value = layout.USAGE.pack(made + len(flows[: layout.FLOWS_A_POD]), spared)
        libbpf.update(self._maps[USAGE_MAP.name], layout.NUMBER.pack(slot), value)

    def detach(self, ifindex: int) -> bool:
        """Forget an interface; return whether it was known. Its filters go with the link."""
        known = libbpf.delete(self._maps[PODS.name], pod_key(ifindex))
        libbpf.delete(self._maps[NAMES.name], pod_key(ifindex))
        self._slots.pop(ifindex, None)
        return known

    def behind(self, ifindex: int) -> Behind | None:
        """Return who is behind an interface, as its Attach said; None where that cannot be read."""
        raw = libbpf.lookup(self._maps[NAMES.name], pod_key(ifindex), NAMES.value_bytes)
        if raw is None:
            return None
        try:
            return msgspec.json.decode(raw.rstrip(b"\0"), type=Behind)
        except (msgspec.MsgspecError, ValueError):
            return None

    def entry(self, ifindex: int) -> PodEntry | None:
        """Return what is in force for an interface."""
        value = libbpf.lookup(self._maps[PODS.name], pod_key(ifindex), PODS.value_bytes)
        return None if value is None else PodEntry.unpacked(value)

    def entries(self) -> dict[int, PodEntry]:
        """Return all interfaces with what is in force for them."""
        indexes = [ifindex_of(key) for key in libbpf.keys(self._maps[PODS.name])]
        return {ifindex: entry for ifindex in indexes if (entry := self.entry(ifindex)) is not None}

    def counts(self, ifindex: int) -> tuple[Count, Count]:
        """Return what the programs counted towards the pod and from it."""
        towards, outward = (self._count(ifindex, direction) for direction in DIRECTIONS)
        return towards, outward

    # -- what a restart finds

    def repair(self) -> RepairPlan:
        """Make every entry and its link's filters agree again; return what was done. Costs three system calls an entry."""
        entries = self.entries()
        plan = plan_repair(entries, self._links(entries), self.program_ids)
        for ifindex in plan.refilter:
            self._filters.put(ifindex, self.programs)
        for ifindex in plan.forget:
            self.detach(ifindex)
        return plan

    def left_behind(self) -> dict[int, str]:
        """Return links (name by index) that other layouts' entries mean and this one has none for."""
        found: dict[int, str] = {}
        for other in (folder for folder in self._root.iterdir() if folder != self._folder):
            descriptor = libbpf.pinned(str(other / PODS.name))
            if descriptor is None:
                continue
            try:
                seen = libbpf.map_info(descriptor)
                keys = libbpf.keys(seen) if seen.definition.key_bytes == PODS.key_bytes else []
            finally:
                os.close(descriptor)
            found |= {ifindex: name for key in keys if (name := link_name(ifindex := ifindex_of(key)))}
        return {ifindex: name for ifindex, name in found.items() if self.entry(ifindex) is None}

    def forget_others(self) -> None:
        """Drop the pins of other layouts and other sources. Only after their links are switched: until then the old programs judge."""
        for other in (folder for folder in self._root.iterdir() if folder != self._folder):
            _remove_pins(other)
        for other in (folder for folder in self._folder.iterdir() if folder.is_dir() and folder.name != self._source):
            _remove_pins(other)

    def is_filtered(self, ifindex: int) -> bool:
        """Return whether our slots of a link hold programs, whoever's."""
        return bool(self._filters.seen(ifindex))

    # -- the node

    def exempt(self, addresses: Iterable[int]) -> None:
        """Have exactly these addresses (of the common space) be the node's."""
        wanted = {layout.address(value) for value in addresses}
        seen = set(libbpf.keys(self._maps[EXEMPT.name]))
        for key in wanted - seen:
            libbpf.update(self._maps[EXEMPT.name], key, bytes(EXEMPT.value_bytes))
        libbpf.delete_many(self._maps[EXEMPT.name], sorted(seen - wanted))

    def report_verdicts(self, *, on: bool) -> None:
        """Have the programs write verdicts into the ring, or not."""
        value = layout.NUMBER.pack(layout.OPTION_EVENTS if on else 0)
        libbpf.update(self._maps[layout.OPTIONS.name], layout.NUMBER.pack(layout.OPTION_FLAGS), value)

    def map(self, definition: MapDefinition) -> LoadedMap:
        """Return a map, for the adapters that read flows and events."""
        return self._maps[definition.name]

    def _links(self, entries: Mapping[int, PodEntry]) -> dict[int, SeenLink]:
        names = {ifindex: link_name(ifindex) for ifindex in entries}
        return {ifindex: SeenLink(name, self._filters.seen(ifindex)) for ifindex, name in names.items() if name}

    # -- maps and programs

    def _map(self, definition: MapDefinition) -> LoadedMap:
        path = str(self._folder / definition.name)
        descriptor = libbpf.pinned(path)
        if descriptor is None:
            created = libbpf.create_map(definition)
            libbpf.pin(created.descriptor, path)
            return created
        found = libbpf.map_info(descriptor)
        if found.definition != definition:
            raise KernelRefused(
                "a pinned map is not the one this layout names",
                on=path,
                why=f"it is {found.definition}, expected {definition}",
                remedy=f"Something else wrote there. Remove {self._folder} and restart the agent",
            )
        return found

    @property
    def _program_map_ids(self) -> set[int]:
        return {self._maps[definition.name].id for definition in PROGRAM_MAPS}

    def _program(self, name: str, code: bytes) -> LoadedProgram:
        path = self._folder / self._source / name
        descriptor = libbpf.pinned(str(path))
        if descriptor is not None:
            found = libbpf.program_info(descriptor)
            if found.kind == libbpf.SCHED_CLS and found.map_ids == self._program_map_ids:
                return found
            os.close(descriptor)
            _unpin(path)  # its maps are gone from the pins: it counts and judges where nobody looks
        self.taken_over = False
        loaded = libbpf.load_program(name, code)
        libbpf.pin(loaded.descriptor, str(path))
        return loaded

    def _is_same(self, ifindex: int, entry: PodEntry) -> bool:
        known = self.entry(ifindex)
        return known is not None and (known.link, known.sandbox) == (entry.link, entry.sandbox)

    def _clear_slot(self, ifindex: int) -> int:
        """Return a slot for an interface, with nothing counted in it: the one it has, else the lowest that nobody has."""
        slot = self._slots.get(ifindex)
        if slot is None:
            taken = set(self._slots.values())
            slot = next((one for one in range(layout.PODS_AT_MOST) if one not in taken), None)
        if slot is None:
            raise KernelRefused("there are too many interfaces with policy", why=f"{layout.PODS_AT_MOST} are attached")
        for direction in DIRECTIONS:
            libbpf.update(self._maps[COUNTERS.name], counter_key(slot, direction), bytes(self._counter_bytes))
        for definition in (SWEPT, USAGE_MAP):
            libbpf.update(self._maps[definition.name], layout.NUMBER.pack(slot), bytes(definition.value_bytes))
        self._slots[ifindex] = slot
        return slot

    def slot(self, ifindex: int) -> int | None:
        """Return an interface's place in the arrays."""
        return self._slots.get(ifindex)

    def _count(self, ifindex: int, direction: int) -> Count:
        slot = self._slots.get(ifindex)
        if slot is None:
            return Count(0, 0)
        value = libbpf.lookup(self._maps[COUNTERS.name], counter_key(slot, direction), self._counter_bytes)
        return Count(0, 0) if value is None else summed(value)

    @property
    def _counter_bytes(self) -> int:
        return COUNTERS.value_bytes * libbpf.possible_cpus()


def flow_key(ifindex: int, flow: OpenFlow) -> bytes:
    """Return the key of map `flows`."""
    ports = (flow.local_port.to_bytes(2, "big"), flow.peer_port.to_bytes(2, "big"))
    return layout.FLOW_KEY.pack(layout.address(flow.local), layout.address(flow.peer), ifindex, *ports, flow.protocol)


def _padded(behind: Behind) -> bytes:
    return msgspec.json.encode(behind).ljust(NAMES.value_bytes, b"\0")[: NAMES.value_bytes]


def link_name(ifindex: int) -> str:
    """Return the name of a link in this network namespace, empty when there is none with this index."""
    try:
        return socket.if_indextoname(ifindex)
    except OSError:
        return ""


def _unpin(path: Path) -> None:
    with effect("bpf.unpin"):
        path.unlink(missing_ok=True)


def _remove_pins(folder: Path) -> None:
    for path in sorted(folder.rglob("*"), reverse=True):
        if not path.is_dir():
            _unpin(path)
    for path in (*sorted((path for path in folder.rglob("*") if path.is_dir()), reverse=True), folder):
        with suppress(OSError):  # not empty: somebody else's; it is looked at again at the next start
            path.rmdir()

"""The programs in the kernel with maps of their own, fed by test runs: no interface, no pin, nothing of the machine is touched."""

from __future__ import annotations

import ipaddress
import os
import time
from collections.abc import Iterable, Sequence

from tests.support.frames import SYN, frame, ip_packet, layer4

from vpccni.components.policy_agent import layout, libbpf
from vpccni.components.policy_agent.compiler import compile_rule_set
from vpccni.components.policy_agent.layout import DIRECTION_INGRESS, EGRESS_PROGRAM, INGRESS_PROGRAM, PodEntry
from vpccni.components.policy_agent.objectfile import ObjectFile, patched
from vpccni.components.policy_agent.policy import Policy, prefix
from vpccni.components.policy_agent.rule_maps import RuleMaps

LOOPBACK = 1
"""The interface that test runs happen on, in every network namespace."""
POD4, POD6 = "10.9.0.2", "2001:db8:9::2"


class Programs:
    """Both programs and a pod behind the loopback link."""

    def __init__(self, content: ObjectFile) -> None:
        self.maps = {definition.name: libbpf.create_map(definition) for definition in layout.MAPS}
        descriptors = {name: one.descriptor for name, one in self.maps.items()}
        self.programs = {
            program.name: libbpf.load_program(program.name, patched(program, descriptors))
            for program in content.programs
        }
        self.rule_maps = RuleMaps(self.maps)
        self.number = 0
        self.select([])

    def write(self, definition: layout.MapDefinition, key: bytes, value: bytes) -> None:
        libbpf.update(self.maps[definition.name], key, value)

    def select(self, policies: Iterable[Policy], *, strict: bool = False) -> None:
        """Have these policies, and no others, select the pod. None of them and not strict: no rule set at all."""
        rule_set = compile_rule_set(policies, strict=strict)
        before = self.number
        self.number = self.rule_maps.put(rule_set) if rule_set.judges else 0
        self.write(
            layout.PODS, layout.pod_key(LOOPBACK), PodEntry.of(LOOPBACK, link="lo", rule_set=self.number).packed()
        )
        if before and before != self.number:
            self.rule_maps.drop([before])
            self.rule_maps.mend({self.number: rule_set} if self.number else {})

    def forget_flows(self) -> None:
        for definition in (layout.FLOWS, layout.SPARE_FLOWS):
            one = self.maps[definition.name]
            libbpf.delete_many(one, libbpf.keys(one))

    def age_flows(self, seconds: float) -> None:
        """Have every flow been quiet for so long."""
        one = self.maps[layout.FLOWS.name]
        for key, value in list(libbpf.elements(one, layout.FLOW.size)):
            _, *rest = layout.FLOW.unpack(value)
            libbpf.update(one, key, layout.FLOW.pack(int((time.monotonic() - seconds) * 1e9), *rest))

    def claim_flows(self, count: int) -> None:
        """Have the pod made so many flows already."""
        self.write(layout.USAGE_MAP, layout.NUMBER.pack(0), layout.USAGE.pack(count, 0))

    def passes(self, raw: bytes, direction: int) -> bool:
        """Whether a frame towards the pod (ingress) or from it gets through."""
        name = INGRESS_PROGRAM if direction == DIRECTION_INGRESS else EGRESS_PROGRAM
        verdict, _ = libbpf.dry_run(self.programs[name], raw)
        assert verdict in (layout.VERDICT_PASS, layout.VERDICT_DROP)
        return verdict == layout.VERDICT_PASS

    def sends(
        self, peer: str, protocol: int, port: int, *, source_port: int = 40000, flags: int = SYN,
        direction: int = DIRECTION_INGRESS, answer: bool = False,
    ) -> bool:  # fmt: skip
        """Whether a packet passes: of a flow from (ingress) or to the peer at `port`; `answer`: the other side's packet of it."""
        pod = POD4 if ipaddress.ip_address(peer).version == 4 else POD6
        client, server = (peer, pod) if direction == DIRECTION_INGRESS else (pod, peer)
        if answer:
            payload = layer4(protocol, port, source_port, flags=flags)
            return self.passes(frame(ip_packet(server, client, protocol, payload)), 1 - direction)
        payload = layer4(protocol, source_port, port, flags=flags)
        return self.passes(frame(ip_packet(client, server, protocol, payload)), direction)

    def exempt(self, address: str) -> None:
        self.write(layout.EXEMPT, layout.address(prefix(address).value), bytes(4))

    def flows(self) -> int:
        return len(libbpf.keys(self.maps[layout.FLOWS.name]))

    def count(self, direction: int) -> layout.Count:
        size = layout.COUNTER.size * libbpf.possible_cpus()
        raw = libbpf.lookup(self.maps[layout.COUNTERS.name], layout.counter_key(0, direction), size)
        assert raw is not None
        return layout.summed(raw)

    def close(self) -> None:
        every: Sequence[int] = [
            *(one.descriptor for one in self.maps.values()),
            *(one.descriptor for one in self.programs.values()),
        ]
        for descriptor in every:
            os.close(descriptor)

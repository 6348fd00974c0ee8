"""What the agent tells of verdicts: the flow log, drop counters, and the answer to `vpccni why`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from vpccni.components.policy_agent.compiler import RuleClass
from vpccni.components.policy_agent.enforcement import Enforcement
from vpccni.components.policy_agent.evaluate import Packet, Reason, evaluate
from vpccni.components.policy_agent.events import Ring
from vpccni.components.policy_agent.flow_log import fields, line, verdict
from vpccni.components.policy_agent.policy import Direction
from vpccni.components.policy_agent.shipper import Shipper
from vpccni.shared.messages.policy import PolicyCounters, VerdictStory
from vpccni.shared.process import Process

DROPS: Final = "network_policy_drop_count_total"  # spec policy.md 5.15
DROPPED_BYTES: Final = "network_policy_drop_bytes_total"
AUDIT_DENIED: Final = "vpccni_policy_audit_denied_flows"


class FlowLog:
    """Writes verdicts as they come: denied ones at info, allowed ones at debug (spec policy.md 5.14).

    What policies in audit mode would deny is written at info and with fields in either form: the reference's line cannot say it.
    """

    def __init__(
        self, ring: Ring, enforcement: Enforcement, process: Process, *, structured: bool, shipper: Shipper | None
    ) -> None:
        self._ring, self._log, self._enforcement = ring, process.log, enforcement
        self._structured, self._shipper = structured, shipper
        process.loop.watch(ring.fileno(), self.read)
        process.gauge("vpccni_policy_verdicts_lost", lambda: float(ring.lost()))

    def read(self) -> None:
        """Write what is in the ring."""
        for raw in self._ring.take():
            one = verdict(raw)
            if self._shipper is not None:
                self._shipper.add(one)
            write = self._log.debug if one.allowed and not one.audit else self._log.info
            if self._structured or one.audit:
                write("flow", **fields(one, pod=self._pod, pod_at=self._pod_at, rule=self._rule))
            else:
                write(line(one))

    def _pod(self, ifindex: int) -> str:
        behind = self._enforcement.behind.get(ifindex)
        return "" if behind is None else str(behind.pod)

    def _pod_at(self, address: str) -> str:
        return next((str(one.pod) for one in self._enforcement.behind.values() if address in one.addresses), "")

    def _rule(self, number: int) -> RuleClass | None:
        for rule_set in self._enforcement.rule_sets.values():
            if number in rule_set.rules:
                return rule_set.rules[number]
        return None


class Drops:
    """Adds what the programs dropped to the reference's counters."""

    def __init__(self, process: Process) -> None:
        self._process = process
        self._before: dict[tuple[int, str], tuple[int, int]] = {}
        for direction in Direction:
            process.count(DROPS, 0, direction=direction.name.lower())
            process.count(DROPPED_BYTES, 0, direction=direction.name.lower())

    def add(self, attached: Sequence[PolicyCounters]) -> None:
        """Take the counters of all interfaces of now; a counter that went back began anew."""
        now: dict[tuple[int, str], tuple[int, int]] = {}
        for one in attached:
            now[one.ifindex, "ingress"] = (one.ingress_dropped_packets, one.ingress_dropped_bytes)
            now[one.ifindex, "egress"] = (one.egress_dropped_packets, one.egress_dropped_bytes)
        for key, (packets, octets) in now.items():
            known_packets, known_octets = self._before.get(key, (0, 0))
            if packets < known_packets:
                known_packets = known_octets = 0
            self._process.count(DROPS, packets - known_packets, direction=key[1])
            self._process.count(DROPPED_BYTES, octets - known_octets, direction=key[1])
        self._before = now


class AuditDenies:
    """Counts the flows that policies in audit mode would have denied, by the policy that names the denial."""

    def __init__(self, process: Process) -> None:
        self._process = process
        self._before: dict[int, int] = {}

    def add(self, hits: Mapping[RuleClass, int]) -> None:
        """Take the hits of all rules in audit mode that deny; a number that went back began anew."""
        for rule, count in hits.items():
            known = self._before.get(rule.number, 0)
            more = count - known if count >= known else count
            self._process.count(AUDIT_DENIED, more, policy=str(rule.policy), direction=rule.direction.name.lower())
        self._before = {rule.number: count for rule, count in hits.items()}


def verdict_story(
    enforcement: Enforcement, ifindex: int, host_veth: str, packet: Packet, *, node: frozenset[int]
) -> VerdictStory:
    """Return what becomes of a new flow of the pod behind an interface, and which rule says so."""
    behind = enforcement.behind[ifindex]
    policies = enforcement.selecting(behind)
    reason = evaluate(policies, packet, strict=behind.strict)
    is_node = packet.peer.value in node
    return VerdictStory(
        host_veth=host_veth,
        address=", ".join(behind.addresses),
        allowed=reason.decision.allowed or is_node,
        tier=reason.decision.tier.name,
        because="it is an address of the node, which is never cut off" if is_node else because(reason, packet),
        policies=[str(policy.key) for policy in policies],
    )


def because(reason: Reason, packet: Packet) -> str:
    """Return in words why."""
    if reason.decision.audit:
        return f"it would be denied without audit mode: {_cause(reason, packet)}"
    if reason.rule is None and reason.decision.allowed:
        return f"no policy isolates the pod's {packet.direction.name.lower()}"
    return _cause(reason, packet)


def _cause(reason: Reason, packet: Packet) -> str:
    rule = reason.rule
    if reason.policy is None or rule is None:
        return f"the pod's {packet.direction.name.lower()} is isolated and no rule allows it"
    ports = ", ".join(map(str, rule.ports)) or "every port"
    excepts = f" except {', '.join(map(str, rule.excepts))}" if rule.excepts else ""
    way = "from" if packet.direction is Direction.INGRESS else "to"
    return f"{reason.policy.key}: {rule.action.name.lower()} {way} {rule.network}{excepts}, {ports}"

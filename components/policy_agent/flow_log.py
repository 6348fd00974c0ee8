"""Verdicts as lines: the reference's text (spec policy.md 5.14), or fields that name the rule and both pods. Pure."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from vpccni.components.policy_agent import layout
from vpccni.components.policy_agent.compiler import RuleClass
from vpccni.components.policy_agent.policy import ICMP, ICMPV6, SCTP, TCP, UDP, Direction, Tier

PROTOCOL_NAMES: Final = {TCP: "TCP", UDP: "UDP", SCTP: "SCTP", ICMP: "ICMP", ICMPV6: "ICMPv6"}
UNKNOWN: Final = "UNKNOWN"
AUDIT_DENY: Final = "AUDIT DENY"
"""A word of ours: it passed, and would not without audit mode. The reference's line has none for it."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """One record of the ring."""

    source: str
    destination: str
    source_port: int
    destination_port: int
    protocol: int
    allowed: bool
    tier: Tier
    direction: Direction
    bytes: int
    ifindex: int
    rule: int
    audit: bool


def verdict(raw: bytes) -> Verdict:
    """Return a record as the programs wrote it."""
    source, destination, ifindex, rule, octets, source_port, port, protocol, allowed, tier, direction, _ = (
        layout.EVENT.unpack(raw[: layout.EVENT.size])
    )
    return Verdict(
        _address(source), _address(destination), int.from_bytes(source_port, "big"), int.from_bytes(port, "big"), protocol,
        bool(allowed), Tier(tier), Direction(direction), octets, ifindex, rule, allowed == layout.DECISION_AUDIT,
    )  # fmt: skip


def _address(raw: bytes) -> str:
    one = ipaddress.IPv6Address(raw)
    return str(one.ipv4_mapped or one)


def line(one: Verdict) -> str:
    """Return the reference's line; those of IPv6 have more colons."""
    colon, comma = (":", "") if ":" in one.source else ("", ",")
    return (
        f"Flow Info: Src IP: {one.source} Src Port: {one.source_port} Dest IP: {one.destination} "
        f"Dest Port: {one.destination_port} Proto{colon} {protocol_name(one.protocol)} Verdict{colon} {verdict_name(one)} "
        f"Direction{colon} {one.direction.name.lower()}{comma} Tier{colon} {one.tier.name}"
    )


def fields(
    one: Verdict, *, pod: Callable[[int], str], pod_at: Callable[[str], str], rule: Callable[[int], RuleClass | None]
) -> dict[str, Any]:
    """Return the structured form. `pod` names who is behind an interface, `pod_at` who has an address, where this node knows."""
    found = rule(one.rule)
    peer = one.source if one.direction is Direction.INGRESS else one.destination
    return {
        "pod": pod(one.ifindex),
        "direction": one.direction.name.lower(),
        "verdict": verdict_name(one),
        "source": one.source,
        "source_port": one.source_port,
        "destination": one.destination,
        "destination_port": one.destination_port,
        "protocol": protocol_name(one.protocol),
        "bytes": one.bytes,
        "tier": one.tier.name,
        "peer_pod": pod_at(peer),
        "policy": "" if found is None else str(found.policy),
        "rule": "" if found is None else str(found),
    }


def protocol_name(protocol: int) -> str:
    """Return the reference's word."""
    return PROTOCOL_NAMES.get(protocol, UNKNOWN)


def verdict_name(one: Verdict) -> str:
    """Return the reference's word, or ours for what is told only."""
    if one.audit:
        return AUDIT_DENY
    return "ACCEPT" if one.allowed else "DENY"

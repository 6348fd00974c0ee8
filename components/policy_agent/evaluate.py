"""The direct evaluation of policies, written from the definition (spec policy.md 7 and 5.10): rule by rule, nothing prepared.

It is what the compiler and the programs are tested against, and what `vpccni why` answers from.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from vpccni.components.policy_agent.policy import Action, Decision, Direction, Policy, Prefix, Rule, Tier


@dataclass(frozen=True, slots=True)
class Packet:
    """The first packet of a flow as rules see it: the address of the other side, and the port of who is called."""

    direction: Direction
    peer: Prefix
    protocol: int
    port: int


@dataclass(frozen=True, slots=True)
class Reason:
    """A decision with the policy and rule that made it; None where the tier's default did."""

    decision: Decision
    policy: Policy | None = None
    rule: Rule | None = None


def evaluate(policies: Sequence[Policy], packet: Packet, *, strict: bool) -> Reason:
    """Return what the policies that select a pod say about a new flow of it. Those in audit mode change no verdict: what is allowed
    without them and denied with them is allowed, and told as their denial.
    """
    enforced = [policy for policy in policies if not policy.audit]
    reason = _evaluate(enforced, packet, strict=strict)
    if not reason.decision.allowed or len(enforced) == len(policies):
        return reason
    would = _evaluate(policies, packet, strict=strict)
    if would.decision.allowed:
        return reason
    return replace(would, decision=Decision(True, would.decision.tier, audit=True))


def _evaluate(policies: Sequence[Policy], packet: Packet, *, strict: bool) -> Reason:
    admin = _cluster(policies, Tier.ADMIN, packet)
    if admin is not None and admin[1].action is not Action.PASS:
        return _reason(Tier.ADMIN, admin)
    ordinary = [policy for policy in policies if policy.tier is Tier.NETWORK_POLICY]
    if any(packet.direction in policy.isolates for policy in ordinary):
        found = next(_matching(ordinary, packet), None)
        return Reason(Decision(False, Tier.NETWORK_POLICY)) if found is None else _reason(Tier.NETWORK_POLICY, found)
    baseline = _cluster(policies, Tier.BASELINE, packet)
    if baseline is not None and baseline[1].action is not Action.PASS:
        return _reason(Tier.BASELINE, baseline)
    # Strict cuts off pods that no NetworkPolicy selects; one that is selected is open where nothing isolates it (T-077).
    return Reason(Decision(not (strict and not ordinary), Tier.DEFAULT))


def covers(rule: Rule, peer: Prefix) -> bool:
    """Return whether a rule speaks of this address."""
    return rule.network.holds(peer) and not any(one.holds(peer) for one in rule.excepts)


def _cluster(policies: Iterable[Policy], tier: Tier, packet: Packet) -> tuple[Policy, Rule] | None:
    of_tier = [policy for policy in policies if policy.tier is tier]
    return min(_matching(of_tier, packet), key=lambda found: (found[0].priority, found[1].action), default=None)


def _matching(policies: Iterable[Policy], packet: Packet) -> Iterator[tuple[Policy, Rule]]:
    for policy in policies:
        for rule in policy.rules[packet.direction]:
            in_ports = not rule.ports or any(ports.has(packet.protocol, packet.port) for ports in rule.ports)
            if in_ports and covers(rule, packet.peer):
                yield policy, rule


def _reason(tier: Tier, found: tuple[Policy, Rule]) -> Reason:
    policy, rule = found
    return Reason(Decision(rule.action is Action.ACCEPT, tier), policy, rule)

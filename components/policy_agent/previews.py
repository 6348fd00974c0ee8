"""The answer to `vpccni policy dry-run`: this node's pods under policies that nobody has applied yet."""

from __future__ import annotations

import re

import msgspec

from vpccni.components.policy_agent.compiler import compile_rule_set
from vpccni.components.policy_agent.endpoints import Endpoint, EndpointWire, endpoint
from vpccni.components.policy_agent.enforcement import Enforcement
from vpccni.components.policy_agent.policy import Direction, PolicyKey
from vpccni.components.policy_agent.preview import differences
from vpccni.components.policy_agent.selection import NOTHING, Behind, gathered
from vpccni.shared.kube.objects import Key
from vpccni.shared.messages.policy import PodPreview, PolicyChange, PolicyName, PreviewPolicies, Previews


def previews(enforcement: Enforcement, ask: PreviewPolicies, *, hosts: frozenset[str]) -> Previews:
    """Return what would change; `hosts`: the node's addresses. Raises ValueError for what is no endpoint object."""
    wires = (msgspec.json.decode(text, type=EndpointWire) for text in ask.endpoints)
    parts = {Key("", str(at)): endpoint(wire, hosts) for at, wire in enumerate(wires)}
    replaced = [_pattern(one) for one in ask.policies]
    pods: dict[tuple[str, str], PodPreview] = {}
    for _, behind in sorted(enforcement.behind.items()):
        # each interface of a pod has the same policies
        pods.setdefault((behind.pod.namespace, behind.pod.name), _preview(enforcement, behind, parts, replaced))
    return Previews(pods=list(pods.values()), known=enforcement.knows)


def _preview(
    enforcement: Enforcement, behind: Behind, parts: dict[Key, Endpoint], replaced: list[re.Pattern[str]]
) -> PodPreview:
    current = enforcement.selecting(behind)
    stay = [policy for policy in current if not any(one.fullmatch(_text(policy.key)) for one in replaced)]
    objects = gathered(parts, NOTHING, now=0.0, first=True).policies.values()
    new = enforcement.selecting_of(
        [one for one in objects if one.policy.key.namespace in ("", behind.pod.namespace)], behind
    )
    before = compile_rule_set(current, strict=behind.strict)
    after = compile_rule_set([*stay, *new], strict=behind.strict)
    isolated = [tuple(side.isolated for side in one.sides) for one in (before, after)]
    return PodPreview(
        behind.pod,
        [way.name.lower() for way in Direction if isolated[1][way] and not isolated[0][way]],
        [way.name.lower() for way in Direction if isolated[0][way] and not isolated[1][way]],
        [
            PolicyChange(one.direction.name.lower(), one.outcome, list(one.ports), list(one.peers))
            for one in differences(before, after)
        ],
    )


def _text(key: PolicyKey) -> str:
    return f"{key.kind}/{key.namespace}/{key.name}"


def _pattern(one: PolicyName) -> re.Pattern[str]:
    """Match a policy, and its groups of pods with named ports of their own: those have a digest behind its name (docs/policy.md)."""
    return re.compile(re.escape(f"{one.kind}/{one.namespace}/{one.name}") + r"(\.[0-9a-f]{8})?")

from __future__ import annotations

import pytest

from vpccni.components.policy_agent import layout
from vpccni.components.policy_agent.compiler import RuleClass
from vpccni.components.policy_agent.flow_log import fields, line, verdict
from vpccni.components.policy_agent.policy import TCP, UDP, Action, Direction, PolicyKey, Tier, prefix


def record(source: str, destination: str, *, protocol: int = TCP, allowed: int = 0, direction: int = 0) -> bytes:
    return layout.EVENT.pack(
        layout.address(prefix(source).value), layout.address(prefix(destination).value), 7, 99, 54,
        (40000).to_bytes(2, "big"), (80).to_bytes(2, "big"), protocol, allowed, Tier.NETWORK_POLICY, direction, 0,
    )  # fmt: skip


@pytest.mark.spec("policy.5.14")
def test_the_lines_are_the_references() -> None:
    assert line(verdict(record("10.1.1.0", "10.0.3.7"))) == (
        "Flow Info: Src IP: 10.1.1.0 Src Port: 40000 Dest IP: 10.0.3.7 Dest Port: 80 Proto TCP Verdict DENY "
        "Direction ingress, Tier NETWORK_POLICY"
    )
    v6 = verdict(record("2001:db8::1", "2001:db8::2", protocol=UDP, allowed=1, direction=1))
    assert line(v6) == (
        "Flow Info: Src IP: 2001:db8::1 Src Port: 40000 Dest IP: 2001:db8::2 Dest Port: 80 Proto: UDP Verdict: ACCEPT "
        "Direction: egress Tier: NETWORK_POLICY"
    )


def test_the_structured_form_names_policy_rule_and_both_pods() -> None:
    key = PolicyKey("NetworkPolicy", "shop", "web")
    rule = RuleClass(key, Tier.NETWORK_POLICY, 0, Direction.INGRESS, Action.ACCEPT, ())
    found = fields(
        verdict(record("10.1.1.1", "10.0.3.7")),
        pod={7: "shop/web-0"}.__getitem__,
        pod_at={"10.1.1.1": "shop/client"}.__getitem__,
        rule={99: rule}.get,
    )
    assert (found["pod"], found["peer_pod"], found["policy"]) == (
        "shop/web-0", "shop/client", "NetworkPolicy shop/web",
    )  # fmt: skip
    assert found["rule"] == "NetworkPolicy shop/web, ingress accept every port"


def test_what_audit_mode_would_deny_has_a_word_of_its_own() -> None:
    one = verdict(record("10.1.1.1", "10.0.3.7", allowed=layout.DECISION_AUDIT))
    assert (one.allowed, one.audit) == (True, True)
    found = fields(one, pod=str, pod_at=str, rule=lambda _: None)
    assert found["verdict"] == "AUDIT DENY"

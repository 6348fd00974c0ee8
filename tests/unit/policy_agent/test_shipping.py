"""What waits for CloudWatch and what one call takes."""

from __future__ import annotations

import pytest

from vpccni.components.policy_agent import layout
from vpccni.components.policy_agent.flow_log import verdict
from vpccni.components.policy_agent.policy import TCP, Tier, prefix
from vpccni.components.policy_agent.shipping import BYTES_A_CALL, BYTES_BESIDE, EVENTS_A_CALL, Line, Outbox, shipped


def lines(count: int, *, size: int = 10) -> list[Line]:
    return [Line(at, f"{at:0{size}}") for at in range(count)]


def filled(of: list[Line], *, at_most: int = 50_000) -> Outbox:
    outbox = Outbox(at_most)
    for line in of:
        outbox.add(line)
    return outbox


@pytest.mark.spec("policy.5.14")
def test_the_line_is_the_references() -> None:
    raw = layout.EVENT.pack(
        layout.address(prefix("10.1.1.1").value), layout.address(prefix("10.0.3.7").value), 7, 99, 54,
        (40000).to_bytes(2, "big"), (80).to_bytes(2, "big"), TCP, 0, Tier.NETWORK_POLICY, 0, 0,
    )  # fmt: skip
    assert shipped(verdict(raw), node="ip-10-0-1-20") == (
        "Node: ip-10-0-1-20;SIP: 10.1.1.1;SPORT: 40000;DIP: 10.0.3.7;DPORT: 80;PROTOCOL: TCP;PolicyVerdict: DENY;"
        "Tier: NETWORK_POLICY"
    )


@pytest.mark.spec("policy.W-29")
def test_one_call_takes_what_cloudwatch_takes() -> None:
    many = lines(EVENTS_A_CALL + 1)
    outbox = filled(many)
    assert outbox.take() == many[:-1]
    assert outbox.take() == many[-1:]
    large = lines(600, size=2000)
    taken = filled(large).take()
    used = sum(len(line.text) + BYTES_BESIDE for line in taken)
    assert used <= BYTES_A_CALL < used + 2000 + BYTES_BESIDE


@pytest.mark.spec("policy.W-29")
def test_what_does_not_fit_is_counted_and_what_came_back_is_first() -> None:
    outbox = filled(lines(5), at_most=3)
    assert outbox.lost == 2
    taken = outbox.take()
    assert [line.at_ms for line in taken] == [2, 3, 4]
    outbox.add(Line(9, "new"))
    outbox.put_back(taken)
    assert (len(outbox), outbox.lost) == (3, 3)
    assert [line.at_ms for line in outbox.take()] == [3, 4, 9]

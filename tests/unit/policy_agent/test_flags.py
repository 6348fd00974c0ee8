from __future__ import annotations

import pytest

from vpccni.cni.agent_start import environment
from vpccni.components.policy_agent.flags import Flags, flags_of


@pytest.mark.spec("policy.5.1")
def test_the_references_flags_arrive() -> None:
    given = environment(["--enable-network-policy=true", "--enable-policy-event-logs", "--enable-ipv6=false"], {})
    assert flags_of(environment(["--enable-cloudwatch-logs=true"], {})).cloudwatch
    assert flags_of(given) == Flags(enabled=True, event_logs=True, structured_log=False)
    assert flags_of(environment(["--enable-network-policy=false"], {})).enabled is False


def test_without_flags_the_mode_decides_and_nothing_is_reported() -> None:
    assert flags_of({}) == Flags(enabled=None, event_logs=False, structured_log=False)

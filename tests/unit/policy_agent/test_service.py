from __future__ import annotations

import pytest

from vpccni.components.policy_agent.layout import FLAG_DENY_EGRESS, FLAG_DENY_INGRESS
from vpccni.components.policy_agent.service import default_flags


@pytest.mark.parametrize(
    ("mode", "flags"), [("standard", 0), ("STRICT", FLAG_DENY_INGRESS | FLAG_DENY_EGRESS), ("strict", 3), ("", 0)]
)
@pytest.mark.spec("policy.5.6")
def test_a_pod_without_policy_is_open_in_standard_and_closed_in_strict(mode: str, flags: int) -> None:
    assert default_flags(mode) == flags

"""The figures of `bench/policy_maps.py` that the specification bounds."""

from __future__ import annotations

import pytest

from vpccni.bench import policy_maps


@pytest.mark.full
@pytest.mark.spec("policy.W-20", "policy.W-23")
def test_maps_and_sweep_stay_within_their_bounds() -> None:
    found = policy_maps.figures()
    for name, at_most in policy_maps.BUDGETS.items():
        print(f"{name}: {found[name]:.2f}")
        assert found[name] <= at_most
    assert found[f"sweep of {policy_maps.FLOWS} flows, all over, longest step, s"] < 0.5, "the loop is not held up"

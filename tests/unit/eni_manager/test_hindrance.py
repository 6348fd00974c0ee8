"""Refusals and pauses."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vpccni.components.eni_manager.hindrance import BACKOFFS, CAUSES, FULL, Hindrance, after_failure, cause_of


@pytest.mark.parametrize(
    ("code", "cause"),
    [
        ("InsufficientFreeAddressesInSubnet", "SUBNET_FULL"), ("InsufficientCidrBlocks", "FRAGMENTED"), ("RequestLimitExceeded", "THROTTLED"), ("", "EC2_DOWN"),
        ("UnauthorizedOperation", "DENIED"), ("AttachmentLimitExceeded", "ENI_LIMIT"), ("SomethingNew", "EC2_REFUSED"),
    ],
)  # fmt: skip
def test_a_code_has_a_cause(code: str, cause: str) -> None:
    assert cause_of(code) == cause


def test_every_cause_that_is_no_full_subnet_has_a_pause() -> None:
    assert set(CAUSES.values()) - FULL <= set(BACKOFFS)


@given(st.sampled_from(sorted(BACKOFFS)), st.integers(1, 100), st.floats(0, 1, exclude_max=True))
def test_pauses_stay_between_their_bounds(cause: str, tries: int, random: float) -> None:
    backoff = BACKOFFS[cause]
    pause = backoff.pause_s(tries, random)
    assert backoff.first_s * (1 - backoff.jitter) <= pause <= backoff.longest_s


@pytest.mark.spec("ipam.W28")
def test_a_repaired_permission_is_noticed_within_ten_seconds() -> None:
    assert BACKOFFS["DENIED"].longest_s < 10
    assert BACKOFFS["EC2_DOWN"].longest_s < 10


def test_failures_of_calls_that_ran_together_count_once() -> None:
    one = after_failure(Hindrance(), "THROTTLED", "a", now=0.0, random=0.0)
    two = after_failure(one, "THROTTLED", "b", now=0.1, random=0.0)
    assert (two.tries, two.until, two.detail) == (1, one.until, "b")
    three = after_failure(two, "THROTTLED", "c", now=2.0, random=0.0)
    assert (three.tries, three.until) == (2, 4.0)
    assert after_failure(three, "DENIED", "d", now=2.0, random=0.0).tries == 1

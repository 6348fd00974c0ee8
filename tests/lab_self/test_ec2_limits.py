"""What EC2 says before it looks at a call: token buckets as AWS documents them, and permissions."""

from __future__ import annotations

import pytest

from vpccni.lab.ec2_limits import Limits
from vpccni.lab.ec2_objects import Refused


def taken(limits: Limits, action: str, *, now: float) -> int:
    """Take tokens until the first refusal; return how many."""
    for count in range(1000):
        try:
            limits.check(action, now=now)
        except Refused as refusal:
            if refusal.code != "RequestLimitExceeded":
                raise
            return count
    raise AssertionError("never refused")


@pytest.mark.parametrize(
    ("action", "burst", "per_s"), [("CreateNetworkInterface", 50, 5), ("DescribeNetworkInterfaces", 100, 20)]
)
def test_a_bucket_has_awss_size_and_rate(action: str, burst: int, per_s: int) -> None:
    limits = Limits()
    assert taken(limits, action, now=0.0) == burst
    assert taken(limits, action, now=1.0) == per_s
    assert taken(limits, action, now=1000.0) == burst


def test_each_action_has_its_own_bucket_and_the_scale_counts_for_all() -> None:
    limits = Limits()
    taken(limits, "CreateTags", now=0.0)
    limits.check("DeleteNetworkInterface", now=0.0)
    limits.scale = 0.1
    assert taken(limits, "AttachNetworkInterface", now=0.0) == 5


def test_a_permission_is_asked_for_after_the_bucket() -> None:
    limits = Limits()
    limits.deny(["CreateTags"])
    with pytest.raises(Refused, match="UnauthorizedOperation"):
        limits.check("CreateTags", now=0.0)
    limits.check("DescribeSubnets", now=0.0)
    limits.allow(["CreateTags"])
    limits.check("CreateTags", now=0.0)
    limits.deny(["*"])
    with pytest.raises(Refused, match="DescribeSubnets"):
        limits.check("DescribeSubnets", now=0.0)
    limits.allow(["*"])
    limits.check("DescribeSubnets", now=0.0)

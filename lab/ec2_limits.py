"""What EC2 says before it looks at a call: no permission, or too many calls. One token bucket an action, as AWS documents them.

The numbers are AWS's defaults for an account and region: https://docs.aws.amazon.com/ec2/latest/devguide/ec2-api-throttling.html
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from vpccni.lab.ec2_objects import Refused


@dataclass(frozen=True)
class Rate:
    """A bucket's size and how many tokens come back in a second."""

    burst: float
    per_s: float


MUTATING: Final = Rate(50, 5)
READING: Final = Rate(100, 20)


@dataclass
class _Bucket:
    tokens: float
    at: float


class Limits:
    """The buckets and permissions of one account. `scale` makes all buckets smaller (0.1) or larger."""

    def __init__(self) -> None:
        self.denied: set[str] = set()
        self.scale = 1.0
        self._buckets: dict[str, _Bucket] = {}

    def check(self, action: str, *, now: float) -> None:
        """Take a token, or refuse as EC2 does. `now`: seconds of a monotonic clock."""
        rate = self.rate_of(action)
        bucket = self._buckets.setdefault(action, _Bucket(rate.burst, now))
        bucket.tokens = min(rate.burst, bucket.tokens + (now - bucket.at) * rate.per_s)
        bucket.at = now
        if bucket.tokens < 1:
            raise Refused("RequestLimitExceeded", f"Request limit exceeded for {action}.")
        bucket.tokens -= 1
        if action in self.denied or "*" in self.denied:
            raise Refused("UnauthorizedOperation", f"You are not authorized to perform this operation: ec2:{action}.")

    def rate_of(self, action: str) -> Rate:
        """Return the bucket of an action."""
        usual = READING if action.startswith("Describe") else MUTATING
        return Rate(max(usual.burst * self.scale, 1), usual.per_s * self.scale)

    def deny(self, actions: Iterable[str]) -> None:
        """Take the permission for actions away ("*": all)."""
        self.denied |= set(actions)

    def allow(self, actions: Iterable[str]) -> None:
        """Give the permission for actions back ("*": all)."""
        named = set(actions)
        self.denied = set() if "*" in named else self.denied - named

    def reset(self) -> None:
        """All permissions, full buckets of the usual size."""
        self.denied, self.scale = set(), 1.0
        self._buckets.clear()

"""How often EC2 may be asked: a token bucket an action, and pauses that grow while EC2 throttles (spec ipam.md 24, W5).

The buckets are half of what AWS gives an account in a region by default, so that one node alone never meets AWS's limit. A throttled
action is closed for 1, 2, 4 ... 30 s (longer by up to a fifth, so that nodes come apart); then one call probes while the others wait.
As soon as two actions are throttled the account is: all actions then share one pause and one probe. Routine reads wait while
anything is closed: whoever waits for an address goes first.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

FIRST_PAUSE_S: Final = 1.0
LONGEST_PAUSE_S: Final = 30.0
JITTER: Final = 0.2
PROBE_S: Final = 15.0
"""How long a probe may be without an answer before the next one goes."""
SHARED_FROM: Final = 2


@dataclass(frozen=True, slots=True)
class Rate:
    """A bucket's size, and the tokens that come back in a second."""

    burst: float
    per_s: float


MUTATING: Final = Rate(25, 2.5)  # AWS: 50 and 5
READING: Final = Rate(50, 10)  # AWS: 100 and 20


@dataclass(slots=True)
class _Bucket:
    tokens: float
    at: float


@dataclass(slots=True)
class _Pause:
    until: float
    tries: int
    probing: bool = False


class Manners:
    """See the module. Plain state, changed only here; `now`: CLOCK_BOOTTIME seconds.

    `spread_s`: within how long the cluster's nodes, should all of them be throttled, come to the rate that AWS allows.
    """

    def __init__(self) -> None:
        self._buckets: dict[str, _Bucket] = {}
        self._pauses: dict[str, _Pause] = {}
        self.spread_s = 0.0

    def wait_s(self, action: str, *, routine: bool, now: float) -> float:
        """Return 0 and count the call as made, or the seconds after which to ask again."""
        bucket, rate = self._bucket(action, now), rate_of(action)
        wait = (1 - bucket.tokens) / rate.per_s if bucket.tokens < 1 else 0.0
        pauses = self._in_the_way(action, routine=routine)
        wait = max([wait, *(pause.until - now for pause in pauses)])
        if wait <= 0:
            bucket.tokens -= 1
            if (own := self._pauses.get(action)) is not None:
                own.until, own.probing = now + PROBE_S, True
        return max(wait, 0.0)

    def throttled(self, action: str, *, now: float, random: float) -> None:
        """Close the action after EC2 throttled it; calls that ran together count once. `random` is in [0, 1)."""
        before = self._pauses.get(action)
        if before is not None and not before.probing and now < before.until:
            return
        tries = 1 + max((pause.tries for pause in self._shared_with(action)), default=0)
        pause = min(FIRST_PAUSE_S * (1 << min(tries - 1, 16)), LONGEST_PAUSE_S) * (1 + JITTER * random)
        pause = max(pause, self.spread_s * random)
        self._pauses[action] = _Pause(now + pause, tries)

    def answered(self, action: str) -> None:
        """Open the action: EC2 gave an answer that was no throttling."""
        self._pauses.pop(action, None)

    def open_at(self, action: str) -> float:
        """Return when the action may be asked again; 0 when nothing closes it."""
        return max((pause.until for pause in self._in_the_way(action, routine=False)), default=0.0)

    def tokens(self, action: str, *, now: float) -> float:
        """Return what is left in the action's bucket."""
        return self._bucket(action, now).tokens

    def _bucket(self, action: str, now: float) -> _Bucket:
        rate = rate_of(action)
        bucket = self._buckets.setdefault(action, _Bucket(rate.burst, now))
        bucket.tokens = min(rate.burst, bucket.tokens + (now - bucket.at) * rate.per_s)
        bucket.at = now
        return bucket

    def _in_the_way(self, action: str, *, routine: bool) -> list[_Pause]:
        everything = routine or len(self._pauses) >= SHARED_FROM
        return [pause for closed, pause in self._pauses.items() if everything or closed == action]

    def _shared_with(self, action: str) -> list[_Pause]:
        shared = len(self._pauses.keys() | {action}) >= SHARED_FROM
        return [pause for closed, pause in self._pauses.items() if shared or closed == action]


def rate_of(action: str) -> Rate:
    """Return the bucket of an EC2 action."""
    return READING if action.startswith("Describe") else MUTATING

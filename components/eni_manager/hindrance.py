"""Why growing does not go on, and when it is tried again: EC2's refusals sorted by what helps against them.

SUBNET_FULL   no free address in the subnet: that subnet pauses 120 s (see `subnets`)
FRAGMENTED    free addresses, but no free /28 block among them: likewise
THROTTLED     until the action is open again: see `manners`
DENIED        the IAM policy lacks the action: under 10 s, so that a repaired policy takes effect soon (spec ipam.md W28)
EC2_DOWN      no answer, or an internal error
ENI_LIMIT     EC2 counts more ENIs on this instance than we do
EC2_REFUSED   any other refusal
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

from vpccni.shared.backoff import Backoff
from vpccni.shared.messages.inventory import Growth

SUBNET_FULL: Final = "SUBNET_FULL"
FRAGMENTED: Final = "FRAGMENTED"
THROTTLED: Final = "THROTTLED"
DENIED: Final = "DENIED"
EC2_DOWN: Final = "EC2_DOWN"
ENI_LIMIT: Final = "ENI_LIMIT"
EC2_REFUSED: Final = "EC2_REFUSED"

CAUSES: Final = {
    "InsufficientFreeAddressesInSubnet": SUBNET_FULL,
    "InsufficientCidrBlocks": FRAGMENTED,
    "RequestLimitExceeded": THROTTLED,
    "Throttling": THROTTLED,
    "ThrottlingException": THROTTLED,
    "EC2ThrottledException": THROTTLED,
    "Client.RequestLimitExceeded": THROTTLED,
    "UnauthorizedOperation": DENIED,
    "Client.UnauthorizedOperation": DENIED,
    "AccessDenied": DENIED,
    "AccessDeniedException": DENIED,
    "AuthFailure": DENIED,
    "": EC2_DOWN,
    "InternalError": EC2_DOWN,
    "InternalFailure": EC2_DOWN,
    "ServiceUnavailable": EC2_DOWN,
    "Unavailable": EC2_DOWN,
    "AttachmentLimitExceeded": ENI_LIMIT,
    "NetworkInterfaceLimitExceeded": ENI_LIMIT,
}
FULL: Final = frozenset({SUBNET_FULL, FRAGMENTED})
DENIALS: Final = frozenset(code for code, cause in CAUSES.items() if cause == DENIED)
NO_ANSWER: Final = frozenset({"", "InternalError", "InternalFailure", "ServiceUnavailable", "Unavailable"})
"""After these nobody knows whether EC2 carried the call out."""


BACKOFFS: Final = {
    THROTTLED: Backoff(1.0, 30.0, jitter=0.0),
    DENIED: Backoff(4.0, 9.0),
    EC2_DOWN: Backoff(1.0, 9.0),
    ENI_LIMIT: Backoff(30.0, 60.0),
    EC2_REFUSED: Backoff(2.0, 30.0),
}
WITHOUT_PREFIX: Final = Backoff(1.0, 8.0)
"""An IPv6 node without its prefix can run no pod at all: whatever EC2 says, it is asked again (spec ipam.md W7: within 10 s)."""
LOOK: Final = Backoff(1.0, 30.0)
"""Pauses between attempts at the first complete look, and between repetitions of a detach or delete."""


@dataclass(frozen=True, slots=True)
class Hindrance:
    """The present obstacle, or none (`cause` empty). `until`: CLOCK_BOOTTIME seconds of the next try."""

    cause: str = ""
    detail: str = ""
    until: float = 0.0
    tries: int = 0

    def blocks(self, now: float) -> bool:
        """Tell whether growing waits."""
        return bool(self.cause) and now < self.until

    def growth(self) -> Growth:
        """Return it as the part of the inventory that others read."""
        return Growth(self.cause, self.detail, self.until)


def cause_of(error_code: str) -> str:
    """Return the cause word of an EC2 error code (empty code: no answer)."""
    return CAUSES.get(error_code, EC2_REFUSED)


def after_failure(
    before: Hindrance, cause: str, detail: str, *, now: float, random: float, backoff: Backoff | None = None
) -> Hindrance:
    """Return the obstacle after one more failure; `backoff` None: the cause's own. Failures of calls that ran at the same time count once."""
    if before.cause == cause and before.blocks(now):
        return replace(before, detail=detail)
    tries = before.tries + 1 if before.cause == cause else 1
    return Hindrance(cause, detail, now + (backoff or BACKOFFS[cause]).pause_s(tries, random), tries)

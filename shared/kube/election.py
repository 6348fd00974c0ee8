"""Who of several replicas leads, decided over one Lease as client-go does, so that replicas of either make can stand beside each other. Pure.

    free ──create or take──► ours ──renewed every RETRY_S──► ours
      ▲                        │ not renewed for RENEW_WITHIN_S: we no longer lead, the process ends
      │                        ▼
      └──── its holder has not renewed it for LEASE_S, seen by our own clock from the moment we saw it last change

A lease's times are its holder's; nothing is compared with them. Time is an argument (CLOCK_BOOTTIME seconds).
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, replace
from enum import Enum
from typing import Final

import msgspec

from vpccni.shared.kube.objects import Wire

LEASE_S: Final = 15.0  # spec policy.md 3.1
RENEW_WITHIN_S: Final = 10.0
RETRY_S: Final = 2.0


class _Spec(msgspec.Struct, frozen=True, rename="camel"):
    holder_identity: str | None = ""
    lease_duration_seconds: int | None = 0
    acquire_time: str | None = ""
    renew_time: str | None = ""
    lease_transitions: int | None = 0


class LeaseWire(Wire, frozen=True):
    """A Lease."""

    spec: _Spec = _Spec()


@dataclass(frozen=True, slots=True)
class Lease:
    """A lease as it was read; `acquired` and `renewed` are its holder's MicroTimes."""

    holder: str
    duration_s: int
    acquired: str
    renewed: str
    transitions: int
    version: str


class Move(Enum):
    """What a candidate does next."""

    CREATE = "create"
    TAKE = "take"
    RENEW = "renew"
    WAIT = "wait"


def lease_of(wire: LeaseWire) -> Lease:
    """Return a lease as it was read."""
    spec = wire.spec
    return Lease(
        holder=spec.holder_identity or "",
        duration_s=spec.lease_duration_seconds or 0,
        acquired=spec.acquire_time or "",
        renewed=spec.renew_time or "",
        transitions=spec.lease_transitions or 0,
        version=wire.metadata.resource_version,
    )


class Elector:
    """One candidate's view of the lease and of its own standing."""

    def __init__(self, identity: str) -> None:
        self.identity = identity
        self.holder = ""
        self._seen: Lease | None = None
        self._changed_at = 0.0
        self._renewed_at: float | None = None

    def leads(self, now: float) -> bool:
        """Tell whether we may write: our lease was renewed lately."""
        return self._renewed_at is not None and now < self._renewed_at + RENEW_WITHIN_S

    def has_lost(self, now: float) -> bool:
        """Tell whether we led and no longer do: then the process ends, for others may lead."""
        return self._renewed_at is not None and not self.leads(now)

    def seen(self, lease: Lease | None, now: float) -> Move:
        """Take in the lease as it is (None: there is none) and return what to do."""
        if lease is None:
            return Move.CREATE
        if self._seen is None or _said(lease) != _said(self._seen):
            self._changed_at = now
        self._seen, self.holder = lease, lease.holder
        if lease.holder == self.identity:
            return Move.RENEW
        if self._renewed_at is not None:
            self._renewed_at = -math.inf  # somebody else has what was ours: not one write more
            return Move.WAIT
        is_free = not lease.holder or now >= self._changed_at + max(lease.duration_s, 1)
        return Move.TAKE if is_free else Move.WAIT

    def written(self, asked_at: float) -> None:
        """Our lease was taken by the API; `asked_at`: when we asked, for nobody knows when in between it was."""
        self._renewed_at, self.holder = asked_at, self.identity

    def released(self) -> None:
        """We gave the lease back."""
        self._renewed_at, self.holder = None, ""


def lease_spec(move: Move, identity: str, lease: Lease | None, *, now: str) -> dict[str, object]:
    """Return the spec to write; `now`: MicroTime."""
    before = lease or Lease("", 0, "", "", 0, "")
    return {
        "holderIdentity": identity,
        "leaseDurationSeconds": int(LEASE_S),
        "acquireTime": before.acquired if move is Move.RENEW and before.acquired else now,
        "renewTime": now,
        "leaseTransitions": before.transitions + (move is Move.TAKE),
    }


def released_spec(lease_transitions: int, *, now: str) -> dict[str, object]:
    """Return the spec of a lease that its holder gives back: the next candidate need not wait."""
    return {
        "holderIdentity": "",
        "leaseDurationSeconds": 1,
        "acquireTime": now,
        "renewTime": now,
        "leaseTransitions": lease_transitions,
    }


def micro_time(wall_ns: int) -> str:
    """Return a time as the API's MicroTime."""
    seconds, rest = divmod(wall_ns, 1_000_000_000)
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds)) + f".{rest // 1000:06d}Z"


def _said(lease: Lease) -> Lease:
    return replace(lease, version="")

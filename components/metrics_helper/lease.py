"""Who of several helpers publishes: rules of a lease that all of them see. Pure; time is an argument.

A holder renews; whoever has seen no renewal for the lease's whole duration may take it. Clocks of machines are never compared: each
measures with its own how long it has seen the same renewal.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

DURATION_S: Final = 15
RENEW_EVERY_S: Final = 5.0
MARGIN_S: Final = 3.0
"""So long before others may take it, the holder stops: covers a request under way and clocks that run apart."""


@dataclass(frozen=True, slots=True)
class Record:
    """The lease as read. `version`: what a change must name so that it fails when another was faster."""

    holder: str
    duration_s: int
    renewed: str
    transitions: int
    version: str


@dataclass(frozen=True, slots=True)
class Sighting:
    """A record and since when it has been seen unchanged, by the own clock."""

    record: Record
    since: float


def sighted(before: Sighting | None, record: Record, now: float) -> Sighting:
    """Return the sighting that a reading makes of the one before."""
    return before if before is not None and before.record == record else Sighting(record, now)


def may_take(sighting: Sighting, me: str, now: float) -> bool:
    """Return whether the lease is mine already, free, or not renewed for its whole duration."""
    record = sighting.record
    return record.holder in ("", me) or now - sighting.since > record.duration_s


def holds_until(asked_at: float) -> float:
    """Return until when a renewal that was asked for then lets its holder publish."""
    return asked_at + DURATION_S - MARGIN_S

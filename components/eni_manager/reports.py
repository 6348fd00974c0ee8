"""What an operator should see and what of it waits to be told: reports in, the one that is due out. Pure; `reporter` sends them.

The same report again is no new one: it raises the count of its series. At most `QUEUE_AT_MOST` different ones are kept, and only
`BURST` and then one each `REFILL_S` are sent: a node that has much to complain of is no load for the API.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from vpccni.shared.backoff import Backoff

GENERAL_ACTION: Final = "PodNetworking"
"""An event must name an action; reports other than EC2's name none."""
QUEUE_AT_MOST: Final = 128
BURST: Final = 10
REFILL_S: Final = 6.0
"""Requests at once, and the seconds after which one more is allowed."""
REPEAT_S: Final = 60.0
"""A series is brought up to date at most this often."""
SERIES_S: Final = 360.0
"""A report that comes again after a longer silence is a new event."""
AGAIN: Final = Backoff(1.0, 60.0)


@dataclass(frozen=True, slots=True)
class Note:
    """What is told: equal notes are one series. No pod: this node's aws-node pod is meant."""

    reason: str
    text: str
    action: str = GENERAL_ACTION
    pod_namespace: str = ""
    pod_name: str = ""


@dataclass(slots=True)
class Entry:
    """One series. `first_us`, `last_us`: wall clock microseconds; `written`: the count that the API has, 0 before it has anything."""

    note: Note
    first_us: int
    last_us: int
    last: float
    count: int = 1
    written: int = 0
    due_at: float = 0.0
    name: str = ""
    namespace: str = ""


class Reports:
    """The waiting and the sent; time is an argument (CLOCK_BOOTTIME seconds)."""

    def __init__(self) -> None:
        self._entries: dict[Note, Entry] = {}
        self._tokens, self._filled_at = float(BURST), 0.0
        self._failures, self._open_at = 0, 0.0

    def __len__(self) -> int:
        return len(self._entries)

    def add(self, note: Note, *, wall_us: int, now: float) -> bool:
        """Take a report; False when there are too many different ones that wait."""
        entry = self._entries.get(note)
        if entry is not None and (entry.count > entry.written or now - entry.last <= SERIES_S):
            entry.count += 1
            entry.last_us, entry.last = wall_us, now
            return True
        if entry is None and not self._has_room(now):
            return False
        self._entries[note] = Entry(note, wall_us, wall_us, now)
        return True

    def due(self, now: float) -> Entry | None:
        """Return what is to be sent now: new series first, the oldest of them. It stays due until `sent`, `refused` or `gone`."""
        if self._next_at(now) > now:
            return None
        return min(self._unsent(now), key=lambda entry: (entry.written > 0, entry.due_at, entry.first_us))

    def wait_s(self, now: float) -> float | None:
        """Return the seconds until something may be due; None when nothing waits."""
        at = self._next_at(now)
        return None if at == float("inf") else max(at - now, 0.0)

    def sent(self, entry: Entry, count: int, now: float) -> None:
        """The API has the series with this count."""
        entry.written, entry.due_at = count, now + REPEAT_S
        self._failures, self._open_at = 0, 0.0

    def refused(self, entry: Entry) -> None:
        """The API will never take it: forget it."""
        self._entries.pop(entry.note, None)
        self._failures, self._open_at = 0, 0.0

    def gone(self, entry: Entry) -> None:
        """The API has forgotten the event (they live an hour): what was not written yet begins a new series."""
        entry.count, entry.written, entry.first_us = entry.count - entry.written, 0, entry.last_us
        entry.due_at = 0.0

    def spend(self, now: float) -> None:
        """Note that a request is made."""
        self._tokens = self._tokens_at(now) - 1
        self._filled_at = now

    def unanswered(self, now: float, random: float) -> None:
        """No event can be written at present: all wait."""
        self._failures += 1
        self._open_at = now + AGAIN.pause_s(self._failures, random)

    def _tokens_at(self, now: float) -> float:
        return min(float(BURST), self._tokens + max(now - self._filled_at, 0.0) / REFILL_S)

    def _next_at(self, now: float) -> float:
        waiting = [entry.due_at for entry in self._entries.values() if entry.count > entry.written]
        if not waiting:
            return float("inf")
        tokens = self._tokens_at(now)
        refilled = now if tokens >= 1 else now + (1 - tokens) * REFILL_S
        return max(min(waiting), self._open_at, refilled)

    def _unsent(self, now: float) -> list[Entry]:
        return [entry for entry in self._entries.values() if entry.count > entry.written and entry.due_at <= now]

    def _has_room(self, now: float) -> bool:
        """Make room by forgetting the series that ended first, if any has."""
        if len(self._entries) < QUEUE_AT_MOST:
            return True
        written = [entry for entry in self._entries.values() if entry.count == entry.written]
        if not written:
            return False
        del self._entries[min(written, key=lambda entry: entry.last).note]
        return True

"""What of the flow log goes to CloudWatch: its lines (spec policy.md 5.14), and what waits, bounded. Pure.

Lines go in batches, never one a call; when more come than can be shipped the oldest go, and are counted.
"""

from __future__ import annotations

from collections import deque
from typing import Final, NamedTuple

from vpccni.components.policy_agent.flow_log import Verdict, protocol_name, verdict_name

EVENTS_A_CALL: Final = 10_000
BYTES_A_CALL: Final = 1_048_576
BYTES_BESIDE: Final = 26
"""What CloudWatch counts for each line beside its text."""
WAITING_AT_MOST: Final = 50_000


class Line(NamedTuple):
    """One event. `at_ms`: wall clock."""

    at_ms: int
    text: str


class Outbox:
    """Lines that wait, oldest first. `lost`: how many there was no room for."""

    def __init__(self, at_most: int = WAITING_AT_MOST) -> None:
        self._waiting: deque[Line] = deque()
        self._at_most = at_most
        self.lost = 0

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, line: Line) -> None:
        """Take a line; the oldest goes when there is no room."""
        self._waiting.append(line)
        if len(self._waiting) > self._at_most:
            self._waiting.popleft()
            self.lost += 1

    def take(self) -> list[Line]:
        """Return as many as one call takes, and forget them."""
        taken: list[Line] = []
        room = BYTES_A_CALL
        while self._waiting and len(taken) < EVENTS_A_CALL:
            room -= len(self._waiting[0].text.encode()) + BYTES_BESIDE
            if room < 0:
                break
            taken.append(self._waiting.popleft())
        return taken

    def put_back(self, lines: list[Line]) -> None:
        """Take lines back that could not be shipped, before all others."""
        self._waiting.extendleft(reversed(lines))
        while len(self._waiting) > self._at_most:
            self._waiting.popleft()
            self.lost += 1


def shipped(one: Verdict, *, node: str) -> str:
    """Return the reference's line; AUDIT DENY is a word of ours."""
    return (
        f"Node: {node};SIP: {one.source};SPORT: {one.source_port};DIP: {one.destination};DPORT: {one.destination_port};"
        f"PROTOCOL: {protocol_name(one.protocol)};PolicyVerdict: {verdict_name(one)};Tier: {one.tier.name}"
    )

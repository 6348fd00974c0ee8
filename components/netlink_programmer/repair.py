"""Keeps the kernel as it is wanted: observe (in a thread), plan, apply, observe again; woken by notifications and asked by the keeper.

    notification ─▶ contradicts? ─▶ at most one pass in 100 ms ─┐
    new inventory, every 30 s ──────────────────────────────────┴▶ look ─▶ plan ─▶ apply ─▶ look ...

Only the look is done elsewhere: plan and apply run in the loop without a break, against the pods that are wired at that moment, so a
pod that is deleted meanwhile never gets a rule back, and one that is wired meanwhile is left alone.
"""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import Final

from vpccni.components.netlink_programmer import observe, rtnl
from vpccni.components.netlink_programmer.apply import KIND, Applier
from vpccni.components.netlink_programmer.facts import Link, Seen
from vpccni.components.netlink_programmer.hearing import Hearing
from vpccni.components.netlink_programmer.naming import MAIN_TABLE
from vpccni.components.netlink_programmer.node_plan import Picture, PodWant, Situation, Step, Wanted, plan, wanted
from vpccni.shared.errors import KernelRefused
from vpccni.shared.loop import Future
from vpccni.shared.process import Process

ROUNDS: Final = 6
"""Looks a pass: what a step brings along (the connected route of a new address) is mended by the next one."""
STEPS_A_ROUND: Final = 256
"""Some 10 ms of the loop's time; the next round goes on."""
GAP_S: Final = 0.1
GAP_AT_MOST_S: Final = 0.5
"""Between two passes that notifications called for: it grows while somebody fights for the same state."""
QUIET_S: Final = 2.0
REMEMBERED_STEPS: Final = 256
STEPS: Final = "vpccni_kernel_steps"


@dataclass
class Outcome:
    """What a pass came to: what it saw last, what was refused and what no link is there for, by owner."""

    seen: Seen
    refused: dict[str, str] = field(default_factory=dict)
    awaited: frozenset[str] = frozenset()
    steps: int = 0


class Repairer:
    """Has the one picture of what is wanted. `situation()` is asked whenever `changed()` was called since."""

    def __init__(self, process: Process, situation: Callable[[], Situation]) -> None:
        self._process = process
        self._situation = situation
        self._picture = Picture()
        self._want: Wanted | None = None
        self._links: dict[int, Link] = {}
        self._busy: Future[None] | None = None
        self._due = False
        self._passed_at = 0.0
        self._gap_s = GAP_S
        self._applier = Applier(
            rtnl.RouteSocket(), os.open("/proc/sys/net", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        )
        self.on_trouble: Callable[[], None] = lambda: None
        self.done: deque[tuple[float, Step]] = deque(maxlen=REMEMBERED_STEPS)

    def start(self) -> None:
        """Listen from now on."""
        hearing = Hearing(self._process.loop, self.wanted, self._contradicted, ipv6=self._process.settings.ipv6)
        self._process.on_stop(hearing.close)

    def changed(self) -> None:
        """Hear that pods or ENIs came or went."""
        self._want = None

    def wanted(self) -> Wanted:
        """Return what is wanted now, by the links that were seen last and those of the wired pods."""
        if self._want is None:
            self._want = self._picture.of(self._situation(), self._links)
        return self._want

    def is_up(self, ifindex: int) -> bool:
        """Whether the link was there and up at the last look."""
        return ifindex in self._links and self._links[ifindex].up

    async def look(self, *, settings: bool) -> Outcome:
        """Make one pass: look and mend until nothing is left to do, or `ROUNDS` times. `settings`: compare those too."""
        while self._busy is not None:
            await self._busy
        self._busy = busy = Future[None]()
        try:
            return await self._rounds(settings=settings)
        finally:
            self._passed_at = self._process.loop.clock()
            self._busy = None
            busy.set(None)

    async def outlook(self) -> tuple[Seen, Wanted, tuple[Step, ...]]:
        """Return what is seen and wanted, and what a pass would do now; nothing is changed."""
        before = frozenset(self._situation().pods)
        seen = await self._see(settings=True)
        want = self._wanted_of(before, seen)
        return seen, want, plan(want, seen)

    async def _rounds(self, *, settings: bool) -> Outcome:
        outcome = Outcome(Seen())
        for _ in range(ROUNDS):
            before = frozenset(self._situation().pods)
            seen = await self._see(settings=settings)
            want = self._wanted_of(before, seen)
            steps = [step for step in plan(want, seen) if step.owner not in outcome.refused]
            outcome.seen, outcome.awaited = seen, frozenset(want.awaited.values())
            if not steps:
                break
            outcome.steps += self._carry_out(steps[:STEPS_A_ROUND], outcome.refused)
        return outcome

    async def _see(self, *, settings: bool) -> Seen:
        situation = self._situation()
        tables = sorted({MAIN_TABLE, *(eni.table for eni in situation.enis)})
        paths = [one.path for one in self.wanted().settings] if settings else None
        seen = await self._process.loop.in_thread(
            lambda: observe.look(tables, families=situation.families, setting_paths=paths)
        )
        if seen.links != self._links:
            self._links = seen.links
            self._want = None
        return seen

    def _wanted_of(self, before: frozenset[PodWant], seen: Seen) -> Wanted:
        """Return what is wanted of the pods that were wired when the look began and are still."""
        now = self._situation()
        orphans = now.orphans - {pod.address for pod in now.pods}
        pods = tuple(pod for pod in now.pods if pod in before)
        return wanted(replace(now, pods=pods, orphans=orphans), seen.links)

    def _carry_out(self, steps: Iterable[Step], refused: dict[str, str]) -> int:
        done = 0
        for step in steps:
            if step.owner in refused:
                continue
            try:
                self._applier.carry_out(step)
            except KernelRefused as error:
                refused[step.owner] = str(error)
                continue
            done += 1
            kind = KIND[type(step.what)]
            self.done.append((time.time(), step))
            self._process.count(STEPS, kind=kind, verb=step.verb)
            self._process.log.info(
                "kernel state changed", on=step.owner, kind=step.verb, what=str(step.what), why=step.why
            )
        return done

    # -- called for by a notification

    def _contradicted(self, why: str) -> None:
        if self._due:
            return
        self._due = True
        since = self._process.loop.clock() - self._passed_at
        self._gap_s = GAP_S if since > QUIET_S else min(GAP_AT_MOST_S, self._gap_s * 2)
        self._process.log.debug("kernel state is not as wanted", why=why)
        self._process.loop.call_later(max(0.0, self._gap_s - since), self._begin)

    def _begin(self) -> None:
        self._process.loop.spawn(self._called_pass(), name="repair")

    async def _called_pass(self) -> None:
        self._due = False
        self._process.count("vpccni_repair_passes")
        try:
            outcome = await self.look(settings=False)
        except KernelRefused as error:
            self._process.log.warning("repair pass failed", error=str(error))
            self.on_trouble()
            return
        if outcome.refused:
            self.on_trouble()

"""Answers `vpccni plan` and `vpccni why`: asks the repairer for a look, the keeper for the firewall, and its own memory for what happened."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final

from vpccni.components.netlink_programmer.enis import EniKeeper
from vpccni.components.netlink_programmer.story import Look, owner_of, sandbox_story
from vpccni.components.netlink_programmer.wiring import Wired
from vpccni.shared.bus.server import Call
from vpccni.shared.errors import VpccniError
from vpccni.shared.messages.allocation import LedgerEntry
from vpccni.shared.messages.base import Message, PodRef, Sandbox
from vpccni.shared.messages.common import ErrorReply
from vpccni.shared.messages.wiring import GetPlan, GetPodStory, Plan, PlannedStep, PodStory, StoryLine
from vpccni.shared.process import Process

REMEMBERED_CALLS: Final = 512
LINES_AT_MOST: Final = 32
SANDBOXES_AT_MOST: Final = 16
WAITING_AT_MOST: Final = 8


class Explainer:
    """`wired` and `ledger()` give the present ones. Answers to one question at a time; `note` costs an append."""

    def __init__(
        self,
        process: Process,
        keeper: EniKeeper,
        wired: Iterable[Wired],
        ledger: Callable[[], Mapping[Sandbox, Sequence[LedgerEntry]]],
    ) -> None:
        self._process, self._keeper, self._wired, self._ledger = process, keeper, wired, ledger
        self._calls: deque[tuple[PodRef, StoryLine]] = deque(maxlen=REMEMBERED_CALLS)
        process.handle(GetPlan, self._on_get_plan, limit=WAITING_AT_MOST, at_once=1)
        process.handle(GetPodStory, self._on_get_pod_story, limit=WAITING_AT_MOST, at_once=1)

    def note(self, pod: PodRef, what: str, trace: str) -> None:
        """Remember what was done for a pod, and under which trace id."""
        self._calls.append((pod, StoryLine(time.time(), what, trace)))

    async def _look(self) -> Look:
        seen, want, steps = await self._keeper.repairer.outlook()
        return Look(seen, want, steps, await self._keeper.firewall_outlook(seen.links))

    async def _on_get_plan(self, message: GetPlan, call: Call) -> Message:
        try:
            look = await self._look()
        except VpccniError as error:
            return _cannot_look(error)
        return Plan(
            steps=[PlannedStep(step.owner, step.verb, str(step.what), step.why) for step in look.steps],
            awaited=sorted(look.want.awaited.values()),
            firewall=[text for _, text in look.firewall if text],
        )

    async def _on_get_pod_story(self, message: GetPodStory, call: Call) -> Message:
        try:
            look = await self._look()
        except VpccniError as error:
            return _cannot_look(error)
        meant = [one for one in self._wired if _is_meant(one.pod, message)][:SANDBOXES_AT_MOST]
        prefix = self._process.settings.veth_prefix
        return PodStory(
            sandboxes=[sandbox_story(one, self._entry_of(one), look, veth_prefix=prefix) for one in meant],
            changes=self._changes(message, {owner_of(one.pod) for one in meant}),
        )

    def _entry_of(self, wired: Wired) -> LedgerEntry | None:
        """Return what the ledger has for an interface: for one whose address is not known, what it has for the sandbox."""
        entries = self._ledger().get(wired.sandbox, ())
        return next((one for one in entries if wired.address in ("", one.address)), None)

    def _changes(self, message: GetPodStory, owners: set[str]) -> list[StoryLine]:
        lines = [line for pod, line in self._calls if _is_meant(pod, message)]
        for at, step in self._keeper.repairer.done:
            if step.owner in owners:
                lines.append(StoryLine(at, f"put right: {step.verb} {step.what} ({step.why})", ""))
        return sorted(lines, key=lambda line: line.at)[-LINES_AT_MOST:]


def _is_meant(pod: PodRef, message: GetPodStory) -> bool:
    return pod.name == message.name and message.namespace in ("", pod.namespace)


def _cannot_look(error: VpccniError) -> ErrorReply:
    return ErrorReply(code="kernel_refused", what="the node cannot be looked at", why=str(error), remedy="Ask again")

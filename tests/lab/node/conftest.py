"""One lab node with all five processes under supervisord, shared by the tests of a module."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable, Iterator
from typing import TypeVar

import pytest
from support.waiting import until

from vpccni.lab.api import Lab
from vpccni.lab.node import Node
from vpccni.lab.pod import Pod
from vpccni.shared.errors import VpccniError
from vpccni.shared.messages.base import Message
from vpccni.shared.messages.common import ArmKillPoint, EffectsRecorded, GetStatus, RecordEffects, Status
from vpccni.shared.node_cli import ask_all

T = TypeVar("T")


class NodeUnderTest:
    """A lab of one node, with the questions the tests ask of it."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self.node: Node = lab.nodes[0]

    def ask(self, process: str, message: Message) -> Message:
        """Ask a process over the bus through the run folder as the machine sees it."""
        answer = ask_all(self.node.root, [process], message)[process]
        if isinstance(answer, VpccniError):
            raise answer
        return answer

    def arm(self, process: str, effect: str, *, before: bool, nth: int = 1) -> None:
        self.ask(process, ArmKillPoint(effect=effect, nth=nth, before=before))

    def recorded(self, process: str, work: Callable[[], T]) -> tuple[T, list[str]]:
        """Return what `work` returned and the effects the process passed meanwhile."""
        self.ask(process, RecordEffects(on=True))
        value = work()
        answer = self.ask(process, RecordEffects(on=False))
        assert isinstance(answer, EffectsRecorded)
        return value, answer.effects

    def add(self, name: str) -> Pod:
        return self.lab.add_pod(self.node.name, name)

    def kill_until_back(self, process: str, *, within_s: float) -> None:
        """Kill a process; return when its successor serves."""
        before = self.ask(process, GetStatus())
        assert isinstance(before, Status)
        os.kill(before.pid, signal.SIGKILL)

        def is_back() -> bool:
            with contextlib.suppress(Exception):
                now = self.ask(process, GetStatus())
                return isinstance(now, Status) and now.epoch != before.epoch and now.state == "serving"
            return False

        until(is_back, f"{process} back and well", within_s=within_s)

    def story(self) -> str:
        """The last lines of the programmer and the allocator, for a failure's report."""
        logs = "/var/log/aws-routed-eni"
        return self.shell(f"tail -n 20 {logs}/netlink_programmer.log {logs}/ip_allocator.log | cut -c1-300")

    def shell(self, command: str) -> str:
        return self.node.exec(["sh", "-c", command], check=False).stdout


@pytest.fixture(scope="module")
def node() -> Iterator[NodeUnderTest]:
    name = f"t{os.getpid()}"
    with contextlib.ExitStack() as stack:
        lab = stack.enter_context(Lab.up(name, nodes=1, env={"IP_COOLDOWN_PERIOD": "0"}))
        yield NodeUnderTest(lab)

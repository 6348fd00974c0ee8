"""The ENI manager as a process of its own in a lab node, and a peer that speaks to it over the real bus."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

import zmq

from vpccni.lab.api import Lab
from vpccni.shared.bus import Client
from vpccni.shared.bus.access import bus_folder, endpoint
from vpccni.shared.codec import to_message
from vpccni.shared.loop import Loop
from vpccni.shared.messages.base import Message, tag_of
from vpccni.shared.messages.common import GetSnapshot, GetStatus, Snapshot, Status
from vpccni.shared.messages.inventory import CapacityTarget, CardTarget, Inventory

WITHIN_S = 20.0
M = TypeVar("M", bound=Message)


class Peer:
    """Asks the manager as another process of the node would."""

    def __init__(self, run_dir: Path) -> None:
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._loop = Loop()
        self._client = Client(self._context, self._loop, "eni_manager", endpoint(run_dir, "eni_manager", "rpc"))

    def ask(self, message: Message, *, within_s: float = 5.0) -> Message:
        return self._loop.run_until(self._client.call(message, timeout_s=within_s), timeout_s=within_s + 1)

    def published(self, kind: type[M]) -> M | None:
        """Return the latest message of a kind; raises BusError while nobody answers."""
        snapshot = self.ask(GetSnapshot())
        assert isinstance(snapshot, Snapshot)
        for tag, body in snapshot.messages:
            if tag == tag_of(kind):
                message = to_message(body)
                assert isinstance(message, kind)
                return message
        return None

    def inventory(self) -> Inventory | None:
        return self.published(Inventory)

    def status(self) -> Status:
        status = self.ask(GetStatus())
        assert isinstance(status, Status)
        return status

    def close(self) -> None:
        self._client.close()
        self._loop.close()
        self._context.destroy(linger=0)


class ManagerProcess:
    """The process under test in its node, started and killed at will."""

    def __init__(self, lab: Lab) -> None:
        self.lab, self.node = lab, lab.nodes[0]
        self.run_dir = Path(f"/proc/{self.node.holder}/root/run/aws-node")
        self.peer = Peer(self.run_dir)
        self.log = open(lab.state / "eni_manager.test.log", "ab")  # noqa: SIM115  closed in `stop`
        self.process: subprocess.Popen[str] | None = None
        self.env: dict[str, str] = {}
        """What the next start adds to the node's environment."""

    def start(self) -> None:
        """Start it; that tests kill it more often than a flapping process dies does not count."""
        (bus_folder(self.run_dir) / "eni_manager.starts").unlink(missing_ok=True)
        argv = [sys.executable, "-m", "vpccni.components.eni_manager", "--run-dir", "/run/aws-node"]
        self.process = self.node.popen(
            argv, env=self.env, stdin=subprocess.DEVNULL, stdout=self.log.fileno(), stderr=self.log.fileno()
        )

    def kill(self) -> None:
        if self.process is not None and self.process.poll() is None:
            os.kill(self.process.pid, signal.SIGKILL)
        self.wait_for_death()

    def wait_for_death(self, within_s: float = WITHIN_S) -> None:
        if self.process is not None:
            self.process.wait(within_s)

    def stop(self) -> None:
        self.kill()
        self.peer.close()
        self.log.close()

    def wish(
        self, total: int, *, addresses: Sequence[tuple[str, str]] | None = None, enis: Sequence[str] | None = None
    ) -> None:
        """Be the allocator: wish for so many addresses, and give these up."""
        card = CardTarget(
            card=0,
            total_addresses=total,
            surrendered_addresses=list(addresses or ()),
            surrendered_enis=list(enis or ()),
        )
        self.peer.ask(CapacityTarget(cards=[card], reason="test"))

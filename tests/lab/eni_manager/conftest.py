"""One lab node with nothing but the ENI manager in it, and a peer that speaks to it over the real bus."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import zmq

from vpccni.lab.api import Lab
from vpccni.shared.bus import Client
from vpccni.shared.bus.access import bus_folder, endpoint
from vpccni.shared.codec import to_message
from vpccni.shared.errors import BusError
from vpccni.shared.loop import Loop
from vpccni.shared.messages.base import Message
from vpccni.shared.messages.common import (
    ArmKillPoint,
    EffectsRecorded,
    GetSnapshot,
    GetStatus,
    RecordEffects,
    Snapshot,
    Status,
)
from vpccni.shared.messages.inventory import CapacityTarget, CardTarget, Eni, Inventory

WITHIN_S = 20.0


class Peer:
    """Asks the manager as the allocator would."""

    def __init__(self, run_dir: Path) -> None:
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._loop = Loop()
        self._client = Client(self._context, self._loop, "eni_manager", endpoint(run_dir, "eni_manager", "rpc"))

    def ask(self, message: Message, *, within_s: float = 5.0) -> Message:
        return self._loop.run_until(self._client.call(message, timeout_s=within_s), timeout_s=within_s + 1)

    def inventory(self) -> Inventory | None:
        snapshot = self.ask(GetSnapshot())
        assert isinstance(snapshot, Snapshot)
        found = [to_message(body) for tag, body in snapshot.messages if tag == "inventory.inventory"]
        return found[0] if found and isinstance(found[0], Inventory) else None

    def status(self) -> Status:
        status = self.ask(GetStatus())
        assert isinstance(status, Status)
        return status

    def close(self) -> None:
        self._client.close()
        self._loop.close()
        self._context.destroy(linger=0)


class Manager:
    """The process under test in its node, restarted at will."""

    def __init__(self, lab: Lab) -> None:
        self.lab, self.node = lab, lab.nodes[0]
        self.run_dir = Path(f"/proc/{self.node.holder}/root/run/aws-node")
        self.peer = Peer(self.run_dir)
        self.log = open(lab.state / "eni_manager.test.log", "ab")  # noqa: SIM115  closed in `stop`
        self.process: subprocess.Popen[str] | None = None
        self.env: dict[str, str] = {}
        """What the next start adds to the node's environment."""

    def start(self) -> None:
        """Start it; that these tests kill it more often than a flapping process dies does not count."""
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

    def restart(self, **env: str) -> None:
        """Kill it and start it, from now on with these settings beside the node's."""
        self.env.update(env)
        self.kill()
        self.start()

    def forget(self) -> None:
        """Take away what it keeps on disk beside the journal, as a new instance would have nothing."""
        (self.run_dir / "eni_manager.enis").unlink(missing_ok=True)

    def stop(self) -> None:
        self.kill()
        self.peer.close()
        self.log.close()

    def wish(
        self, total: int, *, addresses: list[tuple[str, str]] | None = None, enis: list[str] | None = None
    ) -> None:
        card = CardTarget(
            card=0, total_addresses=total, surrendered_addresses=addresses or [], surrendered_enis=enis or []
        )
        self.peer.ask(CapacityTarget(cards=[card], reason="test"))

    def wait(self, holds: Callable[[Inventory], bool], *, within_s: float = WITHIN_S) -> Inventory:
        """Return the first inventory for which `holds`."""
        deadline, last = time.monotonic() + within_s, None
        while time.monotonic() < deadline:
            try:
                last = self.peer.inventory()
            except BusError:
                last = None
            if last is not None and holds(last):
                return last
            time.sleep(0.05)
        raise AssertionError(f"not within {within_s} s; last inventory: {last}")

    def arm(self, effect: str, *, before: bool, nth: int = 1) -> None:
        self.peer.ask(ArmKillPoint(effect=effect, before=before, nth=nth))

    def record(self, on: bool) -> list[str]:
        answer = self.peer.ask(RecordEffects(on=on))
        assert isinstance(answer, EffectsRecorded)
        return answer.effects

    def ec2_enis(self) -> list[dict[str, Any]]:
        return list(self.lab.ec2_picture())


def addresses(inventory: Inventory) -> set[str]:
    return {address for eni in inventory.enis for address in eni.addresses}


def prefixes(inventory: Inventory) -> set[str]:
    return {prefix for eni in inventory.enis for prefix in eni.prefixes}


def primary(inventory: Inventory) -> Eni:
    return next(eni for eni in inventory.enis if eni.is_primary)


@pytest.fixture(scope="session")
def eni_lab() -> Iterator[Lab]:
    with Lab.up(f"eni-{os.getpid() % 10000}", nodes=1, start_processes=False, transition_s=0.1) as lab:
        yield lab


@pytest.fixture
def manager(eni_lab: Lab) -> Iterator[Manager]:
    """A started manager on a node that is back at its primary ENI without addresses after the test."""
    manager = Manager(eni_lab)
    manager.start()
    try:
        manager.wait(lambda inventory: True)
        yield manager
    finally:
        _give_all_back(manager)
        manager.stop()


def _give_all_back(manager: Manager) -> None:
    manager.lab.ec2_clear()
    manager.env.clear()
    if manager.process is None or manager.process.poll() is not None:
        manager.start()
    manager.restart()
    manager.wait(lambda inventory: True)
    deadline = time.monotonic() + 2 * WITHIN_S
    while time.monotonic() < deadline:
        inventory = manager.wait(lambda inventory: True)
        left = addresses(inventory) | prefixes(inventory)
        if len(manager.ec2_enis()) == 1 and not left and len(inventory.enis) == 1:
            return
        manager.wish(
            0,
            addresses=[(eni.eni_id, address) for eni in inventory.enis for address in (*eni.addresses, *eni.prefixes)],
            enis=[eni.eni_id for eni in inventory.enis if not eni.is_primary],
        )
        time.sleep(0.2)
    raise AssertionError(f"the node was not given back: {manager.ec2_enis()}")

"""One lab node with nothing but the ENI manager in it, and a peer that speaks to it over the real bus."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from support.manager import WITHIN_S, ManagerProcess

from vpccni.lab.api import Lab
from vpccni.shared.errors import BusError
from vpccni.shared.messages.common import ArmKillPoint, EffectsRecorded, RecordEffects
from vpccni.shared.messages.inventory import Eni, Inventory


class Manager(ManagerProcess):
    """The manager with what tests of its ENIs ask of it."""

    def restart(self, **env: str) -> None:
        """Kill it and start it, from now on with these settings beside the node's."""
        self.env.update(env)
        self.kill()
        self.start()

    def forget(self) -> None:
        """Take away what it keeps on disk beside the journal, as a new instance would have nothing."""
        (self.run_dir / "eni_manager.enis").unlink(missing_ok=True)

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

"""The wirings this process remembers, by sandbox: a pod on several network cards has several."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from vpccni.components.netlink_programmer.wiring import Wired
from vpccni.shared.messages.base import Sandbox


class WiredPods:
    """Iterates over all interfaces; `len` counts sandboxes."""

    def __init__(self) -> None:
        self._of: dict[Sandbox, tuple[Wired, ...]] = {}

    def take_all(self, found: Iterable[Wired]) -> None:
        """Remember what a survey found, and nothing else."""
        self._of = {}
        for one in sorted(found, key=lambda wired: wired.index):
            self._of[one.sandbox] = (*self._of.get(one.sandbox, ()), one)

    def put(self, sandbox: Sandbox, interfaces: tuple[Wired, ...]) -> None:
        """Remember a sandbox's interfaces, in their order."""
        self._of[sandbox] = interfaces

    def get(self, sandbox: Sandbox) -> tuple[Wired, ...]:
        """Return a sandbox's interfaces; none for one that is not known."""
        return self._of.get(sandbox, ())

    def pop(self, sandbox: Sandbox) -> tuple[Wired, ...]:
        """Forget a sandbox and return its interfaces."""
        return self._of.pop(sandbox, ())

    def sandboxes(self) -> list[Sandbox]:
        """Return all sandboxes."""
        return list(self._of)

    def addresses(self) -> set[str]:
        """Return all addresses that are known."""
        return {one.address for one in self if one.address}

    def __iter__(self) -> Iterator[Wired]:
        return (one for interfaces in self._of.values() for one in interfaces)

    def __len__(self) -> int:
        return len(self._of)

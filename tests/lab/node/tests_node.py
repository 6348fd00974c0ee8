"""What the tests of a node read off it."""

from __future__ import annotations

import json
import threading
import time
from typing import Any

MONITORED_S = 6.0


def addresses_in_use(node: Any) -> list[str]:
    """Return the addresses the checkpoint on disk gives to sandboxes; [] while it is not readable."""
    try:
        document = json.loads((node.node.root / "ipam.json").read_text())
    except (ValueError, FileNotFoundError):
        return []
    return [entry["ipv4"] for entry in document["allocations"]]


def wired_addresses(node: Any) -> list[str]:
    """Return the addresses with a host route to one of our veths, by iproute2."""
    routes = json.loads(node.shell("ip -json route show table main"))
    return [route["dst"] for route in routes if str(route.get("dev", "")).startswith("eni")]


class Monitor:
    """What `ip monitor` and `nft monitor` print in the node while it runs."""

    def __init__(self, node: Any, *, seconds: float = MONITORED_S) -> None:
        self._node, self._seconds = node, seconds
        self.lines: list[str] = []
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        words = (
            f"timeout {self._seconds} ip monitor rule route address link & timeout {self._seconds} nft monitor & wait"
        )
        self.lines = [line for line in self._node.shell(words).splitlines() if line.strip()]

    def __enter__(self) -> Monitor:
        self._thread.start()
        time.sleep(0.5)
        return self

    def __exit__(self, *_: object) -> None:
        self._thread.join()

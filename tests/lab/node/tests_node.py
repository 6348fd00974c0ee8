"""What the tests of a node read off it."""

from __future__ import annotations

import json
from typing import Any


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

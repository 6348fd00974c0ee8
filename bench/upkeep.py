"""How the kernel's state is kept: how soon what is taken away is back, what a restart and a flood of foreign changes cost, what pods leave."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from typing import Any, Final

from vpccni.bench.processes import cpu_seconds, pids, seconds_to_serve
from vpccni.lab.api import Node
from vpccni.shared import names

BACK_WITHIN_S: Final = 10.0
POLL_S: Final = 0.002
TO_POD: Final = 512
CHANGES_A_SECOND: Final = 1000
FLOOD: Final = """
import sys, time
seconds, a_second = float(sys.argv[1]), int(sys.argv[2])
began = time.monotonic()
for at in range(int(seconds * a_second / 2)):
    to = f"198.51.{at % 100}.{at % 250} dev lo"
    print(f"route add {to}\\nroute del {to}", flush=at % 25 == 0)
    time.sleep(max(0, began + at * 2 / a_second - time.monotonic()))
"""
MONITORS: Final = (("ip", "monitor", "rule", "route", "address", "link"), ("nft", "monitor"))
QUIET_BEFORE_S: Final = 1.0
QUIET_AFTER_S: Final = 4.0


def rule_back(node: Node, times: int) -> list[float]:
    """Take a pod's rule away, again and again; return the seconds until it was back each time. A pod must be there."""
    address = next(rule["dst"] for rule in _rules(node) if rule["priority"] == TO_POD)
    took = []
    for _ in range(times):
        node.exec(["ip", "rule", "del", "to", address, "priority", str(TO_POD)])
        begun = time.perf_counter()
        while not any(rule["priority"] == TO_POD and rule.get("dst") == address for rule in _rules(node)):
            if time.perf_counter() - begun > BACK_WITHIN_S:
                raise TimeoutError(f"the rule to {address} is not back after {BACK_WITHIN_S:.0f} s on {node.name}")
            time.sleep(POLL_S)
        took.append(time.perf_counter() - begun)
        time.sleep(QUIET_BEFORE_S)
    return took


def events_of_a_restart(node: Node) -> int:
    """Kill the programmer; return how many lines the kernel's monitors print from then until well after it serves again."""
    monitors = [node.popen(argv, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) for argv in MONITORS]
    lines: list[str] = []
    readers = [threading.Thread(target=lambda one=one: lines.extend(one.stdout or ())) for one in monitors]
    for reader in readers:
        reader.start()
    time.sleep(QUIET_BEFORE_S)
    seconds_to_serve(node, names.NETLINK_PROGRAMMER)
    time.sleep(QUIET_AFTER_S)
    for one, reader in zip(monitors, readers, strict=True):
        one.terminate()
        one.wait()
        reader.join()
    return len(lines)


def flood_percent(node: Node, seconds: float) -> float:
    """Return how many per cent of a core the programmer uses while foreign routes change a thousand times a second."""
    pid = pids(node)[names.NETLINK_PROGRAMMER]
    before, begun = cpu_seconds(pid), time.perf_counter()
    flood = '"$0" -c "$1" "$2" "$3" | ip -batch -'
    argv = ["sh", "-c", flood, sys.executable, FLOOD, str(seconds), str(CHANGES_A_SECOND)]
    node.exec(argv, timeout=seconds * 3)
    return (cpu_seconds(pid) - before) / (time.perf_counter() - begun) * 100


def left_over(node: Node) -> list[str]:
    """Return what is there of pods on a node that has none: links, rules, routes."""
    links = json.loads(node.exec(["ip", "-json", "link", "show", "type", "veth"]).stdout or "[]")
    routes = json.loads(node.exec(["ip", "-json", "route"]).stdout)
    return [
        *(link["ifname"] for link in links if link["ifname"].startswith("eni")),
        *(f"rule to {rule['dst']}" for rule in _rules(node) if rule["priority"] == TO_POD),
        *(f"route to {route['dst']}" for route in routes if route["dev"].startswith("eni")),
    ]


def _rules(node: Node) -> Sequence[dict[str, Any]]:
    found: Sequence[dict[str, Any]] = json.loads(node.exec(["ip", "-json", "rule"]).stdout)
    return found

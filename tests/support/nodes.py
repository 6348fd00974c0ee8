"""A lab of one node, and what tests of pods' networks read off it and off its pods."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from vpccni.lab.api import Lab
from vpccni.lab.node import Node
from vpccni.lab.pod import Pod


class NodeOf:
    """A lab of one node and what is read off it."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self.node: Node = lab.nodes[0]

    def add(self, name: str, **more: Any) -> Pod:
        return self.lab.add_pod(self.node.name, name, **more)

    def shell(self, command: str) -> str:
        return self.node.exec(["sh", "-c", command], check=False).stdout

    def ip(self, *words: str) -> list[dict[str, Any]]:
        shown = json.loads(self.node.exec(["ip", "-json", *words]).stdout or "[]")
        assert isinstance(shown, list)
        return shown

    def lines(self, command: str) -> list[str]:
        return [" ".join(line.split()) for line in self.shell(command).splitlines() if line.strip()]

    def picture(self) -> list[str]:
        """Links, rules, routes and firewall of the node, as far as they do not change by themselves: links of deleted pods do."""
        return sorted(
            self.lines(
                "ip -o link | sed 's/^[0-9]*: //; s/@.*//' | grep -v ^gone; ip rule; ip route; ip -6 rule; ip -6 route | grep -v ' ra '; "
                "iptables-nft-save -t nat | grep -v '^#'; ip6tables-nft-save -t nat | grep -v '^#'"
            )
        )


def pod_lines(pod: Pod, command: str) -> list[str]:
    """What a command prints inside the pod, a line an element, white space made one."""
    text = pod.exec(["sh", "-c", command], check=False).stdout
    return [" ".join(line.split()) for line in text.splitlines() if line.strip()]


def reaches(pod: Pod, target: str) -> bool:
    return pod.exec(["ping", "-c", "1", "-W", "1", target], check=False).returncode == 0


@contextmanager
def without_iptables(node: Node) -> Iterator[None]:
    """No iptables program of the node can be run, in its own mount namespace."""
    programs = ["/usr/sbin/xtables-nft-multi", "/usr/sbin/xtables-legacy-multi"]
    node.exec(["sh", "-c", "echo > /run/no-program; chmod 644 /run/no-program"])
    for program in programs:
        node.exec(["mount", "--bind", "/run/no-program", program])
    try:
        yield
    finally:
        for program in programs:
            node.exec(["umount", program])

"""What the tests of a node read off it."""

from __future__ import annotations

import json
import subprocess
import threading
import time
from collections.abc import Sequence
from typing import Any

from vpccni.lab.fabric import INTERNET_ADDRESS
from vpccni.lab.namespaces import popen_in

MONITORED_S = 6.0
PORT = 8081
SERVER = f"""
import socket
server = socket.create_server(("0.0.0.0", {PORT}), backlog=4096)
print("ready", flush=True)
while True:
    one, peer = server.accept()
    one.sendall(peer[0].encode())
    one.close()
"""
CLIENT = f"""
import json, select, socket, sys, time
address, each_a_second = sys.argv[1], float(sys.argv[2])
began, made, wrong = time.monotonic(), 0, []
while not select.select([sys.stdin], [], [], 0)[0]:
    try:
        with socket.create_connection(("{INTERNET_ADDRESS}", {PORT}), timeout=0.5) as one:
            seen = one.recv(64).decode()
        if seen != address:
            wrong.append(f"{{time.monotonic() - began:.2f}} s: seen as {{seen}}")
    except OSError as error:
        wrong.append(f"{{time.monotonic() - began:.2f}} s: {{error!r}}")
    made += 1
    time.sleep(max(0, began + made / each_a_second - time.monotonic()))
print(json.dumps({{"wrong": wrong[:20], "a_second": made / (time.monotonic() - began)}}))
"""
"""A new connection each time; one whose first packet is not answered within 0.5 s counts as lost: TCP tries again after 1 s."""
ENDS_WITHIN_S = 10.0


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


class NewConnections:
    """New connections from pods to the internet while the block runs; afterwards how many there were, and what went wrong with them."""

    def __init__(self, node: Any, pods: Sequence[Any], *, each_a_second: float) -> None:
        self._node, self._pods, self._each = node, pods, each_a_second
        self.wrong: list[str] = []
        self.a_second = 0.0

    def __enter__(self) -> NewConnections:
        place, env = self._node.lab.internet, self._node.node.env
        self._server = popen_in(place, ["/usr/bin/python3", "-c", SERVER], env=env, stdout=subprocess.PIPE)
        assert self._server.stdout is not None
        assert self._server.stdout.readline() == "ready\n"
        arguments = ["/usr/bin/python3", "-c", CLIENT, self._node.node.primary_address, str(self._each)]
        self._clients = [pod.popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE) for pod in self._pods]
        return self

    def __exit__(self, *_: object) -> None:
        try:
            for client in self._clients:
                report = json.loads(client.communicate(timeout=ENDS_WITHIN_S)[0])
                self.wrong += report["wrong"]
                self.a_second += report["a_second"]
        finally:
            for program in (*self._clients, self._server):
                program.kill()
                program.wait()
            self._server.stdout.close()

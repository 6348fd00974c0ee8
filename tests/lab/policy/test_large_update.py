"""A policy of 50,000 peers changes under a thousand packets a second: each meets all of the old rules or all of the new ones."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time
from collections.abc import Iterator
from ipaddress import ip_address
from typing import Any, Final

import pytest
from support.sockets import datagrams_in
from support.waiting import until

from vpccni.lab.api import Lab
from vpccni.lab.pod import Pod

ENDPOINTS: Final = "/apis/networking.k8s.aws/v1alpha1/namespaces/default/policyendpoints"
PORT: Final = 5000
SO_RCVBUFFORCE: Final = 33  # not in the socket module
EVERY_S: Final = 0.001
ROWS: Final = 200
"""Rows of an object, as controllers cut them."""
FIRST_PEER: Final = int(ip_address("10.128.0.0"))
CHANGES: Final = 4
IN_FORCE_WITHIN_S: Final = 60.0
BUFFER_BYTES: Final = 4 << 20


class Prober:
    """Sends pairs: a packet of each of two pods right after the other, all the time; knows which pairs were sent and what arrived."""

    def __init__(self, one: Pod, two: Pod, web: Pod) -> None:
        self._senders = [datagrams_in(pod.netns_path, pod.address) for pod in (one, two)]
        self._receiver = datagrams_in(web.netns_path, web.address, PORT)
        self._receiver.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, BUFFER_BYTES)
        self._receiver.settimeout(0.05)
        self._to = (web.address, PORT)
        self._ended = threading.Event()
        self.pairs = 0
        self.arrived: tuple[set[int], set[int]] = (set(), set())
        self._threads = [threading.Thread(target=self._send), threading.Thread(target=self._receive)]

    def __enter__(self) -> Prober:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        for thread in self._threads:
            thread.join()
        for one in (*self._senders, self._receiver):
            one.close()

    def _send(self) -> None:
        begin = time.monotonic()
        while not self._ended.is_set():
            for who, sender in enumerate(self._senders):
                sender.sendto(f"{who} {self.pairs}".encode(), self._to)
            self.pairs += 1
            time.sleep(max(0.0, begin + self.pairs * EVERY_S - time.monotonic()))

    def _receive(self) -> None:
        is_last = False
        while not is_last:
            is_last = self._ended.is_set()
            with contextlib.suppress(TimeoutError):
                while True:
                    who, number = self._receiver.recv(100).split()
                    self.arrived[int(who)].add(int(number))

    def newest(self, who: int) -> int:
        return max(self.arrived[who], default=-1)


def rows(allowed: Pod, part: int) -> list[dict[str, Any]]:
    """Return the rows of a part; the first of all is the pod that is allowed."""
    peers = [str(ip_address(FIRST_PEER + part * ROWS + number)) for number in range(ROWS)]
    if part == 0:
        peers[0] = allowed.address
    return [{"cidr": peer, "ports": [{"protocol": "UDP", "port": PORT}]} for peer in peers]


class Large:
    """A web pod, two peers that are allowed in turns, and the objects of the policy."""

    def __init__(self, lab: Lab, entries: int) -> None:
        self.lab, self.parts = lab, entries // ROWS
        self.web = lab.add_pod("node-1", "web")
        self.peers = lab.add_pod("node-1", "one"), lab.add_pod("node-2", "two")
        selected = {
            "name": "web",
            "namespace": "default",
            "podIP": self.web.address,
            "hostIP": lab.nodes[0].primary_address,
        }
        spec = {"policyRef": {"name": "large", "namespace": "default"}, "podSelector": {}, "podIsolation": ["Ingress"]}
        for part in range(self.parts):
            meta = {"name": f"large-{part}", "annotations": {"networking.k8s.aws/endpoint-parts": str(self.parts)}}
            body = {**spec, "podSelectorEndpoints": [selected], "ingress": rows(self.peers[0], part)}
            lab.kube("POST", ENDPOINTS, {"metadata": meta, "spec": body})

    def allow(self, who: int) -> None:
        self.lab.kube("PATCH", f"{ENDPOINTS}/large-0", {"spec": {"ingress": rows(self.peers[who], 0)}})

    def knows_the_last_row(self) -> bool:
        last = rows(self.web, self.parts - 1)[-1]["cidr"]
        asked = ["vpccni", "why", "default/web", "--from", f"{last}:{PORT}", "--protocol", "udp"]
        return self.lab.nodes[0].exec(asked, check=False).returncode == 0


@contextlib.contextmanager
def large(entries: int) -> Iterator[Large]:
    with Lab.up(f"lu{os.getpid()}", nodes=2) as lab:
        yield Large(lab, entries)


@pytest.mark.parametrize("entries", [2_000, pytest.param(50_000, marks=pytest.mark.full)])
def test_every_packet_meets_the_old_rules_or_the_new(entries: int) -> None:
    with large(entries) as policy, Prober(*policy.peers, policy.web) as probes:
        until(
            lambda: probes.newest(0) >= 0 and probes.newest(1) < probes.pairs - 500,
            "the first rules are not in force",
            within_s=IN_FORCE_WITHIN_S,
        )
        assert policy.knows_the_last_row()
        begin = probes.pairs
        for change in range(CHANGES):
            now = 1 - change % 2
            policy.allow(now)
            until(
                lambda now=now: probes.newest(now) > probes.newest(1 - now) + 500,
                "the change is not in force",
                within_s=IN_FORCE_WITHIN_S,
            )
        end = probes.pairs - 100
    both, neither = [], []
    for pair in range(begin, end):
        came = [pair in arrived for arrived in probes.arrived]
        if all(came):
            both.append(pair)
        if not any(came):
            neither.append(pair)
    assert neither == [], "packets that nothing allowed"
    assert len(both) <= CHANGES, "a change between the packets of a pair shows as both"

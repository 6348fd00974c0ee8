"""The first packet of a pod meets the policies that select it: dropped, or through, at once (spec policy.md W-22)."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import pytest
from support.sockets import Listener, Talker, connects, serving
from support.waiting import until

from vpccni.lab import vpc_plan
from vpccni.lab.api import Lab
from vpccni.lab.pod import Pod, first_address

POLICIES = "/apis/networking.k8s.io/v1/namespaces/default/networkpolicies"
PORT, UDP_PORT = 80, 5000
FEW, MANY = 30, 1000
BESIDE = 4
"""Pods that start at a time."""
SPEAKS_ON_S = 0.02
IN_FORCE_WITHIN_S = 15.0
NO_ANSWER_S = 0.1
VPC = {"ipBlock": {"cidr": str(vpc_plan.VPC_CIDR)}}


def selecting(app: str) -> dict[str, Any]:
    return {"podSelector": {"matchLabels": {"app": app}}}


class Starts:
    """A server on each of two nodes, and pods that start on the first. No kubelet tells of an address before its pod has spoken."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self.near = lab.add_pod("node-1", "near", labels={"app": "server"})
        self.far = lab.add_pod("node-2", "far", labels={"app": "server"})
        self._isolate("closed", egress=[])
        self._isolate("asks", egress=[{"to": [selecting("server")], "ports": [{"port": PORT}]}])
        self._isolate("block", egress=[{"to": [VPC], "ports": [{"port": PORT}]}])
        self._apply("server", {**selecting("server"), "policyTypes": ["Ingress"], "ingress": [{"from": [VPC]}]})

    def _isolate(self, app: str, *, egress: list[dict[str, Any]]) -> None:
        """Isolate the pods of an app in both directions; return once a pod feels it, for then the node knows the policy."""
        self._apply(app, {**selecting(app), "policyTypes": ["Ingress", "Egress"], "ingress": [], "egress": egress})
        witness = self.lab.add_pod("node-1", f"{app}-witness", labels={"app": app})
        with serving(witness, PORT):
            until(
                lambda: not connects(self.far.netns_path, witness.address, PORT, within_s=NO_ANSWER_S),
                f"{app} is not in force",
                within_s=IN_FORCE_WITHIN_S,
            )
        self.lab.delete_pod(witness.name)

    def _apply(self, name: str, spec: dict[str, Any]) -> None:
        body = {"metadata": {"name": name, "namespace": "default"}, "spec": spec}
        self.lab.kube("POST", POLICIES, {"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", **body})

    @contextlib.contextmanager
    def pod(self, app: str, number: int) -> Iterator[Pod]:
        """A pod with a process and without a link: ADD is still to come."""
        made = self.lab.make_pod("node-1", f"{app}-{number}", labels={"app": app})
        try:
            yield made
        finally:
            self.lab.delete_pod(made.name)

    def add(self, pod: Pod) -> None:
        pod.address = first_address(self.lab.runtime("node-1").add(pod.sandbox()))

    def says_at_once(self, app: str, number: int) -> int:
        """Let a pod send its name from before it has a link; return how often its kernel took it."""
        with self.pod(app, number) as pod:
            to = [(server.address, UDP_PORT) for server in (self.near, self.far)]
            talker = Talker(pod.netns_path, app.encode(), *to)
            try:
                self.add(pod)
                time.sleep(SPEAKS_ON_S)
            finally:
                talker.close()
            return talker.sent

    def connects_at_once(self, app: str, number: int) -> list[bool]:
        """Return whether the first SYN of a pod got through, to each server."""
        with self.pod(app, number) as pod:
            self.add(pod)
            return [connects(pod.netns_path, server.address, PORT) for server in (self.near, self.far)]


@pytest.fixture(scope="module")
def starts() -> Iterator[Starts]:
    with Lab.up(f"fp{os.getpid()}", nodes=2, env={"IP_COOLDOWN_PERIOD": "0"}) as lab:
        lab.start_policy_controller()
        one = Starts(lab)
        with serving(one.near, PORT), serving(one.far, PORT):
            yield one


@pytest.fixture
def heard(starts: Starts) -> Iterator[set[bytes]]:
    """What reaches a server as a datagram."""
    words: set[bytes] = set()
    with Listener(starts.near, UDP_PORT, words), Listener(starts.far, UDP_PORT, words):
        yield words


times = pytest.mark.parametrize("many", [FEW, pytest.param(MANY, marks=pytest.mark.full)])


@times
@pytest.mark.spec("policy.W-22")
def test_a_pod_under_deny_all_that_sends_from_its_first_instruction_is_never_heard(
    starts: Starts, heard: set[bytes], many: int
) -> None:
    with ThreadPoolExecutor(BESIDE) as pool:
        said = list(pool.map(partial(starts.says_at_once, "closed"), range(many)))
    assert all(said), "some pods said nothing"
    assert starts.says_at_once("free", 0) > 0
    until(lambda: b"free" in heard, "nobody is heard at all", within_s=IN_FORCE_WITHIN_S)
    assert heard == {b"free"}


@times
@pytest.mark.parametrize("app", ["asks", "block"])
@pytest.mark.spec("policy.W-22")
def test_a_pod_whose_policies_allow_a_server_reaches_it_with_its_first_packet(
    starts: Starts, app: str, many: int
) -> None:
    with ThreadPoolExecutor(BESIDE) as pool:
        reached = list(pool.map(partial(starts.connects_at_once, app), range(many)))
    assert [one for one in reached if one != [True, True]] == []

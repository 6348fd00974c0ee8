"""Death of the agent, of the controller and of both at every step of a policy's update: enforcement goes on, then the update is in force."""

from __future__ import annotations

import os
import random
import threading
import time
from collections.abc import Iterator
from typing import Any, NamedTuple, TypeVar

import pytest
from support.sockets import FIRST_SYN_S, connects, serving
from support.waiting import until

from vpccni.lab import cleanup
from vpccni.lab.api import Lab
from vpccni.shared.messages.base import Message
from vpccni.shared.messages.common import ArmKillPoint, Done, EffectsRecorded, RecordEffects
from vpccni.shared.names import POLICY_AGENT
from vpccni.shared.node_cli import ask_all

T = TypeVar("T")
POLICIES = "/apis/networking.k8s.io/v1/namespaces/default/networkpolicies"
PORT = 80
NO_ANSWER_S = 0.15
DIES_WITHIN_S = 30.0
CONVERGED_WITHIN_S = 15.0
APART_S = 1.0
"""Kills closer together than this are flapping, which is slowed down on purpose."""
SAMPLE = 3
CONTROLLER_WRITES = [("kube.post", 1), ("kube.patch", 1), ("kube.patch", 2), ("kube.delete", 1)]
NO_ELECTION = ["--enable-leader-election=false"]


class Point(NamedTuple):
    """Before or after the `nth` pass of an effect; an empty effect: the process is left alone."""

    effect: str
    nth: int
    before: bool

    def __str__(self) -> str:
        return f"{self.effect} {self.nth} {'before' if self.before else 'after'}"


ALIVE = Point("", 0, False)


def selecting(app: str) -> dict[str, Any]:
    return {"podSelector": {"matchLabels": {"app": app}}}


class Updated:
    """A pod whose policy always allows a friend, never a stranger, and in turns `even` or `odd`."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self.controller = lab.start_policy_controller(flags=NO_ELECTION)
        self.web = lab.add_pod("node-1", "web", labels={"app": "web"})
        places = {"friend": "node-1", "stranger": "node-2", "even": "node-2", "odd": "node-1"}
        self.peers = {name: lab.add_pod(node, name, labels={"app": name}) for name, node in places.items()}
        self._turn = 0
        self._create("web", self._spec)
        self._create("extra-0", {**selecting("nobody"), "policyTypes": ["Ingress"]})

    @property
    def _allowed(self) -> tuple[str, str]:
        """Who is allowed in this turn, and who is not."""
        return ("even", "odd") if self._turn % 2 == 0 else ("odd", "even")

    @property
    def _spec(self) -> dict[str, Any]:
        never_seen = {
            "ipBlock": {"cidr": f"10.200.{self._turn}.0/24"}
        }  # else rules of before may still be in the kernel
        rules = [{"from": [selecting("friend"), selecting(self._allowed[0]), never_seen], "ports": [{"port": PORT}]}]
        return {**selecting("web"), "policyTypes": ["Ingress"], "ingress": rules}

    def update(self) -> None:
        """Let the other one in; beside that a policy comes and one goes."""
        self._turn += 1
        self.lab.kube("PATCH", f"{POLICIES}/web", {"spec": self._spec})
        self._create(f"extra-{self._turn}", {**selecting("nobody"), "policyTypes": ["Ingress"]})
        self.lab.kube("DELETE", f"{POLICIES}/extra-{self._turn - 1}")

    def _create(self, name: str, spec: dict[str, Any]) -> None:
        body = {"metadata": {"name": name, "namespace": "default"}, "spec": spec}
        self.lab.kube("POST", POLICIES, {"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", **body})

    def reaches(self, name: str) -> bool:
        within_s = FIRST_SYN_S if name == "friend" else NO_ANSWER_S
        return connects(self.peers[name].netns_path, self.web.address, PORT, within_s=within_s)

    def is_converged(self) -> bool:
        allowed, refused = self._allowed
        return self.reaches(allowed) and not self.reaches(refused)

    def wait(self) -> None:
        until(self.is_converged, f"{self._allowed[0]} alone is let in", within_s=CONVERGED_WITHIN_S)

    # -- processes

    def ask_agent(self, message: Message) -> Message:
        answer = ask_all(self.lab.node("node-1").root, [POLICY_AGENT], message)[POLICY_AGENT]
        assert isinstance(answer, Done | EffectsRecorded), answer
        return answer

    def agent_points(self) -> list[Point]:
        """Return every point of an update at the agent."""
        self.ask_agent(RecordEffects(on=True))
        self.update()
        self.wait()
        answer = self.ask_agent(RecordEffects(on=False))
        assert isinstance(answer, EffectsRecorded)
        steps = [one for one in answer.effects if one.startswith("bpf.")]
        assert len(steps) >= 4, steps
        return [
            Point(name, 1 + steps[:at].count(name), side) for at, name in enumerate(steps) for side in (True, False)
        ]

    def restart_controller(self, point: Point = ALIVE) -> None:
        cleanup.end_processes([self.controller])
        kill_point = str(point) if point.effect else ""
        self.controller = self.lab.start_policy_controller(flags=NO_ELECTION, kill_point=kill_point)

    def dies_in(self, *, agent: Point = ALIVE, controller: Point = ALIVE) -> None:
        """Update while these processes die at these points, and come back; fail if anything else than old or new is in force."""
        pid = self.lab.node("node-1").pids()[POLICY_AGENT]
        if controller.effect:
            self.restart_controller(controller)
        if agent.effect:
            self.ask_agent(ArmKillPoint(effect=agent.effect, nth=agent.nth, before=agent.before))
        with Watch(self):
            self.update()
            if controller.effect:
                until(
                    lambda: not cleanup.is_alive(self.controller), f"no death at {controller}", within_s=DIES_WITHIN_S
                )
                self.restart_controller()
            if agent.effect:
                until(lambda: self._agent() not in (pid, None), f"no death at {agent}", within_s=DIES_WITHIN_S)
            self.wait()
        time.sleep(APART_S)

    def _agent(self) -> int | None:
        return self.lab.node("node-1").pids().get(POLICY_AGENT)


class Watch:
    """Connects all the time; whom every policy of the test allows must get in at once, whom none allows never."""

    def __init__(self, cluster: Updated) -> None:
        self._cluster = cluster
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._look)
        self._looks = 0
        self.wrong: list[str] = []

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._ended.set()
        self._thread.join()
        if kind is None:
            assert self._looks > 0
            assert self.wrong == []

    def _look(self) -> None:
        while not self._ended.is_set():
            if not self._cluster.reaches("friend"):
                self.wrong.append("the friend is kept out")
            if self._cluster.reaches("stranger"):
                self.wrong.append("the stranger got in")
            self._looks += 1


@pytest.fixture(scope="module")
def cluster() -> Iterator[Updated]:
    with Lab.up(f"pk{os.getpid()}", nodes=2, env={"IP_COOLDOWN_PERIOD": "0"}) as lab:
        one = Updated(lab)
        with serving(one.web, PORT):
            one.wait()
            yield one


def controller_points() -> list[Point]:
    return [Point(name, nth, before) for name, nth in CONTROLLER_WRITES for before in (True, False)]


@pytest.mark.parametrize("share", ["sample", pytest.param("all", marks=pytest.mark.full)])
def test_the_agent_dies_at_every_step_of_an_update(cluster: Updated, share: str) -> None:
    for point in _share(cluster.agent_points(), share):
        cluster.dies_in(agent=point)


@pytest.mark.parametrize("share", ["sample", pytest.param("all", marks=pytest.mark.full)])
def test_the_controller_dies_at_every_step_of_an_update(cluster: Updated, share: str) -> None:
    for point in _share(controller_points(), share):
        cluster.dies_in(controller=point)


@pytest.mark.parametrize("share", ["sample", pytest.param("all", marks=pytest.mark.full)])
def test_both_die_at_steps_of_an_update(cluster: Updated, share: str) -> None:
    at_agent, at_controller = cluster.agent_points(), controller_points()
    pairs = [(point, at_controller[number % len(at_controller)]) for number, point in enumerate(at_agent)]
    for agent, controller in _share(pairs, share):
        cluster.dies_in(agent=agent, controller=controller)


def _share(points: list[T], share: str) -> list[T]:
    return points if share == "all" else random.Random(2).sample(points, min(SAMPLE, len(points)))

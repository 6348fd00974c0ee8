"""Death of the programmer before and after every effect of an IPv6 pod's ADD and DEL with egress: late, and nothing is left behind.

`make test` takes a seeded sample, `make test-full` all of them.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable

import pytest
from support.nodes import NodeOf, pod_lines, reaches
from support.waiting import until

from vpccni.shared.errors import VpccniError
from vpccni.shared.messages.base import Message
from vpccni.shared.messages.common import ArmKillPoint, EffectsRecorded, RecordEffects
from vpccni.shared.names import NETLINK_PROGRAMMER
from vpccni.shared.node_cli import ask_all

STATE = "/run/cni/v6pd/egress-v4-ipam/aws-cni"
SAMPLE = 8
LATE_AT_MOST_S = 8.0
"""Two waits for duplicate address detection, the one that was cut off and the next."""
GONE_WITHIN_S = 12.0
BETWEEN_KILLS_S = 1.0  # kills closer together are flapping, which is slowed down on purpose

Point = tuple[str, str, bool]


def ask(node: NodeOf, message: Message) -> Message:
    answer = ask_all(node.node.root, [NETLINK_PROGRAMMER], message)[NETLINK_PROGRAMMER]
    if isinstance(answer, VpccniError):
        raise answer
    return answer


def effects_of(node: NodeOf, work: Callable[[], object]) -> list[str]:
    ask(node, RecordEffects(on=True))
    work()
    answer = ask(node, RecordEffects(on=False))
    assert isinstance(answer, EffectsRecorded)
    return list(dict.fromkeys(answer.effects))


def kill_points(node: NodeOf) -> list[Point]:
    """Return (verb, effect, before) for each distinct effect an ADD and a DEL pass."""
    adding = effects_of(node, lambda: node.add("recorded"))
    deleting = effects_of(node, lambda: node.lab.delete_pod("recorded"))
    assert {"egress.reserve", "iptables.restore", "sysctl.pod"} <= set(adding)
    assert {"egress.give_back", "iptables.restore"} <= set(deleting)
    verbs = (("ADD", adding), ("DEL", deleting))
    return [(verb, effect, before) for verb, effects in verbs for effect in effects for before in (True, False)]


def one_kill(node: NodeOf, verb: str, effect: str, before: bool) -> None:
    if verb == "DEL":
        node.add("victim")
    pid = node.node.pids()[NETLINK_PROGRAMMER]
    ask(node, ArmKillPoint(effect=effect, nth=1, before=before))
    began = time.monotonic()
    if verb == "ADD":
        node.add("victim")
    else:
        node.lab.delete_pod("victim")
    assert time.monotonic() - began < LATE_AT_MOST_S
    died = lambda: node.node.pids().get(NETLINK_PROGRAMMER, pid) != pid  # noqa: E731
    until(died, f"the death at {effect} of {verb}", within_s=3.0)
    if verb == "ADD":
        pod = node.lab.pod("victim")
        assert reaches(pod, node.node.primary_ipv6)
        assert len(pod_lines(pod, "ip -4 -o address show v4if0")) == 1
        asked = pod.exec(["curl", "-s", "-m", "2", "http://203.0.113.10/"], check=False)
        assert asked.stdout.strip() == node.node.primary_address
        node.lab.delete_pod("victim")


def left(node: NodeOf) -> list[str]:
    """What of pods' networks is on the node: chains, jumps, egress routes, rules, veths, reservations."""
    look = (
        f"iptables-nft-save -t nat | grep CNI-E; ip route | grep 'dev veth'; ip -6 rule | grep ^512; "
        f"ip -o link | grep -E ': (veth|eni|gone)'; ls {STATE} | grep ^169"
    )
    return node.lines(look)


def survives(node: NodeOf, points: list[Point]) -> None:
    for verb, effect, before in points:
        one_kill(node, verb, effect, before)
        until(lambda: left(node) == [], lambda: (verb, effect, before, left(node)), within_s=GONE_WITHIN_S)  # noqa: B023
        time.sleep(BETWEEN_KILLS_S)


def test_a_pod_with_egress_survives_a_death_at_a_sample_of_its_effects(v6_node: NodeOf) -> None:
    points = kill_points(v6_node)
    survives(v6_node, random.Random(3).sample(points, min(SAMPLE, len(points))))


@pytest.mark.full
@pytest.mark.timeout(600)
def test_a_pod_with_egress_survives_a_death_at_every_effect(v6_node: NodeOf) -> None:
    survives(v6_node, kill_points(v6_node))
